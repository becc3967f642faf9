"""The CPU plugin: what it sets, what it leaves alone, and what it records."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch and Axolotl deprecate things of their own at import
    import torch

    from compiler import axolotl_plugin
    from compiler.axolotl_plugin import RUN_FILE, THREADS_VARIABLE, CpuPlugin, LabelSmoothingPlugin, RunRecorder

SINGLE = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher's variables, and this process's own come back afterwards."""
    for name in (
        *SINGLE,
        "ACCELERATE_USE_CPU",
        "DS_ACCELERATOR",
        "AXOLOTL_DO_NOT_TRACK",
        "LOCAL_WORLD_SIZE",
        THREADS_VARIABLE,
    ):
        monkeypatch.setenv(name, "x")  # so that what the plugin sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_it_trains_on_the_cpu_and_sends_nothing() -> None:
    CpuPlugin().register({})
    assert os.environ["ACCELERATE_USE_CPU"] == "true"
    assert os.environ["AXOLOTL_DO_NOT_TRACK"] == "1"
    assert CpuPlugin().get_training_args(SimpleNamespace()) == {"use_cpu": True}
    assert not [name for name in SINGLE if name in os.environ], "only DeepSpeed needs a process group"


def test_deepspeed_gets_gloo_and_a_single_process(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    comm = SimpleNamespace(init_distributed=lambda *args, **kwargs: asked.append((args, kwargs)))
    monkeypatch.setitem(__import__("sys").modules, "deepspeed", SimpleNamespace(comm=comm))
    monkeypatch.setitem(__import__("sys").modules, "deepspeed.comm", comm)
    CpuPlugin().register({"deepspeed": {"zero_optimization": {"stage": 2}}})
    CpuPlugin().register({"deepspeed": {"zero_optimization": {"stage": 2}}})  # once is enough
    comm.init_distributed(dist_backend="nccl", auto_mpi_discovery=False)
    comm.init_distributed("nccl")
    assert asked == [((), {"dist_backend": "gloo", "auto_mpi_discovery": False}), (("gloo",), {})]
    assert os.environ["DS_ACCELERATOR"] == "cpu"
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"], os.environ["LOCAL_RANK"]) == ("0", "1", "0")


def test_what_a_launcher_said_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    comm = SimpleNamespace(init_distributed=lambda *args, **kwargs: None)
    monkeypatch.setitem(__import__("sys").modules, "deepspeed", SimpleNamespace(comm=comm))
    monkeypatch.setitem(__import__("sys").modules, "deepspeed.comm", comm)
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_PORT", "12345")):
        monkeypatch.setenv(name, value)
    CpuPlugin().register({"deepspeed": {}, "x": 1})
    CpuPlugin().register({"deepspeed": {"a": 1}})
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"], os.environ["MASTER_PORT"]) == ("1", "2", "12345")


@pytest.mark.parametrize(
    ("omp", "stated", "local", "wanted"),
    [("1", None, "1", 8), ("1", None, "2", 4), ("4", None, "1", 3), ("1", "5", "1", 5), (None, None, "1", 3)],
)
def test_threads(monkeypatch: pytest.MonkeyPatch, omp: str | None, stated: str | None, local: str, wanted: int) -> None:
    """A launcher's OMP_NUM_THREADS=1 is undone, a number somebody chose is not."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    for name, value in (("OMP_NUM_THREADS", omp), (THREADS_VARIABLE, stated)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    torch.set_num_threads(3)
    axolotl_plugin.use_all_cores()
    assert torch.get_num_threads() == wanted


def test_the_model_is_not_mapped_to_a_device() -> None:
    cfg = SimpleNamespace(device_map={"": 1})
    assert CpuPlugin().load_datasets(cfg) is None
    assert cfg.device_map is None


def test_a_run_is_recorded_without_its_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10.0, 20.0, 22.0, 30.0, 32.0])  # first step 10 s, then 2 s each; evaluation between is not counted
    monkeypatch.setattr(axolotl_plugin.time, "perf_counter", lambda: next(now))
    recorder = RunRecorder(tmp_path / "out")
    state = SimpleNamespace(is_world_process_zero=True, tokens={"total": 0, "trainable": 0})
    arguments = SimpleNamespace(world_size=1)
    recorder.on_train_begin(arguments, state, None)
    for _ in range(3):
        recorder.on_step_begin(arguments, state, None)
        state.tokens = {"total": state.tokens["total"] + 100, "trainable": state.tokens["trainable"] + 40}
        recorder.on_step_end(arguments, state, None)
    recorder.on_train_end(arguments, state, None)
    record = json.loads((tmp_path / "out" / RUN_FILE).read_text(encoding="utf-8"))
    assert (record["steps"], record["timed_steps"], record["seconds_per_step"]) == (3, 2, 2.0)
    assert (record["tokens_per_second"], record["trainable_tokens_per_second"]) == (50.0, 20.0)
    assert record["tokens_total"] == 300
    assert record["peak_train_bytes"] > 10_000_000
    assert [path.name for path in (tmp_path / "out").iterdir()] == [RUN_FILE]


def test_other_processes_and_a_run_of_one_step_record_no_rate(tmp_path: Path) -> None:
    recorder = RunRecorder(tmp_path)
    state = SimpleNamespace(is_world_process_zero=False)
    recorder.on_train_end(SimpleNamespace(world_size=2), state, None)
    assert not list(tmp_path.iterdir())
    state.is_world_process_zero = True
    recorder.on_train_end(SimpleNamespace(world_size=1), state, None)
    assert json.loads((tmp_path / RUN_FILE).read_text())["tokens_per_second"] is None


def test_label_smoothing_reaches_transformers_and_survives_validation() -> None:
    assert LabelSmoothingPlugin().get_training_args(SimpleNamespace(label_smoothing_factor=0.1)) == {
        "label_smoothing_factor": 0.1
    }
    path = LabelSmoothingPlugin().get_input_args()
    module, _, name = path.rpartition(".")
    assert getattr(__import__(module, fromlist=[name]), name)(label_smoothing_factor=0.2).label_smoothing_factor == 0.2
