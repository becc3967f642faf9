"""Whether an endpoint is alive: how long one answer is waited for, and when nobody is there any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from dataset_builder.jobs import Patience
from dataset_builder.ledger import Reply
from dataset_builder.limits import Limiter
from dataset_builder.transport import HUNG, UNREACHABLE, Trouble

LOOK_SECONDS = 0.5
"""Between two looks at whether a call hangs."""


class Liveness:
    """What the answers so far say of the endpoint; of one event loop."""

    def __init__(self, patience: Patience, limiter: Limiter) -> None:
        self.patience, self.limiter = patience, limiter
        self.answers = 0
        self.failures_in_a_row = 0
        self._answered_at = self._begun_at = time.monotonic()

    def begin(self) -> None:
        """The first call after a time without a question, which is not silence."""
        self._begun_at = time.monotonic()

    def answered(self) -> None:
        self.answers, self.failures_in_a_row, self._answered_at = self.answers + 1, 0, time.monotonic()

    def failed(self) -> None:
        """Without an answer."""
        self.failures_in_a_row += 1

    def afresh(self) -> None:
        """The run has ended; another one may find the endpoint well."""
        self._begun_at, self.failures_in_a_row = time.monotonic(), 0

    def silent_s(self) -> float:
        """Since the last answer, or since it was first asked."""
        return time.monotonic() - max(self._answered_at, self._begun_at)

    def dead(self, kind: str) -> bool:
        """Whether nothing more is to be hoped for, after a failure of this kind."""
        nobody = kind == UNREACHABLE and not self.answers
        limit = self.patience.silent_start_s if nobody else self.patience.silent_s
        return self.silent_s() >= limit and self.failures_in_a_row >= 3

    async def within_patience(self, asking: Coroutine[Any, Any, tuple[Reply, dict]], stage: str, tries: int,
                              ) -> tuple[Reply, dict]:  # fmt: skip
        """The reply; a call that is late is only given up when it does not just wait in the server's queue.

        `tries`: how often this request has hung, this time counted. Raises Trouble.
        """
        answers_before, ahead = self.answers, self.limiter.in_flight
        call = asyncio.get_running_loop().create_task(asking)
        begun = time.monotonic()
        step = min(LOOK_SECONDS, self.limiter.patience_seconds(tries, stage))
        try:
            while not (await asyncio.wait({call}, timeout=step))[0]:
                # looked at anew each time: calls that went out before the usual latency was known may hang as well
                now, patience = time.monotonic(), self.limiter.patience_seconds(tries, stage)
                waited = now - begun
                step = min(LOOK_SECONDS, max(0.01, patience - waited))
                if waited < patience:
                    continue
                step = patience / 4
                alive = now - self._answered_at < patience
                # once most of those that were ahead of it are answered, no queue is what keeps it
                queue = self.answers - answers_before < 2 * ahead and 4 * self.limiter.in_flight > ahead
                if not (alive and queue) or waited > 10 * self.limiter.timeout_s:
                    raise Trouble(HUNG, f"no answer within {waited:.0f} s")
            return call.result()
        finally:
            call.cancel()
            call.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # seen, so asyncio is quiet
