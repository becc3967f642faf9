"""Why a value is not what the plan has: the plan with it against the plan without it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from compiler.compare import describe, miss, word
from compiler.constraints import inexpressible
from compiler.rules.draft import percent
from compiler.units import format_size
from compiler.values import Case, Plan


def why_not(case: Case, field: str, value: Any) -> str:
    """What kills `training.<field>` = `value` in this case, with numbers: the plan with it against the plan without it.

    `value` may be the text that a recipe would have. Raises WorldProblem for an unknown field or an impossible value.
    """
    from compiler.plan import plan

    pinned = _pinned(case, field, value)
    asked = getattr(pinned.recipe.training, field)
    head = f"{field}: {word(asked)}"
    free = plan(case)
    chosen = free.decision(field)
    if asked == "auto" or _same(chosen.value, asked):
        said = "is what the plan has"
        if asked == "auto":
            said = f"leaves it to the planner, which has {word(chosen.value)}"
        return f"{head} {said}: {chosen.because}"
    lines = [
        f"{head} on {case.machine.name} ({case.target})",
        f"chosen:     {word(chosen.value)}: {chosen.because}",
    ]
    refused = _refused(case, pinned)
    try:
        *compared, verdict = _compared(free, plan(pinned), field, asked)
    except ValueError as error:  # such as an adapter on a layer that the model does not have
        compared, verdict = [], str(error)
    return "\n".join([*lines, *compared, f"verdict:    {refused or verdict}"])


def _same(chosen: Any, asked: Any) -> bool:
    """A list of the recipe is a tuple in the plan."""
    return chosen == (tuple(asked) if isinstance(asked, list) else asked)


def _refused(case: Case, pinned: Case) -> str | None:
    """What the front door says of the stated value that it does not say without it."""
    from compiler.check_together import RULES
    from compiler.check_types import Facts

    def complaints(one: Case) -> dict[str, str]:
        facts = Facts(one.recipe, {one.target: one.machine}, one.model)
        return {found.message: found.fix for rule in RULES for found in rule(facts)}

    before, after = complaints(case), complaints(pinned)
    new = (f"`recipe check` refuses it: {said} ({fix})" for said, fix in after.items() if said not in before)
    return next(new, None)


def _compared(free: Plan, stated: Plan, field: str, asked: Any) -> list[str]:
    from compiler.plan import settled_search

    domain = settled_search(free.case).domains.get(field)
    rejection = domain.rejection(asked) if domain else None
    lines = [f"rule `{field}`: {rejection.reason}"] if rejection else []
    before = f"{format_size(free.memory.total_bytes)}, {free.speed.tokens_per_second:,.0f} tokens/s"
    after = f"{format_size(stated.memory.total_bytes)}, {stated.speed.tokens_per_second:,.0f} tokens/s"
    lines.append(f"the plan:   {before}: {describe(free.setup)}")
    lines.append(f"with it:    {after}: {describe(stated.setup)}")
    return [*lines, _verdict(free, stated)]


def _verdict(free: Plan, stated: Plan) -> str:
    """Whether the plan with the value fits, and what it costs or gains."""
    from compiler.plan import settled_search

    found = settled_search(stated.case)
    if found.broken:
        return f"this setup cannot run as asked: {found.broken}"
    if not stated.fits:
        return miss(found, stated.setup)
    obstacle = inexpressible(stated.setup)
    if obstacle:
        return f"it fits, but no config can be made of it: {obstacle[0]} ({obstacle[1]})"
    rate = stated.speed.tokens_per_second / free.speed.tokens_per_second
    change = "as fast"
    if abs(rate - 1) > 0.0005:
        change = f"{percent(1 - rate)} slower" if rate < 1 else f"{percent(rate - 1)} faster"
    batches = (stated.setup.effective_batch, free.setup.effective_batch)
    other = f", with an effective batch of {batches[0]} instead of {batches[1]}" if batches[0] != batches[1] else ""
    return f"it fits, and is {change}{other}; the recipe may ask for it"


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
