"""What lost, and why, with numbers: alternatives, the frontier, what more memory would buy, ways out, why not.

Everything here reads a finished Search; nothing changes the choice.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from compiler.choose import Search
from compiler.rules.draft import percent
from compiler.rules.text import truncated_share
from compiler.units import format_size
from compiler.values import Alternative, Case, Plan, Setup, WayOut

NEXT_BYTES = 2 * 2**30
FRONTIER_STEP = 0.05
"""Two points of the frontier differ by at least this share of the budget: closer ones are noise of the prediction."""
MAX_FRONTIER = 8
SHOWN_FIELDS = (
    "method",
    "micro_batch",
    "sequence_len",
    "sample_packing",
    "gradient_checkpointing",
    "cross_entropy",
    "attention",
    "optimizer",
    "zero_stage",
    "offload",
)


def alternatives(found: Search, chosen: Setup) -> tuple[Alternative, ...]:
    """For each searched field, each other value: the best setup with it and why it lost, or the rule that keeps it
    out."""
    lost = []
    for name, domain in found.domains.items():
        for value in domain.options:
            if value != getattr(chosen, name):
                lost.append(_option(found, chosen, name, value))
        for rejection in domain.rejected:
            setup = with_value(chosen, name, rejection.value)
            if rejection.value != getattr(chosen, name) and _known(found, setup):
                lost.append(
                    _alternative(
                        found,
                        setup,
                        name,
                        f"{_word(rejection.value)}: {rejection.reason}",
                    )
                )
    return tuple(one for one in (*lost, *_other_batches(found, chosen)) if one)


def _option(found: Search, chosen: Setup, name: str, value: Any) -> Alternative | None:
    best = found.best(**{name: value})
    if best is None:
        least = found.smallest(**{name: value})
        if least is None:
            return None
        text = f"{_word(value)}: {miss(found, least)}"
        return _alternative(found, least, name, text)
    text = f"{_word(value)}: fits, {slower(found, best, chosen)}{_besides(best, chosen, name)}"
    return _alternative(found, best, name, text)


def _other_batches(found: Search, chosen: Setup) -> list[Alternative]:
    """The next smaller and the next larger micro-batch, all else equal."""
    share = chosen.micro_batch * chosen.gradient_accumulation
    sizes = [size for size in range(1, share + 1) if share % size == 0]
    place = sizes.index(chosen.micro_batch)
    lost = []
    for size in sizes[max(0, place - 1) : place] + sizes[place + 1 : place + 2]:
        setup = replace(chosen, micro_batch=size, gradient_accumulation=share // size)
        fits = found.verdict(setup)[0] == "fits"
        text = f"fits, {slower(found, setup, chosen)}" if fits else miss(found, setup)
        lost.append(_alternative(found, setup, "micro_batch", f"{size}: {text}"))
    return [] if found.draft.states("micro_batch") else lost


def with_value(setup: Setup, name: str, value: Any) -> Setup:
    """`setup` with one field changed, and with it what cannot stay: adapters, kernels, the stage that an offload
    needs."""
    changes: dict[str, Any] = {name: value}
    if name == "method" and value == "full":
        changes |= {"lora_r": None, "lora_alpha": None, "lora_kernels": False}
    if name == "method" and value == "lora-8bit":
        changes["lora_kernels"] = False
    if name == "offload" and value != "none":
        changes["zero_stage"] = max(setup.zero_stage, 2 if value == "optimizer" else 3)
    if name == "zero_stage" and value == 0:
        changes["offload"] = "none"
    if name == "sample_packing" and value and setup.attention not in ("flash_attention_2", "flex_attention"):
        changes["attention"] = "flash_attention_2"
    return replace(setup, **changes)


def _known(found: Search, setup: Setup) -> bool:
    """Whether memory can be predicted; not every optimizer's can."""
    try:
        found.peak_bytes(setup)
    except ValueError:
        return False
    return True


def _alternative(found: Search, setup: Setup, name: str | None, text: str) -> Alternative:
    return Alternative(setup, found.peak_bytes(setup), found.tokens_per_second(setup), text, name)


def miss(found: Search, setup: Setup) -> str:
    """By how much a setup exceeds the budget less its margin, or what else keeps it out."""
    word, _, margin = found.verdict(setup)
    total, budget = found.peak_bytes(setup), found.case.machine.budget_bytes
    over = total + margin - budget
    if over > 0:
        return (
            f"needs {format_size(total)} and a margin of {format_size(margin)}, "
            f"{format_size(over)} more than the budget of {format_size(budget)}"
        )
    if word != "fits":
        return f"needs {format_size(found.memory(setup).host_bytes)} of host RAM, more than there is"
    return f"fits in {format_size(total)}"


