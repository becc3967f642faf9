"""The choice: the setup with the least time per epoch among those that fit, under docs/quality-policy.md.

Exhaustive: every point of the space has its memory and an upper bound of its speed. Points are visited from the best
bound down until no later one can win, so that the explained speed is computed for a few only. Options never depend on
the budget: a larger budget only adds points, so more memory never makes a plan slower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from compiler.constraints import conflict, dominated
from compiler.domain import Domain
from compiler.memory import margin_bytes, peak_lines, predict_memory, verdict
from compiler.memory.lines import Line, chunk_rows
from compiler.memory.overhead import overhead_bytes, overhead_factor
from compiler.rules.adapter import kernels_obstacle
from compiler.rules.draft import Draft
from compiler.rules.schedule import effective_batch_for
from compiler.space import DOMAINS
from compiler.speed import predict_speed
from compiler.values import Case, Machine, Memory, Setup, Speed

MAX_MICRO_BATCH = 64
UNKNOWN_HOST_RAM_BYTES = 16 * 2**30
"""What offloads may take of a host whose RAM the recipe does not state."""
CHEAP_PLAIN = {
    "gradient_checkpointing": {"offload": "on"},
    "optimizer": {"adamw_8bit": "adamw_torch_fused", "paged_adamw_8bit": "adamw_torch_fused"},
}
PLAIN = CHEAP_PLAIN | {
    "zero_stage": {1: 0, 2: 0, 3: 0},
    "fsdp": {"full_shard": "none", "shard_grad_op": "none"},
    "offload": {"optimizer": "none", "params": "none"},
}
"""Levers that only save memory -> the plain setting, which they never outrun: offloaded checkpoints move more than kept
ones, 8-bit states are quantised anew each step, shards and offloads travel. Where the prediction says otherwise, that
is
its own error: the plain setting's figure counts, and the plan takes no lever for the sake of speed."""
CAP = "a lever that saves memory is not counted as faster than the plain setting"


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of options. Its points differ in micro-batch and accumulation only."""

    values: Mapping[str, Any]
    """Every field of a setup but the two of the batch."""
    order: tuple[int, ...]
    """Rank of each option in its domain: decides between equals."""
    batches: tuple[tuple[int, int], ...]
    """(micro-batch, accumulation), ascending in micro-batch."""

    def setup(self, batch: tuple[int, int], **changes: Any) -> Setup:
        return Setup(micro_batch=batch[0], gradient_accumulation=batch[1], **{**self.values, **changes})


@dataclass(frozen=True, slots=True)
class Point:
    """One setup of the space, not yet built."""

    bound: float
    """Tokens per second that it cannot exceed."""
    order: tuple[int, ...]
    cell: Cell
    batch: tuple[int, int]
    peak_bytes: int
    needed_bytes: int
    """The prediction and its margin."""

    @property
    def setup(self) -> Setup:
        return self.cell.setup(self.batch)

    def matches(self, fixed: Mapping[str, Any]) -> bool:
        values = self.cell.values
        return all((values[name] if name in values else self.batch[0]) == value for name, value in fixed.items())


@dataclass(frozen=True, slots=True)
class Search:
    """The space of one case. The dictionaries only remember what was computed."""

    draft: Draft
    domains: Mapping[str, Domain]
    points: tuple[Point, ...]
    """The best bound first."""
    broken: str | None
    """Why the pinned fields cannot run; the plan is then a prediction only."""
    memories: dict[Setup, Memory] = field(default_factory=dict)
    speeds: dict[Setup, float] = field(default_factory=dict)
    answers: dict[tuple[Any, ...], Setup | None] = field(default_factory=dict)

    @property
    def case(self) -> Case:
        return self.draft.case

    def memory(self, setup: Setup) -> Memory:
        if setup not in self.memories:
            self.memories[setup] = predict_memory(self.case.model.architecture, setup, self.case.machine)
        return self.memories[setup]

    def peak_bytes(self, setup: Setup) -> int:
        return self.memory(setup).total_bytes

    def tokens_per_second(self, setup: Setup) -> float:
        """The predicted speed, not above the plain setting's (see PLAIN)."""
        if setup not in self.speeds:
            self.speeds[setup] = _predicted(self.case, setup)
            changes = _plain_values(PLAIN, lambda name: getattr(setup, name))
            if changes:
                plain = self.tokens_per_second(replace(setup, **changes))
                self.speeds[setup] = min(self.speeds[setup], plain)
        return self.speeds[setup]

    def speed(self, setup: Setup, epochs: float, max_steps: int | None) -> Speed:
        """The whole run, explained, at the speed that the choice counted with."""
        case = self.case
        speed = predict_speed(case.model.architecture, setup, case.machine, case.dataset, epochs, max_steps)
        factor = speed.tokens_per_second / self.tokens_per_second(setup)
        if factor <= 1:
            return speed
        seconds = speed.seconds_per_step * factor
        cost = None if speed.cost_usd is None else speed.cost_usd * factor
        parts = (*speed.parts, ("not faster than plain", seconds - speed.seconds_per_step, CAP))
        return Speed(speed.tokens_per_second / factor, seconds, speed.hours * factor, speed.steps, cost, parts)

    def verdict(self, setup: Setup, budget_bytes: int | None = None) -> tuple[str, float, int]:
        """(`fits` | `uncertain` | `does not fit`, probability, margin in bytes) within the case's budget or another."""
        machine = machine_for(self.case.machine, setup)
        if budget_bytes is not None:
            machine = replace(machine, budget_bytes=budget_bytes)
        return verdict(self.memory(setup), machine)

    def best(self, budget_bytes: int | None = None, **fixed: Any) -> Setup | None:
        """The fastest setup that fits among those with the given field values, in the case's budget or another one."""
        budget = budget_bytes or self.case.machine.budget_bytes
        question = (budget, *fixed.items())
        if question not in self.answers:
            self.answers[question] = self._best(budget, fixed)
        return self.answers[question]

    def _best(self, budget_bytes: int, fixed: Mapping[str, Any]) -> Setup | None:
        winner, winner_key = None, None
        for point in self.points:
            if winner_key is not None and -point.bound > winner_key[0]:
                break
            if point.needed_bytes > budget_bytes or not point.matches(fixed):
                continue
            setup = point.setup
            key = (-self.tokens_per_second(setup), point.order)
            # the verdict knows of host RAM too
            if (winner_key is None or key < winner_key) and self.verdict(setup, budget_bytes)[0] == "fits":
                winner, winner_key = setup, key
        return winner

    def smallest(self, **fixed: Any) -> Setup | None:
        """The setup that needs least memory among those with the given field values."""
        allowed = [point for point in self.points if point.matches(fixed)]
        return min(allowed, key=lambda point: (point.peak_bytes, point.order)).setup if allowed else None


