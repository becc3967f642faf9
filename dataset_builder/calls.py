"""The thread that talks to the model: sends what may go, commits what comes, tries again what failed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from dataset_builder.jobs import Ended, Inbox, Job, Patience, Standing, quick_turns
from dataset_builder.ledger import Ledger, Request
from dataset_builder.limits import FAULT, OVERLOAD, Limiter, backoff_seconds
from dataset_builder.liveness import Liveness
from dataset_builder.money import FREE, Budget
from dataset_builder.problems import BuildProblem, CostCapReached
from dataset_builder.transport import FATAL, HUNG, REFUSED, Endpoint, Trouble, close_clients

CANCEL_SECONDS, CLOSE_SECONDS = 5.0, 2.0
"""For calls that are given up to let go of what they hold, and for connections."""

MOMENT_SECONDS = 2.0
"""For calls that were called off to end by themselves: a quick server's do, a slow one's would keep it busy for
minutes."""


class _Nobody:
    """The inbox of what nobody waits for."""

    def put(self, ended: Ended) -> None:
        pass


class Caller:
    """An event loop in a thread of its own (`jobs.Calls`). Public methods may be called from any thread.

    `held`: what ends with it, such as a server of its own.
    """

    def __init__(self, endpoint: Endpoint, ledger: Ledger, budget: Budget, ceiling: int, timeout_s: float,
                 patience: Patience, held: contextlib.ExitStack | None = None) -> None:  # fmt: skip
        self.endpoint, self.ledger, self.budget, self.patience = endpoint, ledger, budget, patience
        self.where, self.priced = endpoint.where, budget.price is not None
        self.limiter = Limiter(ceiling, timeout_s)
        self._held = held or contextlib.ExitStack()
        self._ready: deque[Job] = deque()
        self._foreseen: dict[str, Request] = {}
        """By key: requests that somebody will want; they are sent when nothing else is ready."""
        self._ahead: dict[str, Job] = {}
        """By key: jobs that nobody waits for, foreseen ones and those of a run that was left."""
        self._nobody = _Nobody()
        self._calls: dict[asyncio.Task, Job] = {}
        self._delayed: dict[int, tuple[Job, asyncio.TimerHandle]] = {}
        self._wake: asyncio.TimerHandle | None = None
        self._chance = random.Random(0)
        self._life = Liveness(patience, self.limiter)
        self._refusals = 0
        self._bug: Exception | None = None
        self._held.enter_context(quick_turns())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="calls", daemon=True)
        self._thread.start()

    def submit(self, ask: Request, arrived: Inbox) -> None:
        self._loop.call_soon_threadsafe(self._watched, self._take, Job(ask, arrived))

    def foresee(self, requests: Sequence[Request]) -> None:
        self._loop.call_soon_threadsafe(self._watched, self._expect, requests)

    def call_off(self) -> None:
        self._in_loop(self._end_unattended)

    def forget(self, arrived: Inbox) -> None:
        self._in_loop(self._forget, arrived)

    def drain(self, seconds: float) -> None:
        self._in_loop(self._forget, None)
        asyncio.run_coroutine_threadsafe(self._drained(seconds), self._loop).result(seconds + 5)

    def close(self, drain: bool = True) -> None:
        if not self._loop.is_running():
            return
        self.drain(self.patience.drain_s if drain else 0)
        asyncio.run_coroutine_threadsafe(self._cancelled(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._held.close()

    def standing(self) -> Standing:
        counted = self.priced and self.budget.price != FREE
        return Standing(self.limiter.in_flight, self.budget.spent_usd if counted else None)

    def context_tokens(self) -> int | None:
        from dataset_builder.transport import context_tokens

        return context_tokens(self.endpoint.model, self.where)

    def _in_loop(self, function: Callable[..., None], *arguments: object) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (self._watched(function, *arguments), done.set()))
        done.wait(10)

    # What follows runs in the loop's thread only.

    def _watched(self, function: Callable[..., None], *arguments: object) -> None:
        """Runs it; what it raises ends the runs instead of vanishing in the event loop."""
        try:
            function(*arguments)
        except Exception as wrong:
            job = next((one for one in arguments if isinstance(one, Job)), None)
            self._end_all(self._told(wrong), job)

    def _told(self, wrong: Exception) -> Exception:
        """As it is told to the runs."""
        if isinstance(wrong, sqlite3.Error):
            return BuildProblem(f"{self.ledger.path}: the ledger cannot be written: {wrong}")
        self._bug = wrong  # of ours: every later run hears of it too
        return wrong

    def _take(self, job: Job) -> None:
        if self._bug:
            raise self._bug
        self._foreseen.pop(job.ask.key, None)
        ahead = self._ahead.pop(job.ask.key, None)
        if ahead is not None:  # a run knows its jobs by their keys, so the end of this one will do
            ahead.arrived, ahead.forgotten = job.arrived, False
            return
        reply = self.ledger.get(job.ask)
        if reply is not None and reply.max_tokens >= job.ask.max_tokens:
            job.reply = reply  # foreseen, and answered since the run looked into the ledger
            job.arrived.put(job.ended())
        elif self.ledger.claim(job.ask):
            self._ready.append(job)
            self._dispatch()
        else:
            job.arrived.put(Ended(job.ask.key, elsewhere=True))

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
                self._ahead[request.key] = job
                self._ready.append(job)
                return

    def _is_ahead(self, job: Job) -> bool:
        """Whether nobody waits for it."""
        return self._ahead.get(job.ask.key) is job

    def _deliver(self, job: Job) -> None:
        """Hands a job that has ended to the run that waits for it, if there is one."""
        if self._is_ahead(job):
            del self._ahead[job.ask.key]
        else:
            job.arrived.put(job.ended())

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
                self._wake = self._loop.call_later(wait, self._watched, self._dispatch)
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
                self._life.begin()
            self.limiter.sent(tokens)
            task = self._loop.create_task(self._call(job, reserved))
            self._calls[task] = job
            task.add_done_callback(self._calls.pop)

    async def _call(self, job: Job, reserved: float) -> None:
        try:
            await self._call_and_keep(job, reserved)
        except Exception as wrong:  # never let a run wait for a job whose task has died
            self._end_all(self._told(wrong), job)
        self._watched(self._dispatch)

    async def _call_and_keep(self, job: Job, reserved: float) -> None:
        sent_at, job.tries = time.monotonic(), job.tries + 1
        reply, trouble = None, None
        try:
            reply, headers = await self._life.within_patience(self.endpoint.ask(job.ask), job.ask.stage, job.hung + 1)
            now = time.monotonic()
            self.limiter.answered(now, sent_at, reply.seconds, job.ask.stage)
            if headers:
                self.limiter.headers(now, headers)
        except Trouble as met:
            trouble = met
            job.hung += met.kind == HUNG
        except asyncio.CancelledError:
            self.limiter.dropped()
            self.budget.settle(reserved)
            if not job.forgotten or self._is_ahead(job):
                self._drop(job)  # else it was called off, and its request may be out anew
            self._loop.call_soon(self._watched, self._dispatch)
            raise
        cost = self.budget.settle(reserved, job.ask, reply)
        if reply is not None:
            self._life.answered()
            job.reply = replace(reply, cost_usd=cost)
            self.ledger.put(job.ask, job.reply)
            self._deliver(job)
        else:
            self._failed(job, trouble, sent_at)

    def _failed(self, job: Job, trouble: Trouble, sent_at: float) -> None:
        """Decides once and for all whether a failed call is tried again, given up, or the end of the run."""
        now = time.monotonic()
        if trouble.kind in (FATAL, REFUSED):
            self.limiter.dropped()
        else:
            kind = OVERLOAD if trouble.kind == OVERLOAD else FAULT
            self.limiter.failed(now, sent_at, kind, trouble.retry_after)
            self._life.failed()
        if trouble.headers:
            self.limiter.headers(now, trouble.headers)
        if job.forgotten:
            self._drop(job)
        elif trouble.kind == FATAL:
            self._end_all(BuildProblem(f"{self.endpoint.model}{self._at()} refuses to answer: {trouble}\n"
                                       "Check dataset.generator: model, api_base and the key."), job)
        elif trouble.kind == REFUSED:
            self._refusals += not self._is_ahead(job)
            if self._refusals >= self.patience.refusals and not self._life.answers:
                self._end_all(BuildProblem(f"{self.endpoint.model}{self._at()} refuses every request: {trouble}"), job)
            else:
                self._give_up(job, f"refused by the endpoint: {trouble}")
        elif self._life.dead(trouble.kind):
            self._end_all(BuildProblem(
                f"{self.endpoint.model}{self._at()} does not answer: {trouble}\n"
                f"Nothing came for {self._life.silent_s():.0f} s and {self._life.failures_in_a_row} "
                "tries. Every answer so far is kept: start the server and run the same command again."), job)
        elif job.tries >= (self.patience.overload_tries if trouble.kind == OVERLOAD else self.patience.tries):
            self._give_up(job, f"no answer after {job.tries} tries: {trouble}")
        else:
            delay = backoff_seconds(job.tries, trouble.retry_after, self._chance)
            if trouble.kind == HUNG and job.hung == 1:
                delay = 0.0  # it has waited long enough
            timer = self._loop.call_later(delay, self._watched, self._again, job)
            self._delayed[id(job)] = job, timer

    def _again(self, job: Job) -> None:
        del self._delayed[id(job)]
        self._ready.appendleft(job)
        self._dispatch()

    def _give_up(self, job: Job, reason: str) -> None:
        job.problem = reason
        self._release(job)
        self._deliver(job)

    def _refuse_for_money(self) -> None:
        job = self._ready[0]
        self._end_all(CostCapReached(
            f"dataset.generator.max_cost_usd: ${self.budget.cap_usd:g} would be passed: "
            f"${self.budget.spent_usd:.4f} are spent, and the next call may cost "
            f"${self.budget.worst_usd(job.ask):.4f}. It was not sent.\n"
            "Every answer so far is kept; raise the cap and run the same command again."), job)

    def _end_all(self, problem: Exception, cause: Job | None) -> None:
        """Tells every run that waits, once, and forgets the jobs: sent or not, none will be answered."""
        waiting = [*self._ready, *self._calls.values(), *(job for job, _ in self._delayed.values())]
        waiting += [cause] if cause else []
        inboxes = {id(job.arrived): job.arrived for job in waiting if not job.forgotten}
        inboxes.pop(id(self._nobody), None)
        if cause:
            self._release(cause)
        self._forget(None)
        for task in self._calls:
            if task is not asyncio.current_task(self._loop):
                task.cancel()
        self._life.afresh()
        for arrived in inboxes.values():
            arrived.put(Ended("", end=problem))

    def _forget(self, arrived: Inbox | None) -> None:
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

    def _end_unattended(self) -> None:
        """Drops what nobody waits for: unsent jobs now, calls when they have had a moment to end by themselves."""
        self._forget(self._nobody)

        def give_up() -> None:
            for task, job in self._calls.items():
                if job.forgotten and self._is_ahead(job):
                    self._drop(job)
                    task.cancel()

        self._loop.call_later(MOMENT_SECONDS, self._watched, give_up)

    def _drop(self, job: Job) -> None:
        self._ahead.pop(job.ask.key, None)
        self._release(job)

    def _release(self, job: Job) -> None:
        with contextlib.suppress(sqlite3.Error):  # a claim that cannot be given back ends with this process
            self.ledger.release(job.ask)

    async def _drained(self, seconds: float) -> None:
        if self._calls:
            await asyncio.wait(list(self._calls), timeout=seconds)
        self._forget(None)

    async def _cancelled(self) -> None:
        """Leaves nobody behind: what a task begins while it is cancelled is cancelled too."""
        end = time.monotonic() + CANCEL_SECONDS
        while (others := asyncio.all_tasks() - {asyncio.current_task()}) and (left := end - time.monotonic()) > 0:
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=left)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(close_clients(), CLOSE_SECONDS)

    def _at(self) -> str:
        return f" at {self.endpoint.where}" if self.endpoint.where else ""
