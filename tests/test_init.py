"""`recipe init`: what it writes passes `recipe check`, and nothing is overwritten."""

from importlib import resources
from pathlib import Path

import pytest
from click.testing import CliRunner

from compiler.cli import main

TEMPLATES = sorted(entry.name.removesuffix(".yaml") for entry in (resources.files("compiler") / "templates").iterdir())


@pytest.fixture(autouse=True)
def _in_an_empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_there_are_templates() -> None:
    assert "starter" in TEMPLATES and len(TEMPLATES) >= 3


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_is_written_passes_check_and_is_commented(template: str) -> None:
    done = CliRunner().invoke(main, ["init", "my-docs", "--template", template])
    assert (done.exit_code, done.stderr) == (0, "")
    text = Path("recipes/my-docs.yaml").read_text()
    assert "\nname: my-docs\n" in text and "my-expert" not in text
    assert text.count("#") >= 4
    checked = CliRunner().invoke(main, ["check"])
    assert checked.exit_code == 0, checked.stderr
    assert "recipes/my-docs.yaml: ok" in checked.stdout


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_stands_in_the_comments_is_right_too(template: str, tmp_path: Path) -> None:
    """A reader takes the `# ` away: each such line alone must still give a recipe that passes."""
    text = (resources.files("compiler") / "templates" / f"{template}.yaml").read_text()
    lines = text.splitlines()
    offered = [number for number, line in enumerate(lines) if line.startswith("  # ") and ": " in line.split("#")[1]]
    tried = 0
    for number in offered:
        line = lines[number].replace("# ", "", 1)
        if not line.strip().split(":")[0].replace("-", "").replace("_", "").isalnum():
            continue  # a sentence
        changed = [*lines[:number], line, *lines[number + 1 :]]
        path = tmp_path / "tried.yaml"
        path.write_text("\n".join(changed))
        done = CliRunner().invoke(main, ["check", str(path)])
        assert done.exit_code == 0, f"{line}\n{done.stderr}"
        tried += 1
    assert tried >= 3


def test_a_name_that_yaml_would_misread_is_quoted() -> None:
    assert CliRunner().invoke(main, ["init", "2026"]).exit_code == 0
    assert CliRunner().invoke(main, ["check", "recipes/2026.yaml"]).exit_code == 0


def test_nothing_is_overwritten() -> None:
    path = Path("recipes/mine.yaml")
    path.parent.mkdir()
    path.write_text("precious")
    done = CliRunner().invoke(main, ["init", "mine"])
    assert done.exit_code == 1
    assert "is there already" in done.stderr
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["a/b", "../x", "a b", "", "-x", "x" * 70, "x.yaml", "a\\b", "é"])
def test_a_name_that_is_none_is_wrong_usage(name: str) -> None:
    done = CliRunner().invoke(main, ["init", "--", name])
    assert done.exit_code == 2
    assert "NAME" in done.stderr
    assert not Path("recipes").exists()


def test_an_unknown_template_is_wrong_usage() -> None:
    done = CliRunner().invoke(main, ["init", "x", "--template", "warp"])
    assert done.exit_code == 2
    assert "starter" in done.stderr
