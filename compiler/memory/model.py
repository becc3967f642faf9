"""The peak of one training step: the lines of one setup, the cheap total and the explained prediction."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from compiler.architecture import Architecture
from compiler.memory.layer import one_row_matters
from compiler.memory.lines import Line, Numbers, Term, chunk_rows, numbers_at
from compiler.memory.outside import eval_lines, host_loading, load_line
from compiler.memory.overhead import overhead_bytes, overhead_factor, overhead_parts, slack_share
from compiler.memory.phases import needs_mask, step_lines
from compiler.memory.shards import shard
from compiler.memory.static import static_state
from compiler.values import Machine, Memory, Part, Setup


class Moments(NamedTuple):
    """What can be the peak of a setup, whatever its micro-batch."""

    step: tuple[Numbers, ...]
    """The optimizer's moment last."""
    loading: float
    """Bytes."""
    resident: float
    """Bytes of what lies still: the weights."""


def moments(architecture: Architecture, setup: Setup, cpu: bool = False) -> Moments:
    """The moments of a step that can be its peak, and that of loading; live tensors alone."""
    return _moments(architecture, _shape(architecture, setup), cpu)


def _shape(architecture: Architecture, setup: Setup) -> Setup:
    """The setup as its moments know it: they do not depend on micro-batch, but for `one_row_matters`; on sequence
    length only where a sliding window needs a mask (`sdpa`)."""
    return replace(
        setup,
        micro_batch=min(2, setup.micro_batch) if one_row_matters(architecture, setup) else 2,
        gradient_accumulation=min(2, setup.gradient_accumulation),
        sequence_len=setup.sequence_len if needs_mask(architecture, setup) else 1,
        sample_packing=False,
        lora_alpha=None,
        lora_dropout=float(setup.lora_dropout > 0),
    )


@lru_cache(maxsize=8192)
def _moments(architecture: Architecture, shape: Setup, cpu: bool) -> Moments:
    """Numbers alone are kept for every shape: most shapes are never explained."""
    step, load = _lines(architecture, shape, cpu)
    assert step[-1].phase == "optimizer" and step[-2].phase != "optimizer"
    return Moments(tuple([one.numbers for one in step]), load.const, _resident(step[0]))


@lru_cache(maxsize=64)
def _lines(architecture: Architecture, shape: Setup, cpu: bool) -> tuple[tuple[Line, ...], Line]:
    """The moments of a step and that of loading, explained."""
    return step_lines(architecture, shape, cpu), load_line(architecture, shape, cpu)


def _resident(one: Line) -> float:
    return sum(term.const for term in one.terms if term.name in RESIDENT)


RESIDENT = ("weights", "lora_weights")
"""Terms that lie still through the step, the same in all of its lines; the others come and go."""
SLACK_PART = "allocator_slack"

_eval_lines = lru_cache(maxsize=256)(eval_lines)
"""Asked for with several batches of one setup."""


def held_share(setup: Setup, machine: Machine) -> float:
    """What the allocator holds beside the tensors that come and go within a step, as a share of these. It is the same
    for all lines of a setup, and so are the weights: the line with the most live tensors is the highest."""
    return slack_share(setup, machine.backend == "cpu") * overhead_factor(machine)


def _slack(one: Line, resident: float, setup: Setup, machine: Machine) -> Term:
    share, factor = slack_share(setup, machine.backend == "cpu"), overhead_factor(machine)
    words = f"{share:.0%} of all but the weights: held by the allocator, not in use"
    if factor != 1.0:
        words += f"; times {factor:.2f}, measured on this machine"
    _, _, const, *per_unit = one
    share *= factor
    return Term(SLACK_PART, words, share * (const - resident), *(share * each for each in per_unit))


def live_bytes(architecture: Architecture, setup: Setup, cpu: bool = False) -> float:
    """Live tensors of one device at the peak of a training step, without allocator slack and overheads."""
    return _live(moments(architecture, setup, cpu).step, architecture, setup)


def _live(step: tuple[Numbers, ...], architecture: Architecture, setup: Setup) -> float:
    tokens, length = setup.micro_batch * setup.sequence_len, setup.sequence_len
    rows = chunk_rows(tokens, architecture.vocab_size, architecture.hidden_size)
    return max([numbers_at(one, tokens, length, rows) for one in step])


def peak_bytes(architecture: Architecture, setup: Setup, machine: Machine) -> int:
    """`predict_memory(...).total_bytes` without the explanation.

    It never shrinks when micro-batch, sequence length or rank grow, all else equal.
    """
    step, loading, resident = moments(architecture, setup, machine.backend == "cpu")
    live = _live(step, architecture, setup)
    return total_bytes(live, resident, loading, held_share(setup, machine), machine)


def total_bytes(live: float, resident: float, loading: float, share: float, machine: Machine) -> int:
    """What a device holds when the most that is alive in a step is `live`; `share` as in `held_share`."""
    most = round(max(live + share * (live - resident), loading))
    return most + overhead_bytes(most, machine)


def eval_bytes(
    architecture: Architecture, setup: Setup, machine: Machine, eval_batch: int, eval_length: int | None = None
) -> int:
    """Device memory of an evaluation with `eval_batch` rows at once, overheads included. `eval_length`: tokens of a
    row; None: the sequence length."""
    length = eval_length or setup.sequence_len
    tokens = eval_batch * length
    lines = _eval_lines(architecture, setup, machine.backend == "cpu")
    live = max(one.bytes_at(tokens, length, 0) for one in lines)
    return total_bytes(live, _resident(lines[0]), 0.0, held_share(setup, machine), machine)


