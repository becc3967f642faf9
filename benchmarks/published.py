"""Trace the published rows again, each with its stack; what the tracer says goes into tests/data/memory_rows.jsonl.

python benchmarks/published.py                all rows (about 10 s each); run benchmarks/accuracy.py afterwards
python benchmarks/published.py fms-main       only rows whose group or id begins so
"""

from __future__ import annotations

import json
import sys
from typing import Any

from accuracy import ROWS, load_setup, rows

from compiler.facts import models
from compiler.stacks import STACKS


def trace(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the figures of two traced steps, in bytes; cuBLAS workspaces are not in them."""
    from compiler.trace import trace_step

    stack = next(one for one in STACKS if one.name == row["stack"])
    architecture = models()[row["model"]].architecture
    traced = trace_step(architecture, load_setup(row["setup"]), stack, row["vram"])
    return row | {
        "traced_allocated": traced.allocated_bytes,
        "traced_reserved": traced.reserved_bytes,
        "traced_resident": traced.resident_bytes,
    }


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
