"""The split, made before variants are: families for training, trained facts to be asked in an unseen wording,
sections never trained.

A family is everything that could tell the answer of one pair: its section, and any section that holds the same quote
or the same question
(READMEs repeat each other). `check` proves on the finished rows that no family is on both sides.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from dataset_builder.problems import BuildProblem
from dataset_builder.rows import Grounded, Row, address, digest


@dataclass(frozen=True, slots=True)
class Split:
    train: tuple[Grounded, ...]
    transfer: tuple[Grounded, ...]
    recall: frozenset[str]
    """Ids of pairs in `train` of which one wording shall be held out."""
    reserve: tuple[str, ...] = ()
    """Ids of further pairs, in the order in which they stand in for one that has no wording to spare."""


def section_of(grounded: Grounded) -> str:
    """What is held out whole: one section of one document."""
    return f"{address(grounded.chunk.origin)}\n{grounded.chunk.section}"


def split(pairs: Sequence[Grounded], recall: int, transfer: float, seed: int) -> Split:
    """Sections (joined into families) are held out, in an order that the seed decides, until `transfer` of the
    sections are.

    The same pairs in any order give the same split.
    """
    families = _families(pairs)
    sections = {section_of(pair) for pair in pairs}
    wanted = round(transfer * len(sections)) or (1 if transfer and len(sections) >= 4 else 0)
    held: set[str] = set()
    called = {section_of(pair): pair.chunk.called for pair in pairs}
    drawn = {family: digest(str(seed), *sorted(called[section] for section in family)) for family in families}
    for family in sorted(families, key=lambda family: (drawn[family], sorted(family))):
        if len(held) + len(family) <= wanted:
            held |= family
    train = tuple(sorted((pair for pair in pairs if section_of(pair) not in held), key=lambda pair: pair.pair.id))
    out = tuple(sorted((pair for pair in pairs if section_of(pair) in held), key=lambda pair: pair.pair.id))
    asked = sorted(train, key=lambda pair: digest(str(seed), "recall", pair.pair.id))
    order = tuple(pair.pair.id for pair in asked)
    return Split(train, out, frozenset(order[:recall]), order[recall:] if recall else ())


def _families(pairs: Sequence[Grounded]) -> list[frozenset[str]]:
    """Sections joined by a shared quote, question or answer (union-find)."""
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for pair in pairs:
        for key in (pair.pair.quote, pair.pair.question, pair.pair.answer):
            parent[find("text " + same(key))] = find("section " + section_of(pair))
    families: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        families[find("section " + section_of(pair))].add(section_of(pair))
    return [frozenset(family) for family in families.values()]


_MARKS = re.compile(r"[\W_]+")


def same(text: str) -> str:
    """Two texts that differ only in case, spaces and marks are the same."""
    return _MARKS.sub(" ", text.casefold()).strip()


def check(train: Sequence[Row], recall: Sequence[Row], transfer: Sequence[Row]) -> None:
    """Raises BuildProblem where a held-out question was trained, or a held-out section is in the training rows."""
    asked = {same(row.instruction) for row in train}
    parents = {row.parent for row in train}
    sections = {(row.source, row.section) for row in train}
    quotes = {same(row.quote) for row in train if row.quote}
    for name, rows in (("eval_recall", recall), ("eval_transfer", transfer)):
        for row in rows:
            if same(row.instruction) in asked:
                raise BuildProblem(
                    f"{name}: this question is trained as well, the evaluation would be worthless: {row.instruction}"
                )
    for row in recall:
        if row.parent not in parents:
            raise BuildProblem(f"eval_recall: the fact is not trained at all: {row.instruction}")
    for row in transfer:
        if row.parent in parents or (row.source, row.section) in sections or same(row.quote) in quotes:
            raise BuildProblem(
                f"eval_transfer: its section or its quote is trained as well: {row.source}, {row.section}"
            )
