"""What the engine costs: span against the best possible schedule, own CPU per request, faults, SIGKILL, memory.

    python benchmarks/engine.py [span | cpu | faults | kill | memory | whole ...]      (all of them; about ten minutes)

Each part starts a mock server and a client in processes of their own and prints one line of JSON. Figures of a machine
with idle cores only are worth writing down: docs/engine.md has them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

from engine_client import parse, requests  # noqa: E402
from mock_server import MockServer, mock_server  # noqa: E402

from dataset_builder.engine import Engine, Outcome, Reply, Request  # noqa: E402
from dataset_builder.ledger import Ledger  # noqa: E402
from dataset_builder.spec import Generator  # noqa: E402

REQUESTS, SLOTS, LATENCY_S = 2000, 64, 1.0
CLIENT = str(ROOT / "benchmarks" / "engine_client.py")


def run_client(
    server: MockServer,
    ledger: Path,
    count: int = REQUESTS,
    bare: bool = False,
) -> tuple[dict, float, float]:
    """Its figures, when it was started and when it ended (seconds of the clock)."""
    begun = time.time()
    command = [sys.executable, CLIENT, server.api_base, str(ledger), str(count), str(SLOTS), str(int(bare))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]), begun, time.time()


def span(folder: Path, fault_rate: float = 0.0) -> dict:
    with mock_server(slots=SLOTS, latency_s=LATENCY_S, fault_rate=fault_rate) as server:
        figures, begun, ended = run_client(server, folder / "ledger.sqlite")
        seen = server.stats()
    return {**figures, **_spans(seen, begun, ended)}


def _spans(seen: dict, begun: float, ended: float) -> dict:
    return {
        "calls": seen["calls"],
        "bought_twice": seen["bought_twice"],
        "faults": seen["faults"],
        "start_s": round(seen["begun_at"] - begun, 2),
        "end_s": round(ended - seen["ended_at"], 2),
        "span_s": round(seen["span_s"], 2),
        "best_span_s": round(seen["best_span_s"], 2),
        "span_share": round(seen["best_span_s"] / seen["span_s"], 4),
        "share_with_start": round(seen["best_span_s"] / (ended - begun), 4),
    }


def faults(folder: Path) -> dict:
    return span(folder, fault_rate=0.05)


def cpu(folder: Path) -> dict:
    """No latency, so both clients are bound by their CPU; three runs each, the least counts."""
    figures = {}
    with mock_server(slots=SLOTS) as server:
        for bare in (True, False):
            runs = [run_client(server, folder / f"{bare}{run}.sqlite", 1000, bare)[0] for run in range(3)]
            figures["litellm" if bare else "engine"] = min(run["cpu_ms_per_request"] for run in runs)
    return {**figures, "own": round(figures["engine"] - figures["litellm"], 3), "unit": "ms of CPU per request"}


def kill(folder: Path) -> dict:
    """SIGKILL when half is answered, then the same command again."""
    ledger = folder / "ledger.sqlite"
    with mock_server(slots=SLOTS, latency_s=LATENCY_S) as server:
        command = [sys.executable, CLIENT, server.api_base, str(ledger), str(REQUESTS), str(SLOTS), "0"]
        first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while server.stats()["ok"] < REQUESTS / 2:
            time.sleep(0.1)
        first.send_signal(signal.SIGKILL)
        first.wait()
        answered = server.stats()["ok"]
        figures, _, _ = run_client(server, ledger)
        seen = server.stats()
    return {
        "answered_at_kill": answered,
        "done": figures["done"],
        "calls": seen["calls"],
        "bought_twice": seen["bought_twice"],
    }


def whole(folder: Path, fault_rate: float = 0.0) -> dict:
    """`recipe data` from end to end: a model that reads well, 300 pages, 800 pairs and their views."""
    pages(folder / "docs", 300)
    options = {"slots": SLOTS, "latency_s": LATENCY_S, "grounded": 1, "fault_rate": fault_rate}
    with mock_server(**options) as server:
        (folder / "whole.yaml").write_text(RECIPE.format(api_base=server.api_base, slots=SLOTS))
        begun = time.time()
        command = [sys.executable, "-m", "compiler.cli", "data", "whole.yaml"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        ended, seen = time.time(), server.stats()
    lock = json.loads((folder / "generated/whole/dataset/dataset.lock.json").read_text())
    short = [line for line in done.stdout.splitlines() if line.startswith("Short")]
    return {"counts": lock["counts"], "short": short, **_spans(seen, begun, ended)}


def whole_faults(folder: Path) -> dict:
    return whole(folder, fault_rate=0.05)


RECIPE = """
name: whole
base_model: embedded/smollm2-135m-instruct
targets: {{cpu: {{gpu: cpu, ram_budget: 8 GiB}}}}
dataset:
  sources: [{{kind: files, path: docs}}]
  pairs: {{unique: 800, total: 3200}}
  generator: {{model: openai/mock, api_base: "{api_base}", max_concurrency: {slots}}}
"""
_NOUNS = (
    "queue",
    "cache",
    "worker",
    "socket",
    "buffer",
    "token",
    "packet",
    "ledger",
    "shard",
    "mirror",
    "valve",
    "sensor",
    "driver",
    "kernel",
    "parser",
)
_VERBS = ["drops", "delays", "copies", "counts", "checks", "mirrors", "splits", "merges", "signs", "limits"]


def pages(folder: Path, count: int) -> None:
    """Pages of made-up documentation whose sentences all say something else."""
    chance = random.Random(0)
    folder.mkdir()
    for page in range(count):
        lines = [f"# Unit {page}", ""]
        for _ in range(20):
            one, two, three = chance.sample(_NOUNS, 3)
            number, name = chance.randrange(10, 9999), f"{one}_{two}_{chance.randrange(16**4):04x}"
            lines += [
                f"The option `{name}` {chance.choice(_VERBS)} every {one} of the {two} after {number} seconds, "
                f"so that the {three} of unit {page} stays {chance.choice(['open', 'closed', 'small'])}.",
                "",
            ]
        (folder / f"unit-{page:03}.md").write_text("\n".join(lines))


def memory(folder: Path, count: int = 1_000_000) -> dict:
    """A million requests through the whole engine, with a model that answers at once in this process."""
    with Ledger(folder / "ledger.sqlite") as ledger:
        generator = Generator(model="openai/mock", api_base="http://127.0.0.1:9", max_concurrency=SLOTS)
        with Engine(generator, ledger) as engine:
            engine.caller().endpoint.ask = _at_once
            peaks, begun = {}, time.monotonic()
            for number, outcome in enumerate(engine.run(requests(count, generator.model), parse), 1):
                assert isinstance(outcome, Outcome) and not outcome.problem
                if number in (1000, count // 10, count):
                    peaks[f"peak_mib_at_{number}"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            return {**peaks, "requests_per_s": round(count / (time.monotonic() - begun))}


async def _at_once(request: Request) -> tuple[Reply, dict]:
    text = '{"pairs": [{"question": "What?", "answer": "That.", "quote": "The option is read once"}]}'
    return replace(Reply(request.key, text, "stop", 600, 20, None, 0.0, request.model), max_tokens=1024), {}


PARTS = {part.__name__: part for part in (span, cpu, faults, kill, memory, whole, whole_faults)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("part", nargs="*", help="of: " + " ".join(PARTS))
    chosen = options.parse_args()
    for name in chosen.part or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps({"part": name, **PARTS[name](Path(folder))}), flush=True)


if __name__ == "__main__":
    main()
