"""`recipe calibrate`: keep what a run really took; later plans lean on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from compiler.problems import reporting

if TYPE_CHECKING:
    from compiler.calibrate import Measurement


@click.command(name="calibrate")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@reporting()
def command(runs: tuple[Path, ...]) -> None:
    """Read peak memory and pace that finished runs logged, and keep them in calibration.yaml.

    RUN is an output folder or the generated axolotl.yaml that was trained. Later plans for the same machine and
    software lean on the measurement and say so: run `recipe build` afterwards.

    Example: recipe calibrate outputs/quickstart/cpu
    """
    from compiler import calibrate
    from compiler.run_record import read_run
    from compiler.write import write_text

    new = [calibrate.measure(read_run(run)) for run in runs]
    known = calibrate.merge(calibrate.load(), new)
    for one in new:
        click.echo("\n".join(_told(one, known)))
        if one not in known:
            click.echo(f"  {calibrate.CALIBRATION} holds a newer run of this setup, which stays")
    write_text(calibrate.CALIBRATION, calibrate.dump(known))
    click.echo(f"{calibrate.CALIBRATION}: {len(known)} kept; run `recipe build`, and commit both")


def _told(one: Measurement, known: tuple[Measurement, ...]) -> list[str]:
    """The measurement against the prediction, and what it does to plans."""
    from compiler.calibrate import lean, machine_of, peaks, remark

    machine = machine_of(one)
    if machine is None:
        return [f"{one.run} on `{one.machine}`, a machine that the recipe describes: plans for it now lean on this run"]
    lines = [remark(one, machine)]
    memory = peaks(one, machine)
    if memory and not one.longest_row_seen:
        lines.append("  the run ended before every row was seen: its peak may be lower than a whole run's")
    if one.peak_allocated_bytes and memory:
        from compiler.units import format_size

        live = memory[0] - memory[2]
        lines.append(
            f"  live tensors predicted {format_size(live)}, measured {format_size(one.peak_allocated_bytes)}: "
            "never corrected"
        )
    measured = lean(machine, known)
    if measured is None:
        return [*lines, f"  no plan leans on it: it ran with Axolotl {one.axolotl}"]
    return [
        *lines,
        f"  plans for `{one.machine}` now lean on {measured.runs} run{'s' if measured.runs > 1 else ''}: memory beside "
        f"live tensors times {measured.overhead_factor:.2f}, seconds of a step times {measured.step_factor:.3g}",
    ]
