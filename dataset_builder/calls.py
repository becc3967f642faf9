"""The thread that talks to the model: sends what may go, commits what comes, tries again what failed."""

from __future__ import annotations

import asyncio
import queue
import random
import sqlite3
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dataset_builder.ledger import Ledger, Reply, Request
from dataset_builder.limits import FAULT, OVERLOAD, Limiter, backoff_seconds
from dataset_builder.money import Budget
from dataset_builder.problems import BuildProblem, CostCapReached
from dataset_builder.transport import FATAL, HUNG, REFUSED, UNREACHABLE, Endpoint, Trouble

SWITCH_SECONDS = 0.0005
"""After which a busy caller lets the calls' thread go on, which needs the interpreter a dozen times between an answer's
arrival and its commit. Python's own 5 ms would make that 60 ms, and an answer that is not committed is bought again."""


LOOK_SECONDS = 1.0
"""Between two looks at whether a call hangs."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to believe in an endpoint."""

    tries: int = 8
    """Of one request, before it is given up."""
    overload_tries: int = 40
    """The same, where the server only ever said "too many"."""
    silent_start_s: float = 15
    """Given up after so long without a single answer, where nobody listens at all."""
    silent_s: float = 120
    """Given up after so long without any answer, otherwise: a server that loads its model needs a minute."""
    refusals: int = 20
    """Requests refused as faulty (400) before the first answer, after which no further one is sent."""
    drain_s: float = 20
    """For answers on their way when the run is stopped."""


@dataclass(slots=True)
class Job:
    """One request on its way through the engine."""

    request: Request
    """As the caller made it."""
    arrived: queue.SimpleQueue
    """Where the job goes when its call has ended."""
    ask: Request | None = None
    """As it is sent: the request or one of its further attempts."""
    tries: int = 0
    hung: int = 0
    """Of the tries: without an answer in time."""
    reply: Reply | None = None
    failure: Exception | None = None
    """Trouble: of this request alone; anything else ends the run."""
    forgotten: bool = False
    """The run that wanted it has ended."""

    def begin(self, ask: Request) -> None:
        """Another call for the same request."""
        self.ask, self.tries, self.hung, self.reply, self.failure = ask, 0, 0, None, None


