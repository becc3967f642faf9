"""docs/axolotl-rules.md: forty rules, and every name in it exists."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

DOC = Path(__file__).resolve().parent.parent / "docs/axolotl-rules.md"
ROWS = re.findall(r"^\| (\d+) [^|]*\| ([^|]*) \| ([^|]*) \|$", DOC.read_text(encoding="utf-8"), re.MULTILINE)
NAMES = sorted(set(re.findall(r"`((?:compiler|dataset_builder)\.[\w.]+)`", DOC.read_text(encoding="utf-8"))))


def test_there_are_forty_rules_and_each_says_where_and_how() -> None:
    assert [int(number) for number, _, _ in ROWS] == list(range(1, 41))
    assert all("`" in kept and how.strip() for _, kept, how in ROWS)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_exists(name: str) -> None:
    if name.startswith("compiler.axolotl_plugin."):
        pytest.importorskip("axolotl")
    parent, _, last = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(parent), last, None)
    except ModuleNotFoundError:
        found = None
    assert found is not None or importlib.import_module(name), name