def machine_for(machine: Machine, setup: Setup) -> Machine:
    """The machine, with a cautious host RAM where an offload needs some and the recipe states none."""
    uses_host = (
        setup.offload != "none" or setup.gradient_checkpointing == "offload" or setup.optimizer.startswith("paged")
    )
    if machine.host_ram_bytes is None and uses_host and machine.backend != "cpu":
        return replace(machine, host_ram_bytes=UNKNOWN_HOST_RAM_BYTES)
    return machine


def search(draft: Draft) -> Search:
    """The space of a case with memory and bounds; `draft` holds what the rules before the choice settled."""
    domains = {rule.__name__: rule(draft) for rule in DOMAINS}
    cells, broken = _cells(draft, domains)
    cannot = broken or next((one.broken for one in domains.values() if one.broken), None)
    speeds: dict[tuple[Any, ...], float] = {}
    drawn: dict[tuple[Any, ...], tuple[Line, ...]] = {}
    points = []
    for cell in cells:
        kinds = []
        for levers in (CHEAP_PLAIN, PLAIN):
            changes = _plain_values(levers, cell.values.__getitem__)
            key = tuple(changes.get(name, cell.values[name]) for name in domains)
            if all(key != other for other, _ in kinds):
                kinds.append((key, changes))
        for batch, peak in zip(cell.batches, _peaks(draft.case, cell, drawn), strict=True):
            for key, changes in kinds:
                if (key, batch) not in speeds:
                    speeds[key, batch] = _predicted(draft.case, cell.setup(batch, **changes))
            bound = min(speeds[key, batch] for key, _ in kinds)
            needed = peak + margin_bytes(peak, draft.case.machine)
            points.append(Point(bound, (*cell.order, batch[0]), cell, batch, peak, needed))
    points.sort(key=lambda point: (-point.bound, point.order))
    return Search(draft, domains, tuple(points), cannot)


