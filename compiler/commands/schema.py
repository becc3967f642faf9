"""`recipe schema`: JSON Schema of a recipe, for editors."""

import click

from compiler.problems import reporting


@click.command()
@reporting()
def command() -> None:
    """Print the JSON Schema of a recipe (draft 2020-12).

    An editor with the YAML language server completes and checks recipes by it.

    Example: recipe schema > recipe.schema.json
    """
    import json

    from compiler.fields import json_schema

    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
