"""From chunks to unique grounded pairs: by the path that fits the model, round by round, until the target is reached or
nothing is left to ask."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import TypeVar

from dataset_builder import answer_first, coverage, names, pairs
from dataset_builder.chunks import estimate_tokens
from dataset_builder.engine import Engine, Request
from dataset_builder.facts import Fact
from dataset_builder.foresight import Foresight, further, meanwhile, within
from dataset_builder.judge import Bench
from dataset_builder.ledger import in_shard
from dataset_builder.pool import NOTHING_DECIDED, Pool, deduplicated
from dataset_builder.probe import Capability, probe
from dataset_builder.review.settle import Settled
from dataset_builder.rows import Chunk, Dropped, Grounded, digest
from dataset_builder.runner import HERE, Runner
from dataset_builder.sections import Sections
from dataset_builder.shelf import Peekable, Rearranged
from dataset_builder.spec import Dataset, Generator, Pairs
from dataset_builder.variants import Wordings

T = TypeVar("T")

PATH_NOTE = "How the model is asked: {why}."
FEWEST_VIEWS = 2
"""Asked of a strong model for each pair, however few rows are wanted: one may be held out."""
TURNS = 3
"""Times a chunk is asked for pairs; from the second on the names that no pair mentions are given."""
MOST_NAMES = 4
"""Given to the model in one further turn."""
NOTHING = "the model found nothing to ask about in it"
"""Why an honest, empty list gave no pair; it says nothing against the model."""
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
    sections: Sections
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


def ask_pairs(engine: Engine, dataset: Dataset, chunks: Sequence[Chunk], bench: Bench | None = None,
              review: Settled = NOTHING_DECIDED, then_views: bool = False,
              sections: Callable[[], Sections] | None = None, on: Runner = HERE,
              shard: tuple[int, int] = (1, 1)) -> Asked:  # fmt: skip
    """Unique pairs up to `pairs.unique`, or all there are and why they are fewer. `bench`: a judge of each pair;
    `review`: what people decided about them, which outranks it; `then_views`: `write_views` follows, so views of
    accepted pairs may fill slots that are free; `sections`: what the chunks say.

    With `shard` (i, n): an n-th of the pairs, from the chunks of this shard. Each asks what the whole run would ask of
    these chunks, and all of them hold the same trial.
    """
    pool = Pool(ceil(dataset.pairs.unique / shard[1]), bench, review, on)
    order = shuffled(chunks, dataset.seed, shard)
    ahead = Foresight(engine, dataset, bench)
    hopes = ahead.first_chunks(order[: ceil(pool.wanted / LIKELY)])
    # what the chunks say takes seconds to find, and what follows the first answers needs it
    sections = meanwhile(sections or (lambda: coverage.items(chunks, on)))
    capable = probe(engine.generator, engine, hopes)
    path, why = capable.path, capable.why
    narrow = _narrow(engine.generator, capable, dataset.chunk_tokens, order)
    if narrow:
        engine.report.say(narrow)
    if path == "answer-first":
        engine.call_off()
    if path != "answer-first":
        if then_views:
            ahead.views_of = lambda one: views_request(engine, one, dataset.pairs, path)
        if failed := _ask_chunks(engine, path, order, sections, pool, ahead, on):
            path, why = "answer-first", f"answer-first: {why}, but on these documents {failed}"
            engine.call_off()
            ahead.views_of = None
    # A model that writes a form well words a question better than a template does.
    by_model = capable.path != "answer-first"
    sections = sections()
    facts = (one for one in coverage.deal(sections, dataset.seed) if in_shard(one[1].id, *shard))
    _ask_facts(engine, Peekable(_unmentioned(facts, pool.pairs)), pool, by_model, ahead, on)
    pairs = tuple(pool.chosen[: pool.wanted])
    short = _short(len(pairs), pool.wanted, sections, len(review.rejected))
    notes = [PATH_NOTE.format(why=why)]
    notes += [narrow] if narrow else []
    notes += [bench.note] if bench else []
    silent = sum(verdict == "none" for verdict in pool.judged.values())
    notes += [f"The judge gave no verdict on {silent:,} pairs; they were kept."] if silent else []
    dropped = (*pool.dropped, *pool.repeats, *review.dropped())
    more = len(review.kept) - pool.wanted
    notes += [f"{more:,} pairs that people keep are more than dataset.pairs.unique, and left out."] if more > 0 else []
    return Asked(pairs, dropped, sections, path, short, (*notes, *review.notes()), review, pool.judged,
                 tuple(pool.refused.values()))  # fmt: skip


def _narrow(generator: Generator, capable: Capability, chunk_tokens: int, chunks: Sequence[Chunk]) -> str:
    """That the largest request does not fit the model's context, as far as the endpoint says what it holds; or ""."""
    if capable.context_tokens is None or capable.path == "answer-first" or not chunks:
        return ""
    request = pairs.pairs_request(pairs.Plan(chunks[0], 1), generator, capable.path)
    around = sum(estimate_tokens(text) for _, text in request.messages) - estimate_tokens(chunks[0].text)
    need = around + chunk_tokens + generator.max_tokens
    if need <= capable.context_tokens:
        return ""
    return (f"The model's context holds {capable.context_tokens:,} tokens, but a request may need {need:,}: "
            f"{around + chunk_tokens:,} for the prompt, {generator.max_tokens:,} for the reply. Lower "
            "dataset.chunk_tokens or dataset.generator.max_tokens, or serve the model with more context.")


