"""How fast a plan is made: cold commands, against the start of `accelerate estimate-memory`, and ms for each of many
recipe-target pairs.

    python benchmarks/plan_speed.py [--pairs 1000] [--unseen 200] [--runs 9]

Cold: every command is started `runs` times, in turns, so that all meet the same machine. Pairs: each is a recipe file
that `load_recipe` reads and `plan_recipe` plans, all in one process: every model of the catalogue on every device, the
first N after a fixed shuffle; what a model's plans share is derived once. Unseen: every pair has a model of its own (a
folder that holds a config.json and nothing else) on a card that the recipe describes, so that nothing is shared.
CPU time beside wall time, since only the former says anything on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "recipes" / "intel-arc-expert.yaml"
CARD = (
    "{{name: card, backend: cuda, vram: {vram} GiB, bf16_tflops: {tflops}, bandwidth_gb_s: {bandwidth}, "
    "capability: sm_86}}"
)
CONFIG = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
}


def recipe_text(model: str, target: str) -> str:
    return f"name: speed\nbase_model: {model}\ntargets:\n  here: {target}\n"


def described(vram: int) -> str:
    card = CARD.format(vram=vram, tflops=60 + 3 * vram, bandwidth=400 + 20 * vram)
    return f"{{gpu: {card}, host_ram: 64 GiB}}"


def machine() -> str:
    """Processor, cores, load and Python, in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return f"{name}, {os.cpu_count()} cores, load {load}; Python {platform.python_version()}"


def spread(seconds: Sequence[float], unit: float = 1.0, digits: int = 3) -> str:
    ordered = sorted(unit * one for one in seconds)
    return f"{ordered[0]:8.{digits}f} {statistics.median(ordered):8.{digits}f} {ordered[-1]:8.{digits}f}"


def timed(command: list[str], folder: str) -> tuple[float, float]:
    """(wall, user + system) seconds of one run. Raises SystemExit when it fails."""
    before, begun = os.times(), time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    wall, after = time.perf_counter() - begun, os.times()
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr.decode()}")
    return wall, after.children_user - before.children_user + after.children_system - before.children_system


def commands(folder: Path) -> dict[str, list[str]]:
    """What is started cold; the recipes are written to `folder`."""
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(CONFIG))
    gemma = "google/gemma-2-2b-it"
    recipes = {
        "one target": recipe_text(gemma, "{gpu: rtx-3090-ti, vram_budget: 8 GiB, host_ram: 64 GiB}"),
        "described card": recipe_text(gemma, described(16)),
        "folder with config.json": recipe_text("./model", "{gpu: rtx-4090}"),
    }
    tools = Path(sys.executable).parent
    recipe = str(tools / "recipe")
    found = {"recipe plan: five targets": [recipe, "plan", str(EXAMPLE)]}
    for number, (name, text) in enumerate(recipes.items()):
        (folder / f"{number}.yaml").write_text(text)
        found[f"recipe plan: {name}"] = [recipe, "plan", f"{number}.yaml"]
    found["recipe check"] = [recipe, "check", str(EXAMPLE)]
    found["recipe schema"] = [recipe, "schema"]
    found["recipe explain lora_r"] = [recipe, "explain", "lora_r"]
    found["recipe init --help"] = [recipe, "init", "--help"]
    found["recipe build --help"] = [recipe, "build", "--help"]
    accelerate = shutil.which("accelerate", path=str(tools))
    if accelerate:
        found["accelerate estimate-memory --help"] = [accelerate, "estimate-memory", "--help"]
    return found


def cold(runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        started = commands(Path(folder))
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in started}
        for command in started.values():
            timed(command, folder)  # files into the cache, modules compiled
        for _ in range(runs):
            for name, command in started.items():
                times[name].append(timed(command, folder))
    print(f"{f'cold start, seconds, {runs} runs':36}   wall min   median      max    CPU min   median      max")
    for name, taken in times.items():
        print(f"{name:36}   {spread([one[0] for one in taken])}   {spread([one[1] for one in taken])}")
    *_, other = times
    if other.startswith("accelerate"):
        for name in times:
            if name.startswith("recipe plan"):
                ratios = [b[0] / a[0] for a, b in zip(times[name], times[other], strict=True)]
                print(f"{other} / {name}: least {min(ratios):.1f}, median {statistics.median(ratios):.1f}")


def catalogue_pairs(number: int) -> list[str]:
    from compiler.facts import gpus, models

    everything = [(model, gpu) for model in models() for gpu in gpus()]
    random.Random(0).shuffle(everything)
    return [recipe_text(model, f"{{gpu: {gpu}, host_ram: 64 GiB}}") for model, gpu in everything[:number]]


def unseen_pairs(number: int, folder: Path) -> list[str]:
    """Recipes of which no two share a model."""
    texts = []
    for index in range(number):
        model = folder / f"model-{index}"
        model.mkdir()
        shape = {"num_hidden_layers": 12 + index % 24, "intermediate_size": 4096 + 64 * index}
        (model / "config.json").write_text(json.dumps(CONFIG | shape))
        texts.append(recipe_text(str(model), described(8 + index % 41)))
    return texts


def pairs(name: str, texts: list[str], folder: Path) -> None:
    """Prints wall and CPU time of `load_recipe` and `plan_recipe`, ms a pair."""
    from compiler.check import load_recipe
    from compiler.plan import plan_recipe

    taken, fitting = [], 0
    for index, text in enumerate(texts):
        path = folder / f"{name.split()[0]}-{index}.yaml"
        path.write_text(text)
        wall, cpu = time.perf_counter(), time.process_time()
        fitting += plan_recipe(load_recipe(path))[0].fits
        taken.append((time.perf_counter() - wall, time.process_time() - cpu))
    print(f"{len(texts)} pairs, {name}, {fitting} fit; ms a pair:")
    for what, times in (("wall", [one[0] for one in taken]), ("CPU", [one[1] for one in taken])):
        ordered = sorted(times)
        high = 1000 * ordered[int(0.99 * (len(ordered) - 1))]
        print(
            f"  {what:5} mean {1000 * statistics.fmean(times):6.1f}   min, median, max {spread(times, 1000, 1)}   "
            f"99 % {high:6.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--unseen", type=int, default=200)
    parser.add_argument("--runs", type=int, default=9)
    asked = parser.parse_args()
    print(machine())
    if asked.runs:
        cold(asked.runs)
    with tempfile.TemporaryDirectory() as folder:
        if asked.unseen:
            pairs("unseen models", unseen_pairs(asked.unseen, Path(folder)), Path(folder))
        if asked.pairs:
            pairs("catalogue", catalogue_pairs(asked.pairs), Path(folder))
    print(machine())


if __name__ == "__main__":
    main()