class Caller:
    """An event loop in a thread of its own. Public methods may be called from any thread."""

    def __init__(self, endpoint: Endpoint, ledger: Ledger, budget: Budget, ceiling: int, timeout_s: float,
                 patience: Patience) -> None:
        self.endpoint, self.ledger, self.budget, self.patience = endpoint, ledger, budget, patience
        self.limiter = Limiter(ceiling, timeout_s)
        self._ready: deque[Job] = deque()
        self._foreseen: dict[str, Request] = {}
        """By key: requests that somebody will want; they are sent when nothing else is ready."""
        self._ahead: dict[str, Job] = {}
        """By key: jobs that nobody waits for, foreseen ones and those of a run that was left."""
        self._nobody: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._calls: dict[asyncio.Task, Job] = {}
        self._delayed: dict[int, tuple[Job, asyncio.TimerHandle]] = {}
        self._wake: asyncio.TimerHandle | None = None
        self._chance = random.Random(0)
        self._answers = 0
        self._answered_at = self._begun_at = time.monotonic()
        self._failures_in_a_row = self._refusals = 0
        self._switch_s = sys.getswitchinterval()
        sys.setswitchinterval(min(SWITCH_SECONDS, self._switch_s))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="calls", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Takes a job that the ledger has a claim for."""
        self._loop.call_soon_threadsafe(self._take, job)

    def foresee(self, requests: Sequence[Request]) -> None:
        """Requests that will be wanted: they fill slots that nothing else fills; their answers go into the ledger."""
        self._loop.call_soon_threadsafe(self._expect, requests)

    def forget_foreseen(self) -> None:
        """What was foreseen will not be wanted: what is not sent yet stays unsent."""
        self._in_loop(self._forget, self._nobody)

    def forget(self, arrived: queue.SimpleQueue) -> None:
        """Drops the jobs of one run that have not been sent yet, and gives their claims back."""
        self._in_loop(self._forget, arrived)

    def drain(self, seconds: float) -> None:
        """Sends nothing more and waits for what is on its way."""
        self._in_loop(self._forget, None)
        asyncio.run_coroutine_threadsafe(self._drained(seconds), self._loop).result(seconds + 5)

    def close(self, drain: bool = True) -> None:
        """Lets answers arrive (`drain`), cancels what is left, ends the thread."""
        if not self._loop.is_running():
            return
        self.drain(self.patience.drain_s if drain else 0)
        asyncio.run_coroutine_threadsafe(self._cancelled(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        sys.setswitchinterval(self._switch_s)

    def _in_loop(self, function, *arguments) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (function(*arguments), done.set()))
        done.wait(10)

    # What follows runs in the loop's thread only.

    def _take(self, job: Job) -> None:
        self._foreseen.pop(job.ask.key, None)
        ahead = self._ahead.pop(job.ask.key, None)
        if ahead is not None:  # a run knows its jobs by their keys, so the end of this one will do
            ahead.arrived, ahead.request, ahead.forgotten = job.arrived, job.request, False
        elif (reply := self.ledger.get(job.ask)) is not None and reply.max_tokens >= job.ask.max_tokens:
            self.ledger.release(job.ask)  # foreseen, and answered since the run looked into the ledger
            job.reply = reply
            job.arrived.put(job)
        else:
            self._ready.append(job)
            self._dispatch()

    def _expect(self, requests: Sequence[Request]) -> None:
        self._foreseen.update((request.key, request) for request in requests)
        self._dispatch()

    def _promote(self) -> None:
        """Makes the first foreseen request that is neither answered nor being bought ready to be sent."""
        while self._foreseen:
            request = self._foreseen.pop(next(iter(self._foreseen)))
            known = (*self._calls.values(), *(job for job, _ in self._delayed.values()))
            if any(job.ask.key == request.key for job in known) or self.ledger.get(request) is not None:
                continue
            if self.ledger.claim(request):
                job = Job(request, self._nobody)
                job.begin(request)
                self._ahead[request.key] = job
                self._ready.append(job)
                return

    def _deliver(self, job: Job) -> None:
        """Hands a job that has ended to the run that waits for it, if there is one."""
        if self._ahead.get(job.ask.key) is job:
            del self._ahead[job.ask.key]
        else:
            job.arrived.put(job)

    def _dispatch(self) -> None:
        """Sends as much as limits and money allow; called whenever something may have changed."""
        while self._ready or (self._foreseen and self.limiter.in_flight < self.limiter.limit):
            if not self._ready:
                self._promote()
                continue
            job = self._ready[0]
            now = time.monotonic()
            tokens = self.budget.prompt_tokens(job.ask) + job.ask.max_tokens
            wait = self.limiter.wait_seconds(now, tokens)
            if wait is None:
                return
            if wait > 0:
                if self._wake:
                    self._wake.cancel()
                self._wake = self._loop.call_later(wait, self._dispatch)
                return
            if self.budget.cap_usd is not None and self.ledger.changed_by_others():
                self.budget.spent_usd = self.ledger.spent_usd(self.endpoint.model)
            reserved = self.budget.reserve(job.ask)
            if reserved is None:
                if job.ask.key in self._ahead:  # nobody has asked for it yet
                    self._forget(self._nobody)
                elif not self.limiter.in_flight:
                    self._refuse_for_money()
                return
            self._ready.popleft()
            if not self.limiter.in_flight and not self._delayed:
                self._begun_at = now  # time without a question is not silence
            self.limiter.sent(tokens)
            task = self._loop.create_task(self._call(job, reserved))
            self._calls[task] = job
            task.add_done_callback(self._calls.pop)

    async def _call(self, job: Job, reserved: float) -> None:
        try:
            await self._call_and_keep(job, reserved)
        except sqlite3.Error as wrong:
            self._end_all(BuildProblem(f"{self.ledger.path}: the ledger cannot be written: {wrong}"), job)
        except Exception as bug:  # never let a run wait for a job whose task has died
            self._end_all(bug, job)
        self._dispatch()

    async def _call_and_keep(self, job: Job, reserved: float) -> None:
        sent_at, job.tries = time.monotonic(), job.tries + 1
        reply, trouble = None, None
        try:
            reply, headers = await self._within_patience(job.ask, job.hung + 1)
            now = time.monotonic()
            self.limiter.answered(now, sent_at, reply.seconds)
            if headers:
                self.limiter.headers(now, headers)
        except Trouble as met:
            trouble = met
            job.hung += met.kind == HUNG
        except asyncio.CancelledError:
            self.limiter.dropped()
            self.budget.settle(reserved)
            self._drop(job)
            raise
        cost = self.budget.settle(reserved, job.ask, reply)
        if reply is not None:
            self._answers, self._failures_in_a_row, self._answered_at = self._answers + 1, 0, time.monotonic()
            job.reply = replace(reply, cost_usd=cost)
            self.ledger.put(job.ask, job.reply)
            self._deliver(job)
        else:
            self._failed(job, trouble, sent_at)

    async def _within_patience(self, ask: Request, tries: int) -> tuple[Reply, dict]:
        """The reply; a call that is late is only given up when it does not just wait in the server's queue."""
        answers_before, ahead = self._answers, self.limiter.in_flight
        call = self._loop.create_task(self.endpoint.ask(ask))
        begun = time.monotonic()
        step = min(LOOK_SECONDS, self.limiter.patience_seconds(tries))
        try:
            while not (await asyncio.wait({call}, timeout=step))[0]:
                # looked at anew each time: calls that went out before the usual latency was known may hang as well
                now, patience = time.monotonic(), self.limiter.patience_seconds(tries)
                waited = now - begun
                step = min(LOOK_SECONDS, max(0.01, patience - waited))
                if waited < patience:
                    continue
                step = patience / 4
                alive = now - self._answered_at < patience
                # once most of those that were ahead of it are answered, no queue is what keeps it
                queue = self._answers - answers_before < 2 * ahead and 4 * self.limiter.in_flight > ahead
                if not (alive and queue) or waited > 10 * self.limiter.timeout_s:
                    raise Trouble(HUNG, f"no answer within {waited:.0f} s")
            return call.result()
        finally:
            call.cancel()
            call.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # seen, so asyncio is quiet

    def _failed(self, job: Job, trouble: Trouble, sent_at: float) -> None:
        """Decides once and for all whether a failed call is tried again, given up, or the end of the run."""
        now = time.monotonic()
        if trouble.kind in (FATAL, REFUSED):
            self.limiter.dropped()
        else:
            kind = OVERLOAD if trouble.kind == OVERLOAD else FAULT
            self.limiter.failed(now, sent_at, kind, trouble.retry_after)
            self._failures_in_a_row += 1
        if trouble.headers:
            self.limiter.headers(now, trouble.headers)
        if job.forgotten:
            self._drop(job)
        elif trouble.kind == FATAL:
            self._end_all(BuildProblem(f"{self.endpoint.model}{self._at()} refuses to answer: {trouble}\n"
                                       "Check dataset.generator: model, api_base and the key."), job)
        elif trouble.kind == REFUSED:
            self._refusals += 1
            if self._refusals >= self.patience.refusals and not self._answers:
                self._end_all(BuildProblem(f"{self.endpoint.model}{self._at()} refuses every request: {trouble}"), job)
            else:
                self._give_up(job, f"refused by the endpoint: {trouble}")
        elif self._dead(now, trouble.kind):
            self._end_all(BuildProblem(
                f"{self.endpoint.model}{self._at()} does not answer: {trouble}\n"
                f"Nothing came for {now - max(self._answered_at, self._begun_at):.0f} s and {self._failures_in_a_row} "
                "tries. Every answer so far is kept: start the server and run the same command again."), job)
        elif job.tries >= (self.patience.overload_tries if trouble.kind == OVERLOAD else self.patience.tries):
            self._give_up(job, f"no answer after {job.tries} tries: {trouble}")
        else:
            delay = backoff_seconds(job.tries, trouble.retry_after, self._chance)
            timer = self._loop.call_later(delay, self._again, job)
            self._delayed[id(job)] = job, timer

    def _again(self, job: Job) -> None:
        del self._delayed[id(job)]
        self._ready.appendleft(job)
        self._dispatch()

    def _dead(self, now: float, kind: str) -> bool:
        silent = now - max(self._answered_at, self._begun_at)
        limit = self.patience.silent_start_s if kind == UNREACHABLE and not self._answers else self.patience.silent_s
        return silent >= limit and self._failures_in_a_row >= 3

    def _give_up(self, job: Job, reason: str) -> None:
        job.failure = Trouble(REFUSED, reason)
        self.ledger.release(job.ask)
        self._deliver(job)

    def _refuse_for_money(self) -> None:
        job = self._ready[0]
        self._end_all(CostCapReached(
            f"dataset.generator.max_cost_usd: ${self.budget.cap_usd:g} would be passed: "
            f"${self.budget.spent_usd:.4f} are spent, and the next call may cost "
            f"${self.budget.worst_usd(job.ask):.4f}. It was not sent.\n"
            "Every answer so far is kept; raise the cap and run the same command again."), job)

    def _end_all(self, problem: Exception, cause: Job) -> None:
        """Tells every run that waits, once, and forgets the jobs: sent or not, none will be answered."""
        waiting = [cause, *self._ready, *self._calls.values(), *(job for job, _ in self._delayed.values())]
        queues = {id(job.arrived): job.arrived for job in waiting if not job.forgotten}
        queues.pop(id(self._nobody), None)
        self.ledger.release(cause.ask)
        self._forget(None)
        for task in self._calls:
            if task is not asyncio.current_task(self._loop):
                task.cancel()
        self._begun_at, self._failures_in_a_row = time.monotonic(), 0
        for arrived in queues.values():
            arrived.put(Job(cause.request, arrived, failure=problem))

    def _forget(self, arrived: queue.SimpleQueue | None) -> None:
        """Drops unsent jobs: of one run, or all, what is foreseen included. Those that were sent are kept if they come,
        but not tried again."""
        if arrived in (None, self._nobody):
            self._foreseen.clear()
        for job in self._calls.values():
            if arrived in (None, job.arrived) and not job.forgotten:
                job.forgotten = True
                self._ahead[job.ask.key] = job
        for job, timer in list(self._delayed.values()):
            if arrived in (None, job.arrived):
                timer.cancel()
                del self._delayed[id(job)]
                self._drop(job)
        kept = deque()
        for job in self._ready:
            if arrived in (None, job.arrived):
                self._drop(job)
            else:
                kept.append(job)
        self._ready = kept

    def _drop(self, job: Job) -> None:
        self._ahead.pop(job.ask.key, None)
        self.ledger.release(job.ask)

    async def _drained(self, seconds: float) -> None:
        if self._calls:
            await asyncio.wait(list(self._calls), timeout=seconds)
        self._forget(None)

    async def _cancelled(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}  # calls, and litellm's own worker, which never ends
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=5)

    def _at(self) -> str:
        return f" at {self.endpoint.where}" if self.endpoint.where else ""
