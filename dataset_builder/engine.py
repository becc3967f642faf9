"""Asks a model many things at once, and loses nothing of what was paid for.

    for outcome in engine.run(requests, parse):
        ...

`run` takes requests one by one as slots come free, looks each up in the ledger first, and yields an `Outcome` for every
one in the order in which they are settled. Requests, look-ups and parsing are the caller's; the calls and their commits
are somebody else's: a process of their own (`process.py`) or, without one, a thread. See docs/engine.md.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Generic, TypeVar

from dataset_builder.jobs import Calls, Ended, Patience, Standing
from dataset_builder.ledger import Ledger, Reply, Request
from dataset_builder.problems import Stopped
from dataset_builder.process import CallsProcess
from dataset_builder.progress import Progress, Quiet, Report
from dataset_builder.replies import BadReply
from dataset_builder.spec import Generator

__all__ = ["BadReply", "Engine", "Outcome", "Patience", "Reply", "Request"]

T = TypeVar("T")

ATTEMPTS = 4
"""Times one request is asked (with another seed each) before its reply is given up as unusable."""
SEED_STEP = 1_000_003
AHEAD = 4
"""Requests taken from the caller per slot: enough to bridge a caller that is busy for a while, flat in memory."""
POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What became of one request: a value, or a problem in words. Never neither."""

    request: Request
    value: T | None
    reply: Reply | None
    """The reply that was parsed; with a problem: the last one that could not be, or None where there was none."""
    problem: str | None = None


def attempt_of(request: Request, number: int) -> Request:
    """The request as it is asked for the `number`-th time (from 0): another seed each, and some temperature, without
    which many servers would give the same answer again."""
    if number == 0:
        return request
    return replace(request, seed=request.seed + number * SEED_STEP, temperature=max(request.temperature, 0.3))


class Engine:
    """One generator (or judge) with its ledger. Keep one for the whole build: connections and limits are remembered.

    Raises BuildProblem from `run` where the endpoint is dead, the key wrong or the cost cap reached; every answer that
    was paid is in the ledger by then.
    """

    def __init__(self, generator: Generator, ledger: Ledger, report: Report | None = None,
                 patience: Patience | None = None, cache_dir: Path = Path(".cache"),
                 process: CallsProcess | None = None) -> None:  # fmt: skip
        """`process`: makes the calls; None: a thread of this process does."""
        self.generator = generator
        self.ledger = ledger
        self.report: Report = report or Quiet()
        self.patience = patience or Patience()
        self._cache_dir = cache_dir
        self._process = process
        self._caller: Calls | None = None
        self._price_told = False

    def run(self, requests: Iterable[Request], parse: Callable[[Reply], T], total: int | None = None,
            ) -> Iterator[Outcome[T]]:
        """One outcome per request, as they come. `parse` raises BadReply to have the model asked again.

        An answer is good when `parse` takes it, whatever its finish_reason. `total` is for the progress display.
        """
        run = _Run(self, iter(requests), parse, total)
        with run.stopping():
            try:
                yield from run.outcomes()
            finally:
                run.leave()

    def foresee(self, requests: Iterable[Request]) -> None:
        """Says what `run` will be given soon. It fills the slots that no run fills, in this order, so that the slowest
        call of one stage does not keep the next one waiting; the answers wait in the ledger. Nothing follows from
        them until `run` is given the request, so what a build makes does not depend on them."""
        if missing := self.ledger.unanswered(requests):
            self.caller().foresee(missing)

    def call_off(self) -> None:
        """Takes back what was foreseen; calls that no run waits for are given up if they do not end soon."""
        if self._caller:
            self._caller.call_off()

    def caller(self) -> Calls:
        """Who makes the calls, begun with the first one (an answer from the ledger needs none)."""
        if self._caller is None:
            how = self.generator, self.ledger, self.patience, self._cache_dir
            if self._process is not None:
                self._caller = self._process.caller(*how)
            else:
                from dataset_builder.opening import open_caller

                self._caller = open_caller(*how)
        return self._caller

    def standing(self) -> Standing:
        return self._caller.standing() if self._caller else Standing()

    @property
    def api_base(self) -> str | None:
        """Where the model is served: of the recipe, or of the embedded server once it runs."""
        return self._caller.where if self._caller else self.generator.api_base

    def context_tokens(self) -> int | None:
        """Room for prompt and reply together; None: the endpoint does not say, or was not asked anything yet."""
        return self._caller.context_tokens() if self._caller else None

    def tell_price(self) -> None:
        """Says once, as soon as it is known, that no price is."""
        if self._caller is None or self._price_told or self._caller.priced is None:
            return
        self._price_told = True
        if not self._caller.priced:
            capped = self.generator.max_cost_usd is not None
            self.report.say(f"no price is known for {self.generator.model}: costs are not counted"
                            + (", so max_cost_usd cannot be kept" if capped else ""))

    def close(self, drain: bool = True) -> None:
        """Lets answers that are on their way arrive (seconds at most), and ends the embedded server."""
        if self._caller:
            self._caller.close(drain)
            self._caller = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.close(drain=kind is None or not issubclass(kind, KeyboardInterrupt))


@dataclass
class _Tally:
    """Figures of one run, for the progress line."""

    done: int = 0
    problems: int = 0
    asked_again: int = 0
    tokens: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=2000))
    stage: str = ""
    shown_at: float = float("-inf")

    def tokens_per_second(self, now: float) -> float | None:
        while self.tokens and self.tokens[0][0] < now - 60:
            self.tokens.popleft()
        if len(self.tokens) < 2:
            return None
        return sum(count for _, count in self.tokens) / max(1.0, now - self.tokens[0][0])


