"""What the README tells a newcomer is true."""

import re

import yaml
from conftest import ROOT

from compiler.cli import COMMANDS

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def test_the_recipe_shown_is_the_quickstart():
    shown = blocks("yaml")[0]
    assert yaml.safe_load(shown) == yaml.safe_load((ROOT / "recipes/quickstart.yaml").read_text())
    assert len(shown.splitlines()) <= 12


def test_the_plan_shown_is_one_that_was_built():
    shown = blocks("text")[0].rstrip("\n")
    assert shown in (ROOT / "generated/intel-arc-expert/dev/plan.md").read_text()


def test_the_verbs_shown_exist():
    verbs = set(re.findall(r"^ +recipe ([a-z]+)", README, re.M)) | set(re.findall(r"`recipe ([a-z]+)", README))
    assert len(verbs) >= 8
    assert verbs <= set(COMMANDS)


def test_the_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert len(links) >= 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_make_targets_shown_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z]+)", README)) - {"and"}:
        assert re.search(rf"^{target}:", makefile, re.M), target
