"""`recipe proof`: what training will learn of the dataset, by Axolotl's own loader."""

from __future__ import annotations

from pathlib import Path

import click

from compiler.problems import WorldProblem, reporting


@click.command()
@click.argument("recipe", type=click.Path(dir_okay=False))
@click.option("--target", help="The target whose config is meant; omitted: the first.")
@reporting()
def command(recipe: str, target: str | None) -> None:
    """Read the built dataset through Axolotl's own loader: rows, lengths, what is learnt, the end of every turn.

    Exit status 1 when more rows are dropped than the plan announced as too long, or one learns anything but its answer
    and the end of its turn.

    Example: recipe proof recipes/quickstart.yaml
    """
    from compiler.case import built_dataset
    from compiler.check import load_recipe
    from compiler.proof import prove, report

    loaded = load_recipe(recipe)
    name = target or next(iter(loaded.targets))
    if name not in loaded.targets:
        raise WorldProblem(f"{recipe} has no target {name!r}", fix=f"one of: {', '.join(loaded.targets)}")
    proof = prove(Path("generated", loaded.name, name, "axolotl.yaml"), built_dataset(loaded.name))
    for line in report(proof):
        click.echo(line)
    if not proof.holds:
        raise SystemExit(1)
