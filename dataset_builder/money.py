"""What calls cost: prices, the hard cap, and an estimate from a dozen real calls."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dataset_builder.ledger import Reply, Request

if TYPE_CHECKING:
    from dataset_builder.engine import Engine

SAFETY = 1.1
"""On the densest text seen so far, where the tokens of a prompt are guessed from its bytes."""


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per token."""

    prompt_usd: float
    completion_usd: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        return prompt_tokens * self.prompt_usd + completion_tokens * self.completion_usd


FREE = Price(0.0, 0.0)


def price_of(model: str) -> Price | None:
    """From litellm's own list (shipped with it, so as old as the installed version); None where it has none."""
    from dataset_builder.loading import litellm

    try:
        info = litellm().get_model_info(model)
        prompt, completion = info.get("input_cost_per_token"), info.get("output_cost_per_token")
    except Exception:  # litellm raises a bare Exception for a model it does not know
        return None
    return None if prompt is None or completion is None else Price(float(prompt), float(completion))


@dataclass
class Budget:
    """Keeps what was spent and what may still come in below the cap.

    `spent_usd` counts everything in the ledger, so that a cap holds over restarts.
    """

    price: Price | None
    cap_usd: float | None
    spent_usd: float = 0.0
    reserved_usd: float = 0.0
    tokens_per_byte: float = 0.5
    """Of prompts; starts dense, since a guess that is too low would pass the cap."""
    _seen: bool = field(default=False, repr=False)

    def worst_usd(self, request: Request) -> float:
        """What the call costs if the model uses all its room."""
        return self.price.of(self.prompt_tokens(request), request.max_tokens) if self.price else 0.0

    def prompt_tokens(self, request: Request) -> int:
        """Guess from the bytes sent; 8 tokens a message for the chat template."""
        sent = sum(len(content.encode()) for _, content in request.messages)
        return math.ceil(sent * self.tokens_per_byte) + 8 * len(request.messages)

    def reserve(self, request: Request) -> float | None:
        """Sets the worst case aside and returns it; None where the cap would be passed."""
        worst = self.worst_usd(request)
        if self.cap_usd is not None and self.spent_usd + self.reserved_usd + worst > self.cap_usd:
            return None
        self.reserved_usd += worst
        return worst

    def settle(self, reserved_usd: float, request: Request | None = None, reply: Reply | None = None) -> float | None:
        """Gives a reservation back; with a reply, counts what it did cost and returns that (None: no price)."""
        self.reserved_usd = max(0.0, self.reserved_usd - reserved_usd)
        if reply is None or request is None:
            return None
        self._learn(request, reply)
        if self.price is None:
            return None
        cost = self.price.of(reply.prompt_tokens, reply.completion_tokens)
        self.spent_usd += cost
        return cost

    def _learn(self, request: Request, reply: Reply) -> None:
        sent = sum(len(content.encode()) for _, content in request.messages)
        if sent < 200:  # a template weighs more than so short a text
            return
        ratio = SAFETY * reply.prompt_tokens / sent
        self.tokens_per_byte = max(self.tokens_per_byte, ratio) if self._seen else ratio
        self._seen = True


@dataclass(frozen=True, slots=True)
class Range:
    """Between which values a figure lies, with about 90 % confidence if the sample is like the rest."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """What one stage will take."""

    stage: str
    planned_calls: int
    sampled_calls: int
    failed_calls: int
    """Of the sample: their replies could not be used."""
    prompt_tokens: Range
    completion_tokens: Range
    cost_usd: Range | None
    """None: no price is known."""
    seconds: Range
    """If the server serves `max_concurrency` requests at once (low), or one after the other (high)."""


def estimate(engine: Engine, sample_requests: Iterable[Request], planned_counts: Mapping[str, int],
             parse: Callable[[Reply], object] = lambda reply: reply.text) -> list[StageEstimate]:
    """Makes the sample's calls (a dozen real ones, which stay in the ledger and are not bought again); scales them up.

    `planned_counts`: calls planned per stage. Stages without a single usable sample are left out, and said.
    """
    replies: dict[str, list[Reply]] = {}
    failed: dict[str, int] = {}
    for outcome in engine.run(sample_requests, parse):
        stage = outcome.request.stage
        failed[stage] = failed.get(stage, 0) + (outcome.problem is not None)
        if outcome.reply is not None:
            replies.setdefault(stage, []).append(outcome.reply)
    estimates = []
    for stage, planned in planned_counts.items():
        if stage in replies:
            scaled = _scaled(stage, planned, replies[stage], failed[stage], engine.generator.max_concurrency)
            estimates.append(scaled)
        else:
            engine.report.say(f"estimate: no answer for stage {stage}, so no figure for its {planned:,} calls")
    return estimates


def _scaled(stage: str, planned: int, replies: list[Reply], failed: int, concurrency: int) -> StageEstimate:
    again = 1 + failed / len(replies)  # what failed in the sample will be asked again in the run
    costs = [reply.cost_usd for reply in replies if reply.cost_usd is not None]
    seconds = _total([reply.seconds for reply in replies], planned)
    return StageEstimate(
        stage, planned, len(replies), failed,
        prompt_tokens=_total([reply.prompt_tokens for reply in replies], planned, again),
        completion_tokens=_total([reply.completion_tokens for reply in replies], planned, again),
        cost_usd=_total(costs, planned, again) if len(costs) == len(replies) else None,
        seconds=Range(seconds.low / min(concurrency, max(1, planned)), seconds.high * again),
    )


def _total(figures: list[float], planned: int, again: float = 1.0) -> Range:
    """Mean times planned, plus or minus what the spread of so small a sample allows (Student's t, 90 %).

    >>> _total([100, 110, 90, 100], 1000)
    Range(low=90000.0, high=110000.0)
    """
    mean = statistics.fmean(figures)
    if len(figures) < 3:
        return Range(planned * mean / 2, planned * mean * 2 * again)  # two points have no spread worth the name
    t90 = {3: 2.92, 4: 2.35, 5: 2.13, 6: 2.02, 7: 1.94, 8: 1.89, 9: 1.86, 10: 1.83}.get(len(figures), 1.81)
    margin = max(0.1 * mean, t90 * statistics.stdev(figures) / math.sqrt(len(figures)))
    return Range(round(planned * max(0.0, mean - margin), 6), round(planned * (mean + margin) * again, 6))


def sentences(estimates: Iterable[StageEstimate]) -> list[str]:
    """The estimate as lines for a person.

    >>> figures = StageEstimate("judge", 100, 4, 0, Range(1e5, 2e5), Range(1e4, 2e4), Range(0.5, 1.25), Range(30, 60))
    >>> sentences([figures])
    ['judge: 100 calls, 100,000-200,000 tokens in, 10,000-20,000 out, $0.50-$1.25, 30 s-1 min (from 4 real calls)']
    """
    return [
        f"{one.stage}: {one.planned_calls:,} calls, "
        f"{one.prompt_tokens.low:,.0f}-{one.prompt_tokens.high:,.0f} tokens in, "
        f"{one.completion_tokens.low:,.0f}-{one.completion_tokens.high:,.0f} out, "
        + (f"${one.cost_usd.low:.2f}-${one.cost_usd.high:.2f}" if one.cost_usd else "cost unknown (no price listed)")
        + f", {_duration(one.seconds.low)}-{_duration(one.seconds.high)} (from {one.sampled_calls} real calls"
        + (f", {one.failed_calls} of them unusable)" if one.failed_calls else ")")
        for one in estimates
    ]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
