"""From chunks to unique grounded pairs: by the path that fits the model, round by round, until the target is reached or
nothing is left to ask."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import TypeVar

from dataset_builder import answer_first, coverage, names, pairs
from dataset_builder.duplicates import Item, duplicates
from dataset_builder.engine import Engine, Outcome, Request
from dataset_builder.facts import Fact
from dataset_builder.foresight import Foresight, further, within
from dataset_builder.judge import Bench
from dataset_builder.probe import probe
from dataset_builder.review.decisions import key
from dataset_builder.review.settle import Settled
from dataset_builder.rows import Chunk, Dropped, Grounded, digest
from dataset_builder.spec import Dataset
from dataset_builder.split import same
from dataset_builder.views import View

NOTHING_DECIDED = Settled()
T = TypeVar("T")

PATH_NOTE = "How the model is asked: {why}."
ROWS_BY_MODEL = 3
"""Views asked of a strong model for each pair at the profile `standard`; `recall` asks for all it knows."""
TURNS = 3
"""Times a chunk is asked for pairs; from the second on the names that no pair mentions are given."""
MOST_NAMES = 4
"""Given to the model in one further turn."""
LIKELY = 2.0
"""Accepted pairs a chunk, before any is known."""
TELL_EVERY = 16
"""Answers of a batch after which what follows is foreseen anew; in a large batch, so many times."""
TRIAL, LEAST_KEPT = 8, 2 / 3
"""Chunks by which a model that passed the probe is tried on the real documents, and the least share of its candidates
that must pass the checks. Of 15 candidates of a 1.5B model 6 passed; a reader would keep 4 (docs/real-run.md)."""


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
    review: Settled = NOTHING_DECIDED
    """What people decided about pairs of these documents."""
    judged: Mapping[str, str] = field(default_factory=dict)
    """Pair id -> what the judge said (`good`, `none`, `bad: why`), where one ran."""
    refused: tuple[Grounded, ...] = ()
    """Pairs that the judge calls bad."""


@dataclass
class _Pool:
    """Accepted pairs in the order of their asking, and what was dropped."""

    wanted: int
    bench: Bench | None = None
    review: Settled = NOTHING_DECIDED
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
    """What repeats a pair that people keep."""

    def __post_init__(self) -> None:
        self._choose()

    @property
    def missing(self) -> int:
        return self.wanted - len(self.chosen)

    def add(self, made: Sequence[Grounded], lost: Sequence[Dropped]) -> None:
        before = {one.pair.id for one in self.pairs}
        new = [one for one in made if one.pair.id not in self.refused]
        # what repeats a rejected pair does not come in its place
        found, repeats = deduplicated([*self.pairs, *new], {one.pair.id for one in self.review.rejected.values()})
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
        open_ones = [one for one in self.pairs if key(one) not in decided]
        self.chosen, self.repeats = deduplicated([*kept, *open_ones], {one.pair.id for one in kept})


def ask_pairs(engine: Engine, dataset: Dataset, chunks: Sequence[Chunk], bench: Bench | None = None,
              review: Settled = NOTHING_DECIDED, then_views: bool = False) -> Asked:  # fmt: skip
    """Unique pairs up to `pairs.unique`, or all there are and why they are fewer. `bench`: a judge of each pair;
    `review`: what people decided about them, which outranks it; `then_views`: `write_views` follows, so views of
    accepted pairs may fill slots that are free."""
    pool = _Pool(dataset.pairs.unique, bench, review)
    order = sorted(chunks, key=lambda chunk: digest(str(dataset.seed), chunk.id))
    ahead = Foresight(engine, dataset, bench)
    capable = probe(engine.generator, engine, ahead.first_chunks(order[: ceil(pool.wanted / LIKELY)]))
    path, why = capable.path, capable.why
    if path == "answer-first":
        engine.forget_foreseen()
    sections = coverage.items(chunks)
    if path != "answer-first":
        if then_views:
            ahead.views_of = lambda one: views_request(engine, one, dataset.pairs.profile, path)
        if failed := _ask_chunks(engine, path, order, sections, pool, ahead):
            path, why = "answer-first", f"answer-first: {why}, but on these documents {failed}"
            engine.forget_foreseen()
            ahead.views_of = None
    # A model that writes a form well words a question better than a template does.
    by_model = capable.path != "answer-first"
    _ask_facts(engine, list(_unmentioned(coverage.deal(sections, dataset.seed), pool.pairs)), pool, by_model, ahead)
    pairs = tuple(pool.chosen[: pool.wanted])
    short = _short(len(pairs), pool.wanted, sections, len(review.rejected))
    notes = [PATH_NOTE.format(why=why)]
    notes += [bench.note] if bench else []
    silent = sum(verdict == "none" for verdict in pool.judged.values())
    notes += [f"The judge gave no verdict on {silent:,} pairs; they were kept."] if silent else []
    dropped = (*pool.dropped, *pool.repeats, *review.dropped())
    return Asked(pairs, dropped, sections, path, short, (*notes, *review.notes()), review, pool.judged,
                 tuple(pool.refused.values()))  # fmt: skip


def _ask_chunks(
    engine: Engine, path: str, order: Sequence[Chunk], sections: dict, pool: _Pool, ahead: Foresight
) -> str | None:
    """Chunk after chunk in the given order, a few turns each, until there are enough pairs.

    The first chunks are a trial: a model that fails it is asked no further, and what it wrote is dropped, for what
    passes the checks by luck is poor as well. Returns how it failed, or None.
    """
    facts: dict[str, list[tuple[Fact, Chunk]]] = {}
    for mine in sections.values():
        for fact, chunk in mine:
            facts.setdefault(chunk.id, []).append((fact, chunk))
    asked = 0
    for turn in range(TURNS):
        left = list(order)
        # the first chunks are asked whatever people keep: the trial must not depend on how much they have read
        while left and (pool.missing > 0 or not asked):
            rate = max(0.25, len(pool.pairs) / asked) if asked else LIKELY
            size = ceil((pool.missing if asked else pool.wanted) / rate)
            now, left = left[:size], left[size:]
            plans = _plans(now, turn, facts, pool.pairs)
            trial = TRIAL if not asked else 0
            asked += len(now)
            failed = _ask_batch(engine, path, plans, pool, trial, ahead, () if turn else left)
            if failed:
                return failed
    return None


def _plans(
    chunks: Sequence[Chunk], turn: int, facts: Mapping[str, Sequence[tuple[Fact, Chunk]]], found: Sequence[Grounded]
) -> list[pairs.Plan]:
    """The requests for chunks in a turn, without those of which a later turn has nothing to ask."""
    if not turn:
        return [pairs.Plan(chunk, pairs.wanted_pairs(chunk)) for chunk in chunks]
    known: dict[str, list[Grounded]] = {}
    for one in found:
        known.setdefault(one.chunk.id, []).append(one)
    plans = []
    for chunk in chunks:
        mine = known.get(chunk.id, [])
        subjects = pairs.uncovered(facts.get(chunk.id, ()), mine, chunk)
        missing = tuple(dict.fromkeys([*subjects, *names.unmentioned(chunk, mine)]))[:MOST_NAMES]
        if missing:
            plans.append(pairs.Plan(chunk, max(1, min(4, len(missing))), missing, turn))
    return plans


def _ask_batch(
    engine: Engine, path: str, plans: Sequence[pairs.Plan], pool: _Pool, trial: int, ahead: Foresight,
    then: Sequence[Chunk],
) -> str | None:  # fmt: skip
    """Adds what the plans gave to the pool. The first `trial` of them decide whether the rest is asked at all; the
    others need not wait for them. `then`: chunks that follow. Returns how the trial failed, or None."""
    made: dict[int, list[Grounded]] = {}
    lost: dict[int, list[Dropped]] = {}
    place_of = {id(plan): place for place, plan in enumerate(plans)}
    first = range(min(trial, len(plans)))
    requests = (pairs.pairs_request(plan, engine.generator, path) for plan in plans)
    for outcome in engine.run(requests, pairs.parse_pairs, total=len(plans)):
        place = place_of[id(outcome.request.about)]
        made[place], lost[place] = _checked(outcome, plans[place].chunk)
        if first and all(place in made for place in first):
            good, bad = _in_order(made, first), _in_order(lost, first)
            if len(good) < LEAST_KEPT * (len(good) + len(bad)):
                pool.dropped += [*bad, *(_untrusted(one) for one in good)]
                return f"{len(good)} of {len(good) + len(bad)} pairs passed their checks"
            first = range(0)
        if not first and len(made) % max(TELL_EVERY, len(plans) // TELL_EVERY) == 0:
            _tell(path, plans, made, pool, ahead, then)
    pool.add(_in_order(made, range(len(plans))), _in_order(lost, range(len(plans))))
    ahead.accepted(pool.chosen[: pool.wanted])
    return None


def _in_order(found: Mapping[int, Sequence[T]], places: range) -> list[T]:
    """Answers come in any order; what is made of them must not depend on it."""
    return [one for place in places for one in found[place]]


def _tell(
    path: str, plans: Sequence[pairs.Plan], made: Mapping[int, Sequence[Grounded]], pool: _Pool, ahead: Foresight,
    then: Sequence[Chunk],
) -> None:  # fmt: skip
    """What will follow, judging by the answers so far: more chunks, and what becomes of pairs as good as accepted."""
    more = further(sum(map(len, made.values())), len(made), len(plans), pool.missing)
    ahead.chunks(then[:more], path)
    sure, _ = deduplicated(within(pool.chosen, plans, made, pool.wanted), {one.pair.id for one in pool.chosen})
    ahead.candidates([one for one in sure if key(one) not in pool.review.rejected])


def _untrusted(one: Grounded) -> Dropped:
    item = {"question": one.pair.question, "answer": one.pair.answer, "source": one.chunk.origin,
            "section": one.chunk.section}  # fmt: skip
    return Dropped("trial", "most of what the model wrote failed its checks", item)


def _checked(outcome: Outcome, chunk: Chunk) -> tuple[list[Grounded], list[Dropped]]:
    if outcome.problem is not None:
        return [], [Dropped("pairs", outcome.problem, {"source": chunk.origin, "section": chunk.section})]
    checked = [pairs.verify(candidate, chunk) for candidate in outcome.value]
    made = [one for one in checked if isinstance(one, Grounded)]
    return made, [one for one in checked if isinstance(one, Dropped)]


def _ask_facts(
    engine: Engine, facts: Sequence[tuple[Fact, Chunk]], pool: _Pool, by_model: bool, ahead: Foresight
) -> None:
    """Answer first: the whole job for a weak model, what is still missing for a strong one."""
    at = 0
    while pool.missing > 0 and at < len(facts):
        # a tenth more than is missing: some questions fail their checks, and one more round costs little
        batch, at = facts[at : at + pool.missing * 11 // 10 + 4], at + pool.missing * 11 // 10 + 4

        def then(found: int, answered: int, batch=batch, at=at) -> Sequence[tuple[Fact, Chunk]]:
            return facts[at : at + further(found, answered, len(batch), pool.missing)]

        pool.add(*answer_first.word(engine, batch, by_model, then))
        ahead.accepted(pool.chosen[: pool.wanted])


def _unmentioned(facts: Iterator[tuple[Fact, Chunk]], found: Sequence[Grounded]) -> Iterator[tuple[Fact, Chunk]]:
    """Facts whose place no pair quotes yet."""
    quoted: dict[str, list[tuple[int, int]]] = {}
    for one in found:
        quoted.setdefault(one.chunk.id, []).append((one.pair.quote_start, one.pair.quote_end))
    for fact, chunk in facts:
        if not any(fact.start < end and start < fact.end for start, end in quoted.get(chunk.id, ())):
            yield fact, chunk


def write_views(
    engine: Engine, path: str, train: Sequence[Grounded], profile: str
) -> tuple[dict[str, list[View]], list[Dropped]]:
    """Views of the pairs that a strong model writes, by pair id, not yet checked for drift; a weak one is not asked."""
    found: dict[str, list[View]] = {}
    lost: list[Dropped] = []
    if path == "answer-first":
        return found, lost
    requests = (views_request(engine, one, profile, path) for one in sorted(train, key=lambda one: one.pair.id))
    for outcome in engine.run(requests, pairs.parse_views, total=len(train)):
        pair = outcome.request.about.pair
        if outcome.problem is None:
            found[pair.id] = outcome.value
        else:
            lost.append(Dropped("variants", outcome.problem, {"parent": pair.id, "question": pair.question}))
    return found, sorted(lost, key=lambda one: one.item["parent"])


def views_request(engine: Engine, one: Grounded, profile: str, path: str) -> Request:
    """The request for the views of one pair."""
    return pairs.views_request(one, view_names(one, profile), engine.generator, path)


def view_names(one: Grounded, profile: str) -> tuple[str, ...]:
    """`reworded` for every pair (one may be held out), the others in turns."""
    if profile == "recall":
        return pairs.MODEL_VIEWS
    others = sorted(pairs.MODEL_VIEWS[1:], key=lambda name: digest(one.pair.id, name))
    return pairs.MODEL_VIEWS[0], *others[: ROWS_BY_MODEL - 1]


def deduplicated(candidates: Sequence[Grounded], kept_ids: Collection[str] = ()) -> tuple[
        list[Grounded], list[Dropped]]:  # fmt: skip
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
    gone = {one: kept for one, kept in duplicates(entries).items() if one not in kept_ids}
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


def _short(found: int, wanted: int, sections: dict[str, list[tuple[Fact, Chunk]]], rejected: int) -> tuple[str, ...]:
    if found >= wanted:
        return ()
    facts = sum(len(mine) for mine in sections.values())
    return (
        f"{found:,} of {wanted:,} unique pairs, {wanted - found:,} missing: the documents hold {facts:,} facts in "
        f"{len(sections):,} sections that can stand alone, and all were asked"
        + (f" ({rejected:,} rejected in review)" if rejected else "")
        + "; add sources or lower dataset.pairs.unique",
    )
