"""FSDP2: the planner's closed forms against torch's own `fully_shard`, traced; keys; when it is chosen."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
from gloo_ranks import outputs
from planner_cases import CPU, DEV, GEMMA, LLAMA_1B, LLAMA_8B, PHI, QWEN, SMALL, case

from compiler.choose import why_not
from compiler.families import FAMILIES
from compiler.memory import live_bytes, predict_memory
from compiler.memory.fsdp import groups
from compiler.plan import plan
from compiler.values import Setup

TWO = {**DEV, "count": 2, "vram_budget": "12 GiB"}
SETUP = Setup(
    method="lora", micro_batch=1, gradient_accumulation=1, sequence_len=512, gradient_checkpointing="on",
    optimizer="adamw_torch_fused", attention="sdpa", cross_entropy="liger", sample_packing=False, precision="bf16",
    weights_dtype="bf16", lora_r=64, lora_alpha=128, devices=2, fsdp="full_shard",
)  # fmt: skip
FULL = replace(SETUP, method="full", lora_r=None, lora_alpha=None)
TRACED = {
    "lora": (LLAMA_1B, SETUP),
    "lora, no checkpointing, three ranks": (SMALL, replace(SETUP, gradient_checkpointing="off", devices=3)),
    "lora, fused kernels": (SMALL, replace(SETUP, lora_kernels=True, sequence_len=2048)),
    "4-bit, standard loss": (GEMMA, replace(SETUP, method="qlora-4bit", cross_entropy="standard",
                                            attention="flash_attention_2")),
    "full, tied": (QWEN, FULL),
    "full, untied": (LLAMA_8B, replace(FULL, devices=4)),
    "full, accumulating, standard loss": (SMALL, replace(FULL, gradient_accumulation=2, cross_entropy="standard")),
    "full, shard_grad_op": (SMALL, replace(FULL, fsdp="shard_grad_op")),
}  # fmt: skip


@pytest.mark.e2e
@pytest.mark.parametrize("name", TRACED)
def test_the_plan_is_what_torch_does(name: str) -> None:
    """Three layers keep it short; the gathers of root and layers are the same."""
    pytest.importorskip("torch")
    from compiler.trace.step import trace_step

    model, setup = TRACED[name]
    architecture = replace(case(model).model.architecture, num_layers=3, windowed_layers=0)
    traced = trace_step(architecture, setup, steady=True)
    found = groups(architecture, setup)
    shards = 3 * found.layer_shard + found.root_shard + found.replicated
    adapters = 4 * found.adapter_shard
    assert traced.resident_bytes == pytest.approx(shards + adapters, rel=1e-3)
    assert live_bytes(architecture, setup) == pytest.approx(traced.total_bytes, rel=0.02)


@pytest.mark.e2e
@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_real_processes_hold_what_the_trace_and_the_plan_say(method: str, tmp_path: Path) -> None:
    """gloo, real tensors, every storage followed: rank 0 to the byte, the plan within 2 %."""
    pytest.importorskip("torch")
    from sharded_processes import architecture, setup_of

    from compiler.trace.step import trace_step

    ranks = outputs("sharded_processes.py", tmp_path / "store", method, timeout_s=280)
    told = [json.loads(output.splitlines()[-1]) for output in ranks]
    traced = trace_step(architecture(), setup_of(method), on_cpu=True)
    assert told[0] == {"resident": traced.resident_bytes, "peak": traced.total_bytes}
    assert told[1]["peak"] <= told[0]["peak"], "rank 0 has the larger part of uneven rows"
    assert live_bytes(architecture(), setup_of(method), True) == pytest.approx(told[0]["peak"], rel=0.02)


def test_shards_of_uneven_rows_are_padded() -> None:
    """Three ranks: 64 rows of a factor become 22 on rank 0, as torch.chunk cuts them."""
    architecture = case(SMALL).model.architecture
    chosen = architecture.lora_linears("all-linear")
    rows = sum(22 * one.in_features + -(-one.out_features // 3) * 64 for one in chosen)
    assert groups(architecture, replace(SETUP, devices=3)).adapter_shard == architecture.num_layers * rows


def test_more_ranks_keep_less() -> None:
    machine = case(LLAMA_8B, TWO).machine
    sizes = [
        predict_memory(case(LLAMA_8B).model.architecture, replace(SETUP, devices=count), machine).total_bytes
        for count in (2, 4, 8)
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_layer_classes_are_those_of_transformers() -> None:
    """Read, not imported: fourteen model files take a while to import."""
    transformers = importlib.util.find_spec("transformers")
    if transformers is None or transformers.origin is None:
        pytest.skip("transformers is not installed")
    models = Path(transformers.origin).parent / "models"
    for model_type, family in FAMILIES.items():
        package = {"gemma3_text": "gemma3"}.get(model_type, model_type)
        text = (models / package / f"modeling_{package}.py").read_text(encoding="utf-8")
        assert f"\nclass {family.layer_class}(" in text, model_type


def test_fsdp_is_chosen_where_one_card_cannot_hold_the_weights() -> None:
    found = plan(case(PHI, {"gpu": "rtx-3070", "count": 2}, method="lora"))
    assert found.fits and found.setup.fsdp == "full_shard"
    assert found.setup.zero_stage == 0


def test_fsdp_is_not_chosen_where_plain_data_parallel_fits() -> None:
    found = plan(case(GEMMA, {**DEV, "count": 2}))
    assert found.setup.fsdp == "none"
    assert any(one.field == "fsdp" and one.setup.fsdp == "full_shard" for one in found.alternatives)
    assert "full_shard" in why_not(case(GEMMA, {**DEV, "count": 2}), "fsdp", "full_shard")


@pytest.mark.parametrize(
    "pinned",
    [
        {"zero_stage": 2}, {"optimizer": "paged_adamw_8bit"}, {"method": "lora-8bit"}, {"train_embeddings": True},
        {"offload": "optimizer"},
    ],
)  # fmt: skip
def test_what_fsdp_cannot_be_combined_with_never_fits(pinned: dict[str, object]) -> None:
    found = plan(case(SMALL, TWO, fsdp="full_shard", **pinned))
    assert not found.fits
    assert any("cannot run" in warning for warning in found.warnings)


def test_one_device_has_nothing_to_shard() -> None:
    assert not plan(case(SMALL, DEV, fsdp="full_shard")).fits


def test_a_cpu_does_not_run_it() -> None:
    found = plan(case(SMALL, {**CPU, "count": 2}, fsdp="full_shard"))
    assert not found.fits
    assert any("CUDA by name" in warning for warning in found.warnings)


def test_offloaded_shards_are_counted_in_host_ram() -> None:
    found = plan(case(LLAMA_1B, TWO, method="full", fsdp="full_shard", offload="params"))
    host = {part.name: part.bytes for part in found.memory.host_parts}
    parameters = found.case.model.architecture.parameters.total
    assert host["host_weights"] == pytest.approx(2 * parameters, rel=1e-3)
    assert host["host_optimizer"] == pytest.approx(6 * parameters, rel=1e-3), "BF16 gradients and two BF16 moments"
    assert "weights" not in {part.name for part in found.memory.parts}
