"""Emitters: what they write is the plan, read back by YAML, and the same bytes every time."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path

import pytest
import update_golden
import yaml
from planner_cases import case

from compiler.case import resolve
from compiler.check import load_recipe
from compiler.emit import EMITTERS, axolotl_yaml, emit_all
from compiler.emit.axolotl_yaml import mapping
from compiler.emit.bar import bar, memory_lines
from compiler.emit.commented import Key, Section, to_mapping, to_text
from compiler.emit.deepspeed_json import deepspeed_config
from compiler.emit.launch import environment, train_command
from compiler.emit.stamp import canonical, digest
from compiler.plan import plan
from compiler.problems import WorldProblem
from compiler.values import Plan

ROOT = Path(__file__).resolve().parent.parent


def write_recipe(
    folder: Path, training: str = "", target: str = "{gpu: rtx-4090}", extra: str = "", name: str = "r"
) -> Path:
    path = folder / f"{name}.yaml"
    body = "training:\n" + "".join(f"  {line.strip()}\n" for line in training.splitlines()) if training else ""
    path.write_text(
        f"name: {name}\nbase_model: Qwen/Qwen2.5-1.5B-Instruct\ntargets:\n  t: {target}\n"
        "dataset:\n  sources: [{kind: files, path: .}]\n  generator: {model: ollama/x}\n" + body + extra,
        encoding="utf-8",
    )
    return path


def plan_of(folder: Path, *args: str, **kwargs: str) -> Plan:
    recipe = load_recipe(write_recipe(folder, *args, **kwargs))
    return plan(resolve(recipe, "t", folder))


def test_golden_files_are_what_the_golden_recipes_compile_to() -> None:
    wanted = update_golden.expected(update_golden.recipes())
    stale = [path for path in wanted if not _golden_is(path, wanted[path])]
    assert not stale, "run `python tests/update_golden.py` and review the difference"
    assert update_golden.committed() == set(wanted), "golden files that nothing compiles to, or the other way round"


def _golden_is(path: str, text: str) -> bool:
    file = update_golden.GOLDEN / path
    return file.is_file() and file.read_text(encoding="utf-8") == text


def test_every_golden_recipe_has_a_folder_and_every_folder_a_recipe() -> None:
    recipes = {path.stem for path in update_golden.recipes()}
    folders = {path.name for path in update_golden.GOLDEN.iterdir() if path.is_dir()}
    assert recipes == folders
    assert len(recipes) >= 15


def test_text_reads_back_as_the_mapping(tmp_path: Path) -> None:
    made = plan_of(tmp_path)
    assert yaml.safe_load(axolotl_yaml.emit(made).text) == mapping(made)


def test_every_key_has_a_reason_above_it(tmp_path: Path) -> None:
    lines = axolotl_yaml.emit(plan_of(tmp_path)).text.splitlines()
    for before, line in itertools.pairwise(lines):
        if line and not line.startswith(("#", " ", "-")):
            assert before.startswith("# "), f"no reason above {line!r}"
            assert not before.startswith("# ---"), f"no reason above {line!r}"


def test_reasons_are_the_decisions_of_the_plan(tmp_path: Path) -> None:
    made = plan_of(tmp_path)
    for section in axolotl_yaml.sections(made):
        for key in section.keys:
            assert key.because.strip(), key.name
    text = " ".join(axolotl_yaml.emit(made).text.replace("\n# ", " ").split())
    assert " ".join(made.decision("learning_rate").because.split()) in text


def test_a_line_break_in_a_reason_cannot_become_yaml() -> None:
    section = Section("s", (Key("a", 1, "first\nb: 2\n\n- c"),))
    assert yaml.safe_load(to_text([section], "h\nx: 1")) == {"a": 1}


def test_a_key_that_stands_twice_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="twice"):
        to_mapping([Section("s", (Key("a", 1, "x"), Key("a", 2, "y")))])


def test_equal_input_gives_equal_bytes_and_order_of_keys_does_not_count(tmp_path: Path) -> None:
    one = plan_of(tmp_path, "epochs: 2\nseed: 3")
    other = plan_of(tmp_path, "seed: 3\nepochs: 2", extra="# a comment\n")
    assert emit_all(one) == emit_all(other)


def test_a_changed_recipe_changes_its_digest(tmp_path: Path) -> None:
    one = plan_of(tmp_path, "seed: 3")
    other = plan_of(tmp_path, "seed: 4")
    assert axolotl_yaml.emit(one).text.splitlines()[1] != axolotl_yaml.emit(other).text.splitlines()[1]


def test_nothing_of_this_machine_is_in_the_files(tmp_path: Path) -> None:
    import socket

    for artefact in emit_all(plan_of(tmp_path)):
        assert str(tmp_path) not in artefact.text
        assert str(ROOT) not in artefact.text
        assert f" {socket.gethostname()} " not in artefact.text
        assert not artefact.path.startswith("/")


def test_a_plan_that_does_not_fit_has_a_plan_md_and_no_config(tmp_path: Path) -> None:
    made = plan_of(tmp_path, "method: full", "{gpu: rtx-2060}")
    assert not made.fits
    artefacts = {Path(artefact.path).name: artefact.text for artefact in emit_all(made)}
    assert list(artefacts) == ["plan.md"]
    assert "Does not fit" in artefacts["plan.md"]
    for way in made.ways_out:
        assert way.text.split()[0] in artefacts["plan.md"]


@pytest.mark.parametrize(
    ("method", "adapter", "in_8bit", "in_4bit"),
    [("lora", "lora", False, False), ("lora-8bit", "lora", True, False), ("qlora-4bit", "qlora", False, True)],
)
def test_quantisation_follows_one_field(
    tmp_path: Path, method: str, adapter: str, in_8bit: bool, in_4bit: bool
) -> None:
    config = mapping(plan_of(tmp_path, f"method: {method}"))
    assert (config["adapter"], config["load_in_8bit"], config["load_in_4bit"]) == (adapter, in_8bit, in_4bit)


def test_full_fine_tuning_has_no_adapter_keys(tmp_path: Path) -> None:
    config = mapping(plan_of(tmp_path, "method: full", "{gpu: h100-sxm}"))
    assert not [name for name in config if name.startswith("lora") or name == "adapter"]


@pytest.mark.parametrize("loss", ["standard", "chunked", "liger", "cut"])
def test_one_loss_at_a_time_and_its_plugin(tmp_path: Path, loss: str) -> None:
    config = mapping(plan_of(tmp_path, f"cross_entropy: {loss}"))
    flags = ("chunked_cross_entropy", "liger_cross_entropy", "liger_fused_linear_cross_entropy", "cut_cross_entropy")
    on = [name for name in flags if config.get(name)]
    wanted = {"standard": [], "chunked": ["chunked_cross_entropy"], "liger": ["liger_fused_linear_cross_entropy"],
              "cut": ["cut_cross_entropy"]}  # fmt: skip
    assert on == wanted[loss]
    assert len(config.get("plugins", [])) == (loss in ("liger", "cut"))


def test_a_cuda_config_needs_nothing_of_ours_and_a_cpu_config_does(tmp_path: Path) -> None:
    assert "compiler." not in axolotl_yaml.emit(plan_of(tmp_path)).text.replace("compiler/", "")
    cpu = mapping(plan_of(tmp_path, "", "{gpu: cpu, ram_budget: 32 GiB}"))
    assert cpu["plugins"] == ["compiler.axolotl_plugin.CpuPlugin"]
    assert [cpu[f"lora_{part}_kernel"] for part in ("mlp", "qkv", "o", "embedding")] == [False] * 4


def test_nothing_is_left_to_auto(tmp_path: Path) -> None:
    def values(value: object) -> list[object]:
        if isinstance(value, dict):
            return [one for item in value.values() for one in values(item)]
        if isinstance(value, list):
            return [one for item in value for one in values(item)]
        return [value]

    for path in update_golden.GOLDEN.glob("*/*/axolotl.yaml"):
        assert "auto" not in values(yaml.safe_load(path.read_text(encoding="utf-8"))), path


def golden(path: str) -> dict:
    return yaml.safe_load((update_golden.GOLDEN / path / "axolotl.yaml").read_text(encoding="utf-8"))


def test_gemma_2_never_trains_with_sdpa_and_two_cards_share_the_batch() -> None:
    """SDPA drops Gemma 2's cap on attention scores without a word (rule 9 of docs/axolotl-rules.md)."""
    targets = [path.parent.name for path in update_golden.GOLDEN.glob("gemma-2-2b/*/axolotl.yaml")]
    assert len(targets) == 9
    for target in targets:
        assert golden(f"gemma-2-2b/{target}")["attn_implementation"] in ("eager", "flash_attention_2", "flex_attention")
    assert golden("gemma-2-2b/t4")["fp16"] is True
    assert golden("gemma-2-2b/t4")["bf16"] is False
    arc = golden("gemma-2-2b/arc")
    assert "plugins" not in arc, "Liger and Cut Cross Entropy are for CUDA"
    assert arc["attn_implementation"] == "eager"


