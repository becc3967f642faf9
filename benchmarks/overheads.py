"""What docs/accuracy.md says of the planner's overheads: slack by replays, the band by published readings."""

from __future__ import annotations

import statistics

from published import BAND_GROUPS, band, beyond_margin
from replays import EXPANDABLE, PLAIN, by_kind, fitted, out_of_family, replays
from scores import score, table

from compiler.memory.overhead import OVERHEADS
from compiler.memory.slack import SLACK

SLACK_INTRODUCTION = """## The planner's overheads

What a plan adds to live tensors: what the allocator is left with, cuBLAS workspaces, the context. The slack of a moment
is made of sizes that the plan knows (`compiler/memory/slack.py`): beside the loss a share of one layer's highest moment
and the two-byte logits, whose block FP32 ones do not fit into; beside a layer another share of the former; a share of
the gradients at the end of a step and beside layers. The three shares have the least mean error on replays of Axolotl's
stack, an underestimate counting twice; no reading was used.

"""


def band_words() -> str:
    lines = [
        "The band of the verdict: log(measured / predicted), both less the weights, is taken as normal with mean "
        f"{OVERHEADS['cuda'].bias:+.3f} and deviation {OVERHEADS['cuda'].error:.3f}:",
        "the mean of all, and the wider of the groups' deviations, as a card of a third kind is not likelier to be",
        "near. Left out: FOAK's fused loss, which no plan uses; and from `fms-main` the 1,162 MiB of its later run are",
        "taken off. The readings beyond the margin are full fine-tunings whose peak is the optimizer's step, and which",
        "hold the loss's blocks beside it.\n",
        "| readings | n | mean | deviation | above prediction and margin of 95 % |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, prefix in (*BAND_GROUPS.items(), ("both", "")):
        logs = band(prefix)
        over = beyond_margin(prefix)[0]
        lines.append(
            f"| {name} | {len(logs)} | {statistics.mean(logs):+.3f} | {statistics.pstdev(logs):.3f} | {over} |"
        )
    return "\n".join(lines) + "\n"


def slack_words() -> str:
    """The shares, out of sample as well, and how far the other way to set the allocator is from them."""
    count, mean, _, low, high = score(out_of_family())
    other = fitted(replays(), EXPANDABLE)
    errors = [one.error(other, EXPANDABLE) for one in replays()]
    _, other_mean, _, other_low, other_high = score(errors)
    return (
        f"The shares are {SLACK.loss:.2f}, {SLACK.layer:.2f} and {SLACK.gradients:.2f}. Fitted without the family of "
        f"the model that is predicted: mean {mean:.2%},\nlowest {low:+.1%}, highest {high:+.1%} of {count}. "
        "Full fine-tuning with the chunked loss leaves most\nthat is not predicted.\n\n"
        + table("replays, default settings", by_kind(PLAIN))
        + "\n\nAxolotl asks for `expandable_segments:True`. Then less is left, and the plan is on the safe side:\n\n"
        + table("replays, expandable segments", by_kind(EXPANDABLE))
        + f"\n\nShares of {other.loss:.2f}, {other.layer:.2f} and {other.gradients:.2f} would fit that "
        f"(mean {other_mean:.2%}, lowest {other_low:+.1%}, highest {other_high:+.1%}). The plan does not use them: no\n"
        "reading of a run with expandable segments is published, and beside such predictions the readings without\n"
        "them scatter more than a normal band says (docs/decisions.md).\n"
    )
