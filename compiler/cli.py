"""The `recipe` command. Each verb lives in its own module of `compiler/commands/` and is imported only when called."""

from __future__ import annotations

import gc
import importlib
from typing import Any

import click

from compiler import __version__

COMMANDS = {
    "init": "Write a commented recipe that passes `recipe check`.",
    "check": "Every problem of the recipes, at file:line:column, with a fix.",
    "plan": "The plan for each target; writes nothing.",
    "build": "Write generated/<recipe>/<target>/ for every target.",
    "data": "Build or resume the dataset.",
    "review": "Read the pairs on a local page: accept, edit, reject.",
    "explain": "What a field, a GPU or a model is, or why not another value.",
    "schema": "JSON Schema of a recipe, for editors.",
    "verify": "Trace one real training step without a GPU; compare with the plan.",
    "proof": "What training will learn of the dataset, by Axolotl's own loader.",
    "eval": "Before/after on the held-out questions.",
    "calibrate": "Keep what a run really took; later plans lean on it.",
    "export": "Merge, GGUF, Ollama Modelfile.",
    "doctor": "What this machine is, and what is missing for which target.",
    "prepare": "Unpack and convert the embedded model, once.",
}
"""Verb -> one line of help; the function `command` in `compiler/commands/<verb>.py` is the click command."""

BRIEF = frozenset(("init", "check", "plan", "build", "explain", "schema"))
"""Verbs that end within a second or two. They leave next to no cycles behind, and the collector's passes over all that
is imported would take a twelfth of a cold `recipe plan`."""


class Verbs(click.Group):
    """A group that imports a verb's module when the verb is used: `recipe plan` starts in a fraction of a second."""

    def main(self, args: Any = None, *rest: Any, **named: Any) -> Any:
        if args is None:  # this process is the command, no test or program around it
            gc.disable()
        return super().main(args, *rest, **named)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in BRIEF:
            gc.enable()
        return importlib.import_module(f"compiler.commands.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=Verbs)
@click.version_option(__version__)
def main() -> None:
    """Turn documentation into a small expert model: a grounded dataset and a training config that fits.

    Example: recipe build recipes/quickstart.yaml
    """


if __name__ == "__main__":
    main()