def test_a_cpu_plan_says_which_processors_compute_bf16(tmp_path: Path) -> None:
    emulated = (update_golden.GOLDEN / "gemma-2-2b/i9-14900k/plan.md").read_text(encoding="utf-8")
    assert "emulate" in emulated.lower()
    text = (update_golden.GOLDEN / "gemma-2-2b/arc/plan.md").read_text(encoding="utf-8").lower()
    assert "not verified upstream" in text


def test_every_setting_of_the_recipe_reaches_the_config() -> None:
    config = yaml.safe_load((update_golden.GOLDEN / "pinned/card/axolotl.yaml").read_text(encoding="utf-8"))
    wanted = {
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "sequence_len": 1024,
        "attn_implementation": "sdpa",
        "gradient_checkpointing": True,
        "optimizer": "paged_adamw_8bit",
        "lora_r": 8,
        "lora_alpha": 8,
        "lora_dropout": 0.05,
        "bnb_config_kwargs": {"bnb_4bit_use_double_quant": False},
        "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "lora_modules_to_save": ["embed_tokens"],
        "peft_ensure_weight_tying": True,
        "num_epochs": 2,
        "warmup_steps": 20,
        "lr_scheduler": "linear",
        "weight_decay": 0.05,
        "max_grad_norm": 0.5,
        "label_smoothing_factor": 0.1,
        "eval_steps": 50,
        "save_steps": 100,
        "early_stopping_patience": 3,
        "save_total_limit": 1,
        "auto_resume_from_checkpoints": True,
        "use_wandb": True,
        "seed": 7,
    }
    assert {name: config.get(name) for name in wanted} == wanted


