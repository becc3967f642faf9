"""Which licence documents carry: the text of a LICENSE file or a page's link -> SPDX id. Unknown stays None."""

import re
from pathlib import Path

_NAMES = re.compile(
    r"(?i)^(?:un)?(?:licen[cs]e|copying)(?:[-_.](?:md|txt|rst|docs?|apache|mit|bsd|code|documentation))?$"
)
_PHRASES: tuple[tuple[str, str], ...] = (
    # The first phrase found decides, so that a longer licence stands before one that it quotes.
    ("gnu affero general public license version 3", "AGPL-3.0-only"),
    ("gnu lesser general public license version 3", "LGPL-3.0-only"),
    ("gnu lesser general public license version 2.1", "LGPL-2.1-only"),
    ("gnu free documentation license version 1.3", "GFDL-1.3-only"),
    ("gnu general public license version 3", "GPL-3.0-only"),
    ("gnu general public license version 2", "GPL-2.0-only"),
    ("apache license version 2.0", "Apache-2.0"),
    ("mozilla public license version 2.0", "MPL-2.0"),
    ("eclipse public license - v 2.0", "EPL-2.0"),
    ("eclipse public license v 2.0", "EPL-2.0"),
    ("attribution-noncommercial-sharealike 4.0 international", "CC-BY-NC-SA-4.0"),
    ("attribution-noncommercial-noderivatives 4.0 international", "CC-BY-NC-ND-4.0"),
    ("attribution-noncommercial 4.0 international", "CC-BY-NC-4.0"),
    ("attribution-noderivatives 4.0 international", "CC-BY-ND-4.0"),
    ("attribution-sharealike 4.0 international", "CC-BY-SA-4.0"),
    ("attribution 4.0 international", "CC-BY-4.0"),
    ("cc0 1.0 universal", "CC0-1.0"),
    ("this is free and unencumbered software released into the public domain", "Unlicense"),
    ("boost software license - version 1.0", "BSL-1.0"),
    ("permission to use, copy, modify, and/or distribute this software for any purpose with or without fee", "ISC"),
    ("permission to use, copy, modify, and distribute this software for any purpose with or without fee", "ISC"),
    ("permission is hereby granted, free of charge, to any person obtaining a copy", "MIT"),
)


def licence_of_text(text: str) -> str | None:
    """SPDX id of a licence text, by its SPDX line or the phrase that only this licence has."""
    tagged = re.search(r"SPDX-License-Identifier:\s*([\w.+-]+(?:\s+(?:AND|OR|WITH)\s+[\w.+-]+)*)", text)
    if tagged:
        return tagged[1]
    words = " ".join(re.sub(r"[,*#\"“”=_]+", " ", text[:20_000]).lower().split())
    words = words.replace("licence", "license")
    spaced = words.replace(" ,", ",")
    for phrase, name in _PHRASES:
        if " ".join(phrase.replace(",", " ").split()) in spaced:
            return name
    if "redistribution and use in source and binary forms" in spaced:
        return (
            "BSD-3-Clause"
            if re.search(r"neither the names? of|may not be used to endorse|names? of its contributors", spaced)
            else "BSD-2-Clause"
        )
    return None


def is_licence_file(name: str) -> bool:
    """Whether a file of this name holds a licence text."""
    return _NAMES.match(name) is not None


def licence_of_folder(folder: Path) -> str | None:
    """SPDX id of the folder's own LICENSE or COPYING file; None where there is none or it is not known."""
    try:
        names = sorted(
            path for path in folder.iterdir() if is_licence_file(path.name) and path.is_file() and not path.is_symlink()
        )
    except OSError:
        return None
    for path in names:
        try:
            with path.open("rb") as stream:
                found = licence_of_text(stream.read(200_000).decode("utf-8", "replace"))
        except OSError:
            continue
        if found:
            return found
    return None
