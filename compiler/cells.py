"""The discrete space of a case: every allowed combination of options, and the memory of its points.

A cell is one combination; its points differ in micro-batch and accumulation only. Cells that differ in nothing that a
moment of the step depends on share what was computed for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from itertools import product
from typing import Any

from compiler.architecture import Architecture
from compiler.constraints import conflict, dominated
from compiler.domain import Domain
from compiler.memory.layer import one_row_matters
from compiler.memory.lines import chunk_rows, numbers_at
from compiler.memory.model import Moments, held_share, moments, slack_factor, total_bytes
from compiler.memory.shards import Shard, shard
from compiler.memory.static import static_state
from compiler.quick import dataclass
from compiler.rules.adapter import kernels_obstacle
from compiler.rules.draft import Draft
from compiler.rules.schedule import effective_batch_for, too_many_rows
from compiler.values import Machine, Setup

MAX_MICRO_BATCH = 64
Batch = tuple[int, int]
"""(micro-batch, gradient accumulation)."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of options. Its points differ in micro-batch and accumulation only."""

    values: Mapping[str, Any]
    """Every field of a setup but the two of the batch."""
    order: tuple[int, ...]
    """Rank of each option in its domain: decides between equals."""
    batches: tuple[Batch, ...]
    """Ascending in micro-batch."""

    def setup(self, batch: Batch, **changes: Any) -> Setup:
        return Setup(micro_batch=batch[0], gradient_accumulation=batch[1], **{**self.values, **changes})


def cells_of(draft: Draft, domains: Mapping[str, Domain]) -> tuple[list[Cell], str | None]:
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
    crowded = set()
    if not draft.states("sample_packing"):
        crowded = {length for length in domains["sequence_len"].options if too_many_rows(draft, length)}
    for ranks in product(*(range(len(domain.options)) for domain in domains.values())):
        values = {name: domains[name].options[rank] for name, rank in zip(names, ranks, strict=True)}
        if dominated(draft, values) or (values["sample_packing"] and values["sequence_len"] in crowded):
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


STATE_FIELDS = ("method", "attention", "cross_entropy", "optimizer", "zero_stage", "fsdp", "offload")
"""The searched fields that decide what lives through the whole step."""
SHAPE_FIELDS = (*(name for name in STATE_FIELDS if name != "optimizer"), "gradient_checkpointing", "sequence_len")
"""The searched fields that decide what comes and goes within a step. Optimizers differ in their states, which live
through it, and in the copies that they make at its end."""


@dataclass(frozen=True, slots=True)
class Peaks:
    """Peaks of many cells of one model on one machine; the dictionaries only remember what was computed."""

    architecture: Architecture
    machine: Machine
    states: dict[tuple[Any, ...], Shard] = field(default_factory=dict)
    shapes: dict[tuple[Any, ...], Moments] = field(default_factory=dict)
    highest: dict[tuple[Any, ...], tuple[float, float, float]] = field(default_factory=dict)

    def of(self, cell: Cell) -> tuple[int, list[int]]:
        """`resident_bytes` of a cell and `peak_bytes` of every point of it, as `compiler.memory` has them."""
        values, setup = cell.values, cell.setup(cell.batches[0])
        key = tuple([values[name] for name in STATE_FIELDS])
        if key not in self.states:
            self.states[key] = shard(self.architecture, setup, static_state(self.architecture, setup))
        held, share = self.states[key], held_share(self.machine)
        resident = held.weights + held.adapters
        shape = tuple([values[name] for name in SHAPE_FIELDS])
        found = []
        for batch in cell.batches:
            if (shape, batch) not in self.highest:
                self.highest[shape, batch] = self._highest(cell, shape, batch, held)
            within, at_end, loading = self.highest[shape, batch]
            most = max(within, at_end + held.step_copies) + held.states
            found.append(total_bytes(most, resident, loading, share, self.machine))
        return round(resident), found

    def _highest(self, cell: Cell, shape: tuple[Any, ...], batch: Batch, held: Shard) -> tuple[float, float, float]:
        """Bytes: (the most that is held within a step, and at its end without the optimizer's copies, while loading);
        the first two without the optimizer's states. The first cell of a shape computes them with its own optimizer,
        whose share is then taken off."""
        architecture, length = self.architecture, cell.values["sequence_len"]
        setup = cell.setup(batch)
        key = (shape, batch[1] > 1, batch[0] == 1 and one_row_matters(architecture, setup))
        if key not in self.shapes:
            cpu = self.machine.backend == "cpu"
            self.shapes[key] = moments(architecture, setup, cpu, slack_factor(self.machine))
        (*step, end), loading, _ = self.shapes[key]
        tokens = batch[0] * length
        rows = chunk_rows(tokens, architecture.vocab_size, architecture.hidden_size)
        within = max([numbers_at(one, tokens, length, rows) for one in step])
        at_end = numbers_at(end, tokens, length, rows) - held.step_copies
        return within - held.states, at_end - held.states, loading
