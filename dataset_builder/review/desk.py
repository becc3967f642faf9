"""The state behind the page: the pairs of the last build, what was decided about them, and the order of reading.

Knows nothing of HTTP. Every decision is on disk before a call returns; what is on disk counts, whoever wrote it.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from dataset_builder import pairs
from dataset_builder.problems import BuildProblem
from dataset_builder.review import cards, records, risk
from dataset_builder.review.agreement import agreement
from dataset_builder.review.cards import STATUS, STATUSES, Card, Filter
from dataset_builder.review.decisions import FILE, VERDICTS, Decision, Decisions, Store, Wording, digest_of
from dataset_builder.review.settle import decided
from dataset_builder.rows import Grounded, digest
from dataset_builder.split import same

LOCK = "dataset.lock.json"
MOST_LISTED, MOST_UNDONE, MOST_NOTE_CHARS = 200, 1000, 500


class Refused(Exception):
    """A decision that cannot be kept; the text says why. Nothing was written."""


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
        seen = self._built()
        if seen is None and self._seen is None:
            raise BuildProblem(f"{self.folder}: there is no whole dataset to review\n  fix: run `recipe data` first")
        if seen is None or seen == self._seen:
            return
        try:
            lock = json.loads((self.folder / LOCK).read_text(encoding="utf-8"))
            found, rows = records.read(self.folder), cards.rows_by_pair(self.folder)
        except (OSError, ValueError, BuildProblem) as error:
            if self._built() != seen:
                return  # a build began while its files were read
            raise error if isinstance(error, BuildProblem) else BuildProblem(f"{self.folder}: {error}") from None
        near = risk.near(found)
        all_cards = [cards.card_of(one, near, rows.get(one.found.pair.id, ())) for one in found]
        self._cards = {card.record.key: card for card in all_cards}
        self._options = cards.options(all_cards)
        by_place = sorted(all_cards, key=lambda one: (one.place, one.record.key))
        by_risk = sorted(by_place, key=lambda one: -one.risk)
        self._orders = {"risk": [one.record.key for one in by_risk], "place": [one.record.key for one in by_place]}
        self._built_with, self._seen = str(lock.get("review_digest", "")), seen

    def _digest(self, decisions: Decisions) -> str:
        if self._digested[0] is not decisions:  # the store hands out one object as long as the file is the same
            self._digested = decisions, digest_of(decisions)
        return self._digested[1]

    def _built(self) -> tuple[int, ...] | None:
        """Tells one whole build from another; None where none is there."""
        try:
            states = [(self.folder / name).stat() for name in (LOCK, records.PAIRS)]
        except OSError:
            return None
        return tuple(part for state in states for part in (state.st_mtime_ns, state.st_size, state.st_ino))

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
        question = cards.now(card.record, decisions.get(card.record.key)).question
        return {"key": card.record.key, "question": question[:240], "status": status, "risk": card.risk,
                "source": card.record.found.chunk.origin, "reasons": [one.name for one in card.reasons]}  # fmt: skip

    def _told(self, card: Card, decisions: Decisions) -> dict:
        record, decision = card.record, decisions.get(card.record.key)
        now, original = cards.now(record, decision), cards.original(record)
        chunk = record.found.chunk
        place = cards.place_of(now.quote, chunk.text)
        return {
            **self._line(card, self._status(card, decisions), decisions), "id": record.found.pair.id,
            "part": record.part, "question": now.question, "answer": now.answer, "quote": now.quote,
            "original": None if now == original else cards.as_dict(original),
            "passage": [chunk.text[: place[0]], chunk.text[slice(*place)], chunk.text[place[1] :]],
            "headings": [part for part in (chunk.title, *chunk.heading_path) if part], "section": chunk.section,
            "link": cards.link(chunk.origin, chunk.anchor), "kind": record.found.pair.kind,
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
            if alive and same(cards.now(other.record, decisions.get(other.record.key)).question) == asked:
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
        original = cards.grounded_original(card.record)
        wording = None
        if verdict == "edit":
            parts = {name: (edited or {}).get(name, "") for name in ("question", "answer", "quote")}
            made = self._edited(card, **parts)
            if isinstance(made, str):
                raise Refused(f"Not kept: {made}.")
            wording = Wording(made.pair.question, made.pair.answer, made.pair.quote)
            if wording == cards.original(card.record):
                raise Refused("Not kept: nothing was changed; accept it instead.")
        if before is not None:  # it knows more of the pair as it was than the record of an edited one
            return replace(before, verdict=verdict, edited=wording, note=note[:MOST_NOTE_CHARS])
        return decided(original, verdict, wording, note[:MOST_NOTE_CHARS])


def _state(decision: Decision | None) -> str:
    """Tells one decision about a pair from another."""
    return "" if decision is None else digest(repr(decision))
