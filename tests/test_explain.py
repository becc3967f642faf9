"""`recipe explain`: fields, GPUs, models, and why not another value."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from compiler import fields
from compiler.cli import main
from compiler.facts import gpus, models

ROOT = Path(__file__).parent.parent
QUICKSTART = str(ROOT / "recipes" / "quickstart.yaml")


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["explain", *arguments])


def test_without_a_topic_every_field_is_listed() -> None:
    done = run()
    assert done.exit_code == 0
    for doc in fields.all_fields():
        assert doc.path.rpartition(".")[2] in done.stdout


def test_a_field_by_its_path_or_its_name() -> None:
    assert run("training.lora_r").stdout == run("lora_r").stdout
    shown = " ".join(run("lora_r").stdout.split())
    assert "Rank of the adapters" in shown and "whole number of at least 1" in shown and "default auto" in shown


def test_a_name_in_several_places_shows_all() -> None:
    shown = run("seed").stdout
    assert "training.seed" in shown and "dataset.seed" in shown


def test_a_section_names_its_fields() -> None:
    assert "gradient_checkpointing" in run("training").stdout


@pytest.mark.parametrize("topic", ["gpus", "models"])
def test_a_catalogue_is_listed_whole(topic: str) -> None:
    shown = run(topic).stdout
    for entry in gpus() if topic == "gpus" else models():
        assert entry in shown


def test_every_gpu_can_be_explained_with_its_source() -> None:
    for name in gpus():
        shown = run(name).stdout
        assert shown.startswith(f"{name}\n") and "source" in shown


def test_every_model_can_be_explained_with_its_source() -> None:
    for name in models():
        shown = run(name).stdout
        assert shown.startswith(f"{name}\n") and "vocabulary" in shown and "source" in shown


def test_what_is_nothing_gives_what_may_be_meant() -> None:
    done = run("rtx-3090ti")
    assert done.exit_code == 1
    assert "did you mean `rtx-3090-ti`" in done.stderr


def test_why_not_names_the_target_and_a_number() -> None:
    done = run("--why-not", "method=full", QUICKSTART)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("cpu: ")
    assert any(char.isdigit() for char in done.stdout)


@pytest.mark.parametrize(
    ("question", "status", "told"),
    [
        ("attention", 2, "FIELD=VALUE"),
        ("=sdpa", 2, "FIELD=VALUE"),
        ("atention=sdpa", 1, "did you mean `attention`?"),
        ("attention=sdp", 1, "write `auto`, `eager`"),
        ("micro_batch=[", 1, "whole number"),
        ("micro_batch=0", 1, "whole number"),
    ],
)
def test_a_question_that_is_none(question: str, status: int, told: str) -> None:
    done = run("--why-not", question, QUICKSTART)
    assert done.exit_code == status
    assert told in done.stderr


@pytest.mark.parametrize(
    "arguments", [("--why-not", "method=full"), ("--target", "cpu"), ("--markdown", "lora_r"), ("a", "b")]
)
def test_options_that_do_not_go_together_are_wrong_usage(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_why_not_of_an_unknown_target() -> None:
    done = run("--why-not", "method=full", QUICKSTART, "--target", "mars")
    assert done.exit_code == 1
    assert "has no target `mars`" in done.stderr
