"""`recipe plan`: the plan for each target; writes nothing."""

from __future__ import annotations

import click

from compiler.problems import reporting


@click.command()
@click.argument("recipe", type=click.Path(dir_okay=False))
@click.option("--target", help="Only this target of the recipe.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; an array when the recipe has several targets.")
@reporting()
def command(recipe: str, target: str | None, as_json: bool) -> None:
    """Show the fastest setup that fits each target, and why each value was chosen.

    Exit status 1 when one of the plans does not fit; its ways out are then shown.

    Example: recipe plan recipes/intel-arc-expert.yaml --target arc
    """
    from compiler.check import load_recipe
    from compiler.plan import plan_recipe

    loaded = load_recipe(recipe)
    plans = plan_recipe(loaded, target)
    from compiler import render

    if as_json:
        import json

        objects = [render.as_json(one) for one in plans]
        single = target is not None or len(objects) == 1
        click.echo(json.dumps(objects[0] if single else objects, indent=2))
    else:
        click.echo("\n\n\n".join(render.as_text(one) for one in plans))
    if not all(one.fits for one in plans):
        raise SystemExit(1)
