"""The closed forms: parts, monotonicity, verdict, and the score against recorded traces."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.architecture import from_config
from compiler.memory import (
    eval_bytes,
    fit_probability,
    live_bytes,
    margin_bytes,
    merge_part,
    peak_bytes,
    predict_memory,
    verdict,
)
from compiler.values import Machine, Setup

GIB = 2**30
LLAMA_CONFIG = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
    "max_position_embeddings": 131072,
}
LLAMA = from_config(LLAMA_CONFIG)
GEMMA = from_config(
    {
        "model_type": "gemma2",
        "vocab_size": 256000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 4096,
        "max_position_embeddings": 8192,
    }
)
SETUP = Setup(
    "qlora-4bit", 1, 1, 2048, "on", "adamw_torch_fused", "flash_attention_2", "standard", False, "bf16", "bf16", 16, 32
)


def machine(**changes: object) -> Machine:
    base = Machine(
        "rtx-3090",
        "RTX 3090",
        "cuda",
        1,
        24 * GIB,
        24 * GIB,
        64 * GIB,
        "sm_86",
        True,
        True,
        True,
        True,
        71,
        936,
        16,
        False,
        None,
    )
    return replace(base, **changes)


setups = st.builds(
    Setup,
    method=st.sampled_from(["full", "lora", "lora-8bit", "qlora-4bit"]),
    micro_batch=st.integers(1, 16),
    gradient_accumulation=st.sampled_from([1, 4]),
    sequence_len=st.sampled_from([512, 1024, 2048, 4096]),
    gradient_checkpointing=st.sampled_from(["off", "on", "offload"]),
    optimizer=st.sampled_from(["adamw_torch_fused", "adamw_torch", "adamw_8bit", "paged_adamw_8bit", "sgd"]),
    attention=st.sampled_from(["eager", "sdpa", "flash_attention_2", "flex_attention"]),
    cross_entropy=st.sampled_from(["standard", "chunked", "liger", "cut"]),
    sample_packing=st.just(False),
    precision=st.just("bf16"),
    weights_dtype=st.just("bf16"),
    lora_r=st.sampled_from([8, 16, 64]),
    lora_dropout=st.sampled_from([0.0, 0.05]),
    lora_targets=st.sampled_from(["all-linear", "attention"]),
)
architectures = st.sampled_from([LLAMA, GEMMA])


@settings(max_examples=150, deadline=None)
@given(architectures, setups)
def test_parts_sum_to_the_total_that_the_search_sees(architecture, setup):
    memory = predict_memory(architecture, setup, machine())
    assert memory.total_bytes == sum(part.bytes for part in memory.parts) == peak_bytes(architecture, setup, machine())
    assert all(part.bytes > 0 and part.how for part in memory.parts)
    assert len({part.name for part in memory.parts}) == len(memory.parts)
    live = predict_memory(architecture, setup, machine(), live=True)
    assert memory.phases == live.phases and memory.total_bytes >= live.total_bytes
    # the phase of the plan is where most is held, which need not be where most is alive
    phases = dict(memory.phases)
    loading = phases.pop("load")
    if live.peak_phase == "load":
        assert loading >= max(phases.values())
    else:
        assert phases[live.peak_phase] == max(phases.values())


@settings(max_examples=150, deadline=None)
@given(architectures, setups)
def test_more_work_never_needs_less(architecture, setup):
    least = live_bytes(architecture, setup)
    assert live_bytes(architecture, replace(setup, micro_batch=setup.micro_batch + 1)) > least * 0.999
    assert live_bytes(architecture, replace(setup, sequence_len=setup.sequence_len * 2)) >= least
    assert live_bytes(architecture, replace(setup, lora_r=setup.lora_r * 2)) >= least
    held = peak_bytes(architecture, setup, machine())
    for more in ({"micro_batch": setup.micro_batch * 2}, {"sequence_len": setup.sequence_len * 2}, {"lora_r": 128}):
        assert peak_bytes(architecture, replace(setup, **more), machine()) >= held


def test_slack_follows_what_is_left_behind():
    """Beside the loss a layer's blocks and the two-byte logits; checkpoints and optimizer states leave nothing."""
    setup = replace(SETUP, micro_batch=4, method="lora")
    tokens = setup.micro_batch * setup.sequence_len

    def slack(changed: Setup, **of: object) -> int:
        parts = predict_memory(LLAMA, changed, machine(**of)).parts
        return next(part.bytes for part in parts if part.name == "allocator_slack")

    whole, fused = slack(setup), slack(replace(setup, cross_entropy="liger"))
    assert whole - fused > 2 * LLAMA.vocab_size * tokens
    longer = from_config({**LLAMA_CONFIG, "num_hidden_layers": 32})
    parts = {part.name: part.bytes for part in predict_memory(longer, setup, machine()).parts}
    assert parts["allocator_slack"] == pytest.approx(whole, abs=2) and parts["checkpoints"] > 0
    assert slack(replace(setup, optimizer="adamw_8bit")) == whole
    assert slack(setup, backend="rocm", capability=None) == whole


