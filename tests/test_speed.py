"""Speed against published runs, and the properties that the search relies on."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler import speed
from compiler.facts import gpus, models
from compiler.padding import row_tokens
from compiler.speed import micro_work, predict_speed, step_parts, trained_parameters
from compiler.values import DatasetFacts, Setup

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "speed_fit.py"


def script():
    spec = importlib.util.spec_from_file_location("speed_fit", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fit = script()
levers = sys.modules["speed_levers"]
DATA = fit.prepared()
ROWS_FOUND = fit.rows_of(DATA)
GROUPS = fit.by_group(DATA)
# a little above what docs/speed.md shows: a change that makes a group worse has to be looked at
MEAN_ERROR_AT_MOST = {
    "fms-liger-qlora-nf4": 0.01,
    "fms-main-lora": 0.02,
    "litgpt-confighub-qlora-nf4": 0.04,  # without the two of UNEXPLAINED
    "litgpt-confighub-lora": 0.05,
    "litgpt-holdout": 0.07,
    "litgpt-holdout-full": 0.16,
}
UNEXPLAINED = {"Llama-3.2-1B": 0.34, "Llama-3.2-3B": 0.40}
"""QLoRA runs that nothing explains (docs/speed.md, "The rows"): how much too fast each may be predicted."""
TAU_AT_LEAST = {  # over pairs measured more than 1 % apart
    "litgpt-confighub-qlora-nf4": 0.67,
    "litgpt-confighub-lora": 0.85,
    "fms-liger-full": 0.86,
}

GEMMA = models()["google/gemma-2-2b-it"].architecture
CARD = fit.machine_of("rtx-3090-ti", 2)
ROWS = DatasetFacts(10_000, 500, 250.0, 700, 1200, True, "0", "train.csv", None)
SETUP = Setup(
    method="qlora-4bit", micro_batch=2, gradient_accumulation=8, sequence_len=1024, gradient_checkpointing="on",
    optimizer="adamw_torch_fused", attention="flash_attention_2", cross_entropy="liger", sample_packing=True,
    precision="bf16", weights_dtype="bf16", lora_r=16,
)  # fmt: skip


def rate(**changes) -> float:
    return predict_speed(GEMMA, replace(SETUP, **changes), CARD, ROWS).tokens_per_second


@pytest.mark.parametrize("group", GROUPS)
def test_published_runs(group):
    explained = []
    for row in (one for one in ROWS_FOUND if one.row["group"] == group):
        name = row.row["model"].rpartition("/")[2]
        if group.endswith("hub-qlora-nf4") and name in UNEXPLAINED:
            assert row.predicted / row.measured - 1 <= UNEXPLAINED[name]
        else:
            explained.append((row.predicted, row.measured))
    assert fit.mean_error(explained) <= MEAN_ERROR_AT_MOST.get(group, 0.05)
    if len(GROUPS[group]) > 2:
        assert fit.kendall(GROUPS[group], levers.TIE) >= TAU_AT_LEAST.get(group, 0.95)


def test_mean_error_over_all_runs():
    pairs = [pair for found in GROUPS.values() for pair in found]
    assert len(pairs) == 205
    assert fit.mean_error(pairs) <= 0.035


def test_order_beyond_what_repeated_runs_differ_by():
    """Every group's order is right where the measurements state one; but for the one run that docs/speed.md names."""
    noise = levers.repeats(ROWS_FOUND)
    assert len(noise["fms"][1]) >= 10 and noise["fms"][0] < 0.02 < noise["litgpt-confighub"][0]
    for group in GROUPS:
        rows = [row for row in ROWS_FOUND if row.row["group"] == group]
        pairs = [(row.predicted, row.measured) for row in rows if row.row["id"] != "fms-liger-full-76740014"]
        if len(pairs) > 2:
            assert fit.kendall(pairs, noise[levers.file_of(rows[0].row)][0]) >= 0.9, group


def test_left_out_groups_are_foreseen_but_for_the_only_one_over_pcie():
    kept = json.loads((SCRIPT.parent / "speed_left_out.json").read_text(encoding="utf-8"))
    for group, (error, _) in kept["group"].items():
        assert error <= 0.15 or group == "litgpt-confighub-full", group


def test_the_page_is_what_the_script_writes():
    kept = json.loads((SCRIPT.parent / "speed_left_out.json").read_text(encoding="utf-8"))
    assert (SCRIPT.parent.parent / "docs" / "speed.md").read_text(encoding="utf-8") == fit.page(DATA, kept)


def test_levers_point_the_way_they_were_measured():
    for lever in levers.LEVERS:
        pairs = levers.lever_pairs(ROWS_FOUND, lever)
        assert len(pairs) >= 4, lever[0]
        if lever[0] != "NF4 -> GPTQ":  # predicted alike
            clear = [one for one in pairs if abs(one[0] - 1) > 0.02]
            right = [one for one in clear if (one[0] - 1) * (one[1] - 1) > 0]
            assert len(right) >= 0.9 * len(clear), lever[0]