def _ask_chunks(
    engine: Engine, path: str, order: Sequence[Chunk], sections: Callable[[], Sections], pool: Pool, ahead: Foresight,
    on: Runner,
) -> str | None:  # fmt: skip
    """Chunk after chunk in the given order, a few turns each, until there are enough pairs.

    The first chunks are a trial: a model that fails it is asked no further, and what it wrote is dropped, for what
    passes the checks by luck is poor as well. Returns how it failed, or None.
    """
    asked = 0
    for turn in range(TURNS):
        left = order
        # the first chunks are asked whatever people keep: the trial must not depend on how much they have read
        while left and (pool.missing > 0 or not asked):
            rate = max(0.25, len(pool.pairs) / asked) if asked else LIKELY
            size = ceil((pool.missing if asked else pool.wanted) / rate)
            now, left = left[:size], left[size:]
            plans = list(plans_for(now, turn, sections() if turn else None, pool.pairs))
            trial = TRIAL if not asked else 0
            asked += len(now)
            failed = _ask_batch(engine, path, plans, pool, trial, ahead, () if turn else left, on)
            if failed:
                return failed
    return None


def turn(chunk: Chunk, seed: int) -> str:
    """When a chunk's turn comes. It goes by what the model is shown, so that documents which are renamed or moved keep
    their answers and their pairs."""
    return digest(str(seed), *chunk.heading_path, chunk.text)


def shuffled(chunks: Sequence[Chunk], seed: int, shard: tuple[int, int] = (1, 1)) -> Sequence[Chunk]:
    """The chunks in an order that the seed decides; of a shard only its own and those of the trial."""
    ids, keys = [], array("Q")
    for one in chunks:
        ids.append(one.id)
        keys.append(int(turn(one, seed), 16))
    order = array("Q", sorted(range(len(keys)), key=keys.__getitem__))
    if shard != (1, 1):
        order = order[:TRIAL] + array("Q", (place for place in order[TRIAL:] if in_shard(ids[place], *shard)))
    return Rearranged(chunks, order)


def plans_for(
    chunks: Iterable[Chunk], turn: int, sections: Sections | None, found: Sequence[Grounded]
) -> Iterator[pairs.Plan]:
    """The requests for chunks in a turn, without those of which a later turn has nothing to ask; the first turn needs
    no `sections`."""
    known: dict[str, list[Grounded]] = {}
    for one in found if turn else ():
        known.setdefault(one.chunk.id, []).append(one)
    for chunk in chunks:
        if not turn:
            yield pairs.Plan(chunk, pairs.wanted_pairs(chunk))
            continue
        mine = known.get(chunk.id, [])
        subjects = pairs.uncovered(sections.of(chunk), mine, chunk)
        missing = tuple(dict.fromkeys([*subjects, *names.unmentioned(chunk, mine)]))[:MOST_NAMES]
        if missing:
            yield pairs.Plan(chunk, max(1, min(4, len(missing))), missing, turn)


def _ask_batch(
    engine: Engine, path: str, plans: Sequence[pairs.Plan], pool: Pool, trial: int, ahead: Foresight,
    then: Sequence[Chunk], on: Runner,
) -> str | None:  # fmt: skip
    """Adds what the plans gave to the pool. The first `trial` of them decide whether the rest is asked at all; the
    others need not wait for them. `then`: chunks that follow. Returns how the trial failed, or None."""
    made: dict[int, list[Grounded]] = {}
    lost: dict[int, list[Dropped]] = {}
    place_of = {id(plan): place for place, plan in enumerate(plans)}
    first = range(min(trial, len(plans)))
    requests = (pairs.pairs_request(plan, engine.generator, path) for plan in plans)
    outcomes = engine.run(requests, pairs.parse_pairs, total=len(plans))
    plans_asked = ((one.request.about, one.value, one.problem) for one in outcomes)
    written = ((place_of[id(plan)], plan.chunk, found, problem) for plan, found, problem in plans_asked)
    for place, good, bad in on.map(check, written):
        made[place], lost[place] = good, bad
        if first and all(place in made for place in first):
            good, bad = _in_order(made, first), _in_order(lost, first)
            tried = len(good) + sum(one.reason != NOTHING for one in bad)
            if len(good) < LEAST_KEPT * tried or (not tried and len(plans) >= TRIAL):
                pool.dropped += [*bad, *(_untrusted(one) for one in good)]
                return f"{len(good)} of {tried} pairs passed their checks"
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
    path: str, plans: Sequence[pairs.Plan], made: Mapping[int, Sequence[Grounded]], pool: Pool, ahead: Foresight,
    then: Sequence[Chunk],
) -> None:  # fmt: skip
    """What will follow, judging by the answers so far: more chunks, and what becomes of pairs as good as accepted."""
    more = further(sum(map(len, made.values())), len(made), len(plans), pool.missing)
    ahead.chunks(then[:more], path)
    sure, _ = deduplicated(within(pool.chosen, plans, made, pool.wanted), {one.pair.id for one in pool.chosen})
    ahead.candidates([one for one in sure if pool.review.name_of(one) not in pool.review.rejected])


