"""The exact words of a text: numbers, versions, paths, flags and identifiers, which mean what they say letter by
letter.

They decide two things: an answer may hold none that its chunk does not hold (`evidence`), and two questions that
differ in one are
never duplicates (`duplicates`). Similarity measures see `lora_r` and `lora_alpha` as near; here they are simply
different.
"""

from __future__ import annotations

import re
from functools import lru_cache

_PIECES = re.compile(r"[\s,;=()\[\]{}<>|\"'`\u201c\u201d\u2018\u2019*]+")
_STRIP_LEFT = "!?:&#"
_STRIP_RIGHT = ".!?:&#/\\-"
_LIST_MARKER = re.compile(r"(?m)^[ \t>]*(?:\d{1,3}[.)]|[-*+])[ \t]+")
_STEP_NUMBER = re.compile(r"(?i)\bstep \d+\b[:.]?")
_FLAG = re.compile(r"--?[A-Za-z][\w-]*$")
_CAMEL = re.compile(r"[a-z][A-Z]|[A-Z]{2}[a-z]{2}|[A-Z][a-z]+[A-Z]")
_ACRONYM = re.compile(r"[A-Z][A-Z0-9+-]+s?$")
_ROMAN_OR_SHOUT = {
    "NOT",
    "AND",
    "OR",
    "NO",
    "YES",
    "ALL",
    "ONLY",
    "MUST",
    "NOTE",
    "WARNING",
    "TIP",
    "FAQ",
    "OK",
    "IMPORTANT",
    "TODO",
    "TRUE",
    "FALSE",
    "EG",
    "IE",
    "AM",
    "PM",
    "DO",
    "IS",
    "IF",
    "II",
    "III",
    "IV",
    "VS",
}
_COMMON_SLASH = {"and/or", "input/output", "i/o", "n/a", "w/o", "yes/no", "true/false", "read/write", "he/she"}
_COMMON_DOT = {"e.g", "i.e", "etc", "a.k.a", "vs", "u.s"}


@lru_cache(maxsize=1 << 10)  # the texts of one pair are asked again and again for each of its views
def exact_words(text: str) -> frozenset[str]:
    """The exact words of `text`, casefolded; list markers and step numbers do not count.

    >>> sorted(exact_words("Set `lora_r` to 16, pass --bf16 and read docs/gpu.md on a GPU."))
    ['--bf16', '16', 'docs/gpu.md', 'gpu', 'lora_r']
    """
    text = _STEP_NUMBER.sub(" ", _LIST_MARKER.sub(" ", text))
    found = set()
    for piece in _PIECES.split(text):
        word = _exact(piece)
        if word is not None:
            found.add(word)
    return frozenset(found)


def words(text: str) -> list[str]:
    """All words, exact or not, casefolded and freed of punctuation, in order."""
    found = []
    for piece in _PIECES.split(text):
        word = piece.lstrip(_STRIP_LEFT + ".").rstrip(_STRIP_RIGHT).casefold()
        if word:
            found.append(word)
    return found


@lru_cache(maxsize=1 << 16)
def _exact(piece: str) -> str | None:
    """The exact word in one piece of text, or None where it is an ordinary word."""
    word = piece.lstrip(_STRIP_LEFT).rstrip(_STRIP_RIGHT)
    if not word or not any(char.isalnum() for char in word):
        return None
    low = word.casefold()
    if any(char.isdigit() for char in word):
        return _number(low)
    if low in _COMMON_SLASH or low in _COMMON_DOT or word in _ROMAN_OR_SHOUT:
        return None
    if _FLAG.match(word) and (word.startswith("--") or len(word) == 2):
        return low
    if "_" in word or "\\" in word or "::" in word:
        return low
    if "/" in word:  # a path or `owner/name`; a choice between two plain words ("training/inference") is prose
        return (
            low
            if word.startswith(("/", "./", "~/", "../"))
            or word.count("/") > 1
            or not word.replace("/", "").isalpha()
            or _CAMEL.search(word)
            else None
        )
    if "." in word.strip("."):
        return low
    if word.startswith(".") and len(word) > 2:
        return low
    if _CAMEL.search(word) and not _ACRONYM.match(word):
        return low
    if _ACRONYM.match(word):
        return low.rstrip("s") if word.endswith("s") else low
    return None


def _number(low: str) -> str:
    """`1,000` was split before; here `50%` -> `50`, `2nd` -> `2nd`, `v2.1` -> `2.1` (a version with or without its v
    is the same)."""
    low = low.rstrip("%+")
    if re.fullmatch(r"v\d[\w.+-]*", low):
        low = low[1:]
    return low


def missing_words(text: str, source: str) -> list[str]:
    """The exact words of `text` that occur nowhere in `source`, sorted. Empty means: nothing was invented."""
    folded = source.casefold()
    known = exact_words(source)
    return sorted(word for word in exact_words(text) if word not in known and not _occurs(word, folded))


def _occurs(word: str, folded: str) -> bool:
    """Whether `word` stands in the text as a whole, or, for compounds such as `4-bit`, all its parts do."""
    if _whole(word, folded):
        return True
    parts = [part for part in re.split(r"[-/:~+]", word) if part]
    return len(parts) > 1 and all(_whole(part, folded) for part in parts)


def _whole(word: str, folded: str) -> bool:
    """No part of a longer word, nor of a longer number: 2 does not stand in 2025.2, 2.1 not in 2.1.3."""
    if word not in folded:
        return False  # most are not, and an expression for each costs more than all the rest
    before = r"(?<!\w)(?<!\d[.,])" if word[0].isdigit() else r"(?<!\w)"
    after = r"(?!\w)(?![.,]\d)" if word[-1].isdigit() else r"(?!\w)"
    return re.search(before + re.escape(word) + after, folded) is not None
