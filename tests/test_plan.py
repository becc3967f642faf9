"""A whole plan: every field decided with a reason, the JSON others read, the command, and what it must not import."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from planner_cases import CPU, DEV, GEMMA, LLAMA_1B, QWEN, case

from compiler import render
from compiler.cli import main
from compiler.constraints import CONSTRAINTS
from compiler.plan import plan
from compiler.recipe import Training
from compiler.rules import RULES_AFTER, RULES_BEFORE
from compiler.space import DOMAINS

NAMES = {rule.__name__ for rule in (*RULES_BEFORE, *RULES_AFTER, *DOMAINS)}
RECIPE = """
name: quick
base_model: Qwen/Qwen2.5-1.5B-Instruct
targets:
  dev: {gpu: rtx-3090-ti, vram_budget: 8 GiB, host_ram: 64 GiB}
  cpu: {gpu: cpu, ram_budget: 16 GiB}
"""
PLANS = [case(), case(target=CPU), case(QWEN, {"gpu": "t4"}), case(LLAMA_1B, {**DEV, "count": 2}, method="full")]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "quick.yaml"
    path.write_text(RECIPE)
    return str(path)


@pytest.mark.parametrize("found", PLANS, ids=lambda one: one.machine.id + "-" + one.model.id)
def test_every_training_field_is_decided_once_with_a_reason_and_a_rule(found):
    decisions = plan(found).decisions
    names = [one.field for one in decisions]
    assert set(Training.model_fields) <= set(names)
    assert len(names) == len(set(names))
    assert all(len(one.because) > 10 and one.rule in NAMES for one in decisions)


def test_a_stated_value_says_its_path_and_not_its_line():
    found = plan(case(GEMMA, DEV, learning_rate=1e-3, lora_r=32, seed=7, neftune_alpha=5.0, logging="none"))
    for name, value in (("learning_rate", 1e-3), ("lora_r", 32), ("seed", 7), ("neftune_alpha", 5.0)):
        decision = found.decision(name)
        assert decision.value == value
        assert decision.because.startswith(f"asked for in the recipe (`training.{name}`)")


def test_parts_of_memory_and_of_a_step_sum_to_their_totals():
    for one in PLANS:
        found = plan(one)
        assert sum(part.bytes for part in found.memory.parts) == found.memory.total_bytes
        assert sum(seconds for _, seconds, _ in found.speed.parts) == pytest.approx(found.speed.seconds_per_step)


def test_the_json_holds_what_was_promised(recipe):
    result = CliRunner().invoke(main, ["plan", recipe, "--target", "dev", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["recipe"] == "quick" and found["target"] == "dev" and found["fits"] is True
    assert found["budget_bytes"] == 8 * 2**30
    for name in ("method", "micro_batch", "gradient_accumulation", "sequence_len", "gradient_checkpointing", "lora_r",
                 "optimizer", "attention", "cross_entropy", "sample_packing", "deepspeed"):  # fmt: skip
        assert name in found["setup"]
    assert found["memory"]["total_bytes"] == sum(part["bytes"] for part in found["memory"]["parts"])
    assert all(set(part) == {"name", "bytes", "how"} for part in found["memory"]["parts"])
    assert {"tokens_per_second", "seconds_per_step", "hours"} <= set(found["speed"])
    assert all({"field", "value", "because", "rule"} == set(one) for one in found["decisions"])
    assert all({"setup", "total_bytes", "tokens_per_second", "why_not"} <= set(one) for one in found["alternatives"])
    names = {part["name"] for part in found["memory"]["parts"]}
    assert {"cuda_context", "allocator_slack"} <= names
    assert found["memory"]["total_bytes"] + found["margin_bytes"] <= found["budget_bytes"]


def test_several_targets_are_an_array_and_one_is_an_object(recipe):
    several = json.loads(CliRunner().invoke(main, ["plan", recipe, "--json"]).stdout)
    assert [one["target"] for one in several] == ["dev", "cpu"]
    assert json.loads(CliRunner().invoke(main, ["plan", recipe, "--json", "--target", "cpu"]).stdout) == several[1]


def test_a_plan_that_does_not_fit_exits_with_1_and_shows_ways_out(tmp_path):
    path = tmp_path / "big.yaml"
    path.write_text(RECIPE.replace("8 GiB", "1 GiB"))
    result = CliRunner().invoke(main, ["plan", str(path), "--target", "dev"])
    assert result.exit_code == 1
    assert "does not fit" in result.output and "Ways out" in result.output


def test_an_unknown_target_is_one_clear_message(recipe):
    result = CliRunner().invoke(main, ["plan", recipe, "--target", "nowhere"])
    assert result.exit_code == 1 and "nowhere" in result.stderr and "Traceback" not in result.output


def test_the_text_holds_the_bar_the_setup_and_every_decision():
    found = plan(case())
    text = render.as_text(found)
    assert found.verdict in text and "Setup" in text and "VRAM against time" in text
    assert all(one.field in text for one in found.decisions)
    assert max(map(len, text.splitlines())) <= render.WIDTH
    assert len(render.memory_bar(found)) == render.BAR_WIDTH


def test_equal_cases_give_equal_plans():
    assert render.as_json(plan(case())) == render.as_json(plan(case()))


def test_planning_imports_nothing_heavy(recipe):
    code = (
        "import sys; from click.testing import CliRunner; from compiler.cli import main;"
        f"assert CliRunner().invoke(main, ['plan', {recipe!r}]).exit_code == 0;"
        "print([name for name in ('torch', 'numpy', 'transformers', 'axolotl', 'litellm', 'rich', 'requests', "
        "'compiler.trace', 'compiler.emit') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_rule_is_named_like_its_field_and_says_what_it_does():
    for rule in (*RULES_BEFORE, *RULES_AFTER, *DOMAINS, *CONSTRAINTS):
        assert rule.__module__.startswith("compiler.")
    assert len(NAMES) == len(RULES_BEFORE) + len(RULES_AFTER) + len(DOMAINS), "two rules settle one field"
