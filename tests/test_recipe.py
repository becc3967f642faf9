"""The recipe's shape: defaults, documentation, JSON Schema, the reference page."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from compiler import fields
from compiler.axolotl_keys import STATED_AS
from compiler.cli import main
from compiler.explain import reference
from compiler.recipe import Recipe, Training

ROOT = Path(__file__).parent.parent

TABLE = [
    "method",
    "micro_batch",
    "gradient_accumulation",
    "sequence_len",
    "gradient_checkpointing",
    "optimizer",
    "attention",
    "cross_entropy",
    "lora_r",
    "lora_alpha",
    "lora_targets",
    "weights_dtype",
    "double_quant",
    "sample_packing",
    "lora_kernels",
    "train_embeddings",
    "learning_rate",
    "lr_scheduler",
    "warmup",
    "weight_decay",
    "max_grad_norm",
    "epochs",
    "max_steps",
    "effective_batch",
    "seed",
    "early_stopping",
    "eval_every",
    "save_every",
    "keep_checkpoints",
    "resume",
    "neftune_alpha",
    "lora_dropout",
    "label_smoothing",
    "logging",
    "precision",
    "zero_stage",
    "fsdp",
    "offload",
]
"""The names that scripts and recipes of other people use; they are never renamed."""


def test_the_training_fields_keep_their_names() -> None:
    assert set(Training.model_fields) == set(TABLE)


def test_all_that_the_planner_settles_is_auto_unless_stated() -> None:
    plain = {"max_steps", "seed", "early_stopping", "resume", "neftune_alpha", "label_smoothing", "logging"}
    left = Training()
    assert {name for name in TABLE if getattr(left, name) != "auto"} == plain


def test_auto_may_be_written_wherever_it_is_the_default() -> None:
    stated = {name: "auto" for name in TABLE if getattr(Training(), name) == "auto"}
    assert Training.model_validate(stated) == Training()


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        Training().epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("warmup", 10),
        ("warmup", 0),
        ("warmup", 0.03),
        ("epochs", 3),
        ("epochs", 0.5),
        ("lora_targets", ["q_proj", "v_proj"]),
        ("lora_targets", "attention"),
        ("eval_every", "epoch"),
        ("save_every", 50),
        ("resume", True),
        ("resume", "outputs/run/checkpoint-10"),
        ("zero_stage", 0),
        ("gradient_checkpointing", "off"),
    ],
)
def test_a_stated_value_is_kept_with_its_type(field: str, value: object) -> None:
    kept = getattr(Training.model_validate({field: value}), field)
    assert kept == (tuple(value) if isinstance(value, list) else value)
    if isinstance(value, int) and field == "warmup":
        assert isinstance(kept, int), "a whole number is steps, a fraction a share of the run"


def test_every_field_of_ours_says_what_it_is_and_takes() -> None:
    for doc in fields.all_fields():
        assert doc.expected, doc.path
        if not doc.path.startswith("dataset."):
            assert doc.about, doc.path


def test_defaults_are_told_with_each_auto() -> None:
    for doc in fields.all_fields():
        if doc.default == "auto":
            assert "`auto`:" in doc.about, f"{doc.path} does not say what the planner does"


def test_axolotl_names_lead_to_fields_that_exist() -> None:
    assert set(STATED_AS.values()) <= {doc.path for doc in fields.all_fields()}


def test_the_reference_is_fresh() -> None:
    page = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert page == reference(), "run: recipe explain --markdown > docs/recipe.md"


def test_the_schema_speaks_of_every_field() -> None:
    done = CliRunner().invoke(main, ["schema"])
    assert done.exit_code == 0
    schema = json.loads(done.stdout)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert set(schema["$defs"]["Training"]["properties"]) == set(TABLE)
    assert schema["additionalProperties"] is False
    assert "8 GiB" in schema["$defs"]["Target"]["properties"]["vram_budget"]["anyOf"][0]["examples"]


def test_the_schema_and_the_reader_agree_on_the_recipes() -> None:
    """Each committed recipe has only keys that the schema knows: an editor shows what `check` would say."""
    recipes = sorted((ROOT / "recipes").glob("*.yaml"))
    assert recipes
    for path in recipes:
        _known(yaml.safe_load(path.read_text(encoding="utf-8")), fields.json_schema(), str(path))


def _known(value: object, node: dict, where: str) -> None:
    node = fields.resolve(node)
    if isinstance(value, dict):
        for key, below in value.items():
            found = fields.child(node, key) if "discriminator" not in node else {}
            if "discriminator" in node:
                found = fields.child(fields.resolve({"$ref": node["discriminator"]["mapping"][value["kind"]]}), key)
            assert found, f"{where}: {key}"
            _known(below, found, f"{where}: {key}")
    elif isinstance(value, list):
        for entry in value:
            _known(entry, fields.child(node, 0), where)


def test_every_optimizer_that_can_be_asked_for_has_a_memory() -> None:
    from compiler.memory.static import OPTIMIZERS

    assert set(fields.literals(fields.at(("training", "optimizer")))) - {"auto"} <= set(OPTIMIZERS)
