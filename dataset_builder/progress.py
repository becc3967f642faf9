"""How a stage tells the person what it is doing: a live line on a terminal, plain lines elsewhere, nothing in tests."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Protocol, TextIO

PLAIN_SECONDS = 10.0
"""Between two plain lines of one stage: a log of a day's run stays readable."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where one stage stands now. What a stage has no figure for stays None and is not shown."""

    stage: str
    done: int
    total: int | None = None
    tokens_per_second: float | None = None
    """Completion tokens received, over the last minute."""
    cost_usd: float | None = None
    retries: int = 0
    problems: int = 0
    """Items that ended with a reason instead of a value."""
    in_flight: int | None = None


class Report(Protocol):
    """What the stages need of a reporter; any object with these three methods will do."""

    def progress(self, now: Progress) -> None:
        """Called as often as the stage likes; the reporter decides what is shown."""

    def say(self, text: str) -> None:
        """One line that must be read: a warning, a price that is missing, the end of a stage."""

    def close(self) -> None:
        """Shows the last figures and gives the terminal back."""


class Quiet:
    """Says nothing; keeps what was said, for those who ask afterwards."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.last: Progress | None = None

    def progress(self, now: Progress) -> None:
        self.last = now

    def say(self, text: str) -> None:
        self.said.append(text)

    def close(self) -> None:
        pass


def line(now: Progress) -> str:
    """`questions 120/400 | 35 tokens/s | $0.12 | 8 in flight | 3 retries | 1 problem`.

    >>> line(Progress("questions", 120, 400, tokens_per_second=35.2, cost_usd=0.1234, retries=3, problems=1))
    'questions 120/400 | 35 tokens/s | $0.1234 | 3 retries | 1 problem'
    """
    parts = [f"{now.stage} {now.done:,}" + (f"/{now.total:,}" if now.total is not None else "")]
    if now.tokens_per_second is not None:
        parts.append(f"{now.tokens_per_second:,.0f} tokens/s")
    if now.cost_usd is not None:
        parts.append(f"${now.cost_usd:.4f}")
    if now.in_flight is not None:
        parts.append(f"{now.in_flight} in flight")
    parts += [_count(now.retries, "retry", "retries")] if now.retries else []
    parts += [_count(now.problems, "problem", "problems")] if now.problems else []
    return " | ".join(parts)


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


class Plain:
    """Lines for logs: one at the start of a stage, one every `PLAIN_SECONDS`, one at its end."""

    def __init__(self, stream: TextIO | None = None, clock=time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._now: Progress | None = None
        self._shown: Progress | None = None
        self._due = float("-inf")

    def progress(self, now: Progress) -> None:
        if self._now and now.stage != self._now.stage:
            self.close()
            self._due = float("-inf")
        self._now = now
        if self._clock() >= self._due or (now.done == now.total and self._shown != now):
            self._due = self._clock() + PLAIN_SECONDS
            self._print(now)

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        if self._now and self._now != self._shown:
            self._print(self._now)

    def _print(self, now: Progress) -> None:
        self._shown = now
        print(line(now), file=self._stream, flush=True)


class Live:
    """One line at the bottom of a terminal, drawn by rich; what is said scrolls above it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = TextColumn("{task.description}"), BarColumn(bar_width=24), TimeRemainingColumn()
        self._bars = Bars(*columns, console=Console(file=stream or sys.stderr), refresh_per_second=4)
        self._tasks: dict[str, int] = {}

    def progress(self, now: Progress) -> None:
        if now.stage not in self._tasks:
            self._bars.start()
            self._tasks[now.stage] = self._bars.add_task(line(now), total=now.total)
        self._bars.update(self._tasks[now.stage], description=line(now), completed=now.done, total=now.total)

    def say(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._bars.stop()


def report_to(stream: TextIO | None = None) -> Report:
    """The reporter that fits `stream` (standard error): live on a terminal, plain lines into a file or a pipe."""
    stream = stream or sys.stderr
    return Live(stream) if stream.isatty() else Plain(stream)
