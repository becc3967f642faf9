"""Prompts are text files in `prompts/`: lines `[system]`, `[user]` and `[assistant]` begin a message, `{{name}}` is
filled in.

The files' digest is part of what a dataset was made from; a changed prompt changes the request and so its key in the
ledger.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

from dataset_builder.rows import digest

_ROLE = re.compile(r"(?m)^\[(system|user|assistant)\]\n")
_SLOT = re.compile(r"\{\{(\w+)\}\}")


@cache
def _text(name: str) -> str:
    return resources.files("dataset_builder.prompts").joinpath(f"{name}.txt").read_text(encoding="utf-8")


def messages(name: str, **values: str) -> tuple[tuple[str, str], ...]:
    """The messages of prompts/<name>.txt as (role, content). Values are inserted once: a `{{...}}` inside a document
    stays text."""
    pieces = _ROLE.split(_text(name))
    filled = (_SLOT.sub(lambda slot: values[slot[1]], piece.strip()) for piece in pieces[2::2])
    return tuple(zip(pieces[1::2], filled, strict=True))


def as_data(text: str) -> str:
    """A document that cannot close its own delimiter."""
    return re.sub(r"(?i)<(/?)document>", r"<\1 document>", text)


def prompts_digest() -> str:
    """Digest of all prompt files, by name."""
    folder = resources.files("dataset_builder.prompts")
    names = sorted(item.name for item in folder.iterdir() if item.name.endswith(".txt"))
    return digest(*(part for name in names for part in (name, _text(name.removesuffix(".txt")))))
