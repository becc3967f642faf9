"""What the caching allocator holds beside live tensors at each moment of a step, by what leaves it behind.

Blocks that are free but too small for what comes next stay reserved. Before the loss those are what one layer's forward
left, and within it the two-byte logits, which FP32 ones do not fit into; within a layer they are what other layers left
in other sizes; at the end of a step, gaps between gradients. So the slack follows three sizes that a plan knows anyway,
and not the live bytes: checkpoints and optimizer states lie still and leave nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from compiler.memory.lines import Line, Numbers, Term
from compiler.memory.tape import Size
from compiler.quick import dataclass

SLACK_PART = "allocator_slack"


@dataclass(frozen=True, slots=True)
class Shares:
    loss: float
    """Of one layer's highest moment, beside the loss; the two-byte logits come on top."""
    layer: float
    """Of the same, beside a layer."""
    gradients: float
    """Of the gradients, beside layers and in the optimizer's step."""


SLACK = Shares(loss=0.75, layer=0.3, gradients=0.35)
"""The least mean error on replays of Axolotl's stack (`tests/data/replays.jsonl`), too little counting twice, as it
costs a run and too much a smaller batch; no measurement was used. The replays are those of PyTorch's default settings,
which the published readings have too. Axolotl asks for expandable segments, which leave less: what a plan says is on
the safe side of them, and holds where they cannot be had (Windows, ROCm)."""
CPU_SLACK = 0.05
"""On a CPU large blocks go back at once: a share of all but the weights."""


@dataclass(frozen=True, slots=True)
class Idle:
    """The three sizes, in bytes."""

    layer: Size
    """One layer recomputed and run backward, at its highest."""
    logits: float
    """Per token: two-byte logits that are free, or in nobody's way, when FP32 ones are made."""
    gradients: float


def slack_numbers(one: Line, sizes: Idle, factor: float, shares: Shares = SLACK) -> Numbers:
    """The slack of a moment of the step or of an evaluation. `factor`: measured over predicted slack."""
    return _numbers(_beside(one), sizes, factor, shares)


def _beside(one: Line) -> str:
    """What decides the slack of a moment: `loss`, or its phase."""
    return "loss" if one.terms[-1].name == "logits" else one.phase


def _numbers(beside: str, sizes: Idle, factor: float, shares: Shares) -> Numbers:
    share = factor * {"loss": shares.loss, "optimizer": 0.0}.get(beside, shares.layer)
    const, token, length, row = sizes.layer
    if beside == "loss":
        return share * const, share * token + factor * sizes.logits, share * length, share * row, 0.0
    gradients = 0.0 if beside == "eval" else factor * shares.gradients * sizes.gradients
    return share * const + gradients, share * token, share * length, share * row, 0.0


def held_numbers(lines: Iterable[Line], sizes: Idle, factor: float) -> list[Numbers]:
    """Live tensors and slack of each moment."""
    slack: dict[str, Numbers] = {}
    held = []
    for one in lines:
        beside = _beside(one)
        if beside not in slack:
            slack[beside] = _numbers(beside, sizes, factor, SLACK)
        more = slack[beside]
        _, _, const, token, length, row, batched = one
        held.append((const + more[0], token + more[1], length + more[2], row + more[3], batched))
    return held


def slack_term(one: Line, sizes: Idle, factor: float) -> Term:
    """`slack_numbers`, explained."""
    beside = _beside(one)
    held = []
    if beside != "optimizer":
        held.append(f"{SLACK.loss if beside == 'loss' else SLACK.layer:.0%} of one layer's highest moment")
    if beside == "loss" and sizes.logits:
        held.append(f"two-byte logits, {sizes.logits:,.0f} B/token")
    if beside not in ("loss", "eval") and sizes.gradients:
        held.append(f"{SLACK.gradients:.0%} of the gradients")
    words = "held by the allocator, not in use: " + " and ".join(held or ["nothing"])
    if factor != 1.0:
        words += f"; times {factor:.2f}, measured on this machine"
    return Term(SLACK_PART, words, *slack_numbers(one, sizes, factor))
