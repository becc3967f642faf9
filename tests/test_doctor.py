"""`recipe doctor`: what a machine is and lacks, from what the system's own tools print."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from compiler import here
from compiler.case import find_machine
from compiler.cli import main
from compiler.commands.doctor import what_is_missing
from compiler.recipe import Target

BARE = here.Here(
    python="3.11.9",
    cpu="AMD EPYC 9654",
    cores=8,
    bf16_flags=("avx512_bf16",),
    ram_bytes=32 * 2**30,
    disk_free_bytes=2**40,
    cards=(),
    packages=dict.fromkeys((name for _, names in here.PACKAGES for name in names), "1.0"),
    tools={"git": "/usr/bin/git"},
)
TWO_CARDS = here.parse_nvidia("NVIDIA GeForce RTX 3090 Ti, 24564\nNVIDIA GeForce RTX 3090 Ti, 24564\n")


def missing(of: here.Here, **target: object) -> list[str]:
    return what_is_missing(of, find_machine(Target.model_validate(target)))


def test_a_cpu_target_needs_its_ram() -> None:
    assert missing(BARE, gpu="cpu", ram_budget="16 GiB") == []
    assert "has 32.00 GiB" in missing(BARE, gpu="cpu", ram_budget="64 GiB")[0]


def test_a_card_is_known_by_the_exact_name_of_its_driver() -> None:
    with_cards = replace(BARE, cards=TWO_CARDS)
    assert missing(with_cards, gpu="rtx-3090-ti", count=2) == []
    assert "has 2" in missing(with_cards, gpu="rtx-3090-ti", count=4)[0]
    assert missing(with_cards, gpu="rtx-3090") == ["needs NVIDIA GeForce RTX 3090"]


def test_packages_that_are_missing_come_with_the_command() -> None:
    bare = replace(BARE, packages=BARE.packages | {"axolotl": None})
    assert "pip install 'finetune-recipes[train]'" in missing(bare, gpu="cpu", ram_budget="1 GiB")[0]


def test_broken_output_of_a_tool_is_no_card() -> None:
    assert here.parse_nvidia("NVIDIA-SMI has failed because it could not communicate with the driver\n") == ()
    assert here.parse_nvidia("") == here.parse_xpu("No device discovered") == ()


def test_the_command_tells_this_machine_and_each_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    assert "recipe init NAME" in runner.invoke(main, ["doctor"]).stdout
    assert runner.invoke(main, ["init", "good"]).exit_code == 0
    (tmp_path / "recipes" / "bad.yaml").write_text("name: [")
    done = runner.invoke(main, ["doctor"])
    assert done.exit_code == 0
    assert "good/cpu: " in done.stdout
    assert "recipes/bad.yaml: has problems" in done.stdout
    assert "BF16" in done.stdout and "pydantic" in done.stdout


def test_looking_runs_here() -> None:
    seen = here.look()
    assert seen.cores >= 1 and seen.disk_free_bytes > 0 and seen.packages["pydantic"]
