"""What changing one setting does to the speed, which pairs of rows are in the wrong order, how far each group is off.

`benchmarks/speed_fit.py` puts the tables into docs/speed.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

TIE = 0.01
"""Two rows measured closer than this are in no order: the same setup measured for two of the files differs by more."""


class Row(NamedTuple):
    row: dict[str, Any]
    predicted: float
    measured: float


def file_of(row: dict[str, Any]) -> str:
    """fms, litgpt-confighub, litgpt-resource: one source, its machines and software."""
    parts = row["group"].replace("holdout", "confighub").split("-")
    return parts[0] if parts[0] == "fms" else "-".join(parts[:2])


def setting(row: dict[str, Any]) -> dict[str, Any]:
    """What identifies a row's setup, by lever; the file (fms-main, litgpt-holdout ...) and the data stay the same."""
    stack = row["stack"]
    weights = {"qlora-4bit": "GPTQ" if row["group"].endswith("gptq") else "NF4"}.get(row["method"], "16 bits")
    return {
        "file": "-".join(row["group"].split("-")[:2]) + str(row.get("rows", "")),
        "other": row.get("other_machine", False),
        "model": row["model"],
        "length": row["sequence_len"],
        "micro_batch": row["micro_batch"],
        "devices": row["devices"],
        "method": row["method"],
        "weights": weights,
        "cross_entropy": "whole, one kernel" if stack.get("fused_loss") else row["cross_entropy"],
        "fused": stack.get("fused_layers", False),
        "norms": stack.get("fp32_norms", False),
        "rank": row.get("lora_r"),
    }


Lever = tuple[str, tuple[str, ...], Callable[[dict[str, Any], dict[str, Any]], bool]]
LEVERS: tuple[Lever, ...] = (
    ("fused kernels off -> on", ("fused", "cross_entropy"), lambda a, b: b["fused"] and not a["fused"]),
    ("cross-entropy in one kernel -> Liger", ("cross_entropy",), lambda a, b: b["cross_entropy"] == "liger"),
    ("micro-batch doubled", ("micro_batch",), lambda a, b: b["micro_batch"] == 2 * a["micro_batch"]),
    ("1 device -> 2, sharded", ("devices",), lambda a, b: (a["devices"], b["devices"]) == (1, 2)),
    ("2 devices -> 4, sharded", ("devices",), lambda a, b: (a["devices"], b["devices"]) == (2, 4)),
    ("full -> LoRA", ("method", "rank"), lambda a, b: (a["method"], b["method"]) == ("full", "lora")),
    ("LoRA -> QLoRA (NF4)", ("method", "weights"), lambda a, b: a["method"] == "lora" and b["weights"] == "NF4"),
    ("NF4 -> GPTQ", ("weights",), lambda a, b: (a["weights"], b["weights"]) == ("NF4", "GPTQ")),
    ("FP32 norms (k-bit preparation) -> 16 bits", ("norms",), lambda a, b: a["norms"] and not b["norms"]),
)


def lever_pairs(rows: list[Row], lever: Lever) -> list[tuple[float, float]]:
    """(measured, predicted) ratio of speeds of every two rows that differ in this lever alone."""
    _, fields, wanted = lever
    groups: dict[tuple[Any, ...], list[tuple[dict[str, Any], Row]]] = {}
    for row in rows:
        values = setting(row.row)
        key = tuple(value for name, value in values.items() if name not in fields)
        groups.setdefault(key, []).append((values, row))
    return [
        (after.measured / before.measured, after.predicted / before.predicted)
        for found in groups.values()
        for first, before in found
        for second, after in found
        if wanted(first, second) and any(first[name] != second[name] for name in fields)
    ]


def lever_table(rows: list[Row]) -> list[str]:
    lines = [
        "| lever | pairs | speed changes by, measured | predicted | mean difference | worst |",
        "|---|---|---|---|---|---|",
    ]
    for lever in LEVERS:
        pairs = lever_pairs(rows, lever)
        if not pairs:
            continue
        measured, predicted = (math.exp(sum(map(math.log, side)) / len(pairs)) for side in zip(*pairs, strict=True))
        errors = [after / before - 1 for before, after in pairs]
        lines.append(
            f"| {lever[0]} | {len(pairs)} | x {measured:.3f} | x {predicted:.3f} "
            f"| {sum(map(abs, errors)) / len(errors):.1%} | {max(errors, key=abs):+.0%} |"
        )
    return lines


