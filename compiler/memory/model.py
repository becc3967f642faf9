"""The peak of one training step: the lines of one setup, the cheap total and the explained prediction."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from compiler.architecture import Architecture
from compiler.memory.layer import one_row_matters
from compiler.memory.lines import Line, Numbers, Term, chunk_rows, numbers_at
from compiler.memory.outside import eval_lines, host_loading, load_line
from compiler.memory.overhead import overhead_bytes, overhead_factor, overhead_parts
from compiler.memory.phases import needs_mask, step_lines
from compiler.memory.shards import shard
from compiler.memory.slack import CPU_SLACK, SLACK_PART, Idle, held_numbers, slack_term
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


def moments(architecture: Architecture, setup: Setup, cpu: bool = False, slack: float = 0.0) -> Moments:
    """The moments of a step that can be its peak, and that of loading: live tensors, and on a GPU `slack` times what
    the allocator is taken to hold beside them."""
    return _moments(architecture, _shape(architecture, setup), cpu, slack)


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
def _moments(architecture: Architecture, shape: Setup, cpu: bool, slack: float) -> Moments:
    """Numbers alone are kept for every shape: most shapes are never explained."""
    step, sizes, load = _lines(architecture, shape, cpu)
    assert step[-1].phase == "optimizer" and step[-2].phase != "optimizer"
    held = held_numbers(step, sizes, slack) if slack else [one.numbers for one in step]
    return Moments(tuple(held), load.const, _resident(step[0]))


@lru_cache(maxsize=64)
def _lines(architecture: Architecture, shape: Setup, cpu: bool) -> tuple[tuple[Line, ...], Idle, Line]:
    """The moments of a step, what of them the allocator is left with, and the moment of loading, explained."""
    return *step_lines(architecture, shape, cpu), load_line(architecture, shape, cpu)


def explained_lines(architecture: Architecture, setup: Setup) -> tuple[tuple[Line, ...], Idle]:
    """The moments of a step on a GPU, live tensors alone, and what of them the allocator is left with."""
    return _lines(architecture, _shape(architecture, setup), False)[:2]


def _resident(one: Line) -> float:
    return sum(term.const for term in one.terms if term.name in RESIDENT)


RESIDENT = ("weights", "lora_weights")
"""Terms that lie still through the step, the same in all of its lines; the others come and go."""

@lru_cache(maxsize=256)
def _eval_lines(architecture: Architecture, setup: Setup, cpu: bool) -> tuple[tuple[Line, ...], Idle]:
    """Asked for with several batches of one setup. What training left behind is there in evaluation too; Liger's loss
    is the standard one then."""
    sizes = _lines(architecture, _shape(architecture, setup), cpu)[1]
    if setup.cross_entropy == "liger":
        standard = _shape(architecture, replace(setup, cross_entropy="standard"))
        sizes = replace(sizes, logits=_lines(architecture, standard, cpu)[1].logits)
    return eval_lines(architecture, setup, cpu), sizes


def slack_factor(machine: Machine) -> float:
    """What `moments` of this machine hold of the allocator's slack; on a CPU nothing, see `held_share`."""
    return 0.0 if machine.backend == "cpu" else overhead_factor(machine)


def held_share(machine: Machine) -> float:
    """What a CPU's allocator holds, as a share of the tensors that come and go within a step. It is the same for all
    lines of a setup, and so are the weights: the line with the most live tensors is the highest."""
    return CPU_SLACK * overhead_factor(machine) if machine.backend == "cpu" else 0.0


def _cpu_slack(one: Line, resident: float, machine: Machine) -> Term:
    factor = overhead_factor(machine)
    words = f"{CPU_SLACK:.0%} of all but the weights: held by the allocator, not in use"
    if factor != 1.0:
        words += f"; times {factor:.2f}, measured on this machine"
    share, (_, _, const, *per_unit) = held_share(machine), one
    return Term(SLACK_PART, words, share * (const - resident), *(share * each for each in per_unit))


def live_bytes(architecture: Architecture, setup: Setup, cpu: bool = False) -> float:
    """Live tensors of one device at the peak of a training step, without allocator slack and overheads."""
    return _highest(moments(architecture, setup, cpu).step, architecture, setup)


