"""`recipe build`: what it writes, what it removes, what it refuses, and what --check and --diff say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from compiler import build
from compiler.commands.build import command

RECIPE = """name: {name}
base_model: Qwen/Qwen2.5-0.5B-Instruct
targets:
{targets}
"""
CARD = "  card: {gpu: rtx-4090}"
SMALL = "  small: {gpu: rtx-4090, vram_budget: 1 GiB}"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def recipe(project: Path) -> Callable[..., Path]:
    def write(name: str = "one", *targets: str, file: str | None = None) -> Path:
        path = project / "recipes" / f"{file or name}.yaml"
        path.write_text(RECIPE.format(name=name, targets="\n".join(targets or (CARD,))), encoding="utf-8")
        return path

    return write


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(command, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def files(project: Path) -> dict[str, str]:
    found = sorted(path for path in (project / "generated").rglob("*") if path.is_file())
    return {path.relative_to(project).as_posix(): path.read_text(encoding="utf-8") for path in found}


def test_build_writes_every_target_and_a_second_run_changes_nothing(project: Path, recipe: Callable[..., Path]) -> None:
    recipe("one", CARD, "  cpu: {gpu: cpu, ram_budget: 16 GiB}")
    assert invoke().exit_code == 0
    first = files(project)
    assert set(first) == {
        f"generated/one/{target}/{name}" for target in ("card", "cpu") for name in ("axolotl.yaml", "plan.md")
    }
    assert "unchanged" in invoke().output
    assert files(project) == first


def test_check_names_stale_missing_and_left_over_files(project: Path, recipe: Callable[..., Path]) -> None:
    recipe("one", CARD, "  b: {gpu: a100-80gb}")
    invoke()
    assert invoke("--check").exit_code == 0
    recipe("one", CARD)
    (project / "generated/one/card/plan.md").write_text("edited", encoding="utf-8")
    (project / "generated/one/card/axolotl.yaml").unlink()
    before = files(project)
    result = invoke("--check")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "generated/one/b/axolotl.yaml (left over)", "generated/one/b/plan.md (left over)",
        "generated/one/card/axolotl.yaml (missing)", "generated/one/card/plan.md (stale)",
    ]  # fmt: skip
    assert files(project) == before, "--check writes nothing"


def test_diff_shows_the_change_and_writes_nothing(project: Path, recipe: Callable[..., Path]) -> None:
    recipe()
    invoke()
    path = project / "generated/one/card/axolotl.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("seed: 42", "seed: 43"), encoding="utf-8")
    result = invoke("--diff")
    assert result.exit_code == 0
    assert "-seed: 43\n+seed: 42\n" in result.output
    assert "seed: 43" in path.read_text(encoding="utf-8")
    assert invoke("--diff", "--check").exit_code == 2


def test_targets_and_recipes_that_are_no_more_lose_our_files_only(project: Path, recipe: Callable[..., Path]) -> None:
    recipe("one", CARD, "  old: {gpu: a100-80gb}")
    recipe("two")
    invoke()
    notes = project / "generated/one/old/notes.txt"
    notes.write_text("mine", encoding="utf-8")
    foreign = project / "generated/three/card/plan.md"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("not ours", encoding="utf-8")
    data = project / "generated/two/dataset/train.csv"
    data.parent.mkdir(parents=True)
    data.write_text("a,b", encoding="utf-8")
    recipe("one", CARD)
    (project / "recipes/two.yaml").unlink()
    assert invoke().exit_code == 0
    kept = {"generated/one/card/axolotl.yaml", "generated/one/card/plan.md", "generated/one/old/notes.txt",
            "generated/three/card/plan.md", "generated/two/dataset/train.csv"}  # fmt: skip
    assert set(files(project)) == kept
    assert not (project / "generated/two/card").exists()


def test_building_one_recipe_leaves_the_others_alone(project: Path, recipe: Callable[..., Path]) -> None:
    recipe("one")
    recipe("two")
    invoke()
    (project / "recipes/two.yaml").unlink()
    assert invoke("recipes/one.yaml").exit_code == 0
    assert "generated/two/card/plan.md" in files(project)


def test_a_broken_recipe_removes_nothing_and_stops_nobody(project: Path, recipe: Callable[..., Path]) -> None:
    recipe("one")
    broken = recipe("two")
    invoke()
    broken.write_text("name: two\nepoch: 3\n", encoding="utf-8")
    (project / "generated/one/card/plan.md").unlink()
    result = invoke()
    assert result.exit_code == 1
    assert "recipes/two.yaml" in result.stderr
    assert {"generated/two/card/plan.md", "generated/one/card/plan.md"} <= set(files(project))


def test_two_recipes_of_one_name_are_refused_before_anything_is_written(
    project: Path, recipe: Callable[..., Path]
) -> None:
    recipe("one", file="a")
    recipe("one", file="b")
    result = invoke()
    assert result.exit_code == 1
    assert "recipes/a.yaml" in result.stderr
    assert "recipes/b.yaml" in result.stderr
    assert not (project / "generated").exists()


def test_a_target_that_does_not_fit_is_named_and_the_others_are_built(
    project: Path, recipe: Callable[..., Path]
) -> None:
    recipe("one", CARD, SMALL)
    result = invoke()
    assert result.exit_code == 1
    assert "one, target small: does not fit" in result.stderr
    assert set(files(project)) == {
        "generated/one/card/axolotl.yaml", "generated/one/card/plan.md", "generated/one/small/plan.md",
    }  # fmt: skip


def test_a_config_goes_when_its_plan_no_longer_fits(project: Path, recipe: Callable[..., Path]) -> None:
    recipe("one", "  small: {gpu: rtx-4090}")
    invoke()
    assert "generated/one/small/axolotl.yaml" in files(project)
    recipe("one", SMALL)
    assert invoke().exit_code == 1
    assert set(files(project)) == {"generated/one/small/plan.md"}


def test_no_recipe_and_a_target_called_dataset_are_told(project: Path, recipe: Callable[..., Path]) -> None:
    assert "no recipes/*.yaml" in invoke().stderr
    recipe("one", "  dataset: {gpu: rtx-4090}")
    result = invoke()
    assert result.exit_code == 1
    assert "dataset" in result.stderr


def test_a_file_in_the_way_is_one_clear_message(project: Path, recipe: Callable[..., Path]) -> None:
    recipe()
    (project / "generated").write_text("", encoding="utf-8")
    result = invoke()
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert "generated" in result.stderr


def test_building_imports_nothing_heavy(project: Path, recipe: Callable[..., Path]) -> None:
    import subprocess
    import sys

    recipe()
    code = (
        "import sys; from compiler import build\n"
        "paths, everything = build.recipe_paths(())\n"
        "build.apply(build.changes(build.compile_recipes(paths, everything=everything)))\n"
        "print([name for name in ('torch', 'axolotl', 'transformers', 'litellm', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_one_name_of_a_file_is_built_once() -> None:
    assert build.recipe_paths(("a.yaml", "a.yaml"))[0] == [Path("a.yaml")]


def test_rows_edited_by_hand_are_told_because_prepared_tokens_would_be_stale(project: Path) -> None:
    dataset = "dataset: {sources: [{kind: files, path: docs}], generator: {model: embedded}}\n"
    (project / "recipes" / "one.yaml").write_text(RECIPE.format(name="one", targets=CARD) + dataset, encoding="utf-8")
    folder = project / "generated" / "one" / "dataset"
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text("messages\n", encoding="utf-8")
    digest = hashlib.sha256(b"messages\n").hexdigest()
    (folder / "dataset.lock.json").write_text(json.dumps({"rows": 1, "train_sha256": digest}), encoding="utf-8")
    assert "warning" not in invoke().stderr
    (folder / "train.csv").write_text("message\n", encoding="utf-8")
    assert "train.csv is not what dataset.lock.json beside it records" in invoke().stderr
    (folder / "train.csv").unlink()  # git does not keep it
    assert "warning" not in invoke().stderr