def test_keys_stated_by_hand_win_and_say_so(tmp_path: Path) -> None:
    made = plan_of(tmp_path, extra="axolotl: {adam_beta2: 0.95, logging_steps: 7}\n")
    text = axolotl_yaml.emit(made).text
    assert mapping(made)["logging_steps"] == 7
    assert text.count("logging_steps:") == 1
    assert "stated by hand (`axolotl.logging_steps`); the plan had" in text
    plan_md = next(artefact.text for artefact in emit_all(made) if artefact.path.endswith("plan.md"))
    assert "`axolotl.adam_beta2`" in plan_md


def test_keys_stated_by_hand_that_would_break_the_run_are_refused(tmp_path: Path) -> None:
    made = plan_of(tmp_path, "cross_entropy: standard", extra="axolotl: {liger_rope: true, torch_compile: auto}\n")
    with pytest.raises(WorldProblem, match=r"(?s)liger_rope.*torch_compile"):
        emit_all(made)


def test_a_dtype_that_axolotl_cannot_load_is_refused(tmp_path: Path) -> None:
    made = plan_of(tmp_path)
    other = dataclasses.replace(made, setup=dataclasses.replace(made.setup, weights_dtype="fp32"))
    with pytest.raises(WorldProblem, match="weights_dtype"):
        axolotl_yaml.sections(other)


