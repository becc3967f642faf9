"""Accepted pairs while they are asked for: repetitions left out, the judge heard, what people decided kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from dataset_builder.duplicates import Item, duplicates
from dataset_builder.judge import Bench
from dataset_builder.review.settle import Settled
from dataset_builder.rows import Dropped, Grounded
from dataset_builder.runner import HERE, Runner
from dataset_builder.split import same

NOTHING_DECIDED = Settled()


@dataclass
class Pool:
    """Accepted pairs in the order of their asking, and what was dropped."""

    wanted: int
    bench: Bench | None = None
    review: Settled = NOTHING_DECIDED
    on: Runner = HERE
    judged: dict[str, str] = field(default_factory=dict)
    refused: dict[str, Grounded] = field(default_factory=dict)
    """Pairs that the judge calls bad, by id: they are not asked about twice."""
    pairs: list[Grounded] = field(default_factory=list)
    """What was found, whatever people decided about it: what is asked next follows from it, so that a decision about
    one pair changes no request for another."""
    dropped: list[Dropped] = field(default_factory=list)
    chosen: list[Grounded] = field(default_factory=list)
    """What the dataset is to hold of it: what people keep first, nothing that they rejected."""
    repeats: list[Dropped] = field(default_factory=list)
    """What repeats a pair on which people decided."""

    def __post_init__(self) -> None:
        self._choose()

    @property
    def missing(self) -> int:
        return self.wanted - len(self.chosen)

    def add(self, made: Sequence[Grounded], lost: Sequence[Dropped]) -> None:
        before = {one.pair.id for one in self.pairs}
        new = [one for one in made if one.pair.id not in self.refused]
        rejected = {one.pair.id for one in self.review.rejected.values()}
        found, repeats = deduplicated([*self.pairs, *new], rejected, self.on)
        self.dropped += [*lost, *repeats]
        if self.bench is not None and (fresh := [one for one in found if one.pair.id not in before]):
            said = self.bench.judge(fresh)
            self.judged |= said.verdicts
            self.dropped += said.dropped
            self.refused |= {one.pair.id: one for one in fresh if said.verdicts.get(one.pair.id, "").startswith("bad")}
        self.pairs = [one for one in found if one.pair.id not in self.refused]
        self._choose()

    def _choose(self) -> None:
        if not self.review.decisions:
            self.chosen = self.pairs
            return
        own = {one.pair.id: one for one in self.pairs}
        kept = [own.get(one.pair.id, one) for one in self.review.kept.values()]
        decided = {*self.review.kept, *self.review.rejected}
        open_ones = [one for one in self.pairs if self.review.name_of(one) not in decided]
        firm = [*kept, *self.review.rejected.values()]  # what repeats a rejected pair does not come in its place
        found, repeats = deduplicated([*firm, *open_ones], {one.pair.id for one in firm}, self.on)
        may = {one.pair.id for one in (*kept, *open_ones)}
        self.chosen = [one for one in found if one.pair.id in may]
        asked = {one.pair.question for one in (*kept, *open_ones)}
        self.repeats = [one for one in repeats if one.item["question"] in asked]


def deduplicated(
    candidates: Sequence[Grounded], kept_ids: Collection[str] = (), on: Runner = HERE
) -> tuple[list[Grounded], list[Dropped]]:
    """The pairs without those that repeat another, in the order given, and the repeated ones. Those of `kept_ids`, on
    which people decided, go only where another one of them asks the very same."""
    first: dict[str, Grounded] = {}
    for one in candidates:
        first.setdefault(one.pair.id, one)
    entries = [
        Item(one.pair.id, one.pair.question, one.chunk.document_id, one.chunk.start + one.pair.quote_start,
             one.chunk.start + one.pair.quote_end, 0 if one.pair.id in kept_ids else 1)
        for one in first.values()
    ]  # fmt: skip
    gone = {one: kept for one, kept in duplicates(entries, on).items() if one not in kept_ids}
    asked: dict[str, str] = {}
    for one in first.values():  # one question with two answers from two places teaches neither
        if one.pair.id not in gone:
            kept = asked.setdefault(same(one.pair.question), one.pair.id)
            gone |= {one.pair.id: kept} if kept != one.pair.id else {}
    dropped = [_repeated(first[one], first[kept]) for one, kept in sorted(gone.items())]
    return [one for one in first.values() if one.pair.id not in gone], dropped


def _repeated(one: Grounded, kept: Grounded) -> Dropped:
    item = {"question": one.pair.question, "answer": one.pair.answer, "source": one.chunk.origin,
            "section": one.chunk.section}  # fmt: skip
    return Dropped("duplicates", f"repeats another pair: {kept.pair.question}", item)
