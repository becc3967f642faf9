"""The published measurements of tests/data/memory_rows.jsonl: scored for docs/accuracy.md, and traced again.

python benchmarks/published.py                trace all rows, each with its stack (about 10 s each), and write the file
python benchmarks/published.py fms-main       only rows whose id begins so; run benchmarks/accuracy.py afterwards
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compiler.facts import models
from compiler.memory.model import slack_bytes
from compiler.memory.overhead import CUBLAS_BYTES, OVERHEADS, Z_CONFIDENCE, cuda_context_bytes
from compiler.stacks import STACKS
from compiler.values import Setup

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
ROWS = DATA / "memory_rows.jsonl"


def load_setup(values: dict[str, Any]) -> Setup:
    """A Setup from its recorded fields; fields that are left out have one value in all recorded cases."""
    targets = values.get("lora_targets", "all-linear")
    fixed = {"sample_packing": False, "precision": "bf16", "weights_dtype": "bf16"}
    return Setup(**{**fixed, **values, "lora_targets": tuple(targets) if isinstance(targets, list) else targets})


def rows() -> list[dict[str, Any]]:
    """Published measurements with their source, and what the tracer says for each (null: not traced)."""
    return [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]


def planned_reserved(row: dict[str, Any]) -> float:
    """What the planner's overheads make of a row's measured live bytes: all but the context."""
    return row["allocated"] + slack_bytes(models()[row["model"]].architecture, load_setup(row["setup"]))


@dataclass(slots=True)
class Published:
    """Errors per group of rows, and over all."""

    allocated: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    reserved: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    planned_reserved: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    process: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    planned_process: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Without FOAK's fused loss."""
    fused_loss: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """The process where FOAK's fused loss ran."""


def published() -> Published:
    """Traced allocated, replayed reserved and the process from the replay; reserved and process from the planner's
    overheads over measured live bytes."""
    made = Published()
    for row in rows():
        context = cuda_context_bytes(CAPABILITIES[row["gpu"]])
        replayed = row["traced_reserved"] + CUBLAS_BYTES
        for name in (row["group"], "all"):
            made.allocated[name].append((row["traced_allocated"] + CUBLAS_BYTES) / row["allocated"] - 1)
            if row["reserved"]:
                made.reserved[name].append(replayed / row["reserved"] - 1)
            if row["process"]:
                made.process[name].append((replayed + context) / row["process"] - 1)
            if row["reserved"] and row["resident"]:
                made.planned_reserved[name].append(planned_reserved(row) / row["reserved"] - 1)
            if row["process"] and row["resident"] and like_a_plan(row):
                made.planned_process[name].append((planned_reserved(row) + context) / row["process"] - 1)
        if row["process"] and row["resident"] and not like_a_plan(row):
            more = row.get("traced_beyond_replay", 0)
            made.fused_loss["as replayed"].append((replayed - more + context) / row["process"] - 1)
            made.fused_loss["with one block more"].append((replayed + context) / row["process"] - 1)
            made.fused_loss["the planner's overheads"].append((planned_reserved(row) + context) / row["process"] - 1)
    return made


CAPABILITIES = {
    "Tesla T4 16GB (14,912 MiB)": "sm_75",
    "A100 80GB": "sm_80",
    "NVIDIA GeForce RTX 4080 16GB (Windows)": "sm_89",
}


def like_a_plan(row: dict[str, Any]) -> bool:
    """Whether a reading speaks of what a plan can be: FOAK's fused loss over whole logits is in no plan."""
    return not (row["stack"].endswith(("-foak", "-foak-4.45")) and row["setup"]["cross_entropy"] == "standard")


LATER_RUN_BYTES = 1162 * 2**20
"""By so much nvidia-smi read more in the later run of fms (`fms-main`) than in the earlier one at equal allocation."""


def band(groups: str = "") -> list[float]:
    """log(measured / predicted) of what the process readings that speak of a plan hold beside their weights, of groups
    that start so."""
    logs = []
    for row in rows():
        if row["process"] and row["resident"] and row["group"].startswith(groups) and like_a_plan(row):
            beside = LATER_RUN_BYTES if row["group"].startswith("fms-main") else 0
            predicted = planned_reserved(row) + cuda_context_bytes(CAPABILITIES[row["gpu"]])
            logs.append(math.log((row["process"] - beside - row["resident"]) / (predicted - row["resident"])))
    return logs


def band_deviation() -> float:
    """The wider deviation of the two groups: a reading of a third one is not likelier to be near."""
    return max(statistics.pstdev(band(group)) for group in BAND_GROUPS.values())


BAND_GROUPS = {"T4": "fitcheck", "A100": "fms"}


def beyond_margin(groups: str = "") -> tuple[int, int]:
    """(readings above prediction and margin of 95 %, readings)."""
    cuda, logs = OVERHEADS["cuda"], band(groups)
    return sum(one > cuda.bias + Z_CONFIDENCE * cuda.error for one in logs), len(logs)


def trace(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the figures of two traced steps, in bytes; cuBLAS workspaces are not in them."""
    from compiler.trace import trace_step

    stack = next(one for one in STACKS if one.name == row["stack"])
    architecture = models()[row["model"]].architecture
    traced = trace_step(architecture, load_setup(row["setup"]), stack, row["vram"])
    figures = {
        "traced_allocated": traced.allocated_bytes,
        "traced_reserved": traced.reserved_bytes,
        "traced_resident": traced.resident_bytes,
    }
    if traced.beyond_replay_bytes:
        figures["traced_beyond_replay"] = traced.beyond_replay_bytes
    return row | figures


def main() -> None:
    chosen, done = tuple(sys.argv[1:]), []
    for row in rows():
        if not chosen or row["id"].startswith(chosen):
            row = trace(row)
            print(f"{row['id']:48} {row['stack']:26} {row['traced_allocated'] / row['allocated'] - 1:+.2%}", flush=True)
        done.append(json.dumps(row, separators=(",", ":")) + "\n")
    ROWS.write_text("".join(done), encoding="utf-8")


if __name__ == "__main__":
    main()