def test_kendall_tau_of_known_rankings():
    assert fit.kendall([(1, 1), (2, 2), (3, 3)]) == 1.0
    assert fit.kendall([(1, 3), (2, 2), (3, 1)]) == -1.0
    assert fit.kendall([(1, 1), (1, 2), (3, 3)]) == pytest.approx(2 / (3 * 2) ** 0.5)
    assert fit.kendall([(1, 3.01), (2, 3.0), (3, 4)]) == pytest.approx(1 / 3)
    assert fit.kendall([(1, 3.01), (2, 3.0), (3, 4)], tie=0.01) == 1.0  # two measured alike are in no order


def test_flops_of_a_full_step_are_six_per_weight_without_checkpointing():
    setup = replace(SETUP, method="full", lora_r=None, gradient_checkpointing="off")
    work = micro_work(GEMMA, setup, 0)
    weights = (
        GEMMA.parameters.linear + GEMMA.parameters.embedding
    )  # the tied head is a product, the embedding a look-up
    assert work.matmul_flops + work.head_flops == 6 * weights
    assert work.attention_flops == work.dequantised_weights == 0
    checkpointed = micro_work(GEMMA, replace(setup, gradient_checkpointing="on"), 0)
    assert checkpointed.matmul_flops - work.matmul_flops == 2 * GEMMA.parameters.linear


def test_lora_leaves_out_the_gradients_of_frozen_weights():
    full = micro_work(GEMMA, replace(SETUP, method="full", lora_r=None), 0)
    lora = micro_work(GEMMA, replace(SETUP, method="lora"), 0)
    adapters = GEMMA.lora_parameters(16, "all-linear")
    saved = 2 * (GEMMA.parameters.linear + GEMMA.parameters.embedding)
    difference = full.matmul_flops + full.head_flops - lora.matmul_flops - lora.head_flops
    assert difference == saved - 8 * adapters
    assert trained_parameters(GEMMA, replace(SETUP, method="lora")) == adapters


def test_a_window_shortens_attention():
    windowed = micro_work(GEMMA, SETUP, 16384).attention_flops
    free = micro_work(replace(GEMMA, sliding_window=None, windowed_layers=0), SETUP, 16384).attention_flops
    assert windowed == pytest.approx(0.75 * free)  # half of the layers see 4,096 of 8,192 tokens on average


def test_quantised_weights_and_checkpointing_cost_time():
    assert rate(method="lora") > rate(method="qlora-4bit")
    assert rate(gradient_checkpointing="off") > rate()
    assert rate(attention="eager") < rate()
    assert rate(lora_kernels=True) > rate()
    assert rate(cross_entropy="standard") < rate()
    assert rate(precision="fp32") < rate(precision="tf32") < rate()


def test_padding_costs_what_packing_saves():
    packed, padded = rate(), rate(sample_packing=False)
    assert packed > padded
    computed, useful, _ = row_tokens(replace(SETUP, sample_packing=False, micro_batch=8), ROWS)
    assert useful == ROWS.mean_tokens < computed <= SETUP.sequence_len
    for rows, longest in ((2, 1.273), (4, 1.56), (8, 1.87)):  # over the mean, of drawn log-normal samples
        even = replace(ROWS, mean_tokens=200.0, p99_tokens=560, max_tokens=10_000)
        padded, _, _ = row_tokens(replace(SETUP, sample_packing=False, micro_batch=rows, sequence_len=8192), even)
        assert padded / 200 == pytest.approx(longest, rel=0.02)
    single, useful, _ = row_tokens(replace(SETUP, sample_packing=False, micro_batch=1), ROWS)
    assert single == useful == ROWS.mean_tokens
    full, kept, attended = row_tokens(SETUP, ROWS)
    assert full == 1024 and 0.9 * full < kept <= full and ROWS.mean_tokens < attended < full


def test_geforce_cards_pay_for_missing_peer_to_peer():
    setup = replace(SETUP, method="full", lora_r=None, devices=2, zero_stage=3)
    names = {name for name, _, _ in predict_speed(GEMMA, setup, CARD, ROWS).parts}
    assert {"between devices", "waiting for the slowest device", "waiting for weights"} <= names
    assert "waiting for weights" not in {
        name for name, _, _ in predict_speed(GEMMA, replace(setup, zero_stage=2), CARD, ROWS).parts
    }
    faster = predict_speed(GEMMA, setup, replace(CARD, peer_to_peer=True), ROWS)
    assert faster.tokens_per_second > predict_speed(GEMMA, setup, CARD, ROWS).tokens_per_second


def test_offload_is_never_faster():
    setup = replace(SETUP, method="full", lora_r=None, devices=2, zero_stage=3)
    speeds = [
        predict_speed(GEMMA, replace(setup, offload=offload), CARD, ROWS).tokens_per_second
        for offload in ("none", "optimizer", "params")
    ]
    assert speeds[0] > speeds[1] > speeds[2]


