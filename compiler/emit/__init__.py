"""Plan -> text. One module an artefact; an emitter sees the Plan and nothing else, and equal plans give equal bytes."""

from __future__ import annotations

from compiler.emit import axolotl_yaml, deepspeed_json, plan_md
from compiler.values import Artefact, Plan

EMITTERS = (axolotl_yaml.emit, deepspeed_json.emit, plan_md.emit)
"""Plan -> Artefact, or None where the plan needs no such file. A new artefact is a module and its line here."""


def emit_all(plan: Plan) -> tuple[Artefact, ...]:
    """Every artefact of one target, paths relative to `generated/`. Raises ProblemError where `axolotl:` clashes with
    the plan."""
    return tuple(artefact for emit in EMITTERS if (artefact := emit(plan)) is not None)
