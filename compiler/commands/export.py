"""`recipe export`: merge, GGUF, Ollama Modelfile."""

from __future__ import annotations

import click

from compiler.problems import WorldProblem, reporting


@click.command(name="export")
@click.argument("recipe", type=click.Path(dir_okay=False))
@click.option("--target", help="The target that was trained; omitted: the only one.")
@reporting()
def command(recipe: str, target: str | None) -> None:
    """Fold the trained adapter into the weights; write the GGUF file and the Modelfile that the recipe asks for.

    Example: recipe export recipes/quickstart.yaml --target cpu
    """
    from compiler.check import load_recipe
    from compiler.export import export

    loaded = load_recipe(recipe)
    if target is None:
        if len(loaded.targets) > 1:
            raise WorldProblem(f"recipe `{loaded.name}` has several targets", f"--target {' | '.join(loaded.targets)}")
        target = next(iter(loaded.targets))
    made = export(loaded, target, tell=lambda line: click.echo(line, err=True))
    click.echo(f"{made.merged}/: whole weights, for transformers and vLLM")
    if made.gguf:
        click.echo(f"{made.gguf}: {made.gguf.stat().st_size / 1e6:,.0f} MB, for llama.cpp")
    if made.modelfile:
        click.echo(f"{made.modelfile}: ollama create {loaded.name} -f {made.modelfile}")
