"""`recipe data`: build or resume the dataset of a recipe."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click

from compiler.problems import ProblemError, WorldProblem, reporting

STAGES = ("read", "chunk", "ask", "split", "variants", "write")


def _shard(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int]:
    if value is None:
        return 1, 1
    part, _slash, whole = value.partition("/")
    if not (part.isdecimal() and whole.isdecimal() and 1 <= int(part) <= int(whole)):
        raise click.BadParameter("write which part of how many, such as 3/8")
    return int(part), int(whole)


@click.command(name="data")
@click.argument("recipe", type=click.Path(dir_okay=False))
@click.option("--estimate", is_flag=True, help="Make a dozen real calls and print what the whole build will take.")
@click.option("--until", type=click.Choice(STAGES), default="write", help="Stop after this stage.", show_default=True)
@click.option("--shard", callback=_shard, metavar="I/N", help="Ask only the I-th of N parts; answers go to the ledger.")
@click.option(
    "--merge",
    type=click.Path(dir_okay=False),
    multiple=True,
    metavar="LEDGER",
    help="Take over the answers of another machine's ledger first (.cache/ledgers/<recipe>.sqlite); may be repeated.",
)
@click.option(
    "--on",
    type=click.Choice(["here", "ray"]),
    default="here",
    show_default=True,
    help="Where reading, chunking, checking and comparing run; ray: on all cores, or the cluster of RAY_ADDRESS.",
)
@reporting()
def command(recipe: str, estimate: bool, until: str, shard: tuple[int, int], merge: tuple[str, ...], on: str) -> None:
    """Turn the recipe's sources into generated/<recipe>/dataset/train.csv and its evaluation tables.

    Example: recipe data recipes/quickstart.yaml
    """
    with _calls() as process:
        if process and until not in ("read", "chunk") and not _built_before(recipe):
            process.begin()  # before everything else: the rest of what is imported here is imported beside it
        result, place = _run(recipe, estimate, until, shard, merge, on, process)
    if result:
        _tell(result, place)


def _run(recipe, estimate, until, shard, merge, on, process):
    from compiler.check import load_recipe
    from dataset_builder.build import Place, build
    from dataset_builder.progress import report_to

    parsed = load_recipe(recipe)
    if parsed.dataset is None:
        raise WorldProblem(f"{recipe} has no dataset: there is nothing to build", fix="add `dataset:` with its sources")
    place = Place(Path(), parsed.name)
    if merge:
        _merge(place.ledger, merge)
    report = report_to()
    try:
        if estimate:
            _estimate(parsed.dataset, place, report, process)
            return None, place
        with _runner(on) as runner:
            tokenizer = _tokenizer(parsed.base_model)
            return build(parsed.dataset, place, report, until, tokenizer, shard, runner, process), place
    finally:
        report.close()


def _calls():
    """Who makes the calls: a process of its own."""
    from dataset_builder.process import CallsProcess

    return CallsProcess()


def _built_before(recipe: str) -> bool:
    """Whether a finished dataset lies where that of a recipe in a file of this name usually does: then there is
    probably nothing to ask."""
    return Path("generated", Path(recipe).stem, "dataset", "dataset.lock.json").exists()


def _runner(on: str):
    """Where functions over rows run."""
    if on == "here":
        from dataset_builder.runner import HERE

        return nullcontext(HERE)
    from dataset_builder.on_ray import OnRay

    return OnRay()


def _merge(into: Path, others: tuple[str, ...]) -> None:
    from dataset_builder.ledger import Ledger

    with Ledger(into) as ledger:
        for other in others:
            click.echo(f"{other}: {ledger.merge(other):,} answers added")


def _estimate(dataset, place, report, process) -> None:
    from dataset_builder.estimate import estimate_lines

    for line in estimate_lines(dataset, place, report, process):
        click.echo(line)


def _tokenizer(base_model: str) -> Path | None:
    """The folder of the base model's tokenizer, where it lies on this machine; nothing is fetched for it."""
    from compiler.base_model import find_model

    try:
        folder = Path(find_model(base_model).path)
    except ProblemError:
        return None  # lengths are then estimated, and the card says so
    return folder if (folder / "tokenizer.json").is_file() else None


def _tell(result, place) -> None:
    if result.stage == "unchanged":
        same = "recipe, documents, decisions, prompts and builder are as they were"
        click.echo(f"{place.relative('train.csv')} is up to date: {same}.")
        return
    click.echo(", ".join(f"{count:,} {name}" for name, count in result.counts.items()))
    for text in result.changes:
        click.echo(text)
    for text in result.short:
        click.echo(f"Short of the target: {text}.")
    click.echo(f"Written: {place.relative('')}" if result.stage == "write" else f"Stopped after: {result.stage}")
