"""The state behind the page: the pairs of the last build, what was decided about them, and the order of reading.

Knows nothing of HTTP. Every decision is on disk before a call returns; what is on disk counts, whoever wrote it.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dataset_builder import pairs
from dataset_builder.evidence import locate
from dataset_builder.problems import BuildProblem
from dataset_builder.review import records, risk
from dataset_builder.review.agreement import agreement
from dataset_builder.review.decisions import FILE, VERDICTS, Decision, Decisions, Store, Wording, digest_of
from dataset_builder.review.records import Record
from dataset_builder.review.settle import decided
from dataset_builder.rows import Grounded, Pair, Row, digest
from dataset_builder.split import same
from dataset_builder.table import read_rows

LOCK = "dataset.lock.json"
TABLES = {"train.csv": "training", "eval_recall.csv": "recall", "eval_transfer.csv": "transfer"}
STATUS = {"accept": "accepted", "edit": "edited", "reject": "rejected"}
STATUSES = ("open", *STATUS.values(), "refused", "retired")
"""`refused`: by the judge, and nobody has looked at it; it is not in the dataset, so it is not left to read either."""
MOST_LISTED, MOST_UNDONE, MOST_NOTE_CHARS = 200, 1000, 500


class Refused(Exception):
    """A decision that cannot be kept; the text says why. Nothing was written."""


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


class Desk:
    """One recipe's review. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / FILE)
        self._lock = threading.RLock()
        self._undo: list[tuple[str, Decision | None, Decision | None]] = []
        self._seen: object = None
        self._cards: dict[str, Card] = {}
        self._orders: dict[str, list[str]] = {}
        self._options: dict[str, list[list]] = {}
        self._built_with = ""
        self._digested: tuple[Decisions | None, str] = None, ""
        with self._lock:
            self._refresh()
            self.store.read()

    def summary(self) -> dict:
        """Counts, the filters' options, and how far the dataset lags behind the decisions."""
        with self._lock:
            self._refresh()
            decisions = self.store.read()
            status = Counter(self._status(card, decisions) for card in self._listed(decisions))
            found = agreement((card.record for card in self._cards.values()), decisions)
            return {
                "build": digest(str(self._seen)),
                "status": {name: status[name] for name in STATUSES},
                "stale": self._digest(decisions) != self._built_with,
                "elsewhere": sum(key not in self._cards for key in decisions),
                "undo": len(self._undo),
                "options": self._options,
                "agreement": {"agreed": found.agreed, "both": found.both, "counts": [
                    [judge, person, count] for (judge, person), count in sorted(found.counts.items())]},
            }  # fmt: skip

    def queue(self, wanted: Filter, order: str = "risk", after: str = "", limit: int = 100) -> dict:
        """The pairs that follow `after` in an order (`risk` or `place`), and how many there are in all."""
        with self._lock:
            self._refresh()
            decisions = self.store.read()
            if order not in self._orders:
                raise Refused(f"no order {order!r}")
            keys = self._orders[order]
            begin = keys.index(after) + 1 if after in self._cards else 0
            total, items = 0, []
            for position, key in enumerate(keys):
                card = self._cards[key]
                status = self._status(card, decisions)
                if status == "gone" or not wanted.matches(card, status):
                    continue
                total += 1
                if position >= begin and len(items) < min(limit, MOST_LISTED):
                    items.append(self._line(card, status, decisions))
            return {"total": total, "items": items}

    def card(self, key: str) -> dict:
        """Everything about one pair. Raises Refused where there is none."""
        with self._lock:
            self._refresh()
            return self._told(self._card(key), self.store.read())

    def check(self, key: str, question: str, answer: str, quote: str) -> str | None:
        """Why an edit would be refused, or None. Writes nothing."""
        with self._lock:
            made = self._edited(self._card(key), question, answer, quote)
            return made if isinstance(made, str) else None

    def decide(self, key: str, verdict: str, seen: str, edited: Mapping[str, str] | None = None,
               note: str = "") -> dict:  # fmt: skip
        """Keeps a verdict (`none` takes it back) and returns the pair as `card` does. `seen`: the state that the reader
        looked at, as told by `card`. Raises Refused."""
        with self._lock:
            self._refresh()
            card, before = self._card(key), self.store.read().get(key)
            if seen != _state(before):
                raise Refused("It was decided elsewhere meanwhile; look again.")
            after = self._decision(card, before, verdict, edited, note)
            now = self.store.change(key, after)
            self._undo = [*self._undo, (key, before, after)][-MOST_UNDONE:]
            return self._told(card, now)

    def undo(self) -> dict:
        """Takes the last decision of this run back; returns the pair as it is now. Raises Refused."""
        with self._lock:
            self._refresh()
            while self._undo:
                key, before, after = self._undo.pop()
                if key in self._cards and self.store.read().get(key) == after:
                    return self._told(self._card(key), self.store.change(key, before))
            raise Refused("Nothing to undo.")

    def _refresh(self) -> None:
        """Reads what a build has left, where it is another one than before. A build that is under way, or was killed
        while it wrote, leaves no lock: until it has ended the former state stays."""
        paths = [self.folder / name for name in (LOCK, records.PAIRS)]
        try:
            seen = [(path.stat().st_mtime_ns, path.stat().st_size) for path in paths]
            lock = json.loads(paths[0].read_text(encoding="utf-8"))
        except (OSError, ValueError):
            if self._seen is None:
                raise BuildProblem(f"{self.folder}: there is no whole dataset to review") from None
            return
        if seen == self._seen:
            return
        found = records.read(self.folder)
        near = risk.near(found)
        rows = _rows_by_pair(self.folder)
        cards = [_card(one, near, rows.get(one.found.pair.id, ())) for one in found]
        self._cards = {card.record.key: card for card in cards}
        self._options = _options(cards)
        self._orders = {
            "risk": [one.record.key for one in sorted(cards, key=lambda one: (-one.risk, one.place, one.record.key))],
            "place": [one.record.key for one in sorted(cards, key=lambda one: (one.place, one.record.key))],
        }
        self._built_with, self._seen = str(lock.get("review_digest", "")), seen

    def _digest(self, decisions: Decisions) -> str:
        if self._digested[0] is not decisions:  # the store hands out one object as long as the file is the same
            self._digested = decisions, digest_of(decisions)
        return self._digested[1]

    def _listed(self, decisions: Decisions) -> Iterator[Card]:
        return (card for card in self._cards.values() if self._status(card, decisions) != "gone")

    def _status(self, card: Card, decisions: Decisions) -> str:
        """One of STATUSES; `gone`: a decision that retired and was taken back."""
        decision = decisions.get(card.record.key)
        if card.record.part == "retired":
            return "retired" if decision else "gone"
        if decision is None:
            return "refused" if card.record.part == "refused" else "open"
        return STATUS[decision.verdict]

    def _card(self, key: str) -> Card:
        card = self._cards.get(key)
        if card is None:
            raise Refused("There is no such pair in the last build.")
        return card

    def _line(self, card: Card, status: str, decisions: Decisions) -> dict:
        question = _now(card.record, decisions.get(card.record.key)).question
        return {"key": card.record.key, "question": question[:240], "status": status, "risk": card.risk,
                "source": card.record.found.chunk.origin, "reasons": [one.name for one in card.reasons]}  # fmt: skip

    def _told(self, card: Card, decisions: Decisions) -> dict:
        record, decision = card.record, decisions.get(card.record.key)
        now, original = _now(record, decision), _original(record)
        chunk = record.found.chunk
        place = _place(now.quote, chunk.text)
        return {
            **self._line(card, self._status(card, decisions), decisions), "id": record.found.pair.id,
            "part": record.part, "question": now.question, "answer": now.answer, "quote": now.quote,
            "original": None if now == original else vars_of(original),
            "passage": [chunk.text[: place[0]], chunk.text[slice(*place)], chunk.text[place[1] :]],
            "headings": [part for part in (chunk.title, *chunk.heading_path) if part], "section": chunk.section,
            "link": _link(chunk.origin, chunk.anchor), "kind": record.found.pair.kind,
            "worded_by": record.found.worded_by, "licence": chunk.licence or "", "judge": record.judge,
            "why": record.why, "note": decision.note if decision else "", "seen": _state(decision),
            "reasons": [[one.name, one.points, one.text] for one in card.reasons],
            "rows": [[table, row.view, row.instruction, row.output] for table, row in card.rows],
        }  # fmt: skip

    def _edited(self, card: Card, question: str, answer: str, quote: str) -> Grounded | str:
        """The edit as a pair that passed the builder's checks, or why it is refused."""
        record = card.record
        if not record.found.chunk.id:
            return "its passage is no longer in the documents"
        if problem := pairs.unreadable(quote):
            return problem
        made = pairs.by_person(question, answer, quote, record.found.chunk)
        if isinstance(made, str):
            return made
        asked, decisions = same(made.pair.question), self.store.read()
        for other in self._cards.values():
            alive = self._status(other, decisions) in ("open", "accepted", "edited") and other is not card
            if alive and same(_now(other.record, decisions.get(other.record.key)).question) == asked:
                return "another pair asks this already"
        return made

    def _decision(self, card: Card, before: Decision | None, verdict: str, edited: Mapping[str, str] | None,
                  note: str) -> Decision | None:  # fmt: skip
        if verdict == "none":
            return None
        if verdict not in VERDICTS:
            raise Refused(f"no verdict {verdict!r}")
        if card.record.part == "retired":
            raise Refused("Its passage is no longer in the documents; the decision can only be taken back.")
        if problem := pairs.unreadable(note):
            raise Refused(f"The note {problem}.")
        if verdict == "accept" and before is not None and before.edited is not None:
            return before  # what is accepted is what one sees: the edit
        original = _original_grounded(card.record)
        wording = None
        if verdict == "edit":
            parts = {name: (edited or {}).get(name, "") for name in ("question", "answer", "quote")}
            made = self._edited(card, **parts)
            if isinstance(made, str):
                raise Refused(f"Not kept: {made}.")
            wording = Wording(made.pair.question, made.pair.answer, made.pair.quote)
            if wording == _original(card.record):
                raise Refused("Not kept: nothing was changed; accept it instead.")
        if before is not None:  # it knows more of the pair as it was than the record of an edited one
            return replace(before, verdict=verdict, edited=wording, note=note[:MOST_NOTE_CHARS])
        return decided(original, verdict, wording, note[:MOST_NOTE_CHARS])