def slower(found: Search, setup: Setup, chosen: Setup) -> str:
    """The speed of a setup against the chosen one's."""
    rate, best = found.tokens_per_second(setup), found.tokens_per_second(chosen)
    size = format_size(found.peak_bytes(setup))
    if rate >= best * 0.9995:
        return f"{size}, as fast ({rate:,.0f} tokens/s); the plan prefers what stands first in docs/quality-policy.md"
    return f"{size}, {rate:,.0f} tokens/s, {percent(1 - rate / best)} slower"


def _besides(setup: Setup, chosen: Setup, name: str) -> str:
    """What else differs between an alternative and the choice."""
    differing = [
        f"{other} {_word(getattr(setup, other))}"
        for other in SHOWN_FIELDS
        if other != name and getattr(setup, other) != getattr(chosen, other)
    ]
    return f" (with {', '.join(differing)})" if differing else ""


def describe(setup: Setup) -> str:
    """A setup in one line."""
    sharding = f", ZeRO-{setup.zero_stage} offload {setup.offload}" if setup.zero_stage else ""
    packed = " packed" if setup.sample_packing else ""
    return (
        f"{setup.method}, {setup.micro_batch} x {setup.sequence_len:,} tokens{packed}, checkpointing "
        f"{setup.gradient_checkpointing}, {setup.cross_entropy}, {setup.attention}, {setup.optimizer}{sharding}"
    )


def frontier(found: Search) -> tuple[Alternative, ...]:
    """Memory against time: the best within all of the device's memory, then within ever smaller budgets."""
    machine, points = found.case.machine, []
    budget = max(machine.vram_bytes, machine.budget_bytes)
    step = FRONTIER_STEP * machine.budget_bytes
    while len(points) < MAX_FRONTIER:
        best = found.best(budget_bytes=round(budget))
        if best is None:
            break
        points.append(_alternative(found, best, None, describe(best)))
        budget = min(budget, found.peak_bytes(best)) - step
        if budget <= 0:
            break
    return tuple(points)


def more_memory(found: Search, chosen: Setup) -> Alternative | None:
    """The choice with 2 GiB more, and what they buy."""
    machine = found.case.machine
    best = found.best(budget_bytes=machine.budget_bytes + NEXT_BYTES)
    if best is None:
        return None
    before, after = found.tokens_per_second(chosen), found.tokens_per_second(best)
    if best == chosen or after <= before * 1.0005:
        return _alternative(found, best, None, f"{format_size(NEXT_BYTES)} more would buy no speed")
    changes = _besides(best, chosen, "").removeprefix(" (with ").removesuffix(")")
    text = f"{format_size(NEXT_BYTES)} more would make it {percent(after / before - 1)} faster: {changes}"
    return _alternative(found, best, None, text)


def ways_out(found: Search, smallest: Setup) -> tuple[WayOut, ...]:
    """What would make a plan fit that does not: single changes first, the cheapest first, each with its bytes."""
    changes = [*_levers(found, smallest), *_lengths(found, smallest)]
    seen, ways = {smallest}, []
    for text, setup in changes:
        if setup in seen or found.peak_bytes(setup) >= found.peak_bytes(smallest):
            continue
        seen.add(setup)
        ways.append((text, setup))
    ways.sort(key=lambda way: found.verdict(way[1])[0] != "fits")
    result = [_way(found, text, setup) for text, setup in ways]
    together = _together(found, smallest, ways)
    return (
        *result,
        *together,
        *_bigger_machine(found, smallest),
        *_smaller_models(found),
    )


def _way(found: Search, text: str, setup: Setup) -> WayOut:
    word = found.verdict(setup)[0]
    ending = "which fits" if word == "fits" else miss(found, setup)
    return WayOut(
        f"{text}: {format_size(found.peak_bytes(setup))}, {ending}",
        found.peak_bytes(setup),
    )


def _levers(found: Search, setup: Setup) -> list[tuple[str, Setup]]:
    """Memory-saving values of single fields, pinned ones and ones that the policy does not take unasked included."""
    wanted = [
        ("gradient_checkpointing", ("on", "offload")),
        ("cross_entropy", ("liger", "chunked", "cut")),
        ("optimizer", ("adamw_8bit", "paged_adamw_8bit")),
        ("micro_batch", (1,)),
        ("attention", ("sdpa", "flash_attention_2")),
        ("method", ("lora", "qlora-4bit")),
        ("zero_stage", (2, 3) if setup.devices > 1 else ()),
        ("offload", ("optimizer", "params")),
        ("lora_r", (16,) if (setup.lora_r or 0) > 16 else ()),
    ]
    levers = []
    for name, values in wanted:
        domain = found.domains.get(name)
        for value in values:
            rejection = domain.rejection(value) if domain else None
            if value == getattr(setup, name) or (rejection and not rejection.runs):
                continue
            changed = _with_adapter(found, with_value(setup, name, value))
            if name == "micro_batch":
                share = setup.micro_batch * setup.gradient_accumulation
                changed = replace(changed, gradient_accumulation=share)
            levers.append((f"`{name}: {_word(value)}`", changed))
    return levers


