"""Every problem that a recipe may have is told at its place, with a fix, and all of a recipe in one run."""

import contextlib
import os
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler import fields
from compiler.axolotl_keys import FREE, OWNED, REFUSED, STATED_AS, axolotl_keys
from compiler.case import resolve
from compiler.check import check_source, load_recipe
from compiler.check_together import RULES
from compiler.facts import gpus, models
from compiler.problems import RecipeProblems
from compiler.source import parse_source

CASES = Path(__file__).parent / "problems"
GOLDEN = sorted(path.stem for path in CASES.glob("*.yaml"))
"""Each `<case>.yaml` has the problems that `<case>.txt` shows; UPDATE_GOLDEN=1 in the environment writes them anew."""

GOOD = """\
name: good
base_model: google/gemma-2-2b-it
targets:
  dev: {gpu: rtx-3090-ti, count: 2, vram_budget: 8 GiB, host_ram: 64 GiB}
  own: {gpu: {name: my-card, backend: cuda, vram: 80 GiB, bf16_tflops: 312, bandwidth_gb_s: 2039}}
dataset:
  sources:
    - {kind: files, path: docs}
  pairs: {unique: 2500, total: 10000}
  generator: {model: embedded}
training:
  method: auto
  epochs: 3
  learning_rate: 1e-4
  gradient_checkpointing: on
  effective_batch: 16
  warmup: 10
export: {merge: true, gguf: q4_k_m, ollama: true}
axolotl: {logging_steps: 5, weight_decay: 0.1}
"""


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def told(text: str, file: str = "case.yaml") -> str:
    """What the user is told of a recipe, "" where it is good."""
    try:
        check_source(parse_source(text, file))
    except RecipeProblems as error:
        return f"{error}\n"
    return ""


def test_the_golden_files_are_pairs() -> None:
    shown = sorted(path.stem for path in CASES.glob("*.txt"))
    assert shown == GOLDEN
    assert len(GOLDEN) >= 80


@pytest.mark.parametrize("case", GOLDEN)
def test_problems_of(case: str) -> None:
    text = (CASES / f"{case}.yaml").read_bytes().decode()
    shown = told(text, f"{case}.yaml")
    golden = CASES / f"{case}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(shown, encoding="utf-8")
    assert shown, "this recipe is meant to have a problem"
    assert shown == golden.read_text(encoding="utf-8")


def test_a_good_recipe_is_read_as_typed() -> None:
    recipe = check_source(parse_source(GOOD))
    assert recipe.targets["dev"].vram_budget == 8 * 2**30
    assert recipe.training.gradient_checkpointing == "on"
    assert recipe.training.learning_rate == 1e-4
    assert recipe.training.warmup == 10
    assert recipe.training.micro_batch == "auto"


def test_each_rule_has_a_golden_case_that_it_alone_explains() -> None:
    """A rule that no case needs is a rule that nobody has seen work."""
    import compiler.check as check
    import compiler.check_together as together

    silent = {rule.__name__ for rule in RULES}
    for case in GOLDEN:
        text = (CASES / f"{case}.yaml").read_bytes().decode()
        try:
            source = parse_source(text)
        except RecipeProblems:
            continue
        seen: list[object] = []

        def spy(source: object, facts: object, seen: list[object] = seen) -> list[object]:
            seen.append(facts)
            return []

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(check, "together_problems", spy)
            with contextlib.suppress(RecipeProblems):
                check_source(source)
        for facts in seen:
            silent -= {rule.__name__ for rule in together.RULES if next(iter(rule(facts)), None)}
    assert not silent


def test_all_problems_come_in_one_run_though_a_field_is_faulty() -> None:
    text = GOOD.replace("epochs: 3", "epochs: three\n  attention: sdpa").replace("rtx-3090-ti", "rtx-3090-tie")
    shown = told(text)
    assert re.findall(r"^case\.yaml:(\d+):", shown, re.MULTILINE) == ["4", "13", "14"]
    assert "rtx-3090-ti`" in shown and "epochs" in shown and "soft-capping" in shown


