"""How many requests may be in flight, and when the next one may go: found from what the server answers.

No clock and no network in here: time comes in as an argument (seconds of a monotonic clock), so that every rule can be
tested without waiting.
"""

from __future__ import annotations

import random
import re
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

OVERLOAD, FAULT = "overload", "fault"
"""Two kinds of failure: the server says that it has too much to do (429, 503), or it broke (500, reset, time-out)."""

DECREASE = 0.7
"""Of multiplicative decrease. TCP's 0.5 suits a queue that must drain; a 429 drains nothing, it only says "fewer"."""
TOLERATED = 0.11
"""Share of failures that leaves the limit alone: single faults are the weather, not the server's limit. At 5 % faults,
more than that fail in one of 500 windows of 128; a tenth of 64 failed in one of 25, several times a run."""
FEW = 3
"""Failures that say nothing, however few answers there were beside them."""
REGAIN = 1 / 16
"""Share of the ceiling that a full round of answers gives back after a decrease, one request at the least."""
QUEUE_SHARE = 0.25
"""Of the time-out: no request should spend more in the server's queue, or it would be given up while it waits."""
MIN_TIMEOUT_SECONDS = 6.0
SLOWEST = 3.0
"""A request that takes this many times the slowest percentile so far is taken for hung; twice that on its next try."""
SLOWEST_OF_STAGE = 2.5
"""The same, of its own stage: others may write longer answers. Of lognormal latencies with sigma 0.5 one in 60,000 is
slower."""
IDLE_TIMEOUT_SECONDS, SLOWEST_WHEN_IDLE = 3.0, 1.6
"""The same, while half of the slots stand empty because others wait for it. One in 1,800 is slower, and far fewer than
that are among the last of a stage; where one in a hundred hangs, it is the hung one 18 times of 19."""
ENOUGH = 50
"""Answers needed before their latencies say anything."""


class Limiter:
    """Additive increase, multiplicative decrease of the requests in flight, plus the provider's own rate headers.

    Starts at `ceiling`: most servers queue what they cannot serve, and a slow start would cost seconds of every run.
    """

    def __init__(self, ceiling: int, timeout_s: float) -> None:
        self.ceiling = ceiling
        self.timeout_s = timeout_s
        self.in_flight = 0
        self._limit = float(ceiling)
        self._reduced_at = float("-inf")
        self._outcomes: deque[bool] = deque(maxlen=max(20, 2*ceiling))
        self._sent = 0
        self._finished: deque[float] = deque(maxlen=100)
        self._peak = 0
        """Most in flight since the last decrease: room that nobody used was not what the server minded."""
        self._paused_until = float("-inf")
        self._buckets: dict[str, Bucket] = {}
        self._usual = Latencies()
        self._usual_of: dict[str, Latencies] = {}
        """By stage."""

    @property
    def limit(self) -> int:
        """Requests that may be in flight now; at least one."""
        return max(1, int(self._limit))

    def wait_seconds(self, now: float, tokens: int = 0) -> float | None:
        """0: the next request may go now; more: not before so many seconds; None: not before one in flight ends."""
        if self.in_flight >= self.limit:
            return None
        waits = [self._paused_until - now]
        waits += [bucket.wait_seconds(now, tokens if name == "tokens" else 1) for name, bucket in self._buckets.items()]
        return max(0.0, *waits)

    def sent(self, tokens: int = 0) -> None:
        """A request goes out; `tokens`: estimate of what it takes from a tokens-per-minute limit."""
        self.in_flight += 1
        self._sent += 1
        self._peak = max(self._peak, self.in_flight)
        for name, bucket in self._buckets.items():
            bucket.remaining -= tokens if name == "tokens" else 1

    def answered(self, now: float, sent_at: float, seconds: float, stage: str = "") -> None:
        """An answer came after `seconds`."""
        self.in_flight -= 1
        self._outcomes.append(True)
        self._usual.add(seconds)
        self._usual_of.setdefault(stage, Latencies()).add(seconds)
        self._finished.append(now)
        self._limit = min(self.ceiling, self._limit + max(1.0, REGAIN * self.ceiling) / self._limit)
        self._shorten_queue(now, sent_at, seconds)

    def failed(self, now: float, sent_at: float, kind: str, retry_after: float | None = None) -> None:
        """A request that was sent at `sent_at` failed; requests sent before the last decrease count once with it."""
        self.in_flight -= 1
        self._outcomes.append(False)
        failures = self._outcomes.count(False)
        # a refusal comes at once and an answer takes its time: the first outcomes are no fair sample of what was sent
        sample = max(len(self._outcomes), min(self._sent, self._outcomes.maxlen))
        if failures < FEW or failures <= TOLERATED * sample:
            return
        if kind == OVERLOAD and retry_after:
            self._paused_until = max(self._paused_until, now + retry_after)
        if sent_at >= self._reduced_at:
            self._reduced_at = now
            self._limit = max(1.0, min(self._limit, self._peak) * DECREASE)
            self._peak = self.in_flight

    def dropped(self) -> None:
        """A request was given up by us: it says nothing about the server."""
        self.in_flight -= 1

    def headers(self, now: float, headers: Mapping[str, str]) -> None:
        """Takes note of the rate limits in a reply's headers."""
        for name, (limit, remaining, reset_seconds) in rate_limits(headers).items():
            known = self._buckets.get(name)
            # A reply tells what was left when its request came in, and others went since: of requests we know how many,
            # of tokens only a guess, so there the provider's figure stands.
            exact = name == "requests" and known is not None and known.limit == limit
            left = min(known.refilled(now), remaining) if exact else remaining
            self._buckets[name] = Bucket(limit, left, (limit - remaining) / reset_seconds, now)

    def patience_seconds(self, tries: int = 1, stage: str = "") -> float:
        """How long to wait for one answer: the recipe's time-out, or less once the usual latency is known; still less
        while slots stand empty because everything waits for the slowest."""
        mine = self._usual_of.get(stage)
        if mine is not None and mine.slowest is not None:
            if 2 * self.in_flight <= self.limit:
                patience = max(IDLE_TIMEOUT_SECONDS, SLOWEST_WHEN_IDLE * mine.slowest)
            else:
                patience = max(MIN_TIMEOUT_SECONDS, SLOWEST_OF_STAGE * mine.slowest)
        elif self._usual.slowest is not None:
            patience = max(MIN_TIMEOUT_SECONDS, SLOWEST * self._usual.slowest)
        else:
            return self.timeout_s
        return min(self.timeout_s, patience * 2 ** (tries - 1))

    def _shorten_queue(self, now: float, sent_at: float, seconds: float) -> None:
        """A server of two slots serves 64 requests one pair after the other: keeps the wait far from the time-out.

        By Little's law the wait is in flight / throughput, so the limit is what the throughput allows.
        """
        if seconds < self.timeout_s * QUEUE_SHARE or sent_at < self._reduced_at or len(self._finished) < 3:
            return
        span = now - self._finished[0]
        if span > 0:
            throughput = (len(self._finished) - 1) / span
            self._reduced_at = now
            self._limit = min(self._limit, max(1.0, throughput * self.timeout_s * QUEUE_SHARE))


