"""From a case to its plan: settle what needs no search, choose, settle the rest, explain.

plan(case) -> Plan                                  pure
plan_recipe(recipe, target=None) -> list[Plan]      one a target, or the named one
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from compiler.choose import Search, machine_for, search
from compiler.compare import alternatives, besides, frontier, miss, more_memory, slower
from compiler.constraints import inexpressible
from compiler.memory import predict_memory, verdict
from compiler.rules import RULES_AFTER, RULES_BEFORE, Draft, Rule
from compiler.rules.draft import percent
from compiler.rules.text import truncated_share
from compiler.space import MAX_TRUNCATED_SHARE
from compiler.values import Case, Decision, Measured, Plan, Setup

if TYPE_CHECKING:
    from compiler.recipe import Recipe


def plan(case: Case) -> Plan:
    """The fastest setup that fits, explained. When nothing fits: the smallest, `fits` false, and the ways out."""
    found = settled_search(case)
    best = found.best()
    setup = best or found.smallest()
    draft = settle(replace(found.draft, setup=setup), RULES_AFTER)
    eval_batch = 0 if draft.value("eval_every") == "never" else draft.value("eval_batch")
    eval_length = draft.value("eval_sequence_len")
    memory = predict_memory(case.model.architecture, setup, case.machine, eval_batch, eval_length)
    word, probability, margin = verdict(memory, machine_for(case.machine, setup))
    fits = word == "fits" and not found.broken
    out: tuple = ()
    if not fits:
        from compiler.ways_out import ways_out  # most plans fit

        out = ways_out(found, setup)
    return Plan(
        case=case,
        fits=fits,
        verdict=word,
        probability=probability,
        margin_bytes=margin,
        setup=setup,
        memory=memory,
        speed=found.speed(setup, draft.value("epochs") or 1, draft.value("max_steps")),
        decisions=(*_chosen(found, setup), *draft.decided.values()),
        alternatives=alternatives(found, setup),
        ways_out=out,
        frontier=frontier(found),
        more_memory=more_memory(found, setup) if fits else None,
        warnings=_warnings(found, setup),
    )


def plan_recipe(recipe: Recipe, target: str | None = None) -> list[Plan]:
    """One plan a target in the recipe's order. Raises ProblemError for an unknown target or model."""
    from compiler.case import resolve

    return [plan(resolve(recipe, name)) for name in ([target] if target else recipe.targets)]


def settled_search(case: Case) -> Search:
    """The space of a case, after the rules that need no choice."""
    return search(settle(Draft(case), RULES_BEFORE))


def settle(draft: Draft, rules: tuple[Rule, ...]) -> Draft:
    """Run rules in order; each sees what the earlier ones decided."""
    decided = dict(draft.decided)
    draft = replace(draft, decided=decided)
    for rule in rules:
        decision = rule(draft)
        decided[decision.field] = decision
    return draft


def _chosen(found: Search, setup: Setup) -> list[Decision]:
    """The decisions of the searched fields, with what the choice weighed."""
    decisions = []
    for name, domain in found.domains.items():
        value = getattr(setup, name)
        because = domain.reason(value)
        rejection = domain.rejection(value)
        if domain.asked and rejection:
            because += f"; {'unasked it is not chosen' if rejection.runs else 'it cannot run'}: {rejection.reason}"
        elif len(domain.options) > 1:
            because += f"; {_weighed(found, setup, name)}"
        decisions.append(Decision(name, value, because, name))
    return decisions


def _weighed(found: Search, setup: Setup, name: str) -> str:
    """The strongest of the other options of a field, and why it is not it."""
    others = [value for value in found.domains[name].options if value != getattr(setup, name)]
    fitting = [best for best in (found.best(**{name: value}) for value in others) if best]
    if not fitting:
        smallest = [least for least in (found.smallest(**{name: value}) for value in others) if least]
        if not smallest:  # an option that only goes with values that this case does not allow
            return f"{', '.join(map(str, others))} cannot be combined with the rest"
        least = min(smallest, key=found.peak_bytes)
        return f"{getattr(least, name)} {miss(found, least)}"
    rival = max(fitting, key=found.tokens_per_second)
    return f"next best: {getattr(rival, name)}, {slower(found, rival, setup)}{besides(rival, setup, name)}"


def _leans_on(measured: Measured | None) -> list[str]:
    """Which of the project's own runs moved the prediction, and how far."""
    if measured is None:
        return []
    runs = "a run" if measured.runs == 1 else f"{measured.runs} runs"
    said = (
        f"leans on {runs} on this machine, the newest of {measured.date} (`recipe calibrate`): memory beside live "
        f"tensors times {measured.overhead_factor:.2f}, seconds of a step times {measured.step_factor:.3g}"
    )
    return [said, *(f"measured: {one}" for one in measured.remarks)]


def _warnings(found: Search, setup: Setup) -> tuple[str, ...]:
    """What a reader must know before he trusts the plan."""
    case, dataset = found.case, found.case.dataset
    said = []
    if found.broken:
        said.append(f"this setup cannot run as asked: {found.broken}")
    obstacle = inexpressible(setup)
    if obstacle:
        said.append(f"a prediction only, of which `recipe build` makes no config: {obstacle[0]}; {obstacle[1]}")
    idle = [name for name in ("early_stopping", "eval_every") if found.draft.states(name)]
    if idle and dataset.eval_path is None:
        said.append(f"{' and '.join(f'`{name}`' for name in idle)} need held-out rows, which come with a `dataset:`")
    if case.machine.backend == "xpu":
        said.append(
            "not verified upstream: Axolotl 0.19 names NVIDIA and AMD only; the keys are conservative, try ten "
            "steps first"
        )
    said += _leans_on(case.machine.measured)
    if not dataset.measured:
        said.append(
            f"no dataset is built yet: {dataset.rows:,} rows of {dataset.mean_tokens:,.0f} tokens on average, "
            f"{dataset.max_tokens:,} at most, are assumed"
        )
    share = truncated_share(dataset, setup.sequence_len)
    if share > MAX_TRUNCATED_SHARE:
        said.append(f"{percent(share)} of the rows are longer than {setup.sequence_len:,} tokens and are dropped")
    asked = found.draft.asked("effective_batch")
    if asked and asked != setup.effective_batch:
        said.append(f"effective batch {setup.effective_batch}, not {asked}: it is no multiple of what is pinned")
    if setup.method == "qlora-4bit" and not found.domains["method"].asked:
        wider = found.best(method="lora")
        if wider:
            said.append(f"4-bit weights although 16-bit ones fit: `method: lora` takes {slower(found, wider, setup)}")
    return tuple(said)
