"""How fast a plan is made: the cold command, against the start of `accelerate estimate-memory`, and ms for each of
many pairs.

    python benchmarks/plan_speed.py [--pairs 1000] [--runs 7]

Cold start: the least wall time of several runs, alternating with the other command, so that both meet the same machine.
Pairs: every model of the catalogue on every device, the first N after a fixed shuffle, planned in one process; the
first pass pays for what models share, so both the mean and the slowest are given. CPU time beside wall time, since only
the former says anything on a busy machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = """name: cold
base_model: google/gemma-2-2b-it
targets:
  dev: {gpu: rtx-3090-ti, vram_budget: 8 GiB, host_ram: 64 GiB}
"""


def wall_seconds(command: list[str], folder: str) -> tuple[float, float]:
    """(wall, user + system) seconds of one run. The exit status is not looked at: `--help` and a plan both end with
    0."""
    before = os.times()
    begun = time.perf_counter()
    subprocess.run(command, cwd=folder, capture_output=True, check=False)
    wall, after = time.perf_counter() - begun, os.times()
    return wall, after.children_user - before.children_user + after.children_system - before.children_system


def cold(runs: int) -> None:
    tools = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "cold.yaml").write_text(RECIPE)
        plan = [str(tools / "recipe"), "plan", "cold.yaml"]
        accelerate = shutil.which("accelerate", path=str(tools))
        commands = {"recipe plan": plan}
        if accelerate:
            commands["accelerate estimate-memory --help"] = [accelerate, "estimate-memory", "--help"]
        times = {name: [] for name in commands}
        for _ in range(runs):
            for name, command in commands.items():
                times[name].append(wall_seconds(command, folder))
    for name, taken in times.items():
        wall, cpu = min(one[0] for one in taken), min(one[1] for one in taken)
        print(f"{name:36} {wall:7.3f} s wall, {cpu:7.3f} s CPU (least of {runs})")
    if accelerate:
        ratio = min(one[0] for one in times["accelerate estimate-memory --help"]) / min(
            t[0] for t in times["recipe plan"]
        )
        print(f"{'ratio of wall times':36} {ratio:7.1f}")


def pairs(number: int) -> None:
    from compiler.case import resolve
    from compiler.facts import gpus, models
    from compiler.plan import plan
    from compiler.recipe import Recipe

    everything = [(model, gpu) for model in models() for gpu in gpus()]
    random.Random(0).shuffle(everything)
    cpu_ms, wall_ms, fitting = [], [], 0
    for model, gpu in everything[:number]:
        target = {"gpu": gpu, "host_ram": "64 GiB"}
        recipe = Recipe.model_validate({"name": "pair", "base_model": model, "targets": {"here": target}})
        case = resolve(recipe, "here")
        wall, cpu = time.perf_counter(), time.process_time()
        fitting += plan(case).fits
        cpu_ms.append(1000 * (time.process_time() - cpu))
        wall_ms.append(1000 * (time.perf_counter() - wall))
    print(f"{len(cpu_ms)} pairs, {fitting} fit; ms a plan:")
    for name, taken in (("CPU time", cpu_ms), ("wall time", wall_ms)):
        ordered = sorted(taken)
        print(
            f"{name:10} mean {statistics.fmean(taken):6.1f}  median {statistics.median(taken):6.1f}  "
            f"99 % {ordered[int(0.99 * (len(ordered) - 1))]:6.1f}  slowest {ordered[-1]:6.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=7)
    asked = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    cold(asked.runs)
    pairs(asked.pairs)


if __name__ == "__main__":
    main()
