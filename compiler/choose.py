"""The choice: the setup with the least time per epoch among those that fit, under docs/quality-policy.md.

Exhaustive: every point of the space has its memory and an upper bound of its speed. Points are visited from the best
bound down until no later one can win, so that the explained speed is computed for a few only. Options never depend on
the budget: a larger budget only adds points, so more memory never makes a plan slower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from itertools import groupby
from typing import Any, NamedTuple

from compiler.cells import Batch, Cell, Peaks, cells_of
from compiler.domain import Domain
from compiler.memory import host_bytes, margin_bytes, peak_bytes, resident_bytes, verdict_of
from compiler.quick import dataclass
from compiler.rules import evaluation
from compiler.rules.draft import Draft
from compiler.space import DOMAINS
from compiler.speed import predict_speed, tokens_per_second
from compiler.values import Case, Machine, Setup, Speed

NEXT_BYTES = 2 * 2**30
"""More memory, of which a plan says what it would buy."""
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


class Point(NamedTuple):
    """One setup of the space, not yet built."""

    peak_bytes: int
    needed_bytes: int
    """The prediction and its margin."""
    order: tuple[int, ...]
    """Decides between equals: the ranks of its options, then the micro-batch."""
    cell: Cell
    batch: Batch

    @property
    def setup(self) -> Setup:
        return self.cell.setup(self.batch)

    def matches(self, fixed: Mapping[str, Any]) -> bool:
        values = self.cell.values
        return all(value == (values[name] if name in values else self.batch[0]) for name, value in fixed.items())


Ranked = tuple[float, Point]
"""Tokens per second that a point cannot exceed, and the point."""


@dataclass(frozen=True, slots=True)
class Search:
    """The space of one case. The dictionaries only remember what was computed."""

    draft: Draft
    domains: Mapping[str, Domain]
    points: tuple[Point, ...]
    broken: str | None
    """Why the pinned fields cannot run; the plan is then a prediction only."""
    rankings: dict[int, tuple[Ranked, ...]] = field(default_factory=dict)
    peaks: dict[Setup, int] = field(default_factory=dict)
    rates: dict[Setup, float] = field(default_factory=dict)
    capped: dict[Setup, float] = field(default_factory=dict)
    answers: dict[tuple[Any, ...], Setup | None] = field(default_factory=dict)

    @property
    def case(self) -> Case:
        return self.draft.case

    def peak_bytes(self, setup: Setup) -> int:
        """The predicted peak of any setup. Raises ValueError where it is not known."""
        if setup not in self.peaks:
            peak = peak_bytes(self.case.model.architecture, setup, self.case.machine)
            self.peaks[setup] = max(peak, evaluation.least_bytes(self.case, setup)) if self.evaluates else peak
        return self.peaks[setup]

    @property
    def evaluates(self) -> bool:
        """Whether a setup must have room for evaluation, because the recipe asks for it."""
        return evaluation.asked_for(self.draft)

    def host_bytes(self, setup: Setup) -> int:
        return host_bytes(self.case.model.architecture, setup, self.case.machine)

    def tokens_per_second(self, setup: Setup) -> float:
        """The predicted speed, not above the plain setting's (see PLAIN)."""
        if setup not in self.capped:
            rate, changes = self._rate(setup), _plain_values(PLAIN, lambda name: getattr(setup, name))
            plain = self.tokens_per_second(replace(setup, **changes)) if changes else rate
            self.capped[setup] = min(rate, plain)
        return self.capped[setup]

    def _rate(self, setup: Setup) -> float:
        if setup not in self.rates:
            case = self.case
            self.rates[setup] = tokens_per_second(case.model.architecture, setup, case.machine, case.dataset)
        return self.rates[setup]

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
        resident = resident_bytes(self.case.model.architecture, setup, machine)
        return verdict_of(self.peak_bytes(setup), resident, self.host_bytes(setup), machine)

    def fits_host(self, setup: Setup) -> bool:
        """Whether the host has the RAM that a setup wants."""
        ram = machine_for(self.case.machine, setup).host_ram_bytes
        return ram is None or self.host_bytes(setup) <= ram

    def best(self, budget_bytes: int | None = None, **fixed: Any) -> Setup | None:
        """The fastest setup that fits among those with the given field values, in the case's budget or another one."""
        budget = budget_bytes or self.case.machine.budget_bytes
        question = (budget, *fixed.items())
        if question not in self.answers:
            self.answers[question] = self._best(budget, fixed)
        return self.answers[question]

    def _best(self, budget_bytes: int, fixed: Mapping[str, Any]) -> Setup | None:
        winner, winner_key = None, None
        for bound, point in self._ranking(budget_bytes):
            if winner_key is not None and -bound > winner_key[0]:
                break
            if point.needed_bytes > budget_bytes or not point.matches(fixed):
                continue
            setup = point.setup
            key = (-self.tokens_per_second(setup), point.order)
            if (winner_key is None or key < winner_key) and self.fits_host(setup):
                winner, winner_key = setup, key
                self.peaks[setup] = point.peak_bytes
        return winner

    def _ranking(self, budget_bytes: int) -> tuple[Ranked, ...]:
        """The points that any budget asked for has room for, the best bound first."""
        machine = self.case.machine
        reach = max(budget_bytes, machine.vram_bytes, machine.budget_bytes + NEXT_BYTES)
        if reach not in self.rankings:
            within = [point for point in self.points if point.needed_bytes <= reach]
            ranked = sorted(zip(self.bounds(within), within, strict=True), key=lambda one: (-one[0], one[1].order))
            self.rankings[reach] = tuple(ranked)
        return self.rankings[reach]

    def bounds(self, points: Sequence[Point]) -> list[float]:
        """Tokens per second that each point cannot exceed: those of its plain settings, which many cells share."""
        rates: dict[tuple[Any, ...], float] = {}
        bounds = []
        for _, several in groupby(points, key=lambda point: id(point.cell)):
            same = list(several)
            values, kinds = same[0].cell.values, {}
            for levers in (CHEAP_PLAIN, PLAIN):
                changes = _plain_values(levers, values.__getitem__)
                kinds[tuple([changes.get(name, values[name]) for name in self.domains])] = changes
            for point in same:
                for key, changes in kinds.items():
                    if (key, point.batch) not in rates:
                        rates[key, point.batch] = self._rate(point.cell.setup(point.batch, **changes))
                bounds.append(min([rates[key, point.batch] for key in kinds]))
        return bounds

    def smallest(self, **fixed: Any) -> Setup | None:
        """The setup that needs least memory among those with the given field values."""
        allowed = [point for point in self.points if point.matches(fixed)]
        if not allowed:
            return None
        least = min(allowed, key=lambda point: (point.peak_bytes, point.order))
        setup = least.setup
        self.peaks[setup] = least.peak_bytes
        return setup


