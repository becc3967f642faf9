"""The rules, each on what it is there for; families against the code that Axolotl will really run."""

import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from planner_cases import CPU, DEV, GEMMA, GIB, LLAMA_1B, LLAMA_8B, PHI, QWEN, SMALL, case, measured, with_budget

from compiler.families import FAMILIES
from compiler.memory import eval_bytes, margin_bytes
from compiler.plan import plan
from compiler.rules import RULES_BEFORE, Draft
from compiler.rules.adapter import kernels_obstacle
from compiler.rules.text import truncated_share
from compiler.space import LIGER_FAMILIES


def settled(found, name):
    return plan(found).decision(name).value


@pytest.mark.parametrize(
    ("gpu", "expected"), [("rtx-3090-ti", "bf16"), ("t4", "fp16"), ("arc-b580", "bf16"), ("h100-sxm", "bf16")]
)
def test_precision_is_what_the_card_computes_natively(gpu, expected):
    assert settled(case(QWEN, {"gpu": gpu}), "precision") == expected


def test_weights_dtype_is_fp32_where_fp16_weights_could_not_be_trained():
    found = plan(case(SMALL, {"gpu": "t4"}, method="full"))
    assert (found.setup.precision, found.setup.weights_dtype) == ("fp32", "fp32")
    pinned = plan(case(SMALL, {"gpu": "t4"}, method="full", weights_dtype="fp16", precision="fp16"))
    assert not pinned.fits and "cannot be trained" in pinned.warnings[0]


def test_lora_alpha_is_twice_the_rank_whatever_the_rank():
    for rank in (8, 64, 200):
        assert settled(case(lora_r=rank), "lora_alpha") == 2 * rank


def test_lora_r_grows_with_the_dataset():
    small, large = measured(10_000), measured(4_000_000)
    assert settled(case(SMALL, dataset=small), "lora_r") == 64
    assert settled(case(SMALL, {"gpu": "h100-sxm"}, dataset=large), "lora_r") > 64


def test_learning_rate_of_full_fine_tuning_is_a_tenth_of_loras():
    target = {"gpu": "h100-sxm"}
    for model in (SMALL, LLAMA_1B, LLAMA_8B):
        lora = settled(case(model, target), "learning_rate")
        assert settled(case(model, target, method="full"), "learning_rate") == pytest.approx(lora / 10)


def test_full_fine_tuning_has_no_adapter():
    found = plan(case(SMALL, {"gpu": "rtx-4090"}, method="full"))
    assert all(found.decision(name).value is None for name in ("lora_r", "lora_alpha", "lora_targets"))
    assert found.setup.lora_r is None and found.decision("lora_kernels").value is False


def test_the_end_of_a_turn_is_learnt():
    found = plan(case())
    assert "<end_of_turn>" in found.decision("eot_tokens").value
    assert found.decision("train_on_eot").value == "turn"
    assert found.decision("chat_template").value == "gemma"


def test_the_prepared_path_carries_the_digest_of_the_rows():
    dataset = measured()
    other = replace(dataset, sha256="cd" * 32)
    held = replace(dataset, eval_sha256="ef" * 32)
    paths = {settled(case(dataset=one), "prepared_path") for one in (dataset, other, held)}
    assert len(paths) == 3


def test_evaluation_and_checkpoints_agree_with_early_stopping():
    # Axolotl refuses early stopping unless save_steps is a multiple of eval_steps (schemas/validation.py)
    both = {"eval_every": 7, "save_every": 21}
    for stated in ({}, {"eval_every": "epoch"}, {"save_every": "epoch"}, {"save_every": 50}, {"save_every": 7}, both):
        found = plan(case(dataset=measured(), early_stopping=3, **stated))
        every, save = found.decision("eval_every").value, found.decision("save_every").value
        assert isinstance(every, int) and isinstance(save, int) and save % every == 0


def test_without_held_out_rows_nothing_is_evaluated():
    assert settled(case(), "eval_every") == "never"
    assert isinstance(settled(case(dataset=measured()), "eval_every"), int)


def test_evaluation_never_takes_more_rows_than_training():
    for found in (case(), case(QWEN, CPU), case(micro_batch=2)):
        done = plan(found)
        assert done.decision("eval_batch").value <= done.setup.micro_batch