@settings(max_examples=100, deadline=None)
@given(architectures, setups)
def test_quantising_and_checkpointing_shrink(architecture, setup):
    base = replace(setup, method="lora", lora_dropout=0.0)
    assert live_bytes(architecture, replace(base, method="qlora-4bit")) < live_bytes(architecture, base)
    if setup.micro_batch * setup.sequence_len >= 2048:
        on, off = (live_bytes(architecture, replace(base, gradient_checkpointing=mode)) for mode in ("on", "off"))
        assert on < off


@pytest.mark.parametrize("method", ["full", "lora"])
def test_sharding_shrinks(method):
    base = replace(SETUP, method=method, devices=2, lora_r=None if method == "full" else 16)
    sizes = [predict_memory(LLAMA, replace(base, zero_stage=stage), machine()) for stage in (1, 2, 3)]
    kept = [
        sum(
            part.bytes
            for part in memory.parts
            if part.name in ("weights", "lora_weights", "gradients", "optimizer_states")
        )
        for memory in sizes
    ]
    assert kept == sorted(kept, reverse=True)
    offloaded = predict_memory(LLAMA, replace(base, zero_stage=2, offload="optimizer"), machine())
    assert "optimizer_states" not in {part.name for part in offloaded.parts}
    assert "host_optimizer" in {part.name for part in offloaded.host_parts}


def test_the_logits_of_a_large_vocabulary_decide():
    """Gemma 2 2B, QLoRA, 2048 tokens: 14 bytes a token and vocabulary entry are 6.8 GiB, against 2.1 GiB of weights."""
    memory = predict_memory(GEMMA, SETUP, machine())
    parts = {part.name: part.bytes for part in memory.parts}
    assert memory.peak_phase == "loss"
    assert parts["logits"] == pytest.approx(14 * 256000 * 2048, rel=0.01)
    assert parts["weights"] == pytest.approx(2.1 * GIB, rel=0.03)
    liger = predict_memory(GEMMA, replace(SETUP, cross_entropy="liger"), machine())
    assert liger.total_bytes < memory.total_bytes / 2


def test_an_unknown_optimizer_is_refused_by_name():
    with pytest.raises(ValueError, match="optimizer 'adamw_typo'"):
        predict_memory(LLAMA, replace(SETUP, optimizer="adamw_typo"), machine())


def test_verdict_has_three_answers():
    memory = predict_memory(LLAMA, SETUP, machine())
    total, resident = memory.total_bytes, memory.resident_bytes
    margin = margin_bytes(total, resident, machine())
    answers = {}
    for name, budget in (("fits", total + margin), ("uncertain", total), ("does not fit", int(total * 0.7))):
        word, probability, _ = verdict(predict_memory(LLAMA, SETUP, machine()), machine(budget_bytes=budget))
        answers[name] = word
        assert 0 <= probability <= 1
    assert answers == {name: name for name in answers}
    assert fit_probability(total, resident, total, machine()) > 0.5
    assert fit_probability(total, resident, resident, machine()) == 0.0, "no room beside the weights"


