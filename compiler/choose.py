"""The choice: the setup with the least time per epoch among those that fit, under docs/quality-policy.md.

Exhaustive, but lazy: every point of the space is timed; memory is computed only for points that could still win, best
first, so the first that fits is the optimum. Within a cell (all options but the micro-batch) memory grows with the
micro-batch, so a bisection finds which fit. Options never depend on the budget: a larger budget only adds points, so
more memory never makes a plan slower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from compiler.constraints import conflict, dominated
from compiler.memory import margin_bytes, peak_bytes, predict_memory, verdict
from compiler.rules.adapter import kernels_obstacle
from compiler.rules.draft import Draft
from compiler.rules.schedule import effective_batch_for
from compiler.space import DOMAINS, Domain
from compiler.speed import predict_speed
from compiler.values import Case, Machine, Memory, Setup

MAX_MICRO_BATCH = 64
UNKNOWN_HOST_RAM_BYTES = 16 * 2**30
"""What offloads may take of a host whose RAM the recipe does not state."""


@dataclass(frozen=True, slots=True)
class Point:
    """One setup with its speed."""

    setup: Setup
    tokens_per_second: float
    order: tuple[int, ...]
    """Rank of each option in its domain, then the micro-batch: decides between equals."""
    cell: int
    """Points of one cell differ in micro-batch and accumulation only."""


@dataclass(frozen=True, slots=True)
class Search:
    """The timed space of one case. The two dictionaries only remember what was computed."""

    draft: Draft
    domains: Mapping[str, Domain]
    points: tuple[Point, ...]
    """Best first."""
    cells: Mapping[int, tuple[Setup, ...]]
    """Setups of each cell that add up gradients, by micro-batch ascending: memory grows along them."""
    broken: str | None
    """Why the pinned fields cannot run; the plan is then a prediction only."""
    peaks: dict[Setup, int] = field(default_factory=dict)
    memories: dict[Setup, Memory] = field(default_factory=dict)

    @property
    def case(self) -> Case:
        return self.draft.case

    def peak_bytes(self, setup: Setup) -> int:
        if setup not in self.peaks:
            self.peaks[setup] = peak_bytes(self.case.model.architecture, setup, self.case.machine)
        return self.peaks[setup]

    def memory(self, setup: Setup) -> Memory:
        if setup not in self.memories:
            self.memories[setup] = predict_memory(self.case.model.architecture, setup, self.case.machine)
        return self.memories[setup]

    def verdict(self, setup: Setup, budget_bytes: int | None = None) -> tuple[str, float, int]:
        """(`fits` | `uncertain` | `does not fit`, probability, margin in bytes) within the case's budget, or
        another."""
        machine = machine_for(self.case.machine, setup)
        if budget_bytes is not None:
            machine = replace(machine, budget_bytes=budget_bytes)
        return verdict(self.memory(setup), machine)

    def best(self, budget_bytes: int | None = None, **fixed: Any) -> Point | None:
        """The fastest point that fits among those with the given field values, in the case's budget or another one."""
        budget = budget_bytes or self.case.machine.budget_bytes
        largest: dict[int, int] = {}
        for point in self.points:
            if not matches(point.setup, fixed):
                continue
            if point.setup.gradient_accumulation > 1 and point.cell in self.cells:
                if point.cell not in largest:
                    largest[point.cell] = self._largest_micro_batch(self.cells[point.cell], budget)
                if point.setup.micro_batch > largest[point.cell]:
                    continue
            elif not self._within(point.setup, budget):
                continue
            if self.verdict(point.setup, budget)[0] == "fits":
                return point
        return None

    def smallest(self, **fixed: Any) -> Point | None:
        """The point that needs least memory among those with the given field values."""
        allowed = [point for point in self.points if matches(point.setup, fixed)]
        return min(allowed, key=lambda point: (self.peak_bytes(point.setup), point.order), default=None)

    def _within(self, setup: Setup, budget_bytes: int) -> bool:
        peak = self.peak_bytes(setup)
        return peak + margin_bytes(peak, self.case.machine) <= budget_bytes

    def _largest_micro_batch(self, ascending: tuple[Setup, ...], budget_bytes: int) -> int:
        """Bisection: memory never shrinks when the micro-batch grows. 0 when none fits."""
        low, high = 0, len(ascending)
        while low < high:
            middle = (low + high) // 2
            if self._within(ascending[middle], budget_bytes):
                low = middle + 1
            else:
                high = middle
        return ascending[low - 1].micro_batch if low else 0


def matches(setup: Setup, fixed: Mapping[str, Any]) -> bool:
    return all(getattr(setup, name) == value for name, value in fixed.items())


def machine_for(machine: Machine, setup: Setup) -> Machine:
    """The machine, with a cautious host RAM where an offload needs some and the recipe states none."""
    uses_host = (
        setup.offload != "none" or setup.gradient_checkpointing == "offload" or setup.optimizer.startswith("paged")
    )
    if machine.host_ram_bytes is None and uses_host and machine.backend != "cpu":
        return replace(machine, host_ram_bytes=UNKNOWN_HOST_RAM_BYTES)
    return machine


