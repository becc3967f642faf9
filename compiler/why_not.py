"""Why a value is not what the plan has: the plan with it against the plan without it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from compiler.compare import describe, miss, word
from compiler.rules.draft import percent
from compiler.units import format_size
from compiler.values import Case, Plan


def why_not(case: Case, field: str, value: Any) -> str:
    """What kills `training.<field>` = `value` in this case, with numbers: the plan with it against the plan without it.

    `value` may be the text that a recipe would have. Raises WorldProblem for an unknown field or an impossible value.
    """
    from compiler.plan import plan

    pinned = _pinned(case, field, value)
    free, stated = plan(case), plan(pinned)
    asked = getattr(pinned.recipe.training, field)
    head = f"{field}: {word(asked)}"
    if any(one.field == field and one.value == asked for one in free.decisions):
        return f"{head} is what the plan has: {free.decision(field).because}"
    return "\n".join(
        [
            f"{head} on {case.machine.name} ({case.target})",
            *_verdict_lines(free, stated, field, asked),
        ]
    )


def _verdict_lines(free: Plan, stated: Plan, field: str, asked: Any) -> list[str]:
    from compiler.plan import settled_search

    found = settled_search(free.case)
    domain = found.domains.get(field)
    rejection = domain.rejection(asked) if domain else None
    lines = [f"rule `{field}`: {rejection.reason}"] if rejection else []
    before = f"{format_size(free.memory.total_bytes)}, {free.speed.tokens_per_second:,.0f} tokens/s"
    after = f"{format_size(stated.memory.total_bytes)}, {stated.speed.tokens_per_second:,.0f} tokens/s"
    lines.append(f"the plan:   {before}: {describe(free.setup)}")
    lines.append(f"with it:    {after}: {describe(stated.setup)}")
    if not stated.fits:
        lines.append(
            "verdict:    "
            + (
                stated.warnings[0]
                if rejection and not rejection.runs
                else miss(settled_search(stated.case), stated.setup)
            )
        )
    else:
        rate = stated.speed.tokens_per_second / free.speed.tokens_per_second
        change = (
            f"{percent(1 - rate)} slower"
            if rate < 0.9995
            else f"{percent(rate - 1)} faster"
            if rate > 1.0005
            else "as fast"
        )
        lines.append(f"verdict:    it fits, and is {change}; the recipe may ask for it")
    return lines


def _pinned(case: Case, field: str, value: Any) -> Case:
    """The case whose recipe states one more field."""
    import yaml
    from pydantic import ValidationError

    from compiler.problems import WorldProblem
    from compiler.recipe import Training

    training = case.recipe.training
    if field not in type(training).model_fields:
        import difflib

        near = difflib.get_close_matches(field, Training.model_fields, n=1)
        hint = f"did you mean `{near[0]}`?" if near else "known: " + ", ".join(Training.model_fields)
        raise WorldProblem(f"`{field}` is no field of `training`", hint)
    if isinstance(value, str):
        with suppress(yaml.YAMLError):
            value = yaml.safe_load(value)
    if field in ("gradient_checkpointing",) and isinstance(value, bool):
        value = "on" if value else "off"  # YAML 1.1 reads the words as true and false
    stated = {name: getattr(training, name) for name in training.model_fields_set} | {field: value}
    try:
        changed = Training.model_validate(stated)
    except ValidationError as error:
        raise WorldProblem(f"`{field}` cannot be {value!r}", error.errors()[0]["msg"]) from None
    return replace(case, recipe=case.recipe.model_copy(update={"training": changed}))
