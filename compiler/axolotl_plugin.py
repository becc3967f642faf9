"""The Axolotl plugin that makes training on a CPU work; emitted for cpu targets only.

Axolotl 0.19 has no key for any of it (docs/axolotl-rules.md, rules 14, 19 and 25): transformers refuses bf16 on a CPU
unless
`use_cpu` is set in its TrainingArguments, and Axolotl asks DeepSpeed for an nccl process group by name.

It also writes what the run really took, `recipe-run.json` beside the adapter, so that `recipe calibrate` can learn from
it.
Runs inside Axolotl: importing this module imports Axolotl.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from axolotl.integrations.base import BasePlugin
from pydantic import BaseModel
from transformers import TrainerCallback

RUN_FILE = "recipe-run.json"
"""Written into Axolotl's `output_dir` when training ends."""


class CpuPlugin(BasePlugin):
    """Sets `use_cpu`, moves DeepSpeed to gloo, and records peak memory and tokens per second."""

    def register(self, cfg: dict) -> None:
        """Runs before Axolotl validates the config and before any process group exists.

        `setdefault` throughout: a launcher (torchrun, accelerate with several processes) has already said who is who.
        """
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
        os.environ.setdefault("AXOLOTL_DO_NOT_TRACK", "1")
        use_all_cores()
        if cfg.get("deepspeed"):
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
            for name, value in _SINGLE_PROCESS.items():
                os.environ.setdefault(name, value)
            _use_gloo_for_deepspeed()

    def load_datasets(self, cfg: Any, preprocess: bool = False) -> None:
        """The first hook after Axolotl has settled `device_map`; the datasets themselves are left to Axolotl (None).

        With several processes Axolotl maps the model to device number LOCAL_RANK, which transformers takes for an
        accelerator ("Cannot access accelerator device when none is available").
        """
        cfg.device_map = None

    def get_training_args(self, cfg: Any) -> dict[str, Any]:
        return {"use_cpu": True}

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[TrainerCallback]:
        return [RunRecorder(Path(cfg.output_dir))]


_SINGLE_PROCESS = {
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
    "RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_RANK": "0",
}


THREADS_VARIABLE = "RECIPE_CPU_THREADS"
"""Number of threads of one process; unset: every core, shared among the processes of this machine."""


def use_all_cores() -> None:
    """`accelerate launch` and torchrun export OMP_NUM_THREADS=1 when nobody set it: a CPU run would use one core."""
    import torch

    stated = os.environ.get(THREADS_VARIABLE)
    if stated:
        torch.set_num_threads(max(1, int(stated)))
    elif os.environ.get("OMP_NUM_THREADS") == "1":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _use_gloo_for_deepspeed() -> None:
    """Axolotl calls `deepspeed.comm.init_distributed(dist_backend="nccl")` (axolotl/utils/trainer.py, 0.19); a CPU has
    gloo."""
    import deepspeed.comm

    original = deepspeed.comm.init_distributed
    if getattr(original, "is_gloo", False):
        return

    def init_distributed(*args: Any, **kwargs: Any) -> None:
        if args:
            args = ("gloo", *args[1:])
        else:
            kwargs["dist_backend"] = "gloo"
        original(*args, **kwargs)

    init_distributed.is_gloo = True
    deepspeed.comm.init_distributed = init_distributed


class RunRecorder(TrainerCallback):
    """Measures one run: peak resident memory while loading and while training, time inside optimizer steps, tokens.

    The first step is left out of the times: it warms caches and thread pools. Evaluation and saving happen between
    `on_step_end` and the next `on_step_begin` and are therefore not counted.
    """

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir
        self.peak_load_bytes: int | None = None
        self.step_seconds: list[float] = []
        self.began = 0.0
        self.tokens_before = (0, 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.peak_load_bytes = peak_resident_bytes()
        reset_peak_resident()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()
        if len(self.step_seconds) == 1:
            self.tokens_before = _tokens(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step_seconds.append(time.perf_counter() - self.began)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        timed = self.step_seconds[1:]
        seconds = sum(timed)
        total, trainable = _tokens(state)
        record = {
            "schema": 1,
            "device": "cpu",
            "processes": args.world_size,
            "threads": _threads(),
            "versions": _versions(),
            "steps": len(self.step_seconds),
            "timed_steps": len(timed),
            "seconds_per_step": seconds / len(timed) if timed else None,
            "tokens_per_second": (total - self.tokens_before[0]) / seconds if timed else None,
            "trainable_tokens_per_second": (trainable - self.tokens_before[1]) / seconds if timed else None,
            "tokens_total": total,
            "tokens_trainable": trainable,
            "peak_load_bytes": self.peak_load_bytes,
            "peak_train_bytes": peak_resident_bytes(),
        }
        write_record(self.output_dir / RUN_FILE, record)


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Whole file or none, as everything this project writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "w", encoding="utf-8") as file:
        file.write(json.dumps(record, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def peak_resident_bytes() -> int | None:
    """High-water mark of this process's resident memory since the last reset; None where the kernel does not say."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def reset_peak_resident() -> None:
    """Writing 5 to clear_refs resets VmHWM (Linux, proc(5)); where that is not allowed the peak includes loading."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _tokens(state: Any) -> tuple[int, int]:
    """(all, trainable) token slots so far: Axolotl's own counters, all processes together, padding included in the
    first."""
    tokens = getattr(state, "tokens", None)
    if not tokens:
        return 0, 0
    return int(tokens["total"]), int(tokens["trainable"])


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("axolotl", "torch", "transformers", "peft")}


class LabelSmoothingPlugin(BasePlugin):
    """Hands `label_smoothing_factor` to transformers' TrainingArguments, for which Axolotl 0.19 has no key."""

    def get_input_args(self) -> str:
        return "compiler.axolotl_plugin.LabelSmoothingArgs"

    def get_training_args(self, cfg: Any) -> dict[str, Any]:
        return {"label_smoothing_factor": cfg.label_smoothing_factor}


class LabelSmoothingArgs(BaseModel):
    """What the plugin adds to Axolotl's schema."""

    label_smoothing_factor: float = 0.0
