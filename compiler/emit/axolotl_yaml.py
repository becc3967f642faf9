"""axolotl.yaml: every key with its reason above it. Rules in brackets are functions of `compiler/rules/` and
`compiler/space.py`;
numbered rules are those of docs/axolotl-rules.md.
"""

from __future__ import annotations

from compiler import AXOLOTL_VERSION, __version__
from compiler.constraints import inexpressible
from compiler.emit.bar import memory_lines
from compiler.emit.by_hand import by_hand
from compiler.emit.commented import Section, to_mapping, to_text
from compiler.emit.keys_data import data, model
from compiler.emit.keys_memory import adapter, deepspeed, memory
from compiler.emit.keys_run import logging, optimisation, run
from compiler.emit.launch import requirements, shell_line
from compiler.emit.stamp import digest, facts_digest, recipe_digest
from compiler.problems import WorldProblem
from compiler.values import Artefact, Plan

SECTIONS = (model, data, adapter, memory, optimisation, run, logging, deepspeed)
"""In the order of the file; each is a pure function of the plan."""


def emit(plan: Plan) -> Artefact | None:
    """`<recipe>/<target>/axolotl.yaml`; None where the plan does not fit: a config that runs out of memory helps
    nobody."""
    if not plan.fits:
        return None
    made = sections(plan)
    return Artefact(f"{plan.case.recipe.name}/{plan.case.target}/axolotl.yaml", to_text(made, header(plan, made)))


def sections(plan: Plan) -> tuple[Section, ...]:
    """All sections; keys of the recipe's `axolotl:` mapping replace ours of the same name and stand last.

    Raises ProblemError where that mapping holds a key that Axolotl does not know or that would break the run.
    """
    obstacle = inexpressible(plan.setup)
    if obstacle:
        what, fix = obstacle
        raise WorldProblem(f"recipe {plan.case.recipe.name}, target {plan.case.target}: {what}", fix)
    made = tuple(section(plan) for section in SECTIONS)
    stated = plan.case.recipe.axolotl
    if not stated:
        return made
    kept = tuple(Section(one.title, tuple(key for key in one.keys if key.name not in stated)) for one in made)
    return (*kept, by_hand(plan, made))


def mapping(plan: Plan) -> dict[str, object]:
    """The config as a value: what Axolotl will read."""
    return to_mapping(sections(plan))


def header(plan: Plan, made: tuple[Section, ...]) -> str:
    """What this file is, what it was made from, how to run it, and the memory bar."""
    case = plan.case
    lines = [
        f"{case.recipe.name} on {case.target}: {case.model.id}, {case.machine.count} x {case.machine.name}",
        f"Compiled by finetune-recipes {__version__} for Axolotl {AXOLOTL_VERSION}; recipe {recipe_digest(plan)}, "
        f"facts {facts_digest(plan)}.",
        f"values {digest(to_mapping(made))}, machine {case.machine.count} x {case.machine.id}",
        "Not to be edited: change the recipe and run `recipe build`. plan.md beside this file explains every choice.",
        "",
        f"train: {shell_line(plan)}",
        *(f"needs: {need}" for need in requirements(plan)),
        "",
        *memory_lines(plan),
        "",
        f"about {plan.speed.tokens_per_second:,.0f} tokens/s, {plan.speed.seconds_per_step:.2g} s a step, "
        f"{plan.speed.steps:,} steps, {plan.speed.hours:.2g} h",
    ]
    lines += [f"note: {' '.join(note.split())}" for note in (*case.machine.notes, *plan.warnings)]
    return "\n".join(lines)
