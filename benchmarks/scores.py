"""Means and worst cases of errors, for the pages that the benchmarks write."""

from __future__ import annotations

import statistics
from collections.abc import Iterable


def score(errors: Iterable[float]) -> tuple[int, float, float, float, float]:
    """(n, mean |e|, median |e|, lowest, highest)."""
    values = list(errors)
    sizes = [abs(value) for value in values]
    return len(values), statistics.mean(sizes), statistics.median(sizes), min(values), max(values)


def table(title: str, groups: dict[str, list[float]]) -> str:
    lines = [f"| {title} | n | mean | median | lowest | highest |", "|---|---:|---:|---:|---:|---:|"]
    for name in sorted(groups):
        count, mean, median, low, high = score(groups[name])
        lines.append(f"| {name} | {count} | {mean:.2%} | {median:.2%} | {low:+.2%} | {high:+.2%} |")
    return "\n".join(lines)
