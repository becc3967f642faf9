"""`recipe review`: read the pairs of a dataset, and decide about them, on a page of one's own machine."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from compiler.problems import WorldProblem, reporting


@click.command(name="review")
@click.argument("recipe", type=click.Path(dir_okay=False))
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of the page; omitted: any that is free.")
@reporting()
def command(recipe: str, port: int) -> None:
    """Serve a page on which the unique pairs are accepted, edited or rejected; `recipe data` then follows it.

    Example: recipe review recipes/quickstart.yaml
    """
    from compiler.check import load_recipe
    from dataset_builder.build import LOCK, Place
    from dataset_builder.review.decisions import FILE
    from dataset_builder.review.desk import Desk
    from dataset_builder.review.server import Server

    parsed = load_recipe(recipe)
    place = Place(Path(), parsed.name)
    if not (place.folder / LOCK).is_file():
        raise WorldProblem(f"{place.relative('')} holds no whole dataset to review", fix=f"recipe data {recipe}")
    with Server(Desk(place.folder), port) as server:
        click.echo(f"Review of {parsed.name}: {server.link}")
        click.echo(f"Decisions go to {place.relative(FILE)}. Ctrl-C ends the review.")
        _serve(server)
        told = server.desk.summary()["status"]
    read = sum(told[name] for name in ("accepted", "edited", "rejected"))
    click.echo(f"\n{read:,} of {read + told['open']:,} pairs read. Build with it: recipe data {recipe}")


def _serve(server) -> None:
    """Until Ctrl-C or SIGTERM."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
