"""The command line: its verbs and options, exit statuses, a light start, files written whole."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from compiler import write
from compiler.cli import COMMANDS, main
from compiler.problems import Problem, RecipeProblems, WorldProblem, reporting
from dataset_builder.problems import BuildProblem

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "axolotl", "litellm", "rich", "requests", "aiohttp", "numpy")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_verb_has_help_with_an_example(name: str) -> None:
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0
    assert f"Example: recipe {name}" in done.stdout


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_an_unknown_option_is_wrong_usage(name: str) -> None:
    assert CliRunner().invoke(main, [name, "--no-such-option"]).exit_code == 2


def test_an_unknown_verb_is_wrong_usage() -> None:
    assert CliRunner().invoke(main, ["trian"]).exit_code == 2


def test_the_options_of_the_front_door() -> None:
    """The recipe chooses everything; adding an option is a visible act."""
    options = {}
    for name in ("check", "schema", "explain", "init", "doctor"):
        command = main.get_command(click.Context(main), name)
        options[name] = sorted(option for parameter in command.params for option in parameter.opts)
    assert options == {
        "check": ["recipes"],
        "schema": [],
        "explain": ["--markdown", "--target", "--why-not", "topic"],
        "init": ["--template", "name"],
        "doctor": [],
    }


@pytest.mark.parametrize(
    "error",
    [
        WorldProblem("the disk is full", "delete something"),
        RecipeProblems([Problem("wrong", "mend it", "a.yaml", 2, 3, "a: b")]),
        BuildProblem("the server does not answer"),
        OSError(errno.ENOSPC, "No space left on device", "generated/x"),
        OSError(errno.ENOSPC, "No space left on device"),  # of what is printed to
    ],
)
def test_a_problem_is_told_and_the_status_is_1(error: Exception) -> None:
    @click.command()
    @reporting()
    def command() -> None:
        raise error

    done = CliRunner().invoke(command)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr and done.stderr.strip()


def test_a_bug_of_ours_stays_a_traceback() -> None:
    with pytest.raises(ZeroDivisionError), reporting():
        _ = 1 / 0


def test_check_tells_all_recipes_and_those_of_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    assert runner.invoke(main, ["check"]).exit_code == 1
    assert runner.invoke(main, ["init", "one"]).exit_code == 0
    (tmp_path / "recipes" / "two.yaml").write_text((tmp_path / "recipes" / "one.yaml").read_text())
    (tmp_path / "recipes" / "zero.yaml").write_text("name: [\n")
    done = runner.invoke(main, ["check"])
    assert done.exit_code == 1
    assert "recipes/one.yaml: ok" in done.stdout
    assert "recipes/two.yaml:1:1: its name is `one`" in done.stderr
    assert "recipes/zero.yaml:2:1: " in done.stderr
    assert done.stderr.rstrip().endswith("2 problems")


@pytest.mark.parametrize(
    "arguments", [["check", "recipes/quickstart.yaml"], ["schema"], ["explain", "lora_r"], ["--help"]]
)
def test_the_front_door_starts_without_the_heavy_packages(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom compiler.cli import main\n"
        f"sys.argv = ['recipe', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


NOT_TO_PLAN = (*HEAVY, "importlib.metadata", "email", "asyncio", "ssl", "_hashlib", "tempfile", "difflib", "csv")
"""Beside what is heavy: what pydantic and click would load, and what only failing recipes need."""


def test_a_plan_loads_few_modules_and_collects_no_garbage() -> None:
    code = (
        "import gc, sys\nfrom compiler.cli import main\n"
        "sys.argv = ['recipe', 'plan', 'recipes/intel-arc-expert.yaml', '--target', 'arc']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print([name for name in {NOT_TO_PLAN!r} if name in sys.modules], gc.isenabled(), file=sys.stderr)\n"
        "assert len(sys.modules) < 330, len(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[] False"


def test_a_file_is_written_whole_with_plain_permissions(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write.write_text(path, "whole\r\n")
    assert path.read_bytes() == b"whole\r\n"
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    path.chmod(0o600)
    write.write_text(path, "again")
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left") as caught:
        write.write_text(path, "new")
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_the_kernels_own_error_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where a folder is needed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").write_text("not a folder")
    done = CliRunner().invoke(main, ["init", "x"])
    assert done.exit_code == 1
    assert "recipes/x.yaml: " in done.stderr
