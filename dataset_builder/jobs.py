"""What passes between a run and whoever makes its calls: here in a thread, or in a process of its own."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from dataset_builder.ledger import Reply, Request

SWITCH_SECONDS = 0.0005
"""After which a busy thread lets another one go on. Python's own 5 ms pass with every look into the ledger, and a dozen
times between an answer's arrival and its commit: an answer that is not committed is bought again."""


@contextlib.contextmanager
def quick_turns() -> Iterator[None]:
    """Threads of this interpreter that wait for calls do not wait long for those that work."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(SWITCH_SECONDS, before))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


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


@dataclass(frozen=True, slots=True)
class Ended:
    """How one request ended, told to the run that waits for it. Its answer, if there is one, lies in the ledger."""

    key: str
    """Of the request as it was sent."""
    tries: int = 0
    completion_tokens: int = 0
    problem: str | None = None
    """Why this request has no answer; others may have one."""
    elsewhere: bool = False
    """Another process is buying the answer."""
    end: Exception | None = None
    """Why no request will be answered any more: the run ends with it."""


class Inbox(Protocol):
    """Where a run hears of its requests: a `queue.SimpleQueue[Ended]`, or what stands for it in another process."""

    def put(self, ended: Ended) -> None: ...


@dataclass(slots=True)
class Job:
    """One request on its way."""

    ask: Request
    arrived: Inbox
    tries: int = 0
    hung: int = 0
    """Of the tries: without an answer in time."""
    reply: Reply | None = None
    problem: str | None = None
    forgotten: bool = False
    """The run that wanted it has ended."""

    def ended(self) -> Ended:
        tokens = self.reply.completion_tokens if self.reply else 0
        return Ended(self.ask.key, self.tries, tokens, self.problem)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the calls stand now, for the progress line."""

    in_flight: int = 0
    spent_usd: float | None = None
    """None: no price is known, or it is free."""


class Calls(Protocol):
    """Who makes the calls to one model. Methods may be called from any thread."""

    where: str | None
    """The model's api_base; None: its provider's own."""
    priced: bool | None
    """Whether a price is known; None: that is not known yet."""

    def submit(self, ask: Request, arrived: Inbox) -> None:
        """Has a request answered; `arrived` hears how it ended, once."""

    def foresee(self, requests: Sequence[Request]) -> None:
        """Requests that will be wanted: they fill slots that nothing else fills; their answers go into the ledger."""

    def call_off(self) -> None:
        """What was foreseen will not be wanted: it stays unsent, and calls that nobody waits for are soon given up, so
        that the server has its hands free."""

    def forget(self, arrived: Inbox) -> None:
        """Drops what one run has submitted and was not sent yet."""

    def drain(self, seconds: float) -> None:
        """Sends nothing more and waits for what is on its way."""

    def close(self, drain: bool = True) -> None:
        """Lets answers arrive (`drain`), cancels what is left, ends."""

    def standing(self) -> Standing: ...

    def context_tokens(self) -> int | None:
        """Prompt and reply together, by what the server or litellm's list says."""
