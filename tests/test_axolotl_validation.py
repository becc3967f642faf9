"""Every generated config of every recipe passes Axolotl's own check for its target, whole, with no deprecation."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import update_golden
import yaml

from compiler.build import compile_recipes
from compiler.emit.axolotl_yaml import mapping
from compiler.values import Plan

ROOT = Path(__file__).resolve().parent.parent
TORCH = "2.13.0"

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("default")]  # the consumer's own warnings are looked at below


def plans() -> list[Plan]:
    golden = compile_recipes(update_golden.recipes(), root=update_golden.GOLDEN).plans
    own = compile_recipes(sorted((ROOT / "recipes").glob("*.yaml")), root=ROOT).plans
    return [plan for plan in (*golden, *own) if plan.fits]


def name_of(plan: Plan) -> str:
    return f"{plan.case.recipe.name}-{plan.case.target}"


PLANS = {name_of(plan): plan for plan in plans()}


def capabilities(plan: Plan) -> dict[str, Any]:
    """What Axolotl would find on the target (`gpu_capabilities` in axolotl/cli/config.py)."""
    machine = plan.case.machine
    number = int(machine.capability.removeprefix("sm_").rstrip("a")) if machine.capability else 0
    return {
        "bf16": machine.bf16 and machine.backend != "cpu",
        "fp8": number >= 90,
        "tf32": machine.tf32,
        "n_gpu": machine.count,
        "compute_capability": machine.capability,
    }


def validated(config: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The config as Axolotl understands it on the target."""
    from axolotl.utils.config import prepare_plugins, validate_config
    from axolotl.utils.dict import DictDefault

    given = DictDefault(yaml.safe_load(yaml.safe_dump(config)))
    prepare_plugins(given)
    return validate_config(given, capabilities(plan), {"torch_version": TORCH}).to_dict()


def lost(emitted: Any, understood: Any, path: str = "") -> Iterator[str]:
    """Keys and values, at every depth, that Axolotl dropped or changed."""
    if isinstance(emitted, dict):
        for key, value in emitted.items():
            if not isinstance(understood, dict) or key not in understood:
                yield f"{path}{key} is dropped"
            else:
                yield from lost(value, understood[key], f"{path}{key}.")
    elif isinstance(emitted, list):
        if not isinstance(understood, list | tuple) or len(emitted) != len(understood):
            yield f"{path} {emitted!r} became {understood!r}"
        else:
            for number, value in enumerate(emitted):
                yield from lost(value, understood[number], f"{path}{number}.")
    elif isinstance(emitted, bool) or not isinstance(emitted, int | float):
        if getattr(understood, "value", understood) != emitted:  # some strings become enums
            yield f"{path} {emitted!r} became {understood!r}"
    elif float(understood) != float(emitted):
        yield f"{path} {emitted!r} became {understood!r}"


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What Axolotl's loggers say at WARNING or above; they do not propagate, so a handler goes to each."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    listener = Listener(logging.WARNING)
    import axolotl.utils.config

    assert axolotl.utils.config is not None
    loggers = [
        logging.getLogger(name) for name in (*logging.root.manager.loggerDict, "axolotl") if name.startswith("axolotl")
    ]
    for logger in loggers:
        logger.addHandler(listener)
    yield said
    for logger in loggers:
        logger.removeHandler(listener)


@pytest.mark.parametrize("name", PLANS)
def test_axolotl_takes_the_config_whole_and_without_a_deprecation(
    name: str, heard: list[str], recwarn: pytest.WarningsRecorder
) -> None:
    plan = PLANS[name]
    config = mapping(plan)
    assert list(lost(config, validated(config, plan))) == []
    of_python = [str(warning.message) for warning in recwarn]
    assert [text for text in of_python if any(f"`{key}`" in text for key in config)] == []
    assert [text for text in heard if not _expected(text, plan)] == []


def _expected(text: str, plan: Plan) -> bool:
    """Warnings that are true of the plan, and known."""
    no_native_bf16 = "bf16 requested, but AMP is not supported" in text and plan.case.machine.backend == "cpu"
    offload = "activation_offloading: hidden_states" in text and plan.setup.gradient_checkpointing == "offload"
    # fewer rows than a micro-batch never need more than it
    fewer = "eval_batch_size != micro_batch_size" in text
    fewer = fewer and plan.decision("eval_batch").value < plan.setup.micro_batch
    return no_native_bf16 or offload or fewer


def test_a_misspelt_key_would_be_found(heard: list[str]) -> None:
    """The check above can fail: Axolotl drops an unknown key without a word, at the top and below."""
    plan = next(iter(PLANS.values()))
    config = mapping(plan)
    config["lora_rr"] = 8
    config["datasets"] = [{**config["datasets"][0], "field_mesages": "m"}]
    found = list(lost(config, validated(config, plan)))
    assert [text for text in found if "lora_rr" in text]
    assert [text for text in found if "field_mesages" in text]


def test_a_deprecated_key_would_be_heard(heard: list[str]) -> None:
    plan = next(iter(PLANS.values()))
    config = mapping(plan)
    validated({**config, "gc_steps": 3}, plan)
    assert [text for text in heard if "deprecat" in text.lower()]


def test_every_family_of_targets_is_among_them() -> None:
    backends = {plan.case.machine.backend for plan in PLANS.values()}
    assert {"cuda", "xpu", "cpu"} <= backends
    assert {plan.setup.method for plan in PLANS.values()} >= {"full", "lora", "qlora-4bit"}
    assert any(plan.setup.zero_stage for plan in PLANS.values())
    assert any(not plan.case.machine.bf16 for plan in PLANS.values())
