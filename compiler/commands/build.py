"""`recipe build`: write generated/<recipe>/<target>/ for every target."""

from __future__ import annotations

import sys

import click

from compiler.problems import reporting


@click.command(name="build")
@click.argument("recipes", nargs=-1, type=click.Path(dir_okay=False), metavar="[RECIPE]...")
@click.option(
    "--check",
    is_flag=True,
    help="Write nothing; name the files that are not what the recipes compile to, exit 1 if any.",
)
@click.option("--diff", is_flag=True, help="Write nothing; show what would change, as a unified diff.")
@reporting()
def command(recipes: tuple[str, ...], check: bool, diff: bool) -> None:
    """Compile recipes (default: all of recipes/*.yaml) into axolotl.yaml, deepspeed.json and plan.md for every target.

    Example: recipe build recipes/quickstart.yaml
    """
    if check and diff:
        raise click.UsageError("--check and --diff answer different questions: give one of them")
    from compiler import build

    paths, everything = build.recipe_paths(recipes)
    made = build.compile_recipes(paths, everything=everything)
    found = build.changes(made)
    if check:
        _report_stale(found)
    elif diff:
        click.echo(build.unified_diff(found), nl=False)
    else:
        build.apply(found)
        _report_written(made, found)
    for failure in made.failures:
        click.echo(f"{failure.what}: {failure.reason}", err=True)
    for note in build.edited_rows(made.plans):
        click.echo(f"warning: {note}", err=True)
    if made.failures or (check and found):
        sys.exit(1)


def _report_stale(found: list) -> None:
    for change in found:
        click.echo(f"{change.path} ({change.kind})")
    if found:
        click.echo("Run `recipe build` and commit the result.", err=True)


def _report_written(made, found: list) -> None:
    from compiler.units import format_size

    written = {change.path for change in found}
    for plan in made.plans:
        folder = f"generated/{plan.case.recipe.name}/{plan.case.target}"
        count = sum(path.startswith(folder + "/") for path in written)
        size = f"{format_size(plan.memory.total_bytes)} of {format_size(plan.case.machine.budget_bytes)}"
        state = f"{count} files written" if count else "unchanged"
        click.echo(f"{folder}/: {plan.verdict}, {plan.setup.method}, {size}, {plan.speed.hours:.2g} h ({state})")
    for change in found:
        if change.new is None:
            click.echo(f"{change.path}: removed, nothing compiles to it any more")