def test_a_small_budget_evaluates_shorter_rows_before_none():
    """Gemma 2 2B holds 256,000 logits a token in evaluation, where Liger does not fuse them."""
    rows = replace(measured(t128=9_000, t1024=1_000), eval_max_tokens=1000)
    lengths, never = [], []
    for budget in (4, 5, 6, 7.5, 16):
        asked = {"method": "qlora-4bit", "cross_entropy": "liger", "effective_batch": 16}
        found = with_budget(case(dataset=rows, **asked), round(budget * GIB))
        done = plan(found)
        length, batch = done.decision("eval_sequence_len").value, done.decision("eval_batch").value
        never.append(done.decision("eval_every").value == "never")
        if not never[-1] and done.fits:
            needed = eval_bytes(found.model.architecture, done.setup, found.machine, batch, length)
            assert (
                needed + margin_bytes(needed, done.memory.resident_bytes, found.machine) <= found.machine.budget_bytes
                or needed <= done.memory.total_bytes
            )
            lengths.append(length)
    assert lengths == sorted(lengths) and lengths[-1] == 1024
    assert lengths[0] < 1024, "a bound below the longest row, rather than no evaluation"
    assert never == sorted(never, reverse=True)


def test_label_smoothing_keeps_whole_logits():
    assert plan(case(QWEN, label_smoothing=0.1)).setup.cross_entropy == "standard"


def test_dropout_rules_out_the_kernels():
    assert not plan(case(QWEN, lora_dropout=0.1)).setup.lora_kernels


def test_peer_to_peer_is_named_where_geforce_has_none():
    found = plan(case(QWEN, {**DEV, "count": 2}))
    if not found.case.machine.peer_to_peer:
        assert "NCCL_P2P_DISABLE=1" in found.decision("peer_to_peer").because


def test_truncated_share_is_that_of_the_histogram():
    dataset = measured(1000, t100=900, t200=90, t400=10)
    assert truncated_share(dataset, 99) == 1 and truncated_share(dataset, 100) == pytest.approx(0.1)
    assert truncated_share(dataset, 399) == pytest.approx(0.01) and truncated_share(dataset, 400) == 0


def test_truncated_share_of_assumed_lengths_falls_with_the_length():
    dataset = replace(measured(), length_histogram=(), mean_tokens=160.0, p99_tokens=512, max_tokens=1024)
    shares = [truncated_share(dataset, length) for length in (64, 128, 256, 511, 512, 1024)]
    assert shares == sorted(shares, reverse=True) and shares[-1] == 0 and shares[-2] <= 0.01 < shares[-4]


def _package_file(package: str, *parts: str) -> Path:
    spec = find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed (extra `train`)")
    return Path(spec.submodule_search_locations[0]).joinpath(*parts)


def test_liger_families_are_those_that_liger_patches():
    text = _package_file("liger_kernel", "transformers", "monkey_patch.py").read_text()
    table = text[text.index("MODEL_TYPE_TO_APPLY_LIGER_FN = {") :]
    known = set(re.findall(r'^    "(\w+)":', table[: table.index("\n}")], re.MULTILINE))
    assert known & set(FAMILIES) == LIGER_FAMILIES


@pytest.mark.parametrize("model", [GEMMA, QWEN, LLAMA_1B, PHI, "Qwen/Qwen3-1.7B"])
def test_lora_kernels_are_used_where_axolotl_finds_the_attention_code(model):
    # axolotl.monkeypatch.lora_kernels.QKV_PATCHES rewrites these very lines and asserts that they are there
    found = case(model, {"gpu": "rtx-4090"})
    kind = found.model.architecture.model_type.removesuffix("_text")
    text = _package_file("transformers", "models", kind, f"modeling_{kind}.py").read_text()
    plain = "query_states = self.q_proj(hidden_states).view(hidden_shape).transpose(1, 2)"
    normed = "query_states = self.q_norm(self.q_proj(hidden_states).view(hidden_shape)).transpose(1, 2)"
    draft = Draft(found)
    for rule in RULES_BEFORE:
        decision = rule(draft)
        draft = replace(draft, decided={**draft.decided, decision.field: decision})
    assert (kernels_obstacle(draft, "lora") is None) == (plain in text or normed in text)


def test_budget_is_not_an_input_of_any_rule_before_the_choice():
    def values(budget):
        found = case()
        found = replace(found, machine=replace(found.machine, budget_bytes=budget))
        draft = Draft(found)
        for rule in RULES_BEFORE:
            decision = rule(draft)
            draft = replace(draft, decided={**draft.decided, decision.field: decision})
        return dict(draft.decided)

    assert values(4 * GIB) == values(80 * GIB)