def test_a_described_card_is_checked_as_one() -> None:
    assert "attention" in told(GOOD.replace("gemma-2-2b-it", "gemma-2-2b-it").replace("epochs: 3", "attention: sdpa"))
    old = GOOD.replace("bandwidth_gb_s: 2039", "bandwidth_gb_s: 2039, bf16: false")
    assert "FlashAttention-2 needs sm_80" in told(old.replace("epochs: 3", "attention: flash_attention_2"))
    assert told(old) == ""


def test_a_model_in_a_folder_needs_only_its_config(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    text = GOOD.replace("google/gemma-2-2b-it", str(folder))
    assert "holds no config.json" in told(text)
    (folder / "config.json").write_text("{")
    assert "is not JSON" in told(text)
    (folder / "config.json").write_text('{"model_type": "mixtral", "num_local_experts": 8}')
    assert "mixture of experts" in told(text)
    (folder / "config.json").write_text(
        '{"model_type": "llama", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 128,'
        ' "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}'
    )
    assert told(text) == ""
    assert "512 positions" in told(text.replace("epochs: 3", "sequence_len: 1024"))


@pytest.mark.parametrize("budget", ["8GB", "8 GiB", "8192 MiB", "7.5 GiB", "8gb"])
def test_sizes(budget: str) -> None:
    assert told(GOOD.replace("vram_budget: 8 GiB", f"vram_budget: {budget}")) == ""


def test_what_the_box_says_is_a_budget_though_the_driver_keeps_some() -> None:
    assert told(GOOD.replace("vram_budget: 8 GiB", "vram_budget: 24 GiB")) == ""


def test_load_recipe_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: [\n")
    with pytest.raises(RecipeProblems) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}:")


def test_the_escape_hatch_knows_where_a_key_belongs() -> None:
    keys = axolotl_keys()
    assert set(STATED_AS) | set(OWNED) | set(REFUSED) <= keys
    assert not set(STATED_AS) & set(OWNED) and not set(STATED_AS) & set(REFUSED)
    assert set(STATED_AS) > FREE
    for key in FREE:
        assert told(GOOD.replace("logging_steps: 5, weight_decay: 0.1", f"{key}: 1")).count("\n") in (0, 4)


def _field(name: str) -> st.SearchStrategy[object]:
    """Values that a training field takes, from the schema: what is left to refuse is how they go together."""
    node = fields.at(("training", name))
    kinds = {branch.get("type") for branch in fields.branches(node)}
    found: list[st.SearchStrategy[object]] = [st.sampled_from(fields.literals(node))] if fields.literals(node) else []
    found += [st.integers(1, 64)] * ("integer" in kinds) + [st.floats(0.01, 0.9)] * ("number" in kinds)
    found += [st.booleans()] * ("boolean" in kinds) + [st.just(["q_proj", "v_proj"])] * ("array" in kinds)
    return st.one_of(found)


TRAINING = st.fixed_dictionaries({}, optional={name: _field(name) for name in fields.names(fields.at(("training",)))})
TARGET = st.fixed_dictionaries(
    {"gpu": st.sampled_from([*gpus()])},
    optional={
        "count": st.integers(1, 8),
        "vram_budget": st.sampled_from(["4 GiB", "8GB", "24 GiB"]),
        "ram_budget": st.sampled_from(["4 GiB", "64GB"]),
        "host_ram": st.sampled_from(["16 GiB", "256 GiB"]),
    },
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TRAINING, st.dictionaries(st.sampled_from(["a", "b", "c"]), TARGET, min_size=1), st.sampled_from([*models()]))
def test_whatever_goes_together_is_resolved_or_refused(training: dict, targets: dict, model: str) -> None:
    value = {"name": "x", "base_model": model, "targets": targets, "training": training}
    try:
        recipe = check_source(parse_source(yaml.safe_dump(value)))
    except RecipeProblems as error:
        assert all(problem.source_line for problem in error.problems)
        return
    for name in recipe.targets:
        assert resolve(recipe, name).machine.budget_bytes > 0


@pytest.mark.e2e
def test_axolotl_still_has_the_keys_that_we_think() -> None:
    from axolotl.utils.schemas.config import AxolotlInputConfig

    known = set(AxolotlInputConfig.model_fields)
    assert known <= axolotl_keys()
    assert len(axolotl_keys() - known) < 90  # aliases, and the keys of the plugins that Axolotl ships