def _options(cards: Iterable[Card]) -> dict[str, list[list]]:
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


def _rows_by_pair(folder: Path) -> dict[str, list[tuple[str, Row]]]:
    found: dict[str, list[tuple[str, Row]]] = {}
    for name, table in TABLES.items():
        for row in read_rows(folder / name):
            found.setdefault(row.parent, []).append((table, row))
    return found


def _card(record: Record, near: risk.Near, rows) -> Card:
    found = () if record.part == "retired" else risk.reasons(record, near)
    pair = record.found.pair
    texts = (pair.question, pair.answer, pair.quote, record.found.chunk.origin, record.found.chunk.section, pair.id)
    return Card(record, found, risk.risk(found), tuple(rows), "\n".join(texts).casefold())


def _original(record: Record) -> Wording:
    """What the builder's own pair says."""
    pair = record.found.pair
    return record.original or Wording(pair.question, pair.answer, pair.quote)


def _original_grounded(record: Record) -> Grounded:
    if record.original is None:
        return record.found
    question, answer, quote = record.original.question, record.original.answer, record.original.quote
    chunk = record.found.chunk
    start, end = _place(quote, chunk.text)
    pair = Pair(digest(question, answer, chunk.id), chunk.id, question, answer, quote, start, end,
                record.found.pair.kind)  # fmt: skip
    return replace(record.found, pair=pair)


def _now(record: Record, decision: Decision | None) -> Wording:
    """What the pair says with the decision about it."""
    return decision.edited if decision and decision.edited else _original(record)


def _place(quote: str, text: str) -> tuple[int, int]:
    start = text.find(quote)
    return (start, start + len(quote)) if start >= 0 and quote else locate(quote, text) or (len(text), len(text))


def vars_of(one: Wording) -> dict[str, str]:
    """A wording for JSON."""
    return {"question": one.question, "answer": one.answer, "quote": one.quote}


def _state(decision: Decision | None) -> str:
    """Tells one decision about a pair from another."""
    return "" if decision is None else digest(repr(decision))


def _link(origin: str, anchor: str) -> str:
    """Where a browser finds the source; "" where it is no page of the web."""
    if not origin.startswith(("https://", "http://")) or "@" in origin:
        return ""
    return f"{origin}#{anchor}" if anchor else origin
