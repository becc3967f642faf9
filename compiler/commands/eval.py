"""`recipe eval`: what the model learned."""

from __future__ import annotations

from pathlib import Path

import click

from compiler.problems import WorldProblem, reporting

COLUMNS = (("loss", "{:.3f}"), ("perplexity", "{:.2f}"), ("token_f1", "{:.3f}"), ("cosine", "{:.3f}"))
BETTER_LOW = {"loss", "perplexity"}


def table(report: dict) -> str:
    """The report as aligned text: a line per set and model, and how much the training changed."""
    from compiler.evaluate import SETS

    lines = []
    for name, _, meaning in SETS:
        if name not in report["sets"]:
            continue
        part = report["sets"][name]
        shown = [(column, form) for column, form in COLUMNS if column in part["scores"]["base"]]
        lines.append(f"{name}: {part['questions']} questions, {meaning}")
        lines.append(f"  {'':8}" + "".join(f"{column:>12}" for column, _ in shown))
        for model in ("base", "tuned"):
            lines.append(f"  {model:8}" + "".join(f"{form.format(part['scores'][model][c]):>12}" for c, form in shown))
        verdicts = []
        for column, _ in shown:
            base, tuned = part["scores"]["base"][column], part["scores"]["tuned"][column]
            verdicts.append(
                "better"
                if tuned != base and (tuned < base) == (column in BETTER_LOW)
                else "equal"
                if tuned == base
                else "worse"
            )
        lines.append(f"  {'':8}" + "".join(f"{verdict:>12}" for verdict in verdicts))
    return "\n".join(lines)


def examples(report: dict, count: int = 3) -> str:
    """The first questions of the recall set with both answers, so that a reader sees more than figures."""
    rows = next((part["rows"] for part in report["sets"].values()), [])
    blocks = []
    for row in rows[:count]:
        blocks.append(
            "\n".join(
                [
                    f"Q      {row['question']}",
                    f"wanted {row['reference']}",
                    f"base   {row['base']['text']}",
                    f"tuned  {row['tuned']['text']}",
                ]
            )
        )
    return "\n\n".join(blocks)


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--target", help="The target that was trained; omitted: the only one, or the one with trained weights.")
@reporting()
def command(recipe: Path, target: str | None) -> None:
    """Ask the held-out questions of the base model and of the trained one; write eval.json beside the weights.

    Example: recipe eval recipes/quickstart.yaml --target cpu
    """
    from compiler.check import load_recipe
    from compiler.evaluate import evaluate, read_trained

    loaded = load_recipe(recipe)
    root = Path("generated") / loaded.name
    names = [target] if target else list(loaded.targets)
    if target and target not in loaded.targets:
        raise WorldProblem(f"{recipe} has no target {target!r}", fix=f"one of: {', '.join(loaded.targets)}")
    trained = []
    for name in names:
        try:
            read_trained(root / name / "axolotl.yaml")
            trained.append(name)
        except WorldProblem:
            if len(names) == 1:
                raise
    if len(trained) != 1:
        what = f"several targets are trained ({', '.join(trained)})" if trained else "no target is trained yet"
        fix = "name one with --target" if trained else f"axolotl train {root / names[0] / 'axolotl.yaml'}"
        raise WorldProblem(f"{recipe}: {what}", fix=fix)
    report = evaluate(root / "dataset", root / trained[0] / "axolotl.yaml", click.echo)
    click.echo("")
    click.echo(examples(report))
    click.echo("")
    click.echo(table(report))