def resident_bytes(architecture: Architecture, setup: Setup, machine: Machine) -> int:
    """`predict_memory(...).resident_bytes` without the rest."""
    return round(moments(architecture, setup, machine.backend == "cpu").resident)


def host_bytes(architecture: Architecture, setup: Setup, machine: Machine) -> int:
    """`predict_memory(...).host_bytes` without the rest."""
    tokens = setup.micro_batch * setup.sequence_len
    return sum(part.bytes for part in _host_parts(architecture, setup, tokens, machine.backend == "cpu"))


def predict_memory(
    architecture: Architecture,
    setup: Setup,
    machine: Machine,
    eval_batch: int = 0,
    eval_length: int | None = None,
) -> Memory:
    """The predicted peak of one device as named parts, of the phase where it is largest; host RAM beside it.

    `eval_batch` rows of `eval_length` tokens (None: the sequence length) are evaluated at once during the run; 0: no
    evaluation. Where loading is the largest phase, the
    parts are those of the step, and what loading took beyond them is the allocator's: it keeps what it was given.
    Raises ValueError for an optimizer or a LoRA target that is not known.
    """
    cpu, length = machine.backend == "cpu", setup.sequence_len
    tokens = setup.micro_batch * length
    rows = chunk_rows(tokens, architecture.vocab_size, architecture.hidden_size)
    step, load = _lines(architecture, _shape(architecture, setup), cpu)
    resident = _resident(step[0])
    lines = [(one, one.bytes_at(tokens, length, rows), tokens, length) for one in step]
    if eval_batch:
        row = eval_length or length
        tried = eval_batch * row
        lines += [(one, one.bytes_at(tried, row, 0), tried, row) for one in _eval_lines(architecture, setup, cpu)]
    top, live, counted, held_length = max(lines, key=lambda moment: moment[1])
    size, loading = live + held_share(setup, machine) * (live - resident), load.const
    terms = (*top.terms, _slack(top, resident, setup, machine))
    parts = _parts(terms, counted, held_length, rows, round(max(size, loading)), loading - size)
    phases: dict[str, int] = {"load": round(loading)}
    for one, alive, *_ in lines:
        phases[one.phase] = max(phases.get(one.phase, 0), round(alive))
    return Memory(
        parts=(*parts, *overhead_parts(machine)),
        peak_phase="load" if loading > size else top.phase,
        phases=tuple(phases.items()),
        host_parts=_host_parts(architecture, setup, tokens, cpu),
        resident_bytes=round(resident),
    )


def _parts(terms: tuple[Term, ...], tokens: int, length: int, rows: int, total: int, kept_bytes: float) -> list[Part]:
    """The terms of a line, slack last, as whole bytes that sum to `total`; `kept_bytes` above 0 stay with the
    allocator since loading."""
    sizes = [term.bytes_at(tokens, length, rows) for term in terms]
    words = [_fill(term, tokens) for term in terms]
    if kept_bytes > 0:
        sizes[-1] += kept_bytes
        words[-1] = f"{words[-1]}; and {kept_bytes:,.0f} B that loading took beyond this step"
    parts = [
        Part(term.name, round(size), how) for term, size, how in zip(terms, sizes, words, strict=True) if round(size)
    ]
    # what rounding loses goes to the largest
    largest = max(range(len(parts)), key=lambda index: parts[index].bytes)
    parts[largest] = replace(parts[largest], bytes=parts[largest].bytes + total - sum(part.bytes for part in parts))
    return parts


def _fill(term: Term, tokens: int) -> str:
    per_token = term.per_token
    return f"{term.how}; {per_token:,.0f} B/token x {tokens:,} tokens" if per_token else term.how


def _host_parts(architecture: Architecture, setup: Setup, tokens: int, cpu: bool) -> tuple[Part, ...]:
    """Host RAM of all ranks of one machine: the process, offloads, and what loading takes beyond them."""
    static = static_state(architecture, setup)
    rank = shard(architecture, setup, static)
    devices = max(1, setup.devices)
    parts = [
        Part(
            "host_process",
            devices * 3 * 2**30,
            f"{devices} training processes of about 3 GiB: Python, torch, CUDA's own",
        )
    ]
    if rank.host_states:
        parts.append(
            Part(
                "host_optimizer",
                round(rank.host_states),
                "optimizer states in host RAM" + (f"; {rank.how}" if rank.how else "; paged"),
            )
        )
    if rank.host_weights:
        parts.append(Part("host_weights", round(rank.host_weights), f"weights in host RAM; {rank.how}"))
    if setup.gradient_checkpointing == "offload":
        each = static.stream_bytes * architecture.hidden_size * architecture.num_layers * tokens
        parts.append(
            Part(
                "host_checkpoints",
                devices * each,
                f"input of each of {architecture.num_layers} layers x {tokens:,} tokens",
            )
        )
    beyond = devices * host_loading(architecture, setup) - sum(part.bytes for part in parts[1:])
    if beyond > 0 and not cpu:
        parts.append(
            Part(
                "host_loading",
                round(beyond),
                "weights in RAM before they go to the device, embeddings and head in FP32 for a moment; beyond what "
                "stays",
            )
        )
    return tuple(parts)
