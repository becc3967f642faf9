"""Measurements of this project's own runs, and how plans lean on them.

    measure(run, root) -> Measurement                  what a run says, from compiler/run_record.py
    load(root), merge(old, new), dump(...)             calibration.yaml at the project root, committed with the recipes
    lean(machine, measurements) -> Measured | None     pure: what a plan for this machine leans on

Measured and predicted are compared anew by every plan: a measurement stays true when the planner changes. Live tensors
are never corrected (traces prove them); what is corrected is the memory beside them and the pace of a step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields, replace
from functools import lru_cache
from math import exp, log
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler import AXOLOTL_VERSION
from compiler.architecture import Architecture
from compiler.case import CALIBRATION, built_dataset
from compiler.problems import WorldProblem
from compiler.units import format_size
from compiler.values import DatasetFacts, Machine, Measured, Setup

if TYPE_CHECKING:
    from compiler.run_record import Run

HEADER = (
    "# Measurements of this project's own runs, written by `recipe calibrate` (docs/calibration.md). Plans for the\n"
    "# same machine and software lean on them: commit this file with the recipes.\n"
)
SCHEMA = 1
PRIOR_RUNS = 0.25
"""Weight of the uncalibrated prediction, in runs: one run moves it four fifths of the way. Speed is predicted within
about 13 % on hardware left out (docs/speed.md), and two runs of one setup differ by a few percent."""
OVERHEAD_BOUNDS = (0.25, 4.0)
STEP_BOUNDS = (0.02, 50.0)
"""A CPU of unknown model may well be twenty times slower than assumed; beyond these the log is wrong."""
MAX_REMARKS = 3


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run. Sizes in bytes, of one device; None where the run's logs do not hold a figure."""

    run: str
    """`<recipe>/<target>`."""
    date: str
    machine: str
    axolotl: str
    torch: str
    model: str
    setup: Setup
    architecture: Architecture
    longest_row_tokens: int
    """Of the rows that were trained, after padding: what the peak belongs to."""
    longest_row_seen: bool
    """False: the run stopped before it had seen every row, so the peak may be higher than what was measured."""
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    peak_resident_bytes: int | None = None
    seconds_per_step: float | None = None
    row_tokens: float | None = None
    """Token slots of one row, padding included, on average."""
    attended_tokens: float | None = None
    """Tokens that attention spans in one row."""
    tokens_per_second: float | None = None
    """Token slots, padding included, all devices together."""
    threads: int | None = None
    source: str = ""
    """The files that the figures were read from."""

    @property
    def key(self) -> tuple[Any, ...]:
        """The newest of equal keys counts."""
        return self.machine, self.axolotl, self.torch, self.model, repr(self.setup), self.longest_row_tokens


def measure(run: Run, root: Path = Path(".")) -> Measurement:
    """Raises WorldProblem where the model, or the dataset that was trained, is no longer here."""
    from compiler.base_model import find_model
    from compiler.run_record import setup_of

    config, figures = run.config, run.figures
    setup, architecture = setup_of(config), find_model(config.model).architecture
    if isinstance(setup.lora_targets, tuple) and setup.lora_targets == _attention_names(architecture):
        setup = replace(setup, lora_targets="attention")
    dataset = _dataset(run, root)
    packed = setup.sample_packing or bool(config.values.get("pad_to_sequence_len")) or dataset is None
    longest = setup.sequence_len if packed else min(setup.sequence_len, dataset.max_tokens)
    seen = packed or figures.epochs >= 0.999 or figures.steps * setup.effective_batch >= dataset.rows
    row_tokens = figures.step_tokens / setup.effective_batch if figures.step_tokens else None
    seconds = figures.seconds_per_step
    return Measurement(
        run=f"{config.recipe}/{config.target}",
        date=figures.date,
        machine=config.machine,
        axolotl=figures.axolotl or AXOLOTL_VERSION,
        torch=figures.torch or "unknown",
        model=config.model,
        setup=setup,
        architecture=architecture,
        longest_row_tokens=longest,
        longest_row_seen=seen,
        peak_allocated_bytes=figures.peak_allocated_bytes,
        peak_reserved_bytes=figures.peak_reserved_bytes,
        peak_resident_bytes=figures.peak_resident_bytes,
        seconds_per_step=_rounded(seconds),
        row_tokens=_rounded(row_tokens),
        attended_tokens=_rounded(_attended(setup, dataset, row_tokens)),
        tokens_per_second=_rounded(figures.step_tokens / seconds if figures.step_tokens and seconds else None),
        threads=figures.threads,
        source=", ".join((_below(run.folder, root) / name).as_posix() for name in figures.sources),
    )


def _below(folder: Path, root: Path) -> Path:
    """Relative to the project root; of a run elsewhere the last three folders: no one's home is committed."""
    folder, root = folder.resolve(), root.resolve()
    return folder.relative_to(root) if folder.is_relative_to(root) else Path(*folder.parts[-3:])


