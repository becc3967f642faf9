"""From a case to its plan: settle what needs no search, choose, settle the rest, explain.

plan(case) -> Plan                                  pure
plan_recipe(recipe, target=None) -> list[Plan]      one a target, or the named one
"""

from __future__ import annotations

from dataclasses import replace

from compiler.choose import Search, search
from compiler.memory import predict_memory, verdict
from compiler.recipe import Recipe
from compiler.rules import RULES_AFTER, RULES_BEFORE, Draft, Rule
from compiler.speed import predict_speed
from compiler.values import Case, Decision, Plan, Setup


def plan(case: Case) -> Plan:
    """The fastest setup that fits, explained. When nothing fits: the smallest, `fits` false, and the ways out."""
    draft = settle(Draft(case), RULES_BEFORE)
    found = search(draft)
    point = found.best() or found.smallest()
    return _explained(found, point.setup)


def plan_recipe(recipe: Recipe, target: str | None = None) -> list[Plan]:
    """One plan a target in the recipe's order. Raises ProblemError for an unknown target or model."""
    from compiler.case import resolve

    return [plan(resolve(recipe, name)) for name in ([target] if target else recipe.targets)]


def settle(draft: Draft, rules: tuple[Rule, ...]) -> Draft:
    """Run rules in order; each sees what the earlier ones decided."""
    for rule in rules:
        decision = rule(draft)
        draft = replace(draft, decided={**draft.decided, decision.field: decision})
    return draft


def _explained(found: Search, setup: Setup) -> Plan:
    case = found.case
    memory = predict_memory(case.model.architecture, setup, case.machine)
    word, probability, margin = verdict(memory, case.machine)
    draft = settle(replace(found.draft, setup=setup), RULES_AFTER)
    chosen = tuple(Decision(name, getattr(setup, name), domain.because, name) for name, domain in found.domains.items())
    return Plan(
        case=case,
        fits=word == "fits" and not found.broken,
        verdict=word,
        probability=probability,
        margin_bytes=margin,
        setup=setup,
        memory=memory,
        speed=predict_speed(case.model.architecture, setup, case.machine, case.dataset),
        decisions=chosen + tuple(draft.decided.values()),
        alternatives=(),
    )
