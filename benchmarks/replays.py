"""The recorded replays of Axolotl's stack (tests/data/replays.jsonl): two traced steps, loading before them, through
the caching allocator. They give the planner's slack its shares, and score it.

python benchmarks/replays.py                 the shares that they give
python benchmarks/replays.py retrace 5       trace every 5th again and write its figures (about 10 s each)
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from functools import cache
from typing import Any

from published import DATA, load_setup

from compiler.architecture import Architecture, from_config
from compiler.facts import models
from compiler.memory.lines import chunk_rows, numbers_at
from compiler.memory.model import explained_lines
from compiler.memory.slack import SLACK, Shares, slack_numbers
from compiler.values import Setup

REPLAYS = DATA / "replays.jsonl"
PLAIN, EXPANDABLE = "reserved", "expandable"
"""Fields of a replay: with PyTorch's default settings, and with `expandable_segments:True`."""
TOO_LITTLE = 2.0
"""Weight of an underestimate: it costs a run, an overestimate a smaller batch."""


@dataclass(frozen=True, slots=True)
class Replay:
    """One recorded replay, and what the slack of its plan is made of."""

    group: str
    """`first` (parts of models) or `drawn` (whole ones, setups at random)."""
    architecture: Architecture
    setup: Setup
    resident: int
    allocated: int
    reserved: int
    expandable: int
    moments: tuple[tuple[float, float, float, float], ...]
    """Of each moment of the plan: live bytes, and slack for a whole share of each of `Shares`."""
    fixed: tuple[float, ...]
    """Of each moment, slack that no share scales."""

    def predicted(self, shares: Shares = SLACK) -> float:
        """Reserved bytes, from the traced live ones."""
        loss, layer, gradients = astuple(shares)
        held = [
            live + own + loss * at_loss + layer * at_layer + gradients * made
            for (live, at_loss, at_layer, made), own in zip(self.moments, self.fixed, strict=True)
        ]
        return self.allocated + max(held) - max(live for live, *_ in self.moments)

    def error(self, shares: Shares = SLACK, kind: str = PLAIN) -> float:
        return self.predicted(shares) / getattr(self, kind) - 1


@cache
def replays() -> tuple[Replay, ...]:
    return tuple(map(_replay, rows()))


def rows() -> Iterator[dict[str, Any]]:
    return map(json.loads, REPLAYS.read_text(encoding="utf-8").splitlines())


@cache
def _parts_of_models() -> dict[str, Architecture]:
    with (DATA / "traces.jsonl").open(encoding="utf-8") as lines:
        return {name: from_config(config) for name, config in json.loads(next(lines))["configs"].items()}


def architecture_of(name: str) -> Architecture:
    return _parts_of_models().get(name) or models()[name].architecture


def _replay(row: dict[str, Any]) -> Replay:
    architecture, setup = architecture_of(row["model"]), load_setup(row["setup"])
    tokens, length = setup.micro_batch * setup.sequence_len, setup.sequence_len
    chunk = chunk_rows(tokens, architecture.vocab_size, architecture.hidden_size)
    lines, sizes = explained_lines(architecture, setup)

    def slack(one: Any, *shares: float) -> float:
        return numbers_at(slack_numbers(one, sizes, 1.0, Shares(*shares)), tokens, length, chunk)

    moments, fixed = [], []
    for one in lines:
        own = slack(one, 0, 0, 0)
        unit = [slack(one, *(float(index == which) for index in range(3))) - own for which in range(3)]
        moments.append((one.bytes_at(tokens, length, chunk), *unit))
        fixed.append(own)
    values = {name: row[name] for name in ("group", "resident", "allocated", PLAIN, EXPANDABLE)}
    return Replay(architecture=architecture, setup=setup, moments=tuple(moments), fixed=tuple(fixed), **values)


def weighted(group: tuple[Replay, ...], shares: Shares, kind: str = PLAIN) -> float:
    errors = [one.error(shares, kind) for one in group]
    return sum(abs(error) * (TOO_LITTLE if error < 0 else 1.0) for error in errors) / len(errors)


GRID = tuple(index / 20 for index in range(41))


def fitted(group: tuple[Replay, ...], kind: str = PLAIN) -> Shares:
    """The shares, in steps of 0.05, with the least weighted mean error: one after the other until none moves."""
    shares = Shares(0.5, 0.5, 0.5)
    while True:
        before = shares
        for name in ("loss", "layer", "gradients"):
            tried = [_with(shares, name, value) for value in GRID]
            shares = min(tried, key=lambda one: weighted(group, one, kind))
        if shares == before:
            return shares


def _with(shares: Shares, name: str, value: float) -> Shares:
    values = {"loss": shares.loss, "layer": shares.layer, "gradients": shares.gradients} | {name: value}
    return Shares(**values)


def by_kind(kind: str = PLAIN) -> dict[str, list[float]]:
    """Errors of the planner's shares: all, by loss (`eager` apart), full fine-tuning, and the two sets."""
    errors: dict[str, list[float]] = defaultdict(list)
    for one in replays():
        setup = one.setup
        loss = "attention eager" if setup.attention == "eager" else f"loss {setup.cross_entropy}"
        for name in ("all", loss, "full" if setup.method == "full" else "adapters", one.group):
            errors[name].append(one.error(kind=kind))
    return errors


def out_of_family() -> list[float]:
    """Errors with shares that were fitted without the families of the model."""
    families: dict[str, list[Replay]] = defaultdict(list)
    for one in replays():
        families[one.architecture.model_type].append(one)
    errors = []
    for family, members in families.items():
        shares = fitted(tuple(one for one in replays() if one.architecture.model_type != family))
        errors += [one.error(shares) for one in members]
    return errors


def retrace(every: int) -> None:
    """The file is written after each, so that it can be stopped."""
    done = list(rows())
    for index in range(0, len(done), every):
        done[index] |= _traced(done[index])
        print(f"{index:4} {done[index]['model']}", flush=True)
        REPLAYS.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in done), encoding="utf-8")


def _traced(row: dict[str, Any]) -> dict[str, int]:
    from compiler.stacks import AXOLOTL
    from compiler.trace import step
    from compiler.trace.allocator import replay, replay_expandable

    events: list[tuple[int, int]] = []
    plain = step.replay_expandable
    step.replay_expandable = lambda log: (events.extend(log), replay_expandable(log))[1]
    try:
        traced = step.trace_step(architecture_of(row["model"]), load_setup(row["setup"]), AXOLOTL)
    finally:
        step.replay_expandable = plain
    return {
        "resident": traced.resident_bytes,
        "allocated": traced.allocated_bytes,
        PLAIN: replay(events)[0],
        EXPANDABLE: traced.reserved_bytes,
    }


def main() -> None:
    if sys.argv[1:2] == ["retrace"]:
        retrace(int(sys.argv[2]) if sys.argv[2:] else 1)
        return
    for kind in (PLAIN, EXPANDABLE):
        for name, group in (("all", replays()), *((one, _group(one)) for one in ("first", "drawn"))):
            print(kind, name, len(group), fitted(group, kind))


def _group(name: str) -> tuple[Replay, ...]:
    return tuple(one for one in replays() if one.group == name)


if __name__ == "__main__":
    main()
