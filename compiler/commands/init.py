"""`recipe init`: write a commented recipe that passes `recipe check`."""

import re
from pathlib import Path

import click

from compiler.problems import WorldProblem, reporting

FOLDER = Path(__file__).parent.parent / "templates"
TEMPLATES = tuple(sorted(entry.stem for entry in FOLDER.glob("*.yaml")))


@click.command()
@click.argument("name")
@click.option(
    "--template",
    type=click.Choice(TEMPLATES),
    default="starter",
    show_default=True,
    help="starter: the embedded model on a CPU, needs nothing; gpu: a 1.5B model on one card; plan: no dataset yet.",
)
@reporting()
def command(name: str, template: str) -> None:
    """Write recipes/NAME.yaml, a commented recipe that passes `recipe check`.

    Example: recipe init my-expert --template gpu
    """
    from compiler.check import check_source
    from compiler.check_fields import NAME_FIX
    from compiler.source import parse_source
    from compiler.write import write_text

    if "/" in name or "\\" in name:
        raise click.BadParameter("give a name, not a path; the recipe goes to recipes/NAME.yaml", param_hint="NAME")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) or name.endswith(".yaml"):
        raise click.BadParameter(NAME_FIX, param_hint="NAME")
    path = Path("recipes") / f"{name}.yaml"
    text = (FOLDER / f"{template}.yaml").read_text(encoding="utf-8")
    text = text.replace("\nname: my-expert", f"\nname: {_quoted(name)}", 1)
    if path.exists():
        raise WorldProblem(f"{path} is there already", "choose another name, or edit it")
    check_source(parse_source(text, str(path)))
    write_text(path, text)
    click.echo(f"wrote {path}; next: recipe plan {path}")


def _quoted(name: str) -> str:
    """A name that YAML would read as a number, a boolean or nothing needs quotes."""
    from compiler.source import parse_source

    return name if parse_source(f"name: {name}").value["name"] == name else f'"{name}"'
