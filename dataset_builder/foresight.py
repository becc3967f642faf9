"""What a stage tells the engine of the next one, so that the slowest call of a stage leaves no slot empty.

Every decision of a build waits for all the answers it needs and takes them in a fixed order, which is why equal answers
give equal tables. Here requests are told ahead of those decisions, as good as certain ones only: an answer that is
never used is money lost, and never anything worse.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from dataset_builder import judge, pairs, probe
from dataset_builder.engine import Engine, Request
from dataset_builder.ledger import Reply
from dataset_builder.rows import Chunk, Grounded
from dataset_builder.spec import Dataset
from dataset_builder.split import split

T = TypeVar("T")

HASTE_SECONDS = 3.0
"""A model that answers its probe slower than this is not asked anything on the strength of one good answer: its slots
are few, and what was asked in vain would have to be waited for."""
SURE = 0.8
"""Of the further requests that the yield so far foretells."""


@dataclass
class Foresight:
    """What has been told for one build."""

    engine: Engine
    dataset: Dataset
    bench: judge.Bench | None = None
    views_of: Callable[[Grounded], Request] | None = None
    """The request for a pair's views; None where the model writes none."""
    _told: set[str] = field(default_factory=set)
    """Ids of pairs whose views were told."""

    def first_chunks(self, chunks: Sequence[Chunk]) -> FirstChunks:
        """For the probe: the first chunks need not wait for its end."""
        return FirstChunks(self, chunks)

    def chunks(self, chunks: Sequence[Chunk], path: str) -> None:
        """Chunks that will be asked for pairs for the first time."""
        self.engine.foresee(self.requests(chunks, path))

    def requests(self, chunks: Sequence[Chunk], path: str) -> list[Request]:
        generator = self.engine.generator
        return [pairs.pairs_request(pairs.Plan(one, pairs.wanted_pairs(one)), generator, path) for one in chunks]

    def candidates(self, found: Sequence[Grounded]) -> None:
        """Pairs that passed the code's checks, repetitions left out: the judge sees each, or else they are as good as
        accepted."""
        if self.bench is None:
            self.accepted(found)
        elif self.bench.trial.passed:
            judge.foresee(self.bench.engine, found)

    def accepted(self, found: Sequence[Grounded]) -> None:
        """Accepted pairs. Views are written of those that are trained, so sections that may be held out are left out:
        those that would be if twice as many were."""
        if self.views_of is None:
            return
        held = min(0.49, 2 * self.dataset.evaluation.transfer)
        trained = split(found, 0, held, self.dataset.seed).train
        fresh = [one for one in trained if one.pair.id not in self._told]
        self._told.update(one.pair.id for one in fresh)
        self.engine.foresee([self.views_of(one) for one in fresh])


class FirstChunks:
    """The chunks that are asked about first, while the probe runs (`probe.Hopes`).

    As many as there are slots are asked at once in the form that most models keep: while a model answers its probe, it
    has nothing else to do. One that keeps the form has lost nothing by it. Where its first replies leave a doubt, what
    was asked is called off, so that the next ones need not wait in the queue of a slow server, and nothing more is
    asked before the probe has ended.
    """

    def __init__(self, ahead: Foresight, chunks: Sequence[Chunk]) -> None:
        self._ahead, self._chunks, self._doubt = ahead, chunks, False
        engine, generator = ahead.engine, ahead.engine.generator
        self._ready = engine.ledger.unanswered(ahead.requests(chunks, probe.LIKELIEST))
        # an embedded model has two slots, and a probe in the ledger is answered at once
        if not generator.is_embedded and engine.ledger.unanswered(probe.first_requests(generator)):
            engine.foresee(self._ready[: max(0, generator.max_concurrency - probe.FIRST)])

    def good(self, form: str, reply: Reply) -> None:
        if reply.seconds <= HASTE_SECONDS and not self._doubt:
            likely = form == probe.LIKELIEST
            self._ahead.engine.foresee(self._ready if likely else self._ahead.requests(self._chunks, form))

    def doubtful(self) -> None:
        self._doubt = True
        self._ahead.engine.call_off()


def meanwhile(work: Callable[[], T]) -> Callable[[], T]:
    """Begins `work` in a thread, beside waiting for answers; what is returned waits for its result, or raises what it
    raised."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as wrong:
            future.set_exception(wrong)

    threading.Thread(target=run, name="meanwhile", daemon=True).start()  # a run that was stopped does not wait for it
    return future.result


def within(known: Sequence[Grounded], plans: Sequence[pairs.Plan], found: Mapping[int, Sequence[Grounded]],
           wanted: int) -> list[Grounded]:  # fmt: skip
    """The known pairs and those found so far that are among the first `wanted` in the order of the plans, even if every
    plan before them that is not answered yet gives all that it was asked for."""
    sure, most = list(known), len(known)
    for place, plan in enumerate(plans):
        if most >= wanted:
            break
        mine = found.get(place)
        sure += (mine or ())[: wanted - most]
        most += plan.count if mine is None else len(mine)
    return sure


def further(found: int, answered: int, asked: int, missing: int) -> int:
    """How many more chunks or facts will surely be asked once all that were `asked` are answered: `found` came of the
    first `answered`, and `missing` were wanted.

    >>> further(found=50, answered=100, asked=200, missing=150)
    80
    >>> further(found=90, answered=100, asked=200, missing=150), further(0, 4, 200, 150)
    (0, 0)
    """
    if not found or 2 * answered < asked:
        return 0  # too little is known
    rate = found / answered
    return max(0, int(SURE * (missing - rate * asked) / rate))
