"""Duplicates: near in text AND equal in exact words AND overlapping in evidence. `lora_r` and `lora_alpha` are
different facts.

Deterministic and independent of the order of the input: items are taken in the order of (rank, id), and one is
dropped if it repeats
one that was kept. About linear: only items with the same document and the same exact words ever meet, and within such
a block an
inverted index over the rarest words (prefix filtering, Bayardo et al. 2007, "Scaling up all pairs similarity search")
finds the candidates.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from dataset_builder.identifiers import exact_words, words
from dataset_builder.runner import HERE, Runner

NEAR = 0.5
"""Least Jaccard similarity of the content words of two questions that ask the same (benchmarks/duplicates.py)."""
SPELLED_NEAR = 88.0
"""The same, by letters (rapidfuzz, 0-100) over the sorted content words: catches typos, where whole words differ."""
SMALL_BLOCK = 24
"""Up to this many items every pair is compared; above, the index proposes."""

_STOP = frozenset(
    [
        "a", "an", "the", "of", "to", "in", "on", "at", "for", "from", "by", "with", "as", "is", "are", "was", "were",
        "be", "been", "being", "do", "does", "did", "can", "could", "should", "would", "will", "shall", "may",
        "might", "must", "i", "me", "my", "we", "our", "you", "your", "it", "its", "this", "that", "these", "those",
        "there", "what", "which", "who", "whom", "whose", "when", "where", "why", "how", "and", "or", "if", "so",
        "not", "no", "any", "some", "have", "has", "had", "get", "got", "please", "tell", "explain", "describe",
        "give", "know", "want", "need", "used", "use", "using", "mean", "means", "meaning", "called", "about", "into",
        "than", "then", "one", "s", "value", "values", "set", "usage", "way", "purpose", "kind"
    ]
)


@dataclass(frozen=True, slots=True)
class Item:
    """What is compared: a question with its evidence."""

    id: str
    text: str
    place: str
    """Document of the evidence; items of different documents are never duplicates. "" where there is none."""
    start: int
    end: int
    rank: int = 0
    """Lower is kept before higher."""


def duplicates(items: Iterable[Item], on: Runner = HERE) -> dict[str, str]:
    """id of each item that is to go -> id of the kept item that it repeats. Ids must be unique."""
    blocks: dict[tuple, list[tuple[Item, frozenset[str]]]] = defaultdict(list)
    ordered = sorted(items, key=lambda item: (item.rank, item.id))
    for item, (exact, content) in zip(ordered, on.map(_words, (item.text for item in ordered)), strict=True):
        blocks[item.place, exact].append((item, content))
    dropped: dict[str, str] = {}
    for found in on.map(_within, (block for block in blocks.values() if len(block) > 1)):
        dropped.update(found)
    return dropped


def _words(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """Exact words and content words of a question: a function over rows."""
    return exact_words(text), frozenset(_stem(word) for word in words(text) if word not in _STOP)


@lru_cache(maxsize=1 << 16)
def _stem(word: str) -> str:
    """Endings off: enough for "install", "installs", "installing", "installed" to meet."""
    for ending in ("ing", "ies", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)].rstrip("e")
    return word.rstrip("e") if len(word) > 3 else word


def _within(block: list[tuple[Item, frozenset[str]]]) -> dict[str, str]:
    """Duplicates among items that share a document and all exact words, in the given order: a function over rows."""
    dropped: dict[str, str] = {}
    kept: list[tuple[Item, frozenset[str]]] = []
    same: dict[tuple[str, frozenset[str]], list[int]] = defaultdict(list)
    index: dict[str, list[int]] | None = None
    frequency = Counter(word for _, content in block for word in content) if len(block) > SMALL_BLOCK else None
    if frequency is not None:
        index = defaultdict(list)
    for item, content in block:
        candidates = range(len(kept)) if index is None else _candidates(content, index, frequency, same)
        twin = next((kept[place][0].id for place in candidates if _repeats(item, content, *kept[place])), None)
        if twin is not None:
            dropped[item.id] = twin
            continue
        place = len(kept)
        kept.append((item, content))
        if index is not None:
            same["", content].append(place)
            for word in _prefix(content, frequency):
                index[word].append(place)
    return dropped


def _prefix(content: frozenset[str], frequency: Counter) -> list[str]:
    """The rarest words, of which two sets with Jaccard >= NEAR must share at least one."""
    ordered = sorted(content, key=lambda word: (frequency[word], word))
    return ordered[: len(ordered) - math.ceil(NEAR * len(ordered)) + 1]


def _candidates(content: frozenset[str], index: dict[str, list[int]], frequency: Counter, same: dict) -> list[int]:
    found = dict.fromkeys(same.get(("", content), ()))
    for word in _prefix(content, frequency):
        found.update(dict.fromkeys(index.get(word, ())))
    return sorted(found)


def _repeats(one: Item, one_words: frozenset[str], other: Item, other_words: frozenset[str]) -> bool:
    if one.place and not (one.start < other.end and other.start < one.end):
        return False
    if one_words == other_words:
        return True
    shared = len(one_words & other_words)
    if shared >= NEAR * (len(one_words) + len(other_words) - shared) and shared:
        return True
    from rapidfuzz import fuzz

    return fuzz.ratio(" ".join(sorted(one_words)), " ".join(sorted(other_words))) >= SPELLED_NEAR
