"""What changing one setting does to the speed, and which pairs of rows are in the wrong order: measured, predicted.

`benchmarks/speed_fit.py` puts the two tables into docs/speed.md.
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
        "cross_entropy": row["cross_entropy"],
        "fused": stack.get("fused_layers", False),
        "norms": stack.get("fp32_norms", False),
        "rank": row.get("lora_r"),
    }


Lever = tuple[str, tuple[str, ...], Callable[[dict[str, Any], dict[str, Any]], bool]]
LEVERS: tuple[Lever, ...] = (
    ("fused kernels off -> on", ("fused",), lambda a, b: b["fused"] and not a["fused"]),
    ("cross-entropy standard -> Liger", ("cross_entropy",), lambda a, b: b["cross_entropy"] == "liger"),
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


def twins(rows: list[Row]) -> list[float]:
    """Ratios of the speeds that two files measured for one setup: the spread of the measurements themselves."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        if row.row["group"].startswith("fms"):
            values = setting(row.row)
            key = tuple(value for name, value in values.items() if name != "file")
            found.setdefault(key, []).append(row.measured)
    return [max(same) / min(same) for same in found.values() if len(same) > 1]
