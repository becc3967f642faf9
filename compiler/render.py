"""A plan for the terminal, and as the JSON of docs/plan-json.md. Text only; nothing here decides anything."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from typing import Any

from compiler.units import format_size
from compiler.values import Alternative, Plan, Setup

WIDTH = 110
NAME_WIDTH = 24
BAR_WIDTH = 80


def as_json(plan: Plan) -> dict[str, Any]:
    """The object that `recipe plan --json` prints: sizes in bytes, times in seconds."""
    memory, speed = plan.memory, plan.speed
    return {
        "recipe": plan.case.recipe.name,
        "target": plan.case.target,
        "fits": plan.fits,
        "verdict": plan.verdict,
        "probability": round(plan.probability, 6),
        "budget_bytes": plan.case.machine.budget_bytes,
        "margin_bytes": plan.margin_bytes,
        "setup": setup_json(plan.setup),
        "memory": {
            "total_bytes": memory.total_bytes,
            "peak_phase": memory.peak_phase,
            "parts": [asdict(part) for part in memory.parts],
            "phases": dict(memory.phases),
            "host_bytes": memory.host_bytes,
            "host_parts": [asdict(part) for part in memory.host_parts],
        },
        "speed": {
            "tokens_per_second": speed.tokens_per_second,
            "seconds_per_step": speed.seconds_per_step,
            "hours": speed.hours,
            "steps": speed.steps,
            "cost_usd": speed.cost_usd,
            "parts": [{"name": name, "seconds": seconds, "how": how} for name, seconds, how in speed.parts],
        },
        "decisions": [asdict(decision) for decision in plan.decisions],
        "alternatives": [_alternative_json(one) for one in plan.alternatives],
        "frontier": [_alternative_json(one) for one in plan.frontier],
        "more_memory": _alternative_json(plan.more_memory) if plan.more_memory else None,
        "ways_out": [asdict(way) for way in plan.ways_out],
        "warnings": list(plan.warnings),
    }


def setup_json(setup: Setup) -> dict[str, Any]:
    """Every field of the setup, the effective batch, and DeepSpeed as null or {stage, offload}."""
    deepspeed = {"stage": setup.zero_stage, "offload": setup.offload} if setup.zero_stage else None
    return {**asdict(setup), "effective_batch": setup.effective_batch, "deepspeed": deepspeed}


def _alternative_json(one: Alternative) -> dict[str, Any]:
    return {
        "setup": setup_json(one.setup),
        "total_bytes": one.total_bytes,
        "tokens_per_second": one.tokens_per_second,
        "why_not": one.why_not,
        "field": one.field,
    }


def as_text(plan: Plan) -> str:
    """The plan for people: verdict, memory bar, setup, decisions, what lost."""
    sections = [
        _head(plan),
        _memory(plan),
        _titled("Setup", _setup_lines(plan)),
        _titled("Warnings", [f"! {one}" for one in plan.warnings]),
        _titled("Ways out", [f"- {way.text}" for way in plan.ways_out]),
        _titled("Decisions", [_row(one.field, f"{show(one.value)}: {one.because}") for one in plan.decisions]),
        _titled("What lost", [_row(one.field or "", one.why_not) for one in plan.alternatives]),
        _titled("VRAM against time", [frontier_line(one, plan) for one in plan.frontier]),
        _titled("More memory", [plan.more_memory.why_not] if plan.more_memory else []),
    ]
    return "\n\n".join(section for section in sections if section)


def _head(plan: Plan) -> str:
    case, machine = plan.case, plan.case.machine
    count = f"{machine.count} x " if machine.count > 1 else ""
    return f"{case.recipe.name} / {case.target}: {case.model.id} on {count}{machine.name}"


def _memory(plan: Plan) -> str:
    """The total against the budget, then the parts, the largest first. Not `compiler.emit`: the terminal needs no
    emitter."""
    machine, memory = plan.case.machine, plan.memory
    total, budget = memory.total_bytes, machine.budget_bytes
    each = " each" if plan.setup.devices > 1 else ""
    lines = [
        f"{format_size(total)} of {format_size(budget)}{each}, margin kept {format_size(plan.margin_bytes)}: "
        f"{plan.verdict} ({100 * plan.probability:.0f} % likely); the peak is in phase `{memory.peak_phase}`",
        f"[{memory_bar(plan)}]",
    ]
    parts = sorted(memory.parts, key=lambda part: -part.bytes)
    lines += [
        f"  {part.name.ljust(20)}{format_size(part.bytes).rjust(10)}   {part.how}" for part in parts if part.bytes
    ]
    setup = plan.setup
    if memory.host_parts and (setup.zero_stage or setup.fsdp != "none" or setup.gradient_checkpointing == "offload"):
        lines.append(f"  {'host RAM'.ljust(20)}{format_size(memory.host_bytes).rjust(10)}")
    return "\n".join(line if len(line) <= WIDTH else line[: WIDTH - 3].rstrip() + "..." for line in lines)


def memory_bar(plan: Plan) -> str:
    """Each part by the first letter of its name, the margin as `-`, what is free as `.`; one budget wide."""
    budget = plan.case.machine.budget_bytes
    letters = ""
    for part in sorted(plan.memory.parts, key=lambda part: -part.bytes):
        letters += part.name[0] * round(BAR_WIDTH * part.bytes / budget)
    letters += "-" * round(BAR_WIDTH * plan.margin_bytes / budget)
    return letters[:BAR_WIDTH].ljust(BAR_WIDTH, ".") + (">" if len(letters) > BAR_WIDTH else "")


def _setup_lines(plan: Plan) -> list[str]:
    setup, speed = plan.setup, plan.speed
    adapter = "" if setup.lora_r is None else f", r {setup.lora_r}, alpha {setup.lora_alpha}"
    deepspeed = f"ZeRO-{setup.zero_stage}, offload {setup.offload}" if setup.zero_stage else "no DeepSpeed"
    if setup.fsdp != "none":
        deepspeed = f"FSDP {setup.fsdp}, offload {setup.offload}"
    cost = "" if speed.cost_usd is None else f", about {speed.cost_usd:,.2f} USD"
    return [
        f"{setup.method}{adapter}, {setup.precision}; {setup.sequence_len:,} tokens"
        f"{', packed' if setup.sample_packing else ''}, checkpointing {setup.gradient_checkpointing}",
        f"micro-batch {setup.micro_batch} x accumulation {setup.gradient_accumulation} x devices {setup.devices}"
        f" = effective batch {setup.effective_batch}",
        f"{setup.attention}, {setup.cross_entropy} cross-entropy, {setup.optimizer}, {deepspeed}",
        f"about {speed.tokens_per_second:,.0f} tokens/s, {speed.seconds_per_step:.3g} s a step, {hours(speed.hours)}"
        f" for {speed.steps:,} steps{cost}",
    ]


def _titled(title: str, lines: list[str]) -> str:
    return "\n".join([title, *(_wrapped(line) for line in lines)]) if lines else ""


def _row(name: str, text: str) -> str:
    return f"{name.ljust(NAME_WIDTH)}{text}"


def _wrapped(line: str) -> str:
    row = line[NAME_WIDTH - 1 : NAME_WIDTH] == " " and line[:1] not in ("-", "!", " ")
    indent = " " * (NAME_WIDTH + 2 if row else 4)
    return textwrap.fill(line, WIDTH, initial_indent="  ", subsequent_indent=indent, break_on_hyphens=False)


def frontier_line(one: Alternative, plan: Plan) -> str:
    """One point of the frontier: memory, speed, and what it is."""
    here = " (chosen)" if one.setup == plan.setup else ""
    size, rate = format_size(one.total_bytes).rjust(10), f"{one.tokens_per_second:>9,.0f} tokens/s"
    return f"{size}  {rate}  {one.why_not}{here}"


def show(value: Any) -> str:
    """A decision's value as people would write it.

    >>> show(None), show(True), show(("q_proj", "v_proj")), show(2e-4)
    ('none', 'true', 'q_proj, v_proj', '0.0002')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {show(inner)}" for key, inner in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def hours(value: float) -> str:
    """A duration in the unit people think in.

    >>> hours(0.01), hours(0.5), hours(30)
    ('36 s', '30 min', '30.0 h')
    """
    if value < 1 / 60:
        return f"{3600 * value:.0f} s"
    return f"{60 * value:.0f} min" if value < 1 else f"{value:.1f} h"