def _peaks(case: Case, cell: Cell, drawn: dict[tuple[Any, ...], tuple[Line, ...]]) -> list[int]:
    """`peak_bytes` of every batch of a cell. `drawn` keeps the lines of cells that differ only in what moves along
    them:
    batch and length (but for a window shorter than the length, which needs a mask) and packing."""
    architecture, machine = case.model.architecture, case.machine
    length, peaks, factor = cell.values["sequence_len"], [], overhead_factor(machine)
    masked = length if architecture.sliding_window and length > architecture.sliding_window else None
    kind = tuple(value for name, value in cell.values.items() if name not in ("sequence_len", "sample_packing"))
    for batch in cell.batches:
        key = (*kind, masked, batch[1] > 1)
        if key not in drawn:
            drawn[key] = peak_lines(architecture, cell.setup(batch), machine.backend == "cpu", factor)
        tokens = batch[0] * length
        rows = chunk_rows(tokens, architecture.vocab_size, architecture.hidden_size)
        live = round(max([line.bytes_at(tokens, length, rows) for line in drawn[key]]))
        peaks.append(live + overhead_bytes(live, machine))
    return peaks


def _plain_values(levers: Mapping[str, Mapping[Any, Any]], value_of: Callable[[str], Any]) -> dict[str, Any]:
    return {name: plain[value_of(name)] for name, plain in levers.items() if value_of(name) in plain}


def _predicted(case: Case, setup: Setup) -> float:
    return predict_speed(case.model.architecture, setup, case.machine, case.dataset).tokens_per_second


def _cells(draft: Draft, domains: Mapping[str, Domain]) -> tuple[list[Cell], str | None]:
    """Every allowed combination of options; if the pinned fields exclude all, the forbidden ones and why."""
    allowed: list[Cell] = []
    forbidden: list[Cell] = []
    reason = None
    names, base = tuple(domains), _base(draft)
    kernels = {name: _kernels(draft, name) for name in domains["method"].options}
    batches = {
        (length, packing): _batches(draft, length, packing)
        for length in domains["sequence_len"].options
        for packing in domains["sample_packing"].options
    }
    for ranks in product(*(range(len(domain.options)) for domain in domains.values())):
        values = {name: domains[name].options[rank] for name, rank in zip(names, ranks, strict=True)}
        if dominated(draft, values):
            continue
        values |= base | {"lora_kernels": kernels[values["method"]]}
        cell = Cell(values, ranks, batches[values["sequence_len"], values["sample_packing"]])
        clash = conflict(cell.setup((1, 1)))
        reason = reason or (clash and clash[1])
        (forbidden if clash else allowed).append(cell)
    return (allowed, None) if allowed else (forbidden, reason)


def _base(draft: Draft) -> dict[str, Any]:
    """The fields of a setup that are not searched."""
    names = ("precision", "weights_dtype", "double_quant", "train_embeddings")
    values = {name: draft.value(name) for name in names}
    if not draft.full:
        values |= {name: draft.value(name) for name in ("lora_r", "lora_alpha", "lora_dropout", "lora_targets")}
    return values | {"devices": draft.case.machine.count}


def _kernels(draft: Draft, method: str) -> bool:
    asked = draft.asked("lora_kernels")
    return method != "full" and (asked if asked is not None else kernels_obstacle(draft, method) is None)


def _batches(draft: Draft, sequence_len: int, packing: bool) -> tuple[tuple[int, int], ...]:
    """(micro-batch, accumulation) whose product with the devices is the effective batch; ascending."""
    batch, devices = effective_batch_for(draft, sequence_len, packing), draft.case.machine.count
    asked, steps = draft.asked("micro_batch"), draft.asked("gradient_accumulation")
    share = max(1, batch // devices)
    if asked:
        return ((asked, steps or max(1, share // asked)),)
    if steps:
        return ((max(1, share // steps), steps),)
    sizes = (size for size in range(1, min(share, MAX_MICRO_BATCH) + 1) if share % size == 0)
    return tuple((size, share // size) for size in sizes)


def why_not(case: Case, field: str, value: Any) -> str:
    """What killed `field` = `value` in this case, with numbers. Raises WorldProblem for a field that is not planned."""
    from compiler.why_not import why_not as explain  # it leans on this module

    return explain(case, field, value)