def inversions(rows: list[Row]) -> tuple[int, int, int]:
    """(pairs of rows, those in the wrong order, of them those measured within TIE of one another)."""
    wrong = ties = 0
    for index, one in enumerate(rows):
        for other in rows[:index]:
            if (one.predicted - other.predicted) * (one.measured - other.measured) < 0:
                wrong += 1
                ties += abs(one.measured / other.measured - 1) < TIE
    return len(rows) * (len(rows) - 1) // 2, wrong, ties


def repeats(rows: list[Row]) -> dict[str, tuple[float, list[float]]]:
    """File -> (widest gap between two measurements of one setup, all such ratios): the spread of the measurements."""
    same: dict[str, dict[Any, list[float]]] = {}
    for row in rows:
        values = {name: value for name, value in setting(row.row).items() if name not in ("file", "other")}
        program = tuple(sorted(row.row["stack"].items()))
        key = (row.row.get("rows"), *values.values(), program)
        same.setdefault(file_of(row.row), {}).setdefault(key, []).append(row.measured)
    ratios = {
        file: [max(measured) / min(measured) for measured in found.values() if len(measured) > 1]
        for file, found in same.items()
    }
    return {file: (max(found, default=1.0) - 1, found) for file, found in ratios.items()}


def kendall(pairs: list[tuple[float, float]], tie: float = 0.0) -> float:
    """Kendall's tau-b; predictions within 1e-9 count as tied, measurements within the share `tie`. NaN where all are.
    A prediction is not asked to tie what was measured alike: pairs tied in the measurements are left out of both."""
    score = tied_x = tied_y = left = 0
    for i, (x, y) in enumerate(pairs):
        for other_x, other_y in pairs[:i]:
            same_x = abs(x - other_x) < 1e-9 * x
            if tie and abs(y / other_y - 1) < tie:
                left += 1
            elif y == other_y:
                tied_x, tied_y = tied_x + same_x, tied_y + 1
            elif same_x:
                tied_x += 1
            else:
                score += 1 if (x - other_x) * (y - other_y) > 0 else -1
    total = len(pairs) * (len(pairs) - 1) / 2 - left
    below = (total - tied_x) * (total - tied_y)
    return score / math.sqrt(below) if below > 0 else math.nan


def mean_error(pairs: list[tuple[float, float]]) -> float:
    return sum(abs(predicted / measured - 1) for predicted, measured in pairs) / len(pairs)


def table(rows: list[Row], kept: dict[str, Any]) -> list[str]:
    noise = repeats(rows)
    lines = [
        "| group | rows | mean error | worst | Kendall tau | beyond 1 % | beyond repeats | wrong pairs "
        "| left out: mean error, tau |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for group in dict.fromkeys(row.row["group"] for row in rows):
        found = [row for row in rows if row.row["group"] == group]
        pairs = [(row.predicted, row.measured) for row in found]
        worst = max((predicted / measured - 1 for predicted, measured in pairs), key=abs)
        left = kept.get("group", {}).get(group)
        never = "" if any(row.row["calibrates"] for row in found) else "never fitted on"
        spread = noise[file_of(found[0].row)][0]
        ties = (0.0, TIE, spread)
        many = len(pairs) > 2
        taus = [f"{kendall(pairs, tie):.2f}" if many else "" for tie in ties]
        out = never if left is None else f"{left[0]:.1%}, {left[1]:.2f}" if many else f"{left[0]:.1%}"
        _, wrong, tied = inversions(found)
        lines.append(
            f"| {group} | {len(pairs)} | {mean_error(pairs):.1%} | {worst:+.0%} | {taus[0]} | {taus[1]} | "
            f"{taus[2]} ({spread:.1%}) | {wrong}, of them {tied} ties | {out} |"
        )
    return lines
