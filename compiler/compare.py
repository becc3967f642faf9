"""What lost, and why, with numbers: alternatives, the frontier, what more memory would buy.

Everything here reads a finished Search; nothing changes the choice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from compiler.choose import NEXT_BYTES, Search, machine_for
from compiler.constraints import BITSANDBYTES
from compiler.rules.draft import percent
from compiler.units import format_size
from compiler.values import Alternative, Machine, Plan, Setup

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
    "fsdp",
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
                        f"{word(rejection.value)}: {rejection.reason}",
                    )
                )
    return tuple(one for one in (*lost, *_other_batches(found, chosen)) if one)


def _option(found: Search, chosen: Setup, name: str, value: Any) -> Alternative | None:
    best = found.best(**{name: value})
    if best is None:
        least = found.smallest(**{name: value})
        if least is None:
            return None
        text = f"{word(value)}: {miss(found, least)}"
        return _alternative(found, least, name, text)
    text = f"{word(value)}: fits, {slower(found, best, chosen)}{besides(best, chosen, name)}"
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
    if name == "offload" and value == "params" and setup.fsdp != "none":
        pass  # FSDP keeps its shards in host RAM itself
    elif name == "offload" and value != "none":
        changes["fsdp"] = "none"
        changes["zero_stage"] = max(setup.zero_stage, 2 if value == "optimizer" else 3)
    if name == "fsdp" and value != "none":
        changes |= {"zero_stage": 0, "offload": "params" if setup.offload == "params" else "none"}
    if name == "zero_stage" and value:
        changes["fsdp"] = "none"
    if name in ("offload", "zero_stage", "fsdp") and value not in ("none", 0) and setup.optimizer in BITSANDBYTES:
        changes["optimizer"] = "adamw_torch_fused"
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
        return f"needs {host_shortage(found.case.machine, setup, found.host_bytes(setup))}"
    return f"fits in {format_size(total)}"


def host_shortage(machine: Machine, setup: Setup, host_bytes: int) -> str:
    """What a setup wants of the host, and what is counted on there."""
    have = machine_for(machine, setup).host_ram_bytes or 0
    there = f"the {format_size(have)} of the target"
    if machine.host_ram_bytes is None:
        there = f"the {format_size(have)} that are counted on while the target states no `host_ram`"
    return f"{format_size(host_bytes)} of host RAM, more than {there}"


def shortfall(plan: Plan) -> str:
    """Why a plan does not fit, with numbers: a sentence without its end. "" where the budget and the host suffice."""
    machine, said = machine_for(plan.case.machine, plan.setup), []
    need = plan.memory.total_bytes + plan.margin_bytes
    if need > machine.budget_bytes:
        said.append(f"{format_size(need)} with its margin, {format_size(need - machine.budget_bytes)} more than the "
                    f"budget of {format_size(machine.budget_bytes)}")  # fmt: skip
    if machine.host_ram_bytes is not None and plan.memory.host_bytes > machine.host_ram_bytes:
        said.append(host_shortage(plan.case.machine, plan.setup, plan.memory.host_bytes))
    return "the smallest setup needs " + ", and ".join(said) if said else ""


def slower(found: Search, setup: Setup, chosen: Setup) -> str:
    """The speed of a setup against the chosen one's."""
    rate, best = found.tokens_per_second(setup), found.tokens_per_second(chosen)
    size = format_size(found.peak_bytes(setup))
    if rate >= best * 0.9995:
        return f"{size}, as fast ({rate:,.0f} tokens/s); the plan prefers what stands first in docs/quality-policy.md"
    return f"{size}, {rate:,.0f} tokens/s, {percent(1 - rate / best)} slower"


def besides(setup: Setup, chosen: Setup, name: str) -> str:
    """What else differs between an alternative and the choice."""
    differing = [
        f"{other} {word(getattr(setup, other))}"
        for other in SHOWN_FIELDS
        if other != name and getattr(setup, other) != getattr(chosen, other)
    ]
    return f" (with {', '.join(differing)})" if differing else ""


def describe(setup: Setup) -> str:
    """A setup in one line."""
    sharding = f", ZeRO-{setup.zero_stage} offload {setup.offload}" if setup.zero_stage else ""
    if setup.fsdp != "none":
        sharding = f", FSDP {setup.fsdp} offload {setup.offload}"
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
    changes = besides(best, chosen, "").removeprefix(" (with ").removesuffix(")")
    text = f"{format_size(NEXT_BYTES)} more would make it {percent(after / before - 1)} faster: {changes}"
    return _alternative(found, best, None, text)


def word(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(value) if isinstance(value, tuple) else str(value)
