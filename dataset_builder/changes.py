"""What changed since the last whole dataset: documents added, changed, removed; pairs kept, new, retired.

Compared by where a document lies without its commit (`rows.address`), and by the text of the pairs: a new commit that
leaves a page as it was changes nothing, and what is renamed is told apart from what is gone. The former state is that
of the lock and of the tables it vouches for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset_builder.problems import BuildProblem
from dataset_builder.rows import Document, Row, address
from dataset_builder.table import read_rows

NAMED = 10
"""Documents named per kind of change; the others are counted."""
TABLES = ("train.csv", "eval_transfer.csv")
PairKey = tuple[str, str, str]
"""(question, answer, address)."""


@dataclass(frozen=True, slots=True)
class Former:
    """The dataset that lay there before."""

    stamp: Mapping[str, object]
    documents: Mapping[str, str]
    """Address -> sha256."""
    pairs: Mapping[PairKey, str] | None
    """Pair -> quote; None where the tables are gone or were touched."""
    said: tuple[str, ...]
    """What its own card says of changes."""


def former(folder: Path, lock_name: str) -> Former | None:
    """What lies in a dataset's folder; None where nothing whole does."""
    try:
        lock = json.loads((folder / lock_name).read_text(encoding="utf-8"))
        documents, files = dict(lock["documents"]), dict(lock["files"])
        said = tuple(map(str, lock.get("changes", ())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    try:
        whole = all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == files.get(name) for name in TABLES)
        pairs = pairs_in(row for name in TABLES for row in read_rows(folder / name)) if whole else None
    except (OSError, BuildProblem):
        pairs = None
    return Former(lock, documents, pairs, said)


def pairs_in(rows: Iterable[Row]) -> dict[PairKey, str]:
    """The unique pairs among rows, with their quotes."""
    return {
        (row.instruction, row.output, address(row.source.rsplit("#", 1)[0])): row.quote
        for row in rows
        if row.id == row.parent and row.view == "direct"
    }


def sha256_of(documents: Iterable[Document]) -> dict[str, str]:
    """Address -> sha256, as the lock keeps them."""
    return {address(one.origin): one.sha256 for one in sorted(documents, key=lambda one: address(one.origin))}


def sentences(before: Former | None, stamp: Mapping[str, str], documents: Sequence[Document], rows: Iterable[Row],
              ) -> tuple[str, ...]:  # fmt: skip
    """Lines for the card and the terminal. Empty for a first build; those of the card where all is as it was."""
    if before is None:
        return ()
    if all(before.stamp.get(key) == value for key, value in stamp.items()):
        return before.said
    now = sha256_of(documents)
    moved = moves(before.documents, now)
    added = sorted(now.keys() - before.documents.keys() - set(moved.values()))
    removed = sorted(before.documents.keys() - now.keys() - moved.keys())
    changed = sorted(name for name in now.keys() & before.documents.keys() if now[name] != before.documents[name])
    counted = f"{len(added):,} added, {len(changed):,} changed, {len(removed):,} removed"
    counted += f", {len(moved):,} moved" if moved else ""
    lines = [f"Since the last build: documents {counted}; {_pairs(before.pairs, pairs_in(rows), documents, moved)}"]
    told = [f"{old} to {new}" for old, new in sorted(moved.items())]
    for what, names in (("Added", added), ("Changed", changed), ("Removed", removed), ("Moved", told)):
        if names:
            more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
            lines.append(f"{what}: {', '.join(names[:NAMED])}{more}.")
    return tuple(lines)


def moves(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Former address -> new one, of documents that lie elsewhere with the same text; both map address -> sha256."""
    places: dict[str, list[str]] = {}
    for name in sorted(now.keys() - before.keys(), reverse=True):
        places.setdefault(now[name], []).append(name)
    gone = (name for name in sorted(before.keys() - now.keys()) if places.get(before[name]))
    return {name: places[before[name]].pop() for name in gone}


def _pairs(old: Mapping[PairKey, str] | None, new: Mapping[PairKey, str], documents: Sequence[Document],
           moved: Mapping[str, str]) -> str:  # fmt: skip
    if old is None:
        return "the former tables are not there, so pairs cannot be compared."
    gone, fresh = old.keys() - new.keys(), new.keys() - old.keys()
    words = {key[:2] for key in fresh}
    followed = {key for key in gone if key[:2] in words}  # in a renamed document, or a section that went elsewhere
    fresh = {key for key in fresh if key[:2] not in {one[:2] for one in followed}}
    gone -= followed
    wanted = {moved.get(key[2], key[2]) for key in gone}
    texts = {address(one.origin): one.markdown for one in documents if address(one.origin) in wanted}
    vanished = sum(old[key] not in texts.get(moved.get(key[2], key[2]), "") for key in gone)
    why = f" ({vanished:,} because their quote is no longer there)" if vanished else ""
    with_text = f" ({len(followed):,} of them moved with their text)" if followed else ""
    kept = len(old.keys() & new.keys()) + len(followed)
    return f"unique pairs {kept:,} kept{with_text}, {len(fresh):,} new, {len(gone):,} retired{why}."
