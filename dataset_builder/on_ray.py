"""Runs the functions over rows on Ray Data: the cores of a machine, or a cluster (extra `ray`).

Rows travel as bytes, a window at a time, and results come back in the order of the rows, so a build makes the same
bytes as one that runs here. Without `RAY_ADDRESS` a Ray of its own is started for the time of the build, without
dashboard and usage statistics.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import pickle
import queue
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeVar

from dataset_builder.problems import BuildProblem
from dataset_builder.rows import digest

A = TypeVar("A")
B = TypeVar("B")

WINDOW_ROWS, WINDOW_BYTES = 512, 16 << 20
"""Rows that are on their way together, by whichever is reached first."""
SMALL = 32
"""Rows that are not worth a journey: as many or fewer are worked on here, by the same function."""
BLOCKS_A_CORE = 2
"""Blocks that a window is cut into: rows differ in what they take."""
RETRIES = 2
"""Of a block whose worker died."""
STORE_BYTES = 256 << 20
"""Of a Ray of our own, for rows on their way."""


@dataclass
class OnRay:
    """A Runner; the cluster is joined, or started, with the first rows that travel.

    Raises BuildProblem where Ray is not installed, cannot be reached, gives up a task (a worker that dies is tried
    again by Ray first), and for whatever a function raises on a worker: no row is ever left out.
    """

    cores: int | None = None
    """Of a Ray of our own; None: all."""
    small: int = SMALL
    windows: int = 0
    """How many have travelled."""
    _joined: bool = False
    _joining: threading.Lock = field(default_factory=threading.Lock)
    """What the chunks say is found in a thread of its own, beside the checks of the first answers."""

    def __post_init__(self) -> None:
        if importlib.util.find_spec("ray") is None:
            raise BuildProblem("--on ray: Ray is not installed\n  fix: pip install 'finetune-recipes[ray]'")

    def map(self, function: Callable[[A], B], rows: Iterable[A]) -> Iterator[B]:
        """As `Runner.map`."""
        for window in _windows(rows):
            if len(window) <= self.small:
                yield from (function(pickle.loads(row)) for row in window)
            else:
                yield from self._away(function, window)

    def _away(self, function: Callable[[A], B], window: list[bytes]) -> Iterator[B]:
        ray = self._ray()
        try:
            made = _elsewhere(lambda: _made(ray, function, window))
        except ray.exceptions.RayError as wrong:
            raise BuildProblem(
                f"--on ray: {_first_line(wrong)}\n  fix: see what ends the workers (memory?), and run it again"
            ) from wrong
        self.windows += 1
        if set(made) != set(range(len(window))):
            raise BuildProblem(f"--on ray: {len(window) - len(made)} of {len(window)} rows did not come back")
        for at in range(len(window)):
            done, value = pickle.loads(made[at])
            if not done:
                raise BuildProblem(f"--on ray: a row could not be worked on: {value}")
            yield value

    def _ray(self):
        """Ray, joined and quiet."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray
        import ray.data

        # max_retries has no parameter of its own in Ray 2.60
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        with self._joining:
            if self._joined:
                return ray
            address = os.environ.get("RAY_ADDRESS")
            own = {"num_cpus": self.cores, "object_store_memory": STORE_BYTES, "include_dashboard": False}
            try:
                ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False,
                         **({} if address else own))  # fmt: skip
            except (ConnectionError, OSError, RuntimeError, ValueError) as wrong:
                raise BuildProblem(
                    f"--on ray: no Ray at {address or 'this machine'}: {_first_line(wrong)}\n"
                    "  fix: check RAY_ADDRESS, or unset it to use the cores of this machine"
                ) from wrong
            self._joined = True
            return ray

    def close(self) -> None:
        """Leaves the cluster; ends a Ray of our own."""
        if self._joined:
            import ray

            ray.shutdown()
            self._joined = False

    def __enter__(self) -> OnRay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _made(ray, function: Callable, window: list[bytes]) -> dict[int, bytes]:
    """What the workers made of each row, by its place."""
    import pyarrow

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails is raised
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    table = pyarrow.table({"at": range(len(window)), "row": pyarrow.array(window, pyarrow.large_binary())})
    size = -(-len(window) // (BLOCKS_A_CORE * max(1, int(ray.cluster_resources().get("CPU", 1)))))
    blocks = [table.slice(start, size) for start in range(0, len(window), size)]
    work = _Work(pickle.dumps(function), builder_digest())
    out = ray.data.from_arrow(blocks).map_batches(work, batch_size=None, batch_format="pyarrow", max_retries=RETRIES)
    return {row["at"]: row["made"] for row in out.iter_rows()}


def _elsewhere(work: Callable[[], B]) -> B:
    """Runs `work` in a thread: a Ctrl-C then meets this code, which can end, and never Ray's own, which may hang."""
    done: queue.SimpleQueue[tuple[B | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((work(), None))
        except BaseException as wrong:
            done.put((None, wrong))

    threading.Thread(target=run, name="ray", daemon=True).start()
    value, wrong = done.get()
    if wrong is not None:
        raise wrong
    return value


@dataclass(frozen=True)
class _Work:
    """What a worker does with a block of rows."""

    function: bytes
    """Pickled."""
    digest: str
    """Of the builder that sent the rows: one of another version would give other rows."""

    def __call__(self, block):
        import pyarrow

        made = [pickle.dumps(self._made(row), pickle.HIGHEST_PROTOCOL) for row in block["row"].to_pylist()]
        return pyarrow.table({"at": block["at"], "made": pyarrow.array(made, pyarrow.large_binary())})

    def _made(self, row: bytes) -> tuple[bool, object]:
        if builder_digest() != self.digest:
            return False, "its finetune-recipes is of another version; install the same one on every machine"
        try:
            return True, pickle.loads(self.function)(pickle.loads(row))
        except Exception:
            return False, traceback.format_exc().strip()


@cache
def builder_digest() -> str:
    """Of the code of the dataset builder on this machine."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return digest(*(file.read_text("utf-8") for file in files))


def _windows(rows: Iterable[A]) -> Iterator[list[bytes]]:
    window: list[bytes] = []
    size = 0
    for row in rows:
        window.append(pickle.dumps(row, pickle.HIGHEST_PROTOCOL))
        size += len(window[-1])
        if len(window) >= WINDOW_ROWS or size >= WINDOW_BYTES:
            yield window
            window, size = [], 0
    if window:
        yield window


def _first_line(wrong: Exception) -> str:
    return (str(wrong).strip().splitlines() or [type(wrong).__name__])[0]
