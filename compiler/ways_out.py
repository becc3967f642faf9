"""What would make a plan fit that does not: each change as the recipe would state it, with its bytes, the cheapest
first.

A change that is said to fit was searched anew: what is shown is the smallest setup of the recipe that states it, not
this recipe's with one value exchanged, which a rule or another pin may keep out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from compiler.choose import Point, Search, machine_for
from compiler.compare import SHOWN_FIELDS, describe, host_shortage, with_value, word
from compiler.constraints import conflict
from compiler.rules.draft import percent
from compiler.rules.text import truncated_share
from compiler.units import format_size
from compiler.values import Case, Setup, WayOut


class Change(NamedTuple):
    """Fields of `training:` to state, and about what the smallest setup then becomes."""

    text: str
    fields: dict[str, Any]
    setup: Setup


def ways_out(found: Search, smallest: Setup) -> tuple[WayOut, ...]:
    """What would make a plan fit that does not: single changes first, the cheapest first, each with its bytes."""
    if found.broken:
        return (*_unpinned(found), *_without_one(found)) or tuple(_unpinned(found, True))
    seen, changes = {smallest}, []
    for change in (*_levers(found, smallest), *_lengths(found, smallest)):
        setup = change.setup
        if setup in seen or conflict(setup) or found.peak_bytes(setup) >= found.peak_bytes(smallest):
            continue
        seen.add(setup)
        changes.append(change)
    changes.sort(key=lambda change: found.verdict(change.setup)[0] != "fits")
    result = [way for change in changes for way in _weighed(found, change)]
    return (
        *_unpinned(found),
        *result,
        *_together(found, smallest, changes),
        *_more_host_ram(found, smallest),
        *_more_devices(found, smallest),
        *_bigger_budget(found),
        *_smaller_models(found),
    )


def _stating(case: Case, without: tuple[str, ...] = (), **fields: Any) -> Case:
    """The case of a recipe that states these fields of `training:` besides its own, less some of those."""
    training = case.recipe.training
    stated = {name: getattr(training, name) for name in training.model_fields_set if name not in without} | fields
    recipe = case.recipe.model_copy(update={"training": type(training).model_validate(stated)})
    return replace(case, recipe=recipe)


def _planned(text: str, case: Case, part_of_it: bool = False) -> list[WayOut]:
    """The way out that a changed case is, where something fits there; else nothing, or what is then still missing."""
    from compiler.plan import settled_search  # plan leans on this module

    try:
        other = settled_search(case)
    except ValueError:  # what is pinned does not go with the change
        return []
    least = None if other.broken else _least(other)
    fits = least is not None and least.needed_bytes <= other.case.machine.budget_bytes
    return [_way(other, text, least.setup)] if least is not None and (fits or part_of_it) else []


def _least(found: Search) -> Point | None:
    """The smallest setup that the host has room for. Quicker than the fastest one, which a reader may plan for."""
    points = sorted(found.points, key=lambda point: (point.needed_bytes, point.order))
    return next((point for point in points if found.fits_host(point.setup)), None)


def _unpinned(found: Search, part_of_it: bool = False) -> list[WayOut]:
    """What would fit if the recipe did not pin the searched fields."""
    names = tuple(
        sorted(name for name in (*found.domains, "micro_batch", "gradient_accumulation") if found.draft.states(name))
    )
    if not names:
        return []
    said = f"without the pinned {', '.join(f'`{name}`' for name in names)}"
    return _planned(said, _stating(found.case, names), part_of_it)


def _without_one(found: Search) -> list[WayOut]:
    """Pins that do not go together: each that the others can do without."""
    names = sorted(found.case.recipe.training.model_fields_set)
    pins = [name for name in names if found.draft.states(name)]
    case = found.case
    return [way for name in pins for way in _planned(f"without the pinned `{name}`", _stating(case, (name,)), True)]


def _weighed(found: Search, change: Change) -> list[WayOut]:
    """A change that promises to fit, as it is planned; one that does not, with what it lacks."""
    if found.verdict(change.setup)[0] != "fits":
        return [_way(found, change.text, change.setup)]
    return _planned(change.text, _stating(found.case, **change.fields))


def _way(found: Search, text: str, setup: Setup) -> WayOut:
    word, _, margin = found.verdict(setup)
    total, budget = found.peak_bytes(setup), found.case.machine.budget_bytes
    over = total + margin - budget
    if word == "fits":
        ending = f"which fits ({describe(setup)})"
    elif over > 0:
        ending = f"with its margin of {format_size(margin)} still {format_size(over)} too much"
    else:
        ending = f"but {host_shortage(found.case.machine, setup, found.host_bytes(setup))}"
    return WayOut(f"{text}: {format_size(total)}, {ending}", total)


def _levers(found: Search, setup: Setup) -> list[Change]:
    """Memory-saving values of single fields, pinned ones and ones that the policy does not take unasked included."""
    wanted = [
        ("gradient_checkpointing", ("on", "offload")),
        ("cross_entropy", ("liger", "chunked", "cut")),
        ("optimizer", ("adamw_8bit", "paged_adamw_8bit")),
        ("micro_batch", (1,)),
        ("attention", ("sdpa", "flash_attention_2")),
        ("method", ("lora", "qlora-4bit")),
        ("zero_stage", (2, 3) if setup.devices > 1 else ()),
        ("fsdp", ("full_shard",) if setup.devices > 1 else ()),
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
            fields = {name: value} | _along(found, setup, changed, name)
            text = " and ".join(f"`{one}: {word(stated)}`" for one, stated in fields.items())
            levers.append(Change(text, fields, changed))
    return levers


def _along(found: Search, setup: Setup, changed: Setup, name: str) -> dict[str, Any]:
    """What must be stated with a lever: the stage that an offload needs, and what is pinned to something else."""
    differing = [
        one
        for one in ("zero_stage", "fsdp", "offload", "optimizer", "gradient_accumulation")
        if one != name and getattr(changed, one) != getattr(setup, one)
    ]
    if name == "offload" and changed.fsdp != "none":  # `params` alone would ask for DeepSpeed
        differing.append("fsdp")
    must = ("zero_stage", "fsdp")
    return {one: getattr(changed, one) for one in differing if one in must or found.draft.states(one)}


def _with_adapter(found: Search, setup: Setup) -> Setup:
    """A setup that left full fine-tuning gets the adapter that the rules would give it."""
    if setup.method == "full" or setup.lora_r is not None:
        return setup
    return replace(setup, lora_r=64, lora_alpha=128, lora_targets="all-linear", lora_dropout=0.0)


def _lengths(found: Search, setup: Setup) -> list[Change]:
    lengths = []
    for divisor in (2, 4):
        length = setup.sequence_len // divisor
        if length >= 64:
            share = percent(truncated_share(found.case.dataset, length))
            text = f"`sequence_len: {length}` (drops {share} of the rows)"
            lengths.append(Change(text, {"sequence_len": length}, replace(setup, sequence_len=length)))
    return lengths


def _together(found: Search, smallest: Setup, changes: list[Change]) -> list[WayOut]:
    """If no single change is enough: all single-field changes added up, best first, until they are."""
    if not changes or any(found.verdict(change.setup)[0] == "fits" for change in changes):
        return []
    setup, texts, changed, fields = smallest, [], set(), {}
    for change in sorted(changes, key=lambda one: found.peak_bytes(one.setup)):
        differing = {name for name in SHOWN_FIELDS if getattr(change.setup, name) != getattr(smallest, name)}
        if differing & changed:
            continue
        candidate = _with_adapter(found, replace(setup, **{name: getattr(change.setup, name) for name in differing}))
        if conflict(candidate) or found.peak_bytes(candidate) >= found.peak_bytes(setup):
            continue
        setup, changed, fields = candidate, changed | differing, fields | change.fields
        texts.append(change.text)
        if found.verdict(setup)[0] == "fits":
            break
    return _weighed(found, Change(" with ".join(texts), fields, setup)) if len(texts) > 1 else []


def _more_host_ram(found: Search, smallest: Setup) -> list[WayOut]:
    """Where an offload lacks RAM and nothing else: how much the target would have to have, or to say that it has."""
    machine, total, needed = found.case.machine, found.peak_bytes(smallest), found.host_bytes(smallest)
    have = machine_for(machine, smallest).host_ram_bytes
    if have is None or needed <= have or total + found.verdict(smallest)[2] > machine.budget_bytes:
        return []
    gib = -(-needed // 2**30)
    text = f"`host_ram: {gib} GiB`" + (" if the machine has it" if machine.host_ram_bytes is None else "")
    return _planned(text, replace(found.case, machine=replace(machine, host_ram_bytes=gib * 2**30)))


def _more_devices(found: Search, smallest: Setup) -> list[WayOut]:
    """Twice as many cards, where sharding between them promises enough."""
    machine = found.case.machine
    if machine.backend not in ("cuda", "rocm"):
        return []
    changed = replace(found.case, machine=replace(machine, count=2 * machine.count))
    plain = replace(smallest, devices=2 * machine.count, optimizer="adamw_torch_fused", offload="none")
    shared = (replace(plain, zero_stage=3, fsdp="none"), replace(plain, zero_stage=0, fsdp="full_shard"))
    if not any(found.verdict(setup)[0] == "fits" for setup in shared if not conflict(setup)):
        return []
    return _planned(f"`count: {2 * machine.count}`", changed)


def _bigger_budget(found: Search) -> list[WayOut]:
    """The least budget in which something fits that the host has room for."""
    machine, least = found.case.machine, _least(found)
    if least is None:
        return []
    size = f"{-(-least.needed_bytes * 100 // 2**30) / 100:.2f} GiB"  # never rounded down: it shall be enough
    if machine.backend == "cpu":
        text = f"a budget (`ram_budget`) of {size}"
    elif least.needed_bytes <= machine.vram_bytes:
        text = f"a budget (`vram_budget`) of {size}"
    else:
        text = f"a device with {size} for it (this one has {format_size(machine.vram_bytes)})"
    return [WayOut(f"{text}: then it fits ({describe(least.setup)})", least.peak_bytes)]


def _smaller_models(found: Search) -> list[WayOut]:
    """The largest model of the catalogue that the same device fine-tunes as the recipe asks, most nearly related
    first."""
    from compiler.facts import models

    case, least = found.case, found.smallest()
    size, family = case.model.architecture.parameters.total, case.model.architecture.model_type
    smaller = sorted(
        (entry for entry in models().values() if entry.parameters < size and entry.chat_template),
        key=lambda entry: (entry.config["model_type"] != family, -entry.parameters, entry.id),
    )
    for entry in smaller[:12]:
        changed = replace(case, model=replace(case.model, id=entry.id, architecture=entry.architecture))
        other = Search(replace(found.draft, case=changed), found.domains, (), None)
        try:
            fits = other.verdict(least)[0] == "fits"
        except ValueError:  # pinned targets that this model does not have
            continue
        ways = _planned(f"`base_model: {entry.id}`", changed) if fits else []
        if ways:
            return ways
    return []