def slack_bytes(architecture: Architecture, setup: Setup) -> float:
    """What a GPU's allocator is taken to hold beyond `live_bytes` at its own peak, which may be another moment."""
    step = moments(architecture, setup, slack=1.0).step
    return _highest(step, architecture, setup) - live_bytes(architecture, setup)


def _highest(step: tuple[Numbers, ...], architecture: Architecture, setup: Setup) -> float:
    tokens, length = setup.micro_batch * setup.sequence_len, setup.sequence_len
    rows = chunk_rows(tokens, architecture.vocab_size, architecture.hidden_size)
    return max([numbers_at(one, tokens, length, rows) for one in step])


def peak_bytes(architecture: Architecture, setup: Setup, machine: Machine) -> int:
    """`predict_memory(...).total_bytes` without the explanation.

    It never shrinks when micro-batch, sequence length or rank grow, all else equal.
    """
    step, loading, resident = moments(architecture, setup, machine.backend == "cpu", slack_factor(machine))
    held = _highest(step, architecture, setup)
    return total_bytes(held, resident, loading, held_share(machine), machine)


def total_bytes(held: float, resident: float, loading: float, share: float, machine: Machine) -> int:
    """What a device holds when the highest of `moments` is `held`; `share` as in `held_share`."""
    most = round(max(held + share * (held - resident), loading))
    return most + overhead_bytes(most, machine)


def eval_bytes(
    architecture: Architecture, setup: Setup, machine: Machine, eval_batch: int, eval_length: int | None = None
) -> int:
    """Device memory of an evaluation with `eval_batch` rows at once, overheads included. `eval_length`: tokens of a
    row; None: the sequence length."""
    length = eval_length or setup.sequence_len
    tokens = eval_batch * length
    lines, sizes = _eval_lines(architecture, setup, machine.backend == "cpu")
    held = max(numbers_at(one, tokens, length, 0) for one in held_numbers(lines, sizes, slack_factor(machine)))
    return total_bytes(held, _resident(lines[0]), 0.0, held_share(machine), machine)


def resident_bytes(architecture: Architecture, setup: Setup, machine: Machine) -> int:
    """`predict_memory(...).resident_bytes` without the rest."""
    return round(moments(architecture, setup, machine.backend == "cpu", slack_factor(machine)).resident)


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
    live: bool = False,
) -> Memory:
    """The predicted peak of one device as named parts, of the phase where it is largest; host RAM beside it.

    `eval_batch` rows of `eval_length` tokens (None: the sequence length) are evaluated at once during the run; 0: no
    evaluation. Where loading is the largest phase, the
    parts are those of the step, and what loading took beyond them is the allocator's: it keeps what it was given.
    `live`: the peak of live tensors, with nothing for the allocator, as a trace has it.
    Raises ValueError for an optimizer or a LoRA target that is not known.
    """
    cpu, length = machine.backend == "cpu", setup.sequence_len
    tokens = setup.micro_batch * length
    rows = chunk_rows(tokens, architecture.vocab_size, architecture.hidden_size)
    factor, share = (0.0, 0.0) if live else (slack_factor(machine), held_share(machine))
    step, sizes, load = _lines(architecture, _shape(architecture, setup), cpu)
    resident = _resident(step[0])
    at = [(one, sizes, (tokens, length, rows)) for one in step]
    held = [numbers_at(one, tokens, length, rows) for one in held_numbers(step, sizes, factor)]
    if eval_batch:
        row = eval_length or length
        evaluated, left = _eval_lines(architecture, setup, cpu)
        at += [(one, left, (eval_batch * row, row, 0)) for one in evaluated]
        held += [numbers_at(one, eval_batch * row, row, 0) for one in held_numbers(evaluated, left, factor)]
    highest = max(held)
    top, left, where = at[held.index(highest)]
    size, loading = highest + share * (highest - resident), load.const
    slack = _cpu_slack(top, resident, machine) if cpu and not live else slack_term(top, left, factor)
    parts = _parts((*top.terms, slack), *where, round(max(size, loading)), loading - size)
    phases: dict[str, int] = {"load": round(loading)}
    for one, _, where in at:
        phases[one.phase] = max(phases.get(one.phase, 0), round(one.bytes_at(*where)))
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
