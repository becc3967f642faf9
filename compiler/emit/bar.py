"""The memory of a plan as text: one bar a part, so that a reader sees what to attack."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.units import format_size
from compiler.values import Part, Plan

BAR_WIDTH = 32


def bar(size: float, of: float, width: int = BAR_WIDTH) -> str:
    """`size` drawn against `of`; what is above zero shows at least one mark, what is above `of` is cut.

    >>> bar(1, 4, 8), bar(0.001, 4, 8), bar(9, 4, 8)
    ('##......', '#.......', '########')
    """
    filled = min(width, round(width * size / of)) if of > 0 else width
    if size > 0:
        filled = max(1, filled)
    return "#" * filled + "." * (width - filled)


def memory_lines(plan: Plan) -> list[str]:
    """Total against budget, then the parts from the largest to the smallest; drawn against the budget."""
    budget = plan.case.machine.budget_bytes
    total = plan.memory.total_bytes
    each = " each" if plan.setup.devices > 1 else ""
    lines = [
        f"{format_size(total)} of {format_size(budget)}{each}, peak in phase `{plan.memory.peak_phase}`, "
        f"margin kept {format_size(plan.margin_bytes)}: {plan.verdict}",
        f"[{bar(total, budget)}] {100 * total / budget:.0f} %" if budget else "",
    ]
    return lines + part_lines(plan.memory.parts, budget)


def part_lines(parts: Sequence[Part], of: float) -> list[str]:
    """One line a part, the largest first; equal sizes keep their order."""
    shown = [part for part in sorted(parts, key=lambda part: -part.bytes) if part.bytes]
    width = max((len(part.name) for part in shown), default=0)
    return [f" {part.name.ljust(width)} {format_size(part.bytes).rjust(10)}  {bar(part.bytes, of)}" for part in shown]
