"""plan.md: what was chosen, what it costs in bytes and seconds, why, and what lost. For a pull request and for the
curious."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from compiler import AXOLOTL_VERSION, __version__
from compiler.compare import shortfall
from compiler.emit.bar import BAR_WIDTH, bar, memory_lines
from compiler.emit.launch import config_path, merge_command, requirements, shell_line
from compiler.emit.stamp import facts_digest, recipe_digest
from compiler.memory import merge_part
from compiler.units import format_size
from compiler.values import Alternative, Artefact, Part, Plan, Setup

SETUP_FIELDS = (
    "method", "micro_batch", "gradient_accumulation", "sequence_len", "gradient_checkpointing", "optimizer",
    "attention", "cross_entropy", "sample_packing", "precision", "weights_dtype", "lora_r", "lora_targets",
    "lora_kernels", "zero_stage", "fsdp", "offload",
)  # fmt: skip
"""Fields by which setups are told apart in tables."""


def emit(plan: Plan) -> Artefact:
    """`<recipe>/<target>/plan.md`; also for a plan that does not fit, where it says what would."""
    blocks = [one for part in PARTS for one in [part(plan)] if one]
    return Artefact(f"{plan.case.recipe.name}/{plan.case.target}/plan.md", "\n\n".join(blocks) + "\n")


def _title(plan: Plan) -> str:
    case, machine = plan.case, plan.case.machine
    budget = format_size(machine.budget_bytes)
    answer = {
        "fits": f"**Fits**: {format_size(plan.memory.total_bytes)} of {budget}, {format_size(plan.margin_bytes)} "
        "margin kept",
        "uncertain": f"**Uncertain**: {format_size(plan.memory.total_bytes)} of {budget}, within the margin of "
        f"{format_size(plan.margin_bytes)}",
    }.get(
        plan.verdict, f"**Does not fit**: the smallest setup needs {format_size(plan.memory.total_bytes)} of {budget}"
    )
    return "\n".join([
        f"# {case.recipe.name} on {case.target}",
        "",
        f"{case.model.id} on {machine.count} x {machine.name}. {answer} (probability {_share(plan.probability)} to "
        "stay within the budget).",
        "",
        f"Compiled by finetune-recipes {__version__} for Axolotl {AXOLOTL_VERSION}. Recipe `{recipe_digest(plan)}`, "
        f"facts `{facts_digest(plan)}`.",
    ])  # fmt: skip


def _not_written(plan: Plan) -> str | None:
    if plan.fits:
        return None
    lines = ["## Nothing fits", "", "No axolotl.yaml is written for this target."]
    missing = shortfall(plan)
    if missing:
        lines[-1] += f" {missing[0].upper()}{missing[1:]}."
    if plan.ways_out:
        lines += ["", "Ways out, the cheapest first:", ""]
        lines += [f"- {way.text}" for way in plan.ways_out]
    return "\n".join(lines)


def _run(plan: Plan) -> str | None:
    if not plan.fits:
        return None
    merge = merge_part(plan.case.model.architecture, plan.setup)
    lines = [
        "## Run",
        "",
        "From the project root:",
        "",
        "```sh",
        shell_line(plan),
        "```",
        "",
        "Needs: " + "; ".join(requirements(plan)) + ".",
    ]
    if merge is not None:
        size = format_size(merge.bytes)
        lines += ["", f"Fold the adapter into the weights afterwards, on the CPU: about {size} of RAM, {merge.how}.",
                  "", "```sh", merge_command(plan), "```"]  # fmt: skip
    if plan.setup.fsdp != "none":
        what = "the adapter" if merge is not None else "the model"
        joined = f"axolotl merge-sharded-fsdp-weights {config_path(plan)}"
        said = f"The end of the run is {what} in one piece; checkpoints on the way are shards, which this joins:"
        lines += ["", said, "", "```sh", joined, "```"]
    lines += [
        "",
        "A file `~/.cache/huggingface/accelerate/default_config.yaml`, if there is one, overrides parts of this "
        "plan: move it away first.",
    ]
    return "\n".join(lines)


def _memory(plan: Plan) -> str:
    each = " of each device" if plan.setup.devices > 1 else ""
    lines = [f"## Memory{each}", "", "```", *memory_lines(plan), "```", "", *_parts_table(plan.memory.parts)]
    if plan.memory.phases:
        peak = max(size for _, size in plan.memory.phases)
        lines += ["", "Live tensors by phase:", "", "```"]
        width = max(len(name) for name, _ in plan.memory.phases)
        lines += [
            f"{name.ljust(width)} {format_size(size).rjust(10)}  {bar(size, peak)}" for name, size in plan.memory.phases
        ]
        lines.append("```")
    if plan.memory.host_parts:
        have = plan.case.machine.host_ram_bytes
        of = f" of {format_size(have)}" if have else "; the recipe does not say how much there is"
        lines += [
            "",
            f"Host RAM: {format_size(plan.memory.host_bytes)}{of}.",
            "",
            *_parts_table(plan.memory.host_parts),
        ]
    return "\n".join(lines)


def _parts_table(parts: Sequence[Part]) -> list[str]:
    rows = [(part.name, format_size(part.bytes), f"{part.bytes:,}", part.how) for part in parts]
    return _table(("part", "size", "bytes", "how"), rows)


def _speed(plan: Plan) -> str:
    speed = plan.speed
    cost = "" if speed.cost_usd is None else f", about {speed.cost_usd:.2f} USD"
    lines = ["## Time", "", f"{speed.tokens_per_second:,.0f} tokens/s (padding not counted), "
                            f"{speed.seconds_per_step:.3g} s a step, "
             f"{speed.steps:,} steps: {speed.hours:.3g} h{cost}."]  # fmt: skip
    if speed.parts:
        lines += [
            "",
            *_table(
                ("part of a step", "seconds", "how"),
                [(name, f"{seconds:.3g}", how) for name, seconds, how in speed.parts],
            ),
        ]
    return "\n".join(lines)


def _decisions(plan: Plan) -> str:
    rows = [(f"`{one.field}`", f"`{_value(one.value)}`", one.because, one.rule) for one in plan.decisions]
    rows += [
        (f"`axolotl.{name}`", f"`{_value(value)}`", "stated by hand", "escape hatch")
        for name, value in plan.case.recipe.axolotl.items()
    ]
    return "\n".join(["## Decisions", "", *_table(("field", "value", "because", "rule"), rows)])


def _frontier(plan: Plan) -> str | None:
    if not plan.frontier:
        return None
    fastest = max(one.tokens_per_second for one in plan.frontier)
    rows = []
    for one in plan.frontier:
        drawn = f"`{bar(one.tokens_per_second, fastest, BAR_WIDTH // 2)}`"
        other = differences(plan.setup, one.setup)
        rows.append((format_size(one.total_bytes), f"{one.tokens_per_second:,.0f}", drawn, other, one.why_not))
    table = _table(("memory", "tokens/s", "", "differs from the plan in", "remark"), rows)
    more = [] if plan.more_memory is None else ["", f"{plan.more_memory.why_not}."]
    return "\n".join(
        ["## Memory against time", "", "No setup is both smaller and faster than one of these.", "", *table, *more]
    )


def _lost(plan: Plan) -> str | None:
    if not plan.alternatives:
        return None
    rows = [_alternative(plan, one) for one in plan.alternatives]
    return "\n".join(["## What lost, and why", "", *_table(("setup", "memory", "tokens/s", "why not"), rows)])


def _alternative(plan: Plan, one: Alternative) -> tuple[str, ...]:
    return (
        differences(plan.setup, one.setup),
        format_size(one.total_bytes),
        f"{one.tokens_per_second:,.0f}",
        one.why_not,
    )


def differences(chosen: Setup, other: Setup) -> str:
    """The fields in which `other` differs, as `field value`; "the plan itself" where it does not."""
    found = [
        f"{name} `{_value(getattr(other, name))}`"
        for name in SETUP_FIELDS
        if getattr(other, name) != getattr(chosen, name)
    ]
    return ", ".join(found) or "the plan itself"


def _remarks(plan: Plan) -> str | None:
    dataset = plan.case.dataset
    remarks = [*plan.case.machine.notes, *plan.warnings]
    if dataset.train_path is None:
        remarks.append(
            "The recipe has no dataset: the config trains on random tokens, which measures this machine and teaches "
            "nothing."
        )
    elif not dataset.measured:
        remarks.append("Run `recipe data`, then `recipe build` again: what is assumed of the rows is then counted.")
    if not remarks:
        return None
    return "\n".join(["## Remarks", "", *(f"- {' '.join(remark.split())}" for remark in remarks)])


PARTS = (_title, _not_written, _remarks, _memory, _speed, _run, _decisions, _frontier, _lost)
"""In the order of the page; a part that has nothing to say returns None."""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table; what would end a cell is escaped."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        lines.append("| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in row) + " |")
    return lines


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_value(item)}" for name, item in value.items())
    return str(value)


def _share(probability: float) -> str:
    """Never "100 %": a prediction is not a promise."""
    return "above 99 %" if probability > 0.99 else "below 1 %" if probability < 0.01 else f"{100 * probability:.0f} %"