@pytest.mark.parametrize("method", ["full", "lora", "lora-8bit", "qlora-4bit"])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32", "fp32"])
def test_every_precision_is_written_or_the_plan_says_that_it_cannot_be(method, precision):
    made = plan(case(target={"gpu": "a100-80gb"}, method=method, precision=precision, sequence_len=512))
    if (method, precision) == ("full", "fp16"):  # Axolotl would load FP16 weights, whose gradients cannot be unscaled
        assert "`recipe build` makes no config" in made.warnings[0]
        with pytest.raises(WorldProblem, match="precision: bf16"):
            emit_all(made)
    else:
        assert {one.path for one in emit_all(made)} >= {"test/here/axolotl.yaml"} and made.fits


def test_plan_md_says_what_two_more_gib_would_buy(tmp_path: Path) -> None:
    page = (update_golden.GOLDEN / "gemma-2-2b/two-8g/plan.md").read_text(encoding="utf-8")
    assert re.search(r"\n2\.00 GiB more would (make it \d+ % faster: \w+|buy no speed)", page)


def test_early_stopping_without_rows_to_watch_is_not_written():
    made = plan(case(target={"gpu": "rtx-4090"}, early_stopping=3, eval_every=50))  # the recipe has no dataset
    keys = mapping(made)
    assert "early_stopping_patience" not in keys and keys["load_best_model_at_end"] is False
    assert any("held-out rows" in one for one in made.warnings)


def test_held_out_rows_are_named_only_when_they_are_used(tmp_path: Path) -> None:
    config = mapping(plan_of(tmp_path, "eval_every: never"))
    assert "test_datasets" not in config
    assert config["eval_strategy"] == "no"
    assert config["val_set_size"] == 0


def test_deepspeed_numbers_are_the_plans(tmp_path: Path) -> None:
    made = plan_of(
        tmp_path,
        "zero_stage: 2\noffload: optimizer\neffective_batch: 16",
        "{gpu: rtx-4090, count: 2, host_ram: 64 GiB}",
    )
    config = deepspeed_config(made)
    assert config["train_batch_size"] == 16
    assert config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"] * 2 == 16
    assert mapping(made)["deepspeed"] == config
    files = {Path(artefact.path).name: artefact.text for artefact in emit_all(made)}
    assert json.loads(files["deepspeed.json"]) == config


def test_several_cards_start_with_torchrun_and_know_of_missing_peer_to_peer(tmp_path: Path) -> None:
    made = plan_of(tmp_path, "", "{gpu: rtx-4090, count: 2, host_ram: 64 GiB}")
    assert train_command(made).endswith("--launcher torchrun -- --nproc_per_node=2")
    assert environment(made)["NCCL_P2P_DISABLE"] == "1"


def test_digest_refuses_what_has_no_stable_text() -> None:
    with pytest.raises(TypeError, match="no stable text"):
        canonical({"a": object()})
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})


def test_bars_are_as_long_as_asked_and_memory_parts_are_all_named(tmp_path: Path) -> None:
    assert {len(bar(part, 10)) for part in range(20)} == {32}
    made = plan_of(tmp_path)
    text = "\n".join(memory_lines(made))
    assert all(part.name in text for part in made.memory.parts if part.bytes)


def test_emitters_are_an_explicit_tuple() -> None:
    assert isinstance(EMITTERS, tuple)
    assert [emit.__module__ for emit in EMITTERS] == [
        "compiler.emit.axolotl_yaml", "compiler.emit.deepspeed_json", "compiler.emit.plan_md",
    ]  # fmt: skip