def _untrusted(one: Grounded) -> Dropped:
    item = {"question": one.pair.question, "answer": one.pair.answer, "source": one.chunk.origin,
            "section": one.chunk.section}  # fmt: skip
    return Dropped("trial", "most of what the model wrote failed its checks", item)


def check(
    written: tuple[int, Chunk, list[dict[str, str]] | None, str | None],
) -> tuple[int, list[Grounded], list[Dropped]]:
    """Verifies what a model wrote about a chunk (place, chunk, candidates, why there are none): a function over rows.
    Returns the place, the pairs and what was dropped."""
    place, chunk, candidates, problem = written
    if problem is not None or not candidates:
        return place, [], [Dropped("pairs", problem or NOTHING, {"source": chunk.origin, "section": chunk.section})]
    checked = [pairs.verify(candidate, chunk) for candidate in candidates]
    made = [one for one in checked if isinstance(one, Grounded)]
    return place, made, [one for one in checked if isinstance(one, Dropped)]


def _ask_facts(
    engine: Engine, facts: Peekable[tuple[Fact, Chunk]], pool: Pool, by_model: bool, ahead: Foresight, on: Runner
) -> None:
    """Answer first: the whole job for a weak model, what is still missing for a strong one."""
    # a tenth more than is missing: some questions fail their checks, and one more round costs little
    while pool.missing > 0 and (batch := facts.take(pool.missing * 11 // 10 + 4)):

        def then(found: int, answered: int, batch=batch) -> Sequence[tuple[Fact, Chunk]]:
            return facts.peek(further(found, answered, len(batch), pool.missing))

        pool.add(*answer_first.word(engine, batch, by_model, then, on))
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
    engine: Engine, path: str, train: Sequence[Grounded], wanted: Pairs, wordings: Wordings
) -> list[Dropped]:
    """Has a strong model write views of the pairs, into `wordings`, beside waiting for the others; a weak one is not
    asked. Returns what could not be used."""
    lost: list[Dropped] = []
    if path == "answer-first":
        return lost
    requests = (views_request(engine, one, wanted, path) for one in sorted(train, key=lambda one: one.pair.id))
    for outcome in engine.run(requests, pairs.parse_views, total=len(train)):
        one = outcome.request.about
        wordings.of(one, outcome.value or ())
        if outcome.problem is not None:
            item = {"parent": one.pair.id, "question": one.pair.question}
            lost.append(Dropped("variants", outcome.problem, item))
    return sorted(lost, key=lambda one: one.item["parent"])


def views_request(engine: Engine, one: Grounded, wanted: Pairs, path: str) -> Request:
    """The request for the views of one pair."""
    return pairs.views_request(one, view_names(one, wanted), engine.generator, path)


def view_names(one: Grounded, wanted: Pairs) -> tuple[str, ...]:
    """`reworded` for every pair (one may be held out), the others in turns: as many as a pair has rows, one of which is
    the pair itself, so that one may fail its checks."""
    count = max(FEWEST_VIEWS, ceil(wanted.rows / wanted.unique))
    others = sorted(pairs.MODEL_VIEWS[1:], key=lambda name: digest(one.pair.question, one.pair.answer, name))
    return pairs.MODEL_VIEWS[0], *others[: count - 1]


def _short(found: int, wanted: int, sections: Sections, rejected: int) -> tuple[str, ...]:
    if found >= wanted:
        return ()
    return (
        f"{found:,} of {wanted:,} unique pairs, {wanted - found:,} missing: the documents hold "
        f"{sections.facts:,} facts in {len(sections):,} sections that can stand alone, and all were asked"
        + (f" ({rejected:,} rejected in review)" if rejected else "")
        + "; add sources or lower dataset.pairs.unique",
    )
