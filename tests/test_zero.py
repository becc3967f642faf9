"""DeepSpeed's ZeRO: the planner's closed forms against two real processes, part by part."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from gloo_ranks import outputs
from zero_processes import FULL, LORA, SETUPS, architecture, config_of

from compiler.memory import live_bytes
from compiler.memory.shards import shard
from compiler.memory.static import static_state
from compiler.memory.zero import MAX_BUCKET_ELEMENTS, bucket_elements


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    """Of every setup what rank 0 and rank 1 hold."""
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    ranks = outputs("zero_processes.py", tmp_path_factory.mktemp("zero") / "store", timeout_s=580)
    found: dict[str, list[dict]] = {}
    for output in ranks:
        for text in output.splitlines():
            if text.startswith('{"name"'):
                one = json.loads(text)
                found.setdefault(one["name"], []).append(one)
    return found


@pytest.mark.e2e
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SETUPS)
def test_two_real_processes_hold_what_the_plan_says(told: dict[str, list[dict]], name: str) -> None:
    """Every part within 0.3 %, and the peak within 2 %: what the plan leaves out is the tensor that two shares split,
    whose gradient both hold whole."""
    setup = SETUPS[name]
    planned = shard(architecture(), setup, static_state(architecture(), setup))
    away = setup.offload != "none"
    for one in told[name]:
        parts = one["parts"]
        weights = planned.weights + planned.adapters + planned.host_weights / 2
        assert parts["weights"] == pytest.approx(weights, rel=0.003)
        assert parts["states"] * (not away) == pytest.approx(planned.states, rel=0.003)
        buffers = parts["buckets"] + parts["share"] * (not away) + parts["returning"]
        assert buffers == pytest.approx(planned.buffers, rel=0.003)
        assert _host(parts, away) == pytest.approx(planned.host_states / 2, rel=0.01)
    phases = ("forward", "backward") if away else ("forward", "backward", "optimizer")  # on the host otherwise
    peaks = [max(one["peaks"][phase] for phase in phases) - _host(one["parts"], away) for one in told[name]]
    moved = planned.host_weights / 2
    assert live_bytes(architecture(), setup, True) == pytest.approx(max(peaks) - moved, rel=0.02)


def _host(parts: dict[str, int], away: bool) -> int:
    return (parts["states"] + parts["fp32_gradients"] + parts["share"]) * away + parts["host"]


def test_the_page_shows_the_forms_of_today() -> None:
    """The processes' column of docs/accuracy.md is of one run of the test above; the forms' column is the forms'."""
    page = (Path(__file__).parent.parent / "benchmarks" / "accuracy_zero.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if re.match(r"\| (?:full|LoRA),", line)]
    planned = [live_bytes(architecture(), setup, True) for setup in SETUPS.values()]
    assert [int(row[2].replace(",", "")) for row in rows] == planned
    for _, measured, form, error in rows:
        true, shown = (int(text.replace(",", "")) for text in (measured, form))
        assert f"{shown / true - 1:+.2%}" == error


def test_buckets_are_no_larger_than_what_they_reduce() -> None:
    """DeepSpeed allocates them whole: three of its default ones would take 3 GB for an adapter of 10 million."""
    small = static_state(architecture(), LORA).trainable_parameters
    assert config_of(LORA)["zero_optimization"]["reduce_bucket_size"] == small
    assert bucket_elements(7) == 8, "an odd allgather bucket is refused"
    assert bucket_elements(10**9) == MAX_BUCKET_ELEMENTS


def test_zero_3_gathers_a_layer_at_a_time() -> None:
    zero = config_of(replace(FULL, zero_stage=3))["zero_optimization"]
    counts = architecture().parameters
    assert zero["stage3_max_reuse_distance"] < counts.linear
    assert counts.embedding < zero["stage3_max_live_parameters"] < counts.total