def _with_adapter(found: Search, setup: Setup) -> Setup:
    """A setup that left full fine-tuning gets the adapter that the rules would give it."""
    if setup.method == "full" or setup.lora_r is not None:
        return setup
    return replace(setup, lora_r=64, lora_alpha=128, lora_targets="all-linear", lora_dropout=0.0)


def _lengths(found: Search, setup: Setup) -> list[tuple[str, Setup]]:
    lengths = []
    for divisor in (2, 4):
        length = setup.sequence_len // divisor
        if length >= 64:
            share = percent(truncated_share(found.case.dataset, length))
            text = f"`sequence_len: {length}` (drops {share} of the rows)"
            lengths.append((text, replace(setup, sequence_len=length)))
    return lengths


def _together(found: Search, smallest: Setup, ways: list[tuple[str, Setup]]) -> tuple[WayOut, ...]:
    """If no single change is enough: all single-field changes added up, best first, until they are."""
    if not ways or any(found.verdict(setup)[0] == "fits" for _, setup in ways):
        return ()
    setup, texts, changed = smallest, [], set()
    for text, way in sorted(ways, key=lambda one: found.peak_bytes(one[1])):
        differing = {name for name in SHOWN_FIELDS if getattr(way, name) != getattr(smallest, name)}
        if differing & changed:
            continue
        candidate = replace(setup, **{name: getattr(way, name) for name in differing})
        if candidate.method != "full" and candidate.lora_r is None:
            candidate = _with_adapter(found, candidate)
        if found.peak_bytes(candidate) >= found.peak_bytes(setup):
            continue
        setup, changed = candidate, changed | differing
        texts.append(text)
        if found.verdict(setup)[0] == "fits":
            break
    return (_way(found, " with ".join(texts), setup),) if len(texts) > 1 else ()


def _bigger_machine(found: Search, smallest: Setup) -> tuple[WayOut, ...]:
    machine, total = found.case.machine, found.peak_bytes(smallest)
    margin = found.verdict(smallest)[2]
    ways = []
    if machine.backend in ("cuda", "rocm") and smallest.method == "full" and smallest.zero_stage == 0:
        shared = replace(
            smallest,
            devices=2 * machine.count,
            zero_stage=3,
            optimizer="adamw_torch_fused",
        )
        ways.append(_way(found, f"{2 * machine.count} devices with ZeRO-3", shared))
    where = "`vram_budget`" if machine.backend != "cpu" else "`ram_budget`"
    least = format_size(total + margin)
    ways.append(
        WayOut(
            f"a budget ({where}) of {least} or a device that has it: the smallest setup then fits",
            total,
        )
    )
    return tuple(ways)


def _smaller_models(found: Search) -> tuple[WayOut, ...]:
    """The largest model of the catalogue that the same device fine-tunes with 4-bit LoRA and the same sequence
    length."""
    from compiler.facts import models

    case = found.case
    size, family = (
        case.model.architecture.parameters.total,
        case.model.architecture.model_type,
    )
    smaller = sorted(
        (entry for entry in models().values() if entry.parameters < size and entry.chat_template),
        key=lambda entry: (
            entry.config["model_type"] != family,
            -entry.parameters,
            entry.id,
        ),
    )
    least = found.smallest()
    for entry in smaller[:12]:
        model = replace(case.model, id=entry.id, architecture=entry.architecture)
        other = Search(
            replace(found.draft, case=replace(case, model=model)),
            found.domains,
            (),
            None,
        )
        try:
            fits = other.verdict(least)[0] == "fits"
        except ValueError:  # pinned targets that this model does not have
            continue
        if fits:
            total = other.peak_bytes(least)
            return (
                WayOut(
                    f"`base_model: {entry.id}`: {format_size(total)} at the same settings, which fits",
                    total,
                ),
            )
    return ()


def why_not(case: Case, field: str, value: Any) -> str:
    """What kills `training.<field>` = `value` in this case, with numbers: the plan with it against the plan without it.

    `value` may be the text that a recipe would have. Raises WorldProblem for an unknown field or an impossible value.
    """
    from compiler.plan import plan

    pinned = _pinned(case, field, value)
    free, stated = plan(case), plan(pinned)
    asked = getattr(pinned.recipe.training, field)
    head = f"{field}: {_word(asked)}"
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


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(value) if isinstance(value, tuple) else str(value)
