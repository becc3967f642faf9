"""What reviewing a large dataset feels like: start, memory, first pair, keys, filters, in the real Chromium.

    python benchmarks/review.py [--pairs 10000] [--decisions 5000] [--folder KEPT]

Builds the dataset with the mock server of the tests (a model that reads well; some minutes), serves it with `recipe
review` in a process of its own, and prints JSON. With `--folder` the dataset is kept, and used again. docs/review.md
has the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

from browser import browser  # noqa: E402
from engine import RECIPE, SLOTS, pages  # noqa: E402
from mock_server import mock_server  # noqa: E402

from dataset_builder.review import records  # noqa: E402
from dataset_builder.review.decisions import FILE, text_of  # noqa: E402
from dataset_builder.review.settle import decided  # noqa: E402

COMMAND = [sys.executable, "-m", "compiler.cli"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
KEYS = 40
PAUSE_S = 0.2
"""Between two keys: faster than anybody reads."""
WATCH = """
window.told = [];
let pressed = 0, before = "";
const shown = (id) => document.querySelector(id).textContent;
for (const [event, id] of [["keydown", "#question"], ["input", "#queue"]])
  addEventListener(event, () => { pressed = performance.now(); before = [id, shown(id)]; }, true);
const look = () => {
  if (!pressed || shown(before[0]) === before[1]) return;
  const since = pressed;
  pressed = 0;
  requestAnimationFrame(() => window.told.push(performance.now() - since));
};
const all = {childList: true, characterData: true, subtree: true};
for (const name of ["#question", "#queue"]) new MutationObserver(look).observe(document.querySelector(name), all);
"""


def dataset(folder: Path, count: int) -> Path:
    """The built dataset's folder: `count` unique pairs, four rows each."""
    built = folder / "generated/whole/dataset"
    if (built / "dataset.lock.json").is_file():
        return built
    pages(folder / "docs", count // 10)
    with mock_server(slots=SLOTS, latency_s=0.02, grounded=1) as server:
        recipe = RECIPE.format(api_base=server.api_base, slots=SLOTS)
        asked = f"unique: {count}, total: {4 * count}"
        (folder / "whole.yaml").write_text(recipe.replace("unique: 800, total: 3200", asked))
        subprocess.run([*COMMAND, "data", "whole.yaml"], cwd=folder, env=ENVIRONMENT, stdout=sys.stderr, check=True)
    return built


def decide(built: Path, count: int) -> None:
    """As if `count` pairs had been read; 0: none."""
    some = [one for one in records.read(built) if one.part == "train"][-count:] if count else []
    found = [decided(one.found, "reject" if number % 5 == 0 else "accept") for number, one in enumerate(some)]
    (built / FILE).write_text(text_of({one.key: one for one in found}), encoding="utf-8")


class Page:
    """The review in a browser, with a watch that runs in the page itself."""

    def __init__(self, chromium, link: str, shot: Path | None) -> None:
        self.page = chromium.new_page(viewport={"width": 1440, "height": 900})
        begun = time.perf_counter()
        self.page.goto(link)
        self.page.wait_for_selector("#pair:not([hidden])")
        self.first_s = time.perf_counter() - begun
        self._inside = self.page.context.new_cdp_session(self.page)
        self.evaluate(WATCH)
        if shot:
            self.page.screenshot(path=shot)

    def evaluate(self, script: str):
        asked = {"expression": script, "returnByValue": True, "allowUnsafeEvalBlockedByCSP": True}
        return self._inside.send("Runtime.evaluate", asked)["result"].get("value")

    def milliseconds(self, do, times: int) -> list[float]:
        """From each key to the frame that shows another pair, or another queue."""
        for number in range(times):
            time.sleep(PAUSE_S)
            do(number)
            for _ in range(1000):
                if self.evaluate("window.told.length") > number:
                    break
                time.sleep(0.005)
        told = self.evaluate("window.told")
        self.evaluate("window.told = []")
        return told


def reviewed(chromium, folder: Path, shot: Path | None = None) -> dict:
    """Figures of one review of the dataset as it lies there."""
    begun = time.perf_counter()
    child = subprocess.Popen([*COMMAND, "review", "whole.yaml"], cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE,
                             text=True)  # fmt: skip
    try:
        link = child.stdout.readline().rsplit(" ", 1)[-1].strip()
        ready_s = time.perf_counter() - begun
        page = Page(chromium, link, shot)
        keys = page.milliseconds(lambda number: page.page.keyboard.press("ar"[number % 2]), KEYS)
        walk = page.milliseconds(lambda number: page.page.keyboard.press("j"), KEYS)
        page.page.locator("#text").focus()
        typed = page.milliseconds(lambda number: page.page.keyboard.type("queue_"[number]), 6)
        status = Path(f"/proc/{child.pid}/status").read_text()
        heap = page.evaluate("performance.memory.usedJSHeapSize")
    finally:
        child.terminate()
        child.wait()
    return {
        "ready_s": round(ready_s, 2), "first_pair_s": round(page.first_s, 2),
        "server_mib": int(status.split("VmHWM:")[1].split()[0]) // 1024, "page_heap_mib": round(heap / 2**20, 1),
        **{name: {"median_ms": round(median(found)), "most_ms": round(max(found))}
           for name, found in (("decide", keys), ("walk", walk), ("search", typed))},
    }  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pairs", type=int, default=10_000)
    options.add_argument("--decisions", type=int, default=5_000)
    options.add_argument("--folder", type=Path)
    options.add_argument("--screenshot", type=Path)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary, browser() as chromium:
        folder = given.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        built = dataset(folder, given.pairs)
        figures = {}
        for count in (0, given.decisions):
            decide(built, count)
            figures[f"{count} decisions"] = reviewed(chromium, folder, given.screenshot)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
