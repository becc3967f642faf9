"""What would make a plan fit that does not: each change with its bytes, the cheapest first."""

from __future__ import annotations

from dataclasses import replace

from compiler.choose import Search
from compiler.compare import SHOWN_FIELDS, describe, with_value, word
from compiler.constraints import conflict
from compiler.rules.draft import percent
from compiler.rules.text import truncated_share
from compiler.units import format_size
from compiler.values import Setup, WayOut


def ways_out(found: Search, smallest: Setup) -> tuple[WayOut, ...]:
    """What would make a plan fit that does not: single changes first, the cheapest first, each with its bytes."""
    changes = [*_levers(found, smallest), *_lengths(found, smallest)]
    seen, ways = {smallest}, []
    for text, setup in changes:
        if setup in seen or conflict(setup) or found.peak_bytes(setup) >= found.peak_bytes(smallest):
            continue
        seen.add(setup)
        ways.append((text, setup))
    ways.sort(key=lambda way: found.verdict(way[1])[0] != "fits")
    result = [*_unpinned(found), *(_way(found, text, setup) for text, setup in ways)]
    together = _together(found, smallest, ways)
    return (
        *result,
        *together,
        *_bigger_machine(found, smallest),
        *_smaller_models(found),
    )


def _unpinned(found: Search) -> list[WayOut]:
    """What the planner would choose if the recipe did not pin the searched fields."""
    from compiler.plan import settled_search  # plan leans on this module

    training = found.case.recipe.training
    pins = sorted(name for name in (*found.domains, "micro_batch", "gradient_accumulation") if found.draft.states(name))
    if not pins:
        return []
    stated = {name: getattr(training, name) for name in training.model_fields_set if name not in pins}
    recipe = found.case.recipe.model_copy(update={"training": type(training).model_validate(stated)})
    free = settled_search(replace(found.case, recipe=recipe))
    best = free.best()
    if best is None:
        return []
    text = f"without the pinned {', '.join(f'`{name}`' for name in pins)} ({describe(best)})"
    return [_way(free, text, best)]


def _way(found: Search, text: str, setup: Setup) -> WayOut:
    word, _, margin = found.verdict(setup)
    total, budget = found.peak_bytes(setup), found.case.machine.budget_bytes
    over = total + margin - budget
    if word == "fits":
        ending = "which fits"
    elif over > 0:
        ending = f"with its margin of {format_size(margin)} still {format_size(over)} too much"
    else:
        ending = f"but {format_size(found.host_bytes(setup))} of host RAM, more than there is"
    return WayOut(f"{text}: {format_size(total)}, {ending}", total)


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
            levers.append((f"`{name}: {word(value)}`", changed))
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
        if conflict(candidate) or found.peak_bytes(candidate) >= found.peak_bytes(setup):
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
        if found.peak_bytes(shared) < total:
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
