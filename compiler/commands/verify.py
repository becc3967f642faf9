"""`recipe verify`: trace one real training step of the plan without a GPU, and compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from compiler.problems import WorldProblem, reporting

if TYPE_CHECKING:
    from compiler.trace.compare import Comparison, Row


@click.command()
@click.argument("recipe", type=click.Path(dir_okay=False))
@click.option("--target", help="Only this target of the recipe.")
@reporting()
def command(recipe: str, target: str | None) -> None:
    """Trace a real training step of each plan on tensors without contents, and compare its peak with the planned one.

    The Hugging Face model class, PEFT, the loss and the optimizer run for real; no GPU and no weights are needed.
    Exit status 1 when a planned peak is more than 3 % away from the traced one.

    Example: recipe verify recipes/intel-arc-expert.yaml --target arc
    """
    from compiler.check import load_recipe
    from compiler.plan import plan_recipe

    plans = plan_recipe(load_recipe(recipe), target)
    _need_training_packages()
    from compiler.trace.compare import TOLERANCE, compare

    wrong = False
    for plan in plans:
        case = plan.case
        result = compare(case.model.architecture, plan.setup, case.machine)
        click.echo(f"{case.recipe.name} / {case.target}: {case.model.id}, {describe(plan.setup)}\n")
        click.echo(table(result) + "\n")
        wrong = wrong or abs(result.error) > TOLERANCE
    if wrong:
        raise SystemExit(1)


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