def test_hours_steps_and_cost():
    run = predict_speed(GEMMA, SETUP, replace(CARD, price_usd_per_hour=0.5), ROWS, epochs=3)
    assert run.steps == pytest.approx(3 * 10_000 * 250 / (run.tokens_per_second * run.seconds_per_step), abs=1)
    assert run.hours == pytest.approx(run.steps * run.seconds_per_step / 3600)
    assert run.cost_usd == pytest.approx(run.hours * 0.5)
    assert run.seconds_per_step == pytest.approx(sum(seconds for _, seconds, _ in run.parts))
    assert predict_speed(GEMMA, SETUP, CARD, ROWS, max_steps=7).steps == 7
    assert predict_speed(GEMMA, SETUP, CARD, ROWS).cost_usd is None


def test_a_card_without_rates_is_told_apart_from_a_fast_one():
    cpu = fit.machine_of("rtx-3090-ti", 1)
    cpu = replace(cpu, id="cpu", backend="cpu", capability=None, bf16_tflops=None, bandwidth_gb_s=None)
    assert predict_speed(GEMMA, SETUP, cpu, ROWS).tokens_per_second < rate() / 20


setups = st.builds(
    Setup,
    method=st.sampled_from(["full", "lora", "lora-8bit", "qlora-4bit"]),
    micro_batch=st.sampled_from([1, 2, 8]),
    gradient_accumulation=st.sampled_from([1, 4]),
    sequence_len=st.sampled_from([256, 1024, 8192]),
    gradient_checkpointing=st.sampled_from(["off", "on", "offload"]),
    optimizer=st.sampled_from(["adamw_torch_fused", "adamw_torch", "adamw_8bit", "paged_adamw_8bit", "sgd"]),
    attention=st.sampled_from(["eager", "sdpa", "flash_attention_2", "flex_attention"]),
    cross_entropy=st.sampled_from(["standard", "chunked", "liger", "cut"]),
    sample_packing=st.booleans(),
    precision=st.sampled_from(["bf16", "fp16", "tf32", "fp32"]),
    weights_dtype=st.sampled_from(["bf16", "fp32"]),
    lora_r=st.sampled_from([8, 64]),
    lora_kernels=st.booleans(),
    zero_stage=st.sampled_from([0, 1, 2, 3]),
    offload=st.sampled_from(["none", "optimizer", "params"]),
    devices=st.sampled_from([1, 2]),
)


@given(setup=setups, other=st.sampled_from(["arc-b580", "t4", "h100-sxm", "mi300x"]))
def test_every_setup_has_a_positive_finite_time(setup, other):
    for machine in (CARD, fit.machine_of(other, setup.devices)):
        run = predict_speed(GEMMA, setup, machine, ROWS)
        assert 0 < run.tokens_per_second < 1e7 and 0 < run.hours < 1e6
        assert all(seconds >= 0 for _, seconds, _ in run.parts)


@given(setup=setups, length=st.integers(64, 8000))
def test_longer_rows_take_longer(setup, length):
    shorter, longer = (
        sum(seconds for _, seconds, _ in step_parts(GEMMA, setup, CARD, float(tokens), float(tokens)))
        for tokens in (length, 2 * length)
    )
    assert longer >= shorter * (1 - 1e-9)  # equal where the host's launches are the limit


def test_no_card_of_the_catalogue_beats_its_datasheet():
    packed = replace(SETUP, sequence_len=2048)
    for gpu in gpus().values():
        if gpu.vram_bytes is None:
            continue
        machine = fit.machine_of(gpu.id, 1)
        for architecture in {model.architecture for model in models().values()}:
            for setup in (packed, replace(packed, method="full", lora_r=None, micro_batch=1, cross_entropy="standard")):
                run = predict_speed(architecture, setup, machine, ROWS)
                work = micro_work(architecture, setup, 2048)
                flops = work.matmul_flops + work.head_flops + work.attention_flops
                rate = flops * setup.tokens_per_micro_step * setup.gradient_accumulation / run.seconds_per_step
                assert 0 < rate < (gpu.bf16_tflops or 0.5) * 1e12, (gpu.id, architecture)
                assert 0 < run.hours < 1e5 and all(seconds >= 0 for _, seconds, _ in run.parts)


def test_shards_travel_no_faster_than_the_link():
    setup = replace(SETUP, method="full", lora_r=None, devices=2, zero_stage=3)
    for gpu in gpus().values():
        if gpu.vram_bytes is None or gpu.device_link_gb_s is None:
            continue
        machine = fit.machine_of(gpu.id, 2)
        total = GEMMA.parameters.total
        parts = speed._shared(GEMMA, setup, machine, 0.0, 2 * total, total)
        gathered = 4 * setup.gradient_accumulation * total  # three gathers and gradients, 2 bytes, half of it remote
        once = machine.interconnect_gb_s * (1 if machine.peer_to_peer else 0.5)
        assert gathered / parts[0][1] <= once * 1e9, gpu.id


def test_the_host_updates_no_faster_than_its_memory():
    setup = replace(SETUP, method="full", lora_r=None, zero_stage=2, offload="optimizer", devices=2)
    parts = {name: seconds for name, seconds, _ in predict_speed(GEMMA, setup, CARD, ROWS).parts}
    moved = 28 * GEMMA.parameters.total / 2  # weight, gradient and two states in FP32, read and written
    assert 10e9 < moved / parts["optimizer in host RAM"] < 80e9