class Latencies:
    """The last few hundred of a kind, and the slowest percentile of them."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=400)
        self._count, self._review_at = 0, ENOUGH
        self.slowest: float | None = None
        """Seconds; None: too few are known."""

    def add(self, seconds: float) -> None:
        self._last.append(seconds)
        self._count += 1
        if self._count >= self._review_at:
            self._review_at = self._count + ENOUGH
            self.slowest = statistics.quantiles(self._last, n=100)[98]


@dataclass
class Bucket:
    """What is left of a limit per minute, and how fast it fills again."""

    limit: float
    remaining: float
    per_second: float
    at: float

    def refilled(self, now: float) -> float:
        """Fills up to `now`; returns what is there."""
        self.remaining = min(self.limit, self.remaining + self.per_second * (now - self.at))
        self.at = now
        return self.remaining

    def wait_seconds(self, now: float, want: float) -> float:
        missing = min(want, self.limit) - self.refilled(now)
        if missing <= 0:
            return 0.0
        return missing / self.per_second if self.per_second > 0 else 1.0


def rate_limits(headers: Mapping[str, str]) -> dict[str, tuple[float, float, float]]:
    """`requests` and `tokens` -> (limit, remaining, seconds to full), from OpenAI's or Anthropic's headers.

    Sources: https://platform.openai.com/docs/guides/rate-limits and https://docs.claude.com/en/api/rate-limits
    (Anthropic writes the reset as a date; without a clock in here it is taken as one minute, the length of its window).
    """
    lower = {str(name).lower().removeprefix("llm_provider-"): str(value) for name, value in headers.items()}
    found = {}
    for what in ("requests", "tokens"):
        for pattern in ("x-ratelimit-{}-%s", "anthropic-ratelimit-%s-{}"):
            names = [(pattern % what).format(part) for part in ("limit", "remaining", "reset")]
            try:
                limit, remaining = float(lower[names[0]]), float(lower[names[1]])
            except (KeyError, ValueError):
                continue
            if limit > 0 and 0 <= remaining <= limit:
                found[what] = (limit, remaining, max(0.1, seconds_in(lower.get(names[2], "")) or 60.0))
    return found


def seconds_in(text: str) -> float | None:
    """A duration as providers write it; None where it is none.

    >>> [seconds_in(text) for text in ("6m0s", "1h30m", "250ms", "12.5", "2026-11-22T00:00:00Z", "")]
    [360.0, 5400.0, 0.25, 12.5, None, None]
    """
    text = text.strip().lower()
    try:
        return float(text)
    except ValueError:
        pass
    if not re.fullmatch(r"(?:[\d.]+(?:ms|h|m|s))+", text):
        return None
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)(ms|h|m|s)", text))


def retry_after_seconds(headers: Mapping[str, str], now_unix: float) -> float | None:
    """`Retry-After` as seconds (RFC 9110 section 10.2.3: a number or a date; and OpenAI's `retry-after-ms`)."""
    lower = {str(name).lower().removeprefix("llm_provider-"): str(value) for name, value in headers.items()}
    milliseconds = seconds_in(lower.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    text = lower.get("retry-after", "")
    seconds = seconds_in(text)
    if seconds is not None or not text:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now_unix)
    except ValueError:
        return None


def backoff_seconds(tries: int, retry_after: float | None, chance: random.Random) -> float:
    """Before try number `tries` + 1: the server's word if it gave one, else 0.5, 1, 2 ... 30 s; jittered by a half, so
    that requests which failed together do not come back together."""
    base = retry_after if retry_after is not None else min(30.0, 0.5 * 2 ** (tries - 1))
    return base * (1 + 0.5 * chance.random())