def _attention_names(architecture: Architecture) -> tuple[str, ...]:
    return tuple(linear.name for linear in architecture.linears if linear.group == "attention")


def _dataset(run: Run, root: Path) -> DatasetFacts | None:
    """What is known of the rows that were trained; None for random rows, all of full length."""
    values = run.config.values
    if any(one.get("type") == "_synthetic" for one in values.get("datasets", [])):
        return None
    dataset = built_dataset(run.config.recipe, root)
    digest = str(values.get("dataset_prepared_path", "")).rpartition("/")[2].partition("-")[0]
    if dataset is None or not dataset.measured or not (dataset.sha256 or "").startswith(digest):
        raise WorldProblem(
            f"the rows that {run.folder} was trained on are not those of generated/{run.config.recipe}/dataset",
            "calibrate a run before its dataset is built anew, or train again",
        )
    return dataset


def _attended(setup: Setup, dataset: DatasetFacts | None, row_tokens: float | None) -> float | None:
    from compiler.padding import row_tokens as spans

    if row_tokens is None or dataset is None or not setup.sample_packing:
        return row_tokens
    return min(row_tokens, spans(setup, dataset)[2])


def _rounded(value: float | None) -> float | None:
    """Six digits: more are noise in a file that people read."""
    return None if value is None else float(f"{value:.6g}")


def merge(old: Iterable[Measurement], new: Iterable[Measurement]) -> tuple[Measurement, ...]:
    """The newest of each setup, in a fixed order, whatever the order they came in."""
    kept: dict[tuple[Any, ...], Measurement] = {}
    for one in (*old, *new):
        other = kept.get(one.key)
        if other is None or (one.date, repr(one)) > (other.date, repr(other)):
            kept[one.key] = one
    return tuple(sorted(kept.values(), key=lambda one: (one.machine, one.date, one.run, repr(one))))


def lean(machine: Machine, measurements: Iterable[Measurement]) -> Measured | None:
    """What plans for `machine` lean on: its runs with Axolotl as pinned, and the torch of the newest of them."""
    found = [one for one in merge(measurements, ()) if one.machine == machine.id and one.axolotl == AXOLOTL_VERSION]
    if not found:
        return None
    torch = _release(max(found, key=lambda one: (one.date, one.torch)).torch)
    found = [one for one in found if _release(one.torch) == torch]
    plain = replace(machine, measured=None)
    memory = [pair for one in found if (pair := overhead(one, plain))]
    steps = [pair for one in found if (pair := pace(one, plain))]
    return Measured(
        runs=len(found),
        date=max(one.date for one in found)[:10],
        overhead_factor=_overhead_factor(memory),
        step_factor=_step_factor(steps, known=machine.bf16_tflops is not None),
        remarks=tuple(remark(one, plain) for one in sorted(found, key=lambda one: one.date)[::-1][:MAX_REMARKS]),
    )


def peaks(one: Measurement, machine: Machine) -> tuple[int, int, int] | None:
    """(predicted, measured, the share of the prediction that may be corrected), bytes, all of the same kind: what torch
    reserves on a GPU, the whole process on a CPU. None where no peak was measured."""
    from compiler.memory import predict_memory

    setup = replace(one.setup, sequence_len=one.longest_row_tokens)
    parts = {part.name: part.bytes for part in predict_memory(one.architecture, setup, machine).parts}
    context, slack = parts.get("cuda_context", 0), parts.get("allocator_slack", 0)
    if machine.backend == "cpu":
        return (sum(parts.values()), one.peak_resident_bytes, context + slack) if one.peak_resident_bytes else None
    return (sum(parts.values()) - context, one.peak_reserved_bytes, slack) if one.peak_reserved_bytes else None


def overhead(one: Measurement, machine: Machine) -> tuple[float, float] | None:
    """(predicted, measured) bytes beside live tensors. A run that may not have met its longest row only raises it."""
    found = peaks(one, machine)
    if found is None:
        return None
    predicted, measured, beside = found
    held = beside + measured - predicted
    return beside, held if one.longest_row_seen else max(beside, held)


def pace(one: Measurement, machine: Machine) -> tuple[float, float] | None:
    """(predicted, measured) seconds of one optimizer step at the row length that was measured."""
    from compiler.speed import step_parts

    if not one.seconds_per_step or not one.row_tokens:
        return None
    parts = step_parts(one.architecture, one.setup, machine, one.row_tokens, one.attended_tokens or one.row_tokens)
    return sum(part[1] for part in parts), one.seconds_per_step


def _overhead_factor(pairs: list[tuple[float, float]]) -> float:
    predicted, measured = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
    if not predicted or predicted == measured:
        return 1.0
    ratio = min(max(measured / predicted, OVERHEAD_BOUNDS[0]), OVERHEAD_BOUNDS[1])
    return 1.0 + (ratio - 1.0) * _weight(len(pairs))


