"""`recipe explain`: what a field, a GPU or a model is, or why not another value."""

import click

from compiler.problems import reporting


@click.command()
@click.argument("topic", required=False, metavar="[FIELD | GPU | MODEL | RECIPE]")
@click.option("--why-not", metavar="FIELD=VALUE", help="Why the plan of RECIPE has another value, with numbers.")
@click.option("--target", help="With --why-not: only this target of the recipe.")
@click.option("--markdown", is_flag=True, help="Every field as a Markdown page; docs/recipe.md is made by it.")
@reporting()
def command(topic: str | None, why_not: str | None, target: str | None, markdown: bool) -> None:
    """Explain a field, a GPU or a model; without a topic, list the fields. `gpus` and `models` list what is known.

    Example: recipe explain --why-not attention=sdpa recipes/intel-arc-expert.yaml --target dev
    """
    from compiler import explain

    if why_not is None and target is not None:
        raise click.UsageError("--target goes with --why-not")
    if markdown:
        if topic or why_not:
            raise click.UsageError("--markdown stands alone")
        click.echo(explain.reference(), nl=False)
    elif why_not is None:
        click.echo(explain.explain(topic))
    elif topic is None:
        raise click.UsageError("--why-not needs a RECIPE")
    else:
        _why_not(topic, why_not, target)


def _why_not(path: str, question: str, target: str | None) -> None:
    """What killed a value, for one target or all of them."""
    from compiler.case import resolve
    from compiler.check import load_recipe
    from compiler.choose import why_not

    field, equals, text = question.partition("=")
    if not equals or not field.strip() or not text.strip():
        raise click.UsageError("--why-not takes FIELD=VALUE, such as attention=sdpa")
    field = field.strip().removeprefix("training.")
    value = _value(field, text.strip())
    recipe = load_recipe(path)
    for name in [target] if target else recipe.targets:
        click.echo(f"{name}: {why_not(resolve(recipe, name), field, value)}")


def _value(field: str, text: str) -> object:
    """The value as the recipe would read it. Raises WorldProblem where the field is none or does not take it."""
    from pydantic import ValidationError

    from compiler import fields
    from compiler.check_types import close
    from compiler.problems import RecipeProblems, WorldProblem
    from compiler.recipe import Training
    from compiler.source import parse_source

    known = fields.names(fields.at(("training",)))
    if field not in known:
        near = close(field, known)
        fix = f"did you mean `{near}`?" if near else f"name one of {', '.join(known)}"
        raise WorldProblem(f"`{field}` is no field of `training:`", fix)
    expected = fields.expected(fields.at(("training", field)))
    try:
        value = parse_source(f"{field}: {text}").value[field]
        return getattr(Training.model_validate({field: value}), field)
    except (RecipeProblems, ValidationError, KeyError):
        raise WorldProblem(f"`training.{field}` cannot be `{text}`", f"write {expected}") from None
