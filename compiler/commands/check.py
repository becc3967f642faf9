"""`recipe check`: every problem of the recipes, at file:line:column, with a fix."""

import click

from compiler.problems import reporting


@click.command()
@click.argument("recipes", nargs=-1, type=click.Path(), metavar="[RECIPE]...")
@reporting()
def command(recipes: tuple[str, ...]) -> None:
    """Check recipes (default: all of recipes/*.yaml). Exit status 1 if any has a problem.

    Example: recipe check recipes/quickstart.yaml
    """
    from compiler.build import recipe_paths
    from compiler.check import load_recipe
    from compiler.problems import Problem, RecipeProblems

    problems: list[Problem] = []
    names: dict[str, str] = {}
    for path in recipe_paths(recipes)[0]:
        try:
            recipe = load_recipe(path)
        except RecipeProblems as error:
            problems += error.problems
            continue
        if recipe.name in names:
            message = f"its name is `{recipe.name}`, as that of {names[recipe.name]}: they would overwrite one another"
            problems.append(Problem(message, "rename one of them", str(path)))
            continue
        names[recipe.name] = str(path)
        click.echo(f"{path}: ok, {len(recipe.targets)} target{'s' if len(recipe.targets) > 1 else ''}")
    if problems:
        click.echo(f"{RecipeProblems(problems)}\n", err=True)
        click.echo(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}", err=True)
        raise SystemExit(1)
