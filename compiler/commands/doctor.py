"""`recipe doctor`: what this machine is, and what is missing for which target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from compiler.problems import reporting

if TYPE_CHECKING:
    from compiler.here import Here
    from compiler.values import Machine


@click.command()
@reporting()
def command() -> None:
    """Show this machine, the installed packages, and which targets of recipes/*.yaml can be trained here.

    Example: recipe doctor
    """
    from compiler.here import look

    here = look()
    for section in (_machine(here), _packages(here), _targets(here)):
        click.echo("\n".join(section))


def _machine(here: Here) -> list[str]:
    from compiler.units import format_size

    native = f"native ({', '.join(here.bf16_flags)})" if here.bf16_flags else "emulated in FP32: slow, but right"
    ram = format_size(here.ram_bytes) if here.ram_bytes else "unknown"
    lines = [
        f"python    {here.python}",
        f"CPU       {here.cpu}, {here.cores} cores; BF16 {native}",
        f"RAM       {ram}",
        f"disk      {format_size(here.disk_free_bytes)} free here",
    ]
    for card in here.cards:
        memory = f", {format_size(card.memory_bytes)}" if card.memory_bytes else ""
        lines.append(f"GPU       {card.name}{memory}, `gpu: {_gpu_id(card.name) or 'not in the catalogue'}`")
    return lines if here.cards else [*lines, "GPU       none (nvidia-smi and xpu-smi show nothing)"]


def _gpu_id(name: str) -> str | None:
    """The catalogue's id of a card, by the exact name that its driver reports."""
    from compiler.facts import gpus

    return next((gpu.id for gpu in gpus().values() if gpu.name == name), None)


def _packages(here: Here) -> list[str]:
    from compiler.here import PACKAGES

    lines = [""]
    for extra, names in PACKAGES:
        for name in names:
            version = here.packages[name]
            mend = "" if version or not extra or name == "flash-attn" else f"   pip install 'finetune-recipes[{extra}]'"
            lines.append(f"{name:14} {version or 'missing'}{mend}")
    torch = here.packages["torch"] or ""
    if torch.endswith("+cpu") and any(card.backend == "cuda" for card in here.cards):
        lines.append("torch is a CPU build and sees no GPU: install the CUDA build from pytorch.org")
    lines += [f"{name:14} {path or 'missing'}" for name, path in here.tools.items()]
    return lines


def _targets(here: Here) -> list[str]:
    from compiler.build import recipe_paths
    from compiler.case import find_machine
    from compiler.check import load_recipe
    from compiler.problems import ProblemError

    lines = [""]
    try:
        paths = recipe_paths(())[0]
    except ProblemError as error:
        return [*lines, str(error)]
    for path in paths:
        try:
            recipe = load_recipe(path)
        except ProblemError:
            lines.append(f"{path}: has problems; run `recipe check {path}`")
            continue
        for name, target in recipe.targets.items():
            missing = what_is_missing(here, find_machine(target))
            lines.append(
                f"{recipe.name}/{name}: {'not here: ' + '; '.join(missing) if missing else 'can be trained here'}"
            )
    return lines


def what_is_missing(here: Here, machine: Machine) -> list[str]:
    """What this machine lacks to be the target; empty when the target can be trained here."""
    from compiler.units import format_size

    missing = []
    if machine.backend == "cpu":
        if here.ram_bytes is not None and machine.budget_bytes > here.ram_bytes:
            missing.append(f"needs {format_size(machine.budget_bytes)} of RAM, has {format_size(here.ram_bytes)}")
    else:
        same = [card for card in here.cards if card.name == machine.name]
        if len(same) < machine.count:
            count = f"{machine.count} x " if machine.count > 1 else ""
            missing.append(f"needs {count}{machine.name}{f', has {len(same)}' if same else ''}")
    lacking = [name for name in ("axolotl", "torch") if here.packages[name] is None]
    if lacking:
        missing.append(f"{' and '.join(lacking)} missing: pip install 'finetune-recipes[train]'")
    return missing