class _Run(Generic[T]):
    """The caller's half of one `Engine.run`: what was taken, what is out, and what waits for somebody else."""

    def __init__(self, engine: Engine, requests: Iterator[Request], parse: Callable[[Reply], T],
                 total: int | None) -> None:
        self.engine, self.ledger, self.parse, self.total = engine, engine.ledger, parse, total
        self.requests: Iterator[Request] | None = requests
        self.arrived: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        self.out: dict[str, list[Request]] = {}
        """By the key of the attempt that is out: the requests that wait for its answer."""
        self.elsewhere: deque[Request] = deque()
        """Another process is buying these."""
        self.outstanding = 0
        """Requests in `out` and `elsewhere`."""
        self.polled_at = 0.0
        self.room = AHEAD * engine.generator.max_concurrency
        self.tally = _Tally()
        self.stop_signals = 0

    def outcomes(self) -> Iterator[Outcome[T]]:
        while True:
            while self.requests is not None and self.outstanding < self.room and self.arrived.empty():
                self._heed_stop()
                request = next(self.requests, None)
                if request is None:
                    self.requests = None
                else:
                    self.tally.stage = request.stage
                    yield from self._settle(request)
            if not self.outstanding:
                self._show(last=True)
                return
            self._heed_stop()
            yield from self._receive()
            yield from self._look_elsewhere()
            self._show()

    def _receive(self) -> Iterator[Outcome[T]]:
        try:
            ended = self.arrived.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return
        self.engine.tell_price()
        if ended.end:
            raise ended.end
        waiting = self.out.pop(ended.key)
        if ended.elsewhere:
            self.elsewhere.extend(waiting)
            return
        self.outstanding -= len(waiting)
        self.tally.asked_again += max(0, ended.tries - 1)
        if ended.problem:
            for request in waiting:
                yield self._ended(Outcome(request, None, None, ended.problem))
            return
        self.tally.tokens.append((time.monotonic(), ended.completion_tokens))
        for request in waiting:
            yield from self._settle(request)

    def _settle(self, request: Request) -> Iterator[Outcome[T]]:
        """Yields the outcome if the ledger holds a good answer or all attempts failed; else sends the next attempt."""
        to_buy: Request | None = None
        last: tuple[Reply, str] | None = None
        for number in range(ATTEMPTS):
            ask = attempt_of(request, number)
            reply = self.ledger.get(ask)
            if reply is None:
                to_buy = to_buy or ask
                break
            try:
                value = self.parse(replace(reply, about=request.about))
            except BadReply as bad:
                last = reply, str(bad)
                if reply.finish_reason == "length" and reply.max_tokens < ask.max_tokens:
                    to_buy = to_buy or ask  # it was cut, and now there is more room
                continue
            yield self._ended(Outcome(request, value, reply))
            return
        if to_buy is None:
            reply, reason = last
            problem = f"{ATTEMPTS} replies could not be used; the last one: {reason}"
            yield self._ended(Outcome(request, None, reply, problem))
            return
        self.tally.asked_again += last is not None
        self._send(request, to_buy)

    def _send(self, request: Request, ask: Request) -> None:
        self.outstanding += 1
        if ask.key in self.out:
            self.out[ask.key].append(request)
        else:
            self.out[ask.key] = [request]
            self.engine.caller().submit(ask, self.arrived)

    def _look_elsewhere(self) -> Iterator[Outcome[T]]:
        now = time.monotonic()
        if not self.elsewhere or now < self.polled_at + POLL_SECONDS:
            return
        self.polled_at = now
        for _ in range(len(self.elsewhere)):
            self.outstanding -= 1
            yield from self._settle(self.elsewhere.popleft())

    def _ended(self, outcome: Outcome[T]) -> Outcome[T]:
        self.tally.done += 1
        self.tally.problems += outcome.problem is not None
        return outcome

    def _show(self, last: bool = False) -> None:
        now = time.monotonic()
        if not last and now < self.tally.shown_at + POLL_SECONDS:
            return
        self.tally.shown_at = now
        standing = self.engine.standing()
        self.engine.report.progress(Progress(
            self.tally.stage, self.tally.done, self.total, self.tally.tokens_per_second(now), standing.spent_usd,
            self.tally.asked_again, self.tally.problems, standing.in_flight if self.engine._caller else None))

    @contextlib.contextmanager
    def stopping(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run between two items, after the answers on their way have been kept; a second
        one ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, _: FrameType | None) -> None:
            self.stop_signals += 1
            if self.stop_signals > 1:
                raise KeyboardInterrupt

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _heed_stop(self) -> None:
        if not self.stop_signals:
            return
        if waiting := self.engine.standing().in_flight:
            self.engine.report.say(f"stopping: up to {self.engine.patience.drain_s:.0f} s for {waiting} answers that "
                                   "are on their way (again to drop them)")
            self.engine.caller().drain(self.engine.patience.drain_s)
        raise Stopped("Stopped. Every answer so far is kept: the same command goes on from here.")

    def leave(self) -> None:
        """Takes back what has not been sent; what is on its way ends up in the ledger."""
        if self.engine._caller:
            self.engine._caller.forget(self.arrived)
