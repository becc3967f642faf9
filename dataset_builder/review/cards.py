"""What the page shows of a pair: a record of the last build with its risk, its rows, and the words of its decision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from dataset_builder.evidence import locate
from dataset_builder.review import risk
from dataset_builder.review.decisions import Decision, Wording
from dataset_builder.review.records import Record
from dataset_builder.rows import Grounded, Pair, Row, digest
from dataset_builder.table import read_rows

TABLES = {"train.csv": "training", "eval_recall.csv": "recall", "eval_transfer.csv": "transfer"}
STATUS = {"accept": "accepted", "edit": "edited", "reject": "rejected"}
STATUSES = ("open", *STATUS.values(), "refused", "retired")
"""`refused`: by the judge, and nobody has looked at it; it is not in the dataset, so it is not left to read either."""


@dataclass(frozen=True, slots=True)
class Card:
    """A record with what the page needs of it."""

    record: Record
    reasons: tuple[risk.Reason, ...]
    risk: int
    rows: tuple[tuple[str, Row], ...]
    """(table, row) of all rows made from it in the last build."""
    text: str
    """What a search looks into, casefolded."""

    @property
    def place(self) -> tuple[str, int]:
        """For the order of the documents."""
        return self.record.found.chunk.origin, self.record.found.chunk.start + self.record.found.pair.quote_start


@dataclass(frozen=True, slots=True)
class Filter:
    """Which pairs are listed; "" does not restrict."""

    status: str = ""
    kind: str = ""
    view: str = ""
    source: str = ""
    reason: str = ""
    part: str = ""
    text: str = ""

    def matches(self, card: Card, status: str) -> bool:
        record = card.record
        return (
            (not self.status or status == self.status)
            and (not self.kind or record.found.pair.kind == self.kind)
            and (not self.view or any(row.view == self.view for _, row in card.rows))
            and (not self.source or record.found.chunk.origin == self.source)
            and (not self.reason or any(reason.name == self.reason for reason in card.reasons))
            and (not self.part or record.part == self.part)
            and all(word in card.text for word in self.text.casefold().split())
        )


def options(cards: Iterable[Card]) -> dict[str, list[list]]:
    """What the filters can be set to, with counts."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("kind", "view", "source", "reason", "part")}
    for card in cards:
        record = card.record
        counts["kind"][record.found.pair.kind] += 1
        counts["source"][record.found.chunk.origin] += 1
        counts["part"][record.part] += 1
        counts["reason"].update(reason.name for reason in card.reasons)
        counts["view"].update({row.view for _, row in card.rows})
    return {name: [[value, count] for value, count in sorted(found.items())] for name, found in counts.items()}


def rows_by_pair(folder: Path) -> dict[str, list[tuple[str, Row]]]:
    """(table, row) of every row of a dataset, by the id of its pair."""
    found: dict[str, list[tuple[str, Row]]] = {}
    for name, table in TABLES.items():
        for row in read_rows(folder / name):
            found.setdefault(row.parent, []).append((table, row))
    return found


def card_of(record: Record, near: risk.Near, rows: Iterable[tuple[str, Row]]) -> Card:
    """A record with its reasons and risk; a decision that retired has none."""
    found = () if record.part == "retired" else risk.reasons(record, near)
    pair = record.found.pair
    texts = (pair.question, pair.answer, pair.quote, record.found.chunk.origin, record.found.chunk.section, pair.id)
    return Card(record, found, risk.risk(found), tuple(rows), "\n".join(texts).casefold())


def original(record: Record) -> Wording:
    """What the builder's own pair says."""
    pair = record.found.pair
    return record.original or Wording(pair.question, pair.answer, pair.quote)


def grounded_original(record: Record) -> Grounded:
    """The builder's own pair, before any edit."""
    if record.original is None:
        return record.found
    question, answer, quote = record.original.question, record.original.answer, record.original.quote
    chunk = record.found.chunk
    start, end = place_of(quote, chunk.text)
    pair = Pair(digest(question, answer, chunk.id), chunk.id, question, answer, quote, start, end,
                record.found.pair.kind)  # fmt: skip
    return replace(record.found, pair=pair)


def now(record: Record, decision: Decision | None) -> Wording:
    """What the pair says with the decision about it."""
    return decision.edited if decision and decision.edited else original(record)


def place_of(quote: str, text: str) -> tuple[int, int]:
    """Where a quote stands in its passage; its end where it does not."""
    start = text.find(quote)
    return (start, start + len(quote)) if start >= 0 and quote else locate(quote, text) or (len(text), len(text))


def as_dict(one: Wording) -> dict[str, str]:
    """A wording for JSON."""
    return {"question": one.question, "answer": one.answer, "quote": one.quote}


def link(origin: str, anchor: str) -> str:
    """Where a browser finds the source; "" where it is no page of the web."""
    if not origin.startswith(("https://", "http://")) or "@" in origin:
        return ""
    return f"{origin}#{anchor}" if anchor else origin