def search(draft: Draft) -> Search:
    """Time every setup of the case's space; `draft` holds what the rules before the choice settled."""
    domains = {rule.__name__: rule(draft) for rule in DOMAINS}
    cells, broken = _cells(draft, domains)
    points, ascending = [], {}
    for number, (cell, order, batch) in enumerate(cells):
        setups = [_with_micro_batch(draft, cell, micro, batch) for micro in micro_batches(draft, batch)]
        adding = tuple(one for one in setups if one.gradient_accumulation > 1)
        if adding:
            ascending[number] = adding
        points += [Point(one, tokens_per_second(draft.case, one), (*order, one.micro_batch), number) for one in setups]
    points.sort(key=lambda point: (-point.tokens_per_second, point.order))
    cannot = broken or next((one.broken for one in domains.values() if one.broken), None)
    return Search(draft, domains, tuple(points), ascending, cannot)


def tokens_per_second(case: Case, setup: Setup) -> float:
    """Predicted speed, but a lever that only saves memory is never taken for the sake of speed.

    Offloaded checkpoints move more than kept ones, and 8-bit states are quantised anew each step: where the prediction
    ranks them above the plain setting, the difference is its own error, and the plain setting's figure counts.
    """
    figure = _predicted(case, setup)
    plain = plainer(setup)
    return figure if plain is None else min(figure, _predicted(case, plain))


def plainer(setup: Setup) -> Setup | None:
    """The setup without its memory-only levers, or None where it has none."""
    changes = {}
    if setup.gradient_checkpointing == "offload":
        changes["gradient_checkpointing"] = "on"
    if setup.optimizer in ("adamw_8bit", "paged_adamw_8bit"):
        changes["optimizer"] = "adamw_torch_fused"
    return replace(setup, **changes) if changes else None


def _predicted(case: Case, setup: Setup) -> float:
    return predict_speed(case.model.architecture, setup, case.machine, case.dataset).tokens_per_second


Cells = list[tuple[Setup, tuple[int, ...], int]]
"""(setup without batch, ranks of its options, effective batch)."""


def _cells(draft: Draft, domains: Mapping[str, Domain]) -> tuple[Cells, str | None]:
    """Every allowed combination of options; if the pinned fields exclude all, the forbidden ones and why."""
    allowed: Cells = []
    forbidden: Cells = []
    reason = None
    names, base = tuple(domains), _base(draft)
    kernels = {name: _kernels(draft, name) for name in domains["method"].options}
    for ranks in product(*(range(len(domain.options)) for domain in domains.values())):
        values = {name: domains[name].options[rank] for name, rank in zip(names, ranks, strict=True)}
        if dominated(draft, values):
            continue
        cell = Setup(**base, **values, lora_kernels=kernels[values["method"]])
        clash = conflict(cell)
        reason = reason or (clash and clash[1])
        batch = effective_batch_for(draft, values["sequence_len"], values["sample_packing"])
        (forbidden if clash else allowed).append((cell, ranks, batch))
    return (allowed, None) if allowed else (forbidden, reason)


def _base(draft: Draft) -> dict[str, Any]:
    """The fields of a setup that are not searched."""
    names = ("precision", "weights_dtype", "double_quant", "train_embeddings")
    values = {name: draft.value(name) for name in names}
    if not draft.full:
        values |= {name: draft.value(name) for name in ("lora_r", "lora_alpha", "lora_dropout", "lora_targets")}
    return values | {"micro_batch": 1, "gradient_accumulation": 1, "devices": draft.case.machine.count}


def _kernels(draft: Draft, method: str) -> bool:
    asked = draft.asked("lora_kernels")
    return method != "full" and (asked if asked is not None else kernels_obstacle(draft, method) is None)


def micro_batches(draft: Draft, effective_batch: int) -> tuple[int, ...]:
    """Divisors of one device's share of the effective batch, ascending; the pinned one, if pinned."""
    asked, steps = draft.asked("micro_batch"), draft.asked("gradient_accumulation")
    if asked:
        return (asked,)
    share = max(1, effective_batch // draft.case.machine.count)
    if steps:
        return (max(1, share // steps),)
    return tuple(size for size in range(1, min(share, MAX_MICRO_BATCH) + 1) if share % size == 0)


def _with_micro_batch(draft: Draft, cell: Setup, micro_batch: int, effective_batch: int) -> Setup:
    steps = draft.asked("gradient_accumulation") or max(1, effective_batch // (micro_batch * cell.devices))
    return replace(cell, micro_batch=micro_batch, gradient_accumulation=steps)


def why_not(case: Case, field: str, value: Any) -> str:
    """What killed `field` = `value` in this case, with numbers. Raises WorldProblem for a field that is not planned."""
    from compiler.compare import why_not as explain  # compare leans on this module

    return explain(case, field, value)