def machine_for(machine: Machine, setup: Setup) -> Machine:
    """The machine, with a cautious host RAM where an offload needs some and the recipe states none."""
    uses_host = (
        setup.offload != "none" or setup.gradient_checkpointing == "offload" or setup.optimizer.startswith("paged")
    )
    if machine.host_ram_bytes is None and uses_host and machine.backend != "cpu":
        return replace(machine, host_ram_bytes=UNKNOWN_HOST_RAM_BYTES)
    return machine


def search(draft: Draft) -> Search:
    """The space of a case with its memory; `draft` holds what the rules before the choice settled."""
    machine = draft.case.machine
    domains = {rule.__name__: rule(draft) for rule in DOMAINS}
    cells, broken = cells_of(draft, domains)
    cannot = broken or next((one.broken for one in domains.values() if one.broken), None)
    peaks, points, evaluates = Peaks(draft.case.model.architecture, machine), [], evaluation.asked_for(draft)
    for cell in cells:
        resident, sizes = peaks.of(cell)
        if evaluates:  # which does not depend on the micro-batch
            least = evaluation.least_bytes(draft.case, cell.setup(cell.batches[0]))
            sizes = [max(size, least) for size in sizes]
        for batch, peak in zip(cell.batches, sizes, strict=True):
            needed = peak + margin_bytes(peak, resident, machine)
            points.append(Point(peak, needed, (*cell.order, batch[0]), cell, batch))
    return Search(draft, domains, tuple(points), cannot)


def _plain_values(levers: Mapping[str, Mapping[Any, Any]], value_of: Callable[[str], Any]) -> dict[str, Any]:
    return {name: plain[value_of(name)] for name, plain in levers.items() if value_of(name) in plain}


def why_not(case: Case, field: str, value: Any) -> str:
    """What killed `field` = `value` in this case, with numbers. Raises WorldProblem for a field that is not planned."""
    from compiler.why_not import why_not as explain  # it leans on this module

    return explain(case, field, value)