def test_too_little_host_ram_does_not_fit():
    setup = replace(SETUP, method="full", lora_r=None, zero_stage=2, offload="optimizer", devices=2)
    small = machine(host_ram_bytes=8 * GIB, budget_bytes=80 * GIB)
    assert verdict(predict_memory(LLAMA, setup, small), small)[0] == "does not fit"


def test_no_overhead_of_cuda_on_a_cpu():
    names = {part.name for part in predict_memory(LLAMA, SETUP, machine(backend="cpu", capability=None)).parts}
    assert "cublas_workspace" not in names


def test_loading_a_large_vocabulary_can_be_the_peak_and_is_then_the_allocators():
    """Gemma 2 2B, 16-bit LoRA: 590 M embeddings are 2.2 GiB in FP32 while Axolotl casts them there and back."""
    small = replace(
        SETUP, method="lora", cross_entropy="liger", sequence_len=256, attention="flash_attention_2", devices=2
    )
    memory = predict_memory(GEMMA, small, machine())
    assert memory.peak_phase == "load"
    assert dict(memory.phases)["load"] == pytest.approx((4.87 + 2.2) * GIB, rel=0.01)
    alone = predict_memory(GEMMA, replace(small, devices=1), machine())
    assert alone.peak_phase != "load", "one process loads into RAM"
    assert "host_loading" in {part.name for part in alone.host_parts}


def test_evaluation_holds_whole_logits_where_training_does_not():
    """Liger fuses the loss in training only: 256,000 x (2 + 4 + 4) bytes a token in evaluation."""
    setup = replace(SETUP, cross_entropy="liger", sequence_len=1024)
    parts = {part.name: part.bytes for part in predict_memory(GEMMA, setup, machine(), eval_batch=4).parts}
    assert parts["logits"] == pytest.approx(10 * 256000 * 4096, rel=0.01)
    assert predict_memory(GEMMA, setup, machine(), eval_batch=4).peak_phase == "eval"
    assert eval_bytes(GEMMA, setup, machine(), 4) == predict_memory(GEMMA, setup, machine(), eval_batch=4).total_bytes
    whole = predict_memory(GEMMA, replace(setup, cross_entropy="standard", micro_batch=4), machine(), eval_batch=4)
    assert whole.peak_phase == "loss", "a training step with whole logits needs 14 bytes"


@settings(max_examples=60, deadline=None)
@given(architectures, setups)
def test_without_liger_evaluation_never_needs_more_than_a_step(architecture, setup):
    if setup.cross_entropy != "liger":
        needed = eval_bytes(architecture, setup, machine(), setup.micro_batch)
        assert needed <= peak_bytes(architecture, setup, machine())


def test_merging_needs_the_weights_and_the_merged_ones():
    part = merge_part(LLAMA, SETUP)
    weights = 2 * LLAMA.parameters.total
    assert weights < part.bytes < 2.2 * weights
    assert merge_part(LLAMA, replace(SETUP, method="full", lora_r=None)) is None


def test_the_margin_is_of_what_is_not_known_exactly():
    """Readings scatter with what comes and goes; 16-bit weights are twice as large as 8-bit ones and as sure."""
    memory = predict_memory(LLAMA, SETUP, machine())
    weights = {part.name: part.bytes for part in memory.parts}
    assert memory.resident_bytes == pytest.approx(weights["weights"] + weights["lora_weights"], abs=2)
    total, resident = memory.total_bytes, memory.resident_bytes
    heavier = margin_bytes(total + GIB, resident + GIB, machine())
    assert heavier == margin_bytes(total, resident, machine()) < margin_bytes(total + GIB, resident, machine())
    cpu = machine(backend="cpu", capability=None)
    assert margin_bytes(total, resident, cpu) == margin_bytes(total, 0, cpu), "assumed bands are of the whole"
