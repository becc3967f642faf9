"""`recipe verify`: trace one real training step of the plan without a GPU, and compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from compiler.problems import WorldProblem, reporting
from compiler.stacks import STACKS

if TYPE_CHECKING:
    from compiler.trace.compare import Comparison, Figures, Row
    from compiler.values import Plan


@click.command()
@click.argument("recipe", type=click.Path(dir_okay=False))
@click.option("--target", help="Only this target of the recipe.")
@click.option(
    "--stack",
    type=click.Choice([stack.name for stack in STACKS]),
    metavar="NAME",
    help=f"Trace as this training stack does it and print what it would report: {', '.join(s.name for s in STACKS)}.",
)
@reporting()
def command(recipe: str, target: str | None, stack: str | None) -> None:
    """Trace a real training step of each plan on tensors without contents, and compare its peak with the planned one.

    The Hugging Face model class, PEFT, the loss and the optimizer run for real; no GPU and no weights are needed.
    Exit status 1 when a planned peak is more than 3 % away from the traced one.

    With --stack nothing is compared: the pinned fields of the recipe describe a run of that stack, and the traced
    peaks of allocated, reserved and device memory are printed, to be held against a published measurement.
    docs/accuracy.md says what each stack does.

    Example: recipe verify recipes/intel-arc-expert.yaml --target arc

    Example: recipe verify row.yaml --stack peft-loop
    """
    from compiler.check import load_recipe
    from compiler.plan import plan_recipe

    plans = plan_recipe(load_recipe(recipe), target)
    _need_training_packages()
    if stack is not None:
        for plan in plans:
            _report(plan, stack)
        return
    from compiler.trace.compare import TOLERANCE, compare

    wrong = False
    for plan in plans:
        case = plan.case
        rows = 0 if plan.decision("eval_every").value == "never" else plan.decision("eval_batch").value
        length = plan.decision("eval_sequence_len").value
        result = compare(case.model.architecture, plan.setup, case.machine, rows, length)
        click.echo(f"{case.recipe.name} / {case.target}: {case.model.id}, {describe(plan.setup)}\n")
        click.echo(table(result) + "\n")
        wrong = wrong or abs(result.error) > TOLERANCE
    if wrong:
        raise SystemExit(1)


def _report(plan: Plan, name: str) -> None:
    from compiler.trace.compare import figures

    stack = next(one for one in STACKS if one.name == name)
    case = plan.case
    result = figures(case.model.architecture, plan.setup, case.machine, stack)
    click.echo(f"{case.recipe.name} / {case.target}: {case.model.id}, {describe(plan.setup)}")
    click.echo(f"stack {stack.name}: {stack.evidence}\n")
    click.echo(stack_table(result) + "\n")


def stack_table(result: Figures) -> str:
    """The traced peaks of one device in MiB and bytes, and where they are."""
    phases = ", ".join(f"{name} {one.total_bytes / 2**20:,.1f}" for name, one in result.traced.phases)
    rows = (
        ("allocated", result.allocated, "max_memory_allocated: live tensors and cuBLAS workspaces"),
        ("reserved", result.reserved, "max_memory_reserved: the caching allocator, replayed"),
        ("device", result.device, "the process: reserved memory and the context"),
        ("resident", result.traced.resident_bytes, "after loading, before the first step"),
    )
    lines = [f"{'':12}{'MiB':>12}{'bytes':>18}"]
    lines += [f"{name:12}{size / 2**20:12,.1f}{size:18,}  {what}" for name, size, what in rows]
    lines.append(f"\nlive tensors by phase, MiB: {phases}; traced in {result.traced.seconds:.0f} s")
    if result.note:
        lines.append(result.note + ".")
    return "\n".join(lines)


def _need_training_packages() -> None:
    """Raises WorldProblem when the packages that a trace runs are not there."""
    from importlib.util import find_spec

    missing = [name for name in ("torch", "transformers", "peft", "bitsandbytes", "axolotl") if find_spec(name) is None]
    if missing:
        raise WorldProblem(
            f"a trace runs {', '.join(missing)}, which is not installed here",
            "run `make setup`, or install the extra `train`",
        )


def describe(setup: object) -> str:
    """The setup in one line."""
    names = (
        "method",
        "micro_batch",
        "sequence_len",
        "gradient_checkpointing",
        "optimizer",
        "attention",
        "cross_entropy",
    )
    return ", ".join(f"{name.replace('_', ' ')} {getattr(setup, name)}" for name in names)


def table(result: Comparison) -> str:
    """Traced against planned live bytes, part by part and phase by phase."""
    from compiler.trace.compare import TOLERANCE

    total = ("peak of live tensors", result.traced_bytes, result.planned_bytes)
    lines = [f"{'':24}{'traced MiB':>14}{'planned MiB':>14}{'difference':>12}"]
    lines += [_line(row.name, row.traced, row.planned) for row in result.parts]
    lines += [_line(*total), "", "by phase"]
    lines += [_phase(row) for row in result.phases]
    word = "within" if abs(result.error) <= TOLERANCE else "BEYOND"
    lines.append(
        f"\n{result.error:+.2%} of the traced peak, {word} {TOLERANCE:.0%}; traced in {result.traced.seconds:.0f} s"
    )
    lines.append("Not traced: CUDA context, cuBLAS workspaces, what the allocator reserves beyond live tensors.")
    if result.note:
        lines.append(result.note + ".")
    return "\n".join(lines)


def _phase(row: Row) -> str:
    return _line(row.name, row.traced, row.planned)


def _line(name: str, traced: int, planned: int) -> str:
    difference = f"{planned / traced - 1:+.2%}" if traced else ""
    return f"{name:24}{traced / 2**20:14,.1f}{planned / 2**20:14,.1f}{difference:>12}"
