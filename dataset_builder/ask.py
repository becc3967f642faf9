"""From chunks to unique grounded pairs: by the path that fits the model, round by round, until the target is reached or
nothing is left to ask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from dataset_builder import answer_first, coverage
from dataset_builder.duplicates import Item, duplicates
from dataset_builder.engine import Engine
from dataset_builder.facts import Fact
from dataset_builder.rows import Chunk, Dropped, Grounded
from dataset_builder.spec import Dataset
from dataset_builder.views import View


@dataclass(frozen=True, slots=True)
class Asked:
    """What asking gave."""

    pairs: tuple[Grounded, ...]
    dropped: tuple[Dropped, ...]
    sections: dict[str, list[tuple[Fact, Chunk]]]
    """What the documents define, by section."""
    path: str
    """`schema`, `json`, `tagged` or `answer-first`."""
    short: tuple[str, ...] = ()
    """How many pairs are missing, and why."""
    notes: tuple[str, ...] = ()
    """Sentences for the card."""

    def write_views(self, engine: Engine, train: Sequence[Grounded], total: int) -> dict[str, list[View]]:
        """Views of the pairs that a strong model writes, by pair id, not yet checked; a weak one writes none."""
        return {}


def ask_pairs(engine: Engine, dataset: Dataset, chunks: Sequence[Chunk]) -> Asked:
    """Unique pairs up to `pairs.unique`, or all there are and why they are fewer."""
    sections = coverage.items(chunks)
    pairs, dropped = _answer_first(engine, dataset.pairs.unique, coverage.deal(sections, dataset.seed))
    short = _short(len(pairs), dataset.pairs.unique, sections)
    return Asked(tuple(pairs), tuple(dropped), sections, "answer-first", short)


@dataclass
class _Pool:
    """Accepted pairs in the order of their asking, and what was dropped."""

    pairs: list[Grounded] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)

    def add(self, made: Sequence[Grounded], lost: Sequence[Dropped]) -> None:
        self.pairs, repeats = deduplicated([*self.pairs, *made])
        self.dropped += [*lost, *repeats]


def _answer_first(engine: Engine, wanted: int, facts: Iterator[tuple[Fact, Chunk]]) -> tuple[list[Grounded], list[Dropped]]:
    pool = _Pool()
    while len(pool.pairs) < wanted:
        # a tenth more than is missing: some questions fail their checks, and one more round costs little
        batch = list(islice(facts, (wanted - len(pool.pairs)) * 11 // 10 + 4))
        if not batch:
            break
        pool.add(*answer_first.word(engine, batch))
    return pool.pairs[:wanted], pool.dropped


def deduplicated(pairs: Sequence[Grounded]) -> tuple[list[Grounded], list[Dropped]]:
    """The pairs without those that repeat another, in the order given, and the repeated ones."""
    first: dict[str, Grounded] = {}
    for pair in pairs:
        first.setdefault(pair.pair.id, pair)
    entries = [
        Item(one.pair.id, one.pair.question, one.chunk.document_id, one.chunk.start + one.pair.quote_start,
             one.chunk.start + one.pair.quote_end)
        for one in first.values()
    ]  # fmt: skip
    gone = duplicates(entries)
    dropped = [_repeated(first[one], first[kept]) for one, kept in sorted(gone.items())]
    return [pair for pair in first.values() if pair.pair.id not in gone], dropped


def _repeated(one: Grounded, kept: Grounded) -> Dropped:
    item = {"question": one.pair.question, "answer": one.pair.answer, "source": one.chunk.origin}
    return Dropped("duplicates", f"repeats another pair: {kept.pair.question}", item)


def _short(found: int, wanted: int, sections: dict[str, list[tuple[Fact, Chunk]]]) -> tuple[str, ...]:
    if found >= wanted:
        return ()
    facts = sum(len(mine) for mine in sections.values())
    return (
        f"{found:,} of {wanted:,} unique pairs, {wanted - found:,} missing: the documents hold {facts:,} facts in "
        f"{len(sections):,} sections that can stand alone, and all were asked; add sources or lower dataset.pairs.unique",
    )