def _step_factor(pairs: list[tuple[float, float]], known: bool) -> float:
    """The geometric mean of the ratios; drawn towards 1 where the machine's rates are known."""
    if all(predicted == measured for predicted, measured in pairs):
        return 1.0
    mean = sum(sorted(log(measured / predicted) for predicted, measured in pairs)) / len(pairs)
    return min(max(exp(mean * (_weight(len(pairs)) if known else 1.0)), STEP_BOUNDS[0]), STEP_BOUNDS[1])


def _release(version: str) -> str:
    """Major and minor of a version: builds and patches of one release allocate alike.

    >>> _release("2.13.0+cu128")
    '2.13'
    """
    return ".".join(version.split("+")[0].split(".")[:2])


def _weight(runs: int) -> float:
    return runs / (runs + PRIOR_RUNS)


def remark(one: Measurement, machine: Machine) -> str:
    """One run against the uncalibrated prediction, for plans and for the command."""
    said = []
    memory, step = peaks(one, machine), pace(one, machine)
    if memory:
        said.append(f"memory predicted {format_size(memory[0])}, measured {format_size(memory[1])}")
    if step:
        said.append(f"a step predicted {step[0]:.3g} s, measured {step[1]:.3g} s")
    return f"{one.run} ({one.model}, {one.date[:10]}): {'; '.join(said) or 'nothing comparable'}"


def machine_of(one: Measurement) -> Machine | None:
    """One device of the kind that was measured, from the catalogue; None for a card that a recipe describes."""
    from compiler.case import find_machine
    from compiler.facts import gpus
    from compiler.recipe import Target

    if one.machine not in gpus():
        return None
    ram = {"ram_budget": "1 TiB"} if gpus()[one.machine].backend == "cpu" else {}
    return find_machine(Target.model_validate({"gpu": one.machine, **ram}))


def measured_for(machine: Machine, root: Path = Path(".")) -> Measured | None:
    """What calibration.yaml says of a machine. Raises WorldProblem for a broken file."""
    path = root / CALIBRATION
    return _lean_on_text(machine, path.read_text(encoding="utf-8")) if path.is_file() else None


@lru_cache(maxsize=64)
def _lean_on_text(machine: Machine, text: str) -> Measured | None:
    """Many targets share a machine: leaned on once."""
    return lean(machine, parse(text))


def load(root: Path = Path(".")) -> tuple[Measurement, ...]:
    path = root / CALIBRATION
    return parse(path.read_text(encoding="utf-8")) if path.is_file() else ()


def parse(text: str) -> tuple[Measurement, ...]:
    """Raises WorldProblem where the file is not what `dump` writes."""
    import yaml

    from compiler.facts import load_yaml

    try:
        values = load_yaml(text)
        if values["schema"] != SCHEMA:
            raise WorldProblem(
                f"{CALIBRATION} has schema {values['schema']}, this version reads {SCHEMA}", "update finetune-recipes"
            )
        return tuple(_measurement(one) for one in values["measurements"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError):
        raise WorldProblem(
            f"{CALIBRATION} is damaged", "restore it from git, or remove it and run `recipe calibrate` for each run"
        ) from None


def dump(measurements: Iterable[Measurement]) -> str:
    """The file's text: equal measurements give equal bytes."""
    import yaml

    entries = [_entry(one) for one in merge(measurements, ())]
    text = yaml.safe_dump({"schema": SCHEMA, "measurements": entries}, sort_keys=False, width=118, allow_unicode=True)
    return HEADER + text


def _entry(one: Measurement) -> dict[str, Any]:
    nested = {"setup": _stated(one.setup, keep_all=True), "architecture": _stated(one.architecture)}
    return {**_stated(one), **nested}


def _stated(value: Any, keep_all: bool = False) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, in their order; tuples as lists."""
    held = {one.name: getattr(value, one.name) for one in fields(value)}
    plain = {one.name: one.default for one in fields(value) if one.default is not MISSING and not keep_all}
    kept = {name: item for name, item in held.items() if name not in plain or item != plain[name]}
    return {name: list(item) if isinstance(item, tuple) else item for name, item in kept.items()}


def _measurement(values: dict[str, Any]) -> Measurement:
    setup = dict(values["setup"])
    if isinstance(setup["lora_targets"], list):
        setup["lora_targets"] = tuple(setup["lora_targets"])
    made = Measurement(**{**values, "setup": Setup(**setup), "architecture": Architecture(**values["architecture"])})
    for part in (made, made.setup, made.architecture):
        _refuse_wrong_types(part)
    return made


def _refuse_wrong_types(value: Any) -> None:
    """TypeError where a field does not hold what its annotation says, ValueError for a number below zero."""
    for one in fields(value):
        held = getattr(value, one.name)
        names = {"NoneType": "None"}.get(type(held).__name__, type(held).__name__)
        if names not in str(one.type) and not (names == "int" and "float" in str(one.type)):
            if names not in ("Setup", "Architecture"):
                raise TypeError(one.name)
        elif names in ("int", "float") and not held >= 0:
            raise ValueError(one.name)
