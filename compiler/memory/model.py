"""The peak of one training step: the lines of one setup, the cheap total and the explained prediction."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from compiler.architecture import Architecture
from compiler.memory.lines import Line, Term, chunk_rows, line
from compiler.memory.overhead import overhead_bytes, overhead_factor, overhead_parts, slack_share
from compiler.memory.phases import needs_mask, step_lines
from compiler.memory.static import static_state
from compiler.memory.zero import shard
from compiler.values import Machine, Memory, Part, Setup


def peak_lines(
    architecture: Architecture, setup: Setup, cpu: bool = False, slack_factor: float = 1.0
) -> tuple[Line, ...]:
    """The moments of a step that can be its peak. They do not depend on micro-batch; on sequence length only where a
    sliding window needs a mask (`sdpa`). The last term of each is the allocator's slack, `slack_factor` times the usual
    one."""
    length = setup.sequence_len if needs_mask(architecture, setup) else 1
    shape = (
        setup.method,
        min(2, setup.gradient_accumulation),
        length,
        setup.gradient_checkpointing,
        setup.optimizer,
        setup.attention,
        setup.cross_entropy,
        setup.precision,
        setup.weights_dtype,
        setup.lora_r,
        setup.lora_dropout > 0,
        setup.lora_targets,
        setup.lora_kernels,
        setup.double_quant,
        setup.train_embeddings,
        setup.zero_stage,
        setup.offload,
        setup.devices,
    )
    return _lines_of_shape(architecture, shape, cpu, slack_factor)


@lru_cache(maxsize=4096)
def _lines_of_shape(
    architecture: Architecture, shape: tuple[Any, ...], cpu: bool, slack_factor: float
) -> tuple[Line, ...]:
    (
        method,
        accumulation,
        length,
        checkpointing,
        optimizer,
        attention,
        cross_entropy,
        precision,
        weights_dtype,
        rank,
        dropout,
        targets,
        kernels,
        double_quant,
        train_embeddings,
        zero_stage,
        offload,
        devices,
    ) = shape
    setup = Setup(
        method=method,
        micro_batch=1,
        gradient_accumulation=accumulation,
        sequence_len=length,
        gradient_checkpointing=checkpointing,
        optimizer=optimizer,
        attention=attention,
        cross_entropy=cross_entropy,
        sample_packing=False,
        precision=precision,
        weights_dtype=weights_dtype,
        lora_r=rank,
        lora_dropout=float(dropout),
        lora_targets=targets,
        lora_kernels=kernels,
        double_quant=double_quant,
        train_embeddings=train_embeddings,
        zero_stage=zero_stage,
        offload=offload,
        devices=devices,
    )
    share = slack_share(setup, cpu)
    words = f"{share:.0%} of all but the weights: held by the allocator, not in use"
    if slack_factor != 1.0:
        words += f"; times {slack_factor:.2f}, measured on this machine"
    return tuple(_with_slack(one, share * slack_factor, words) for one in step_lines(architecture, setup, cpu))


def _with_slack(one: Line, share: float, words: str) -> Line:
    """Add what the allocator holds beside the tensors that come and go within a step. The share is the same for all
    lines of a setup and so are the weights, so the highest line stays the highest."""
    moving = [term for term in one.terms if term.name not in RESIDENT]
    slack = Term(
        SLACK_PART,
        words,
        share * sum(term.const for term in moving),
        share * sum(term.per_token for term in moving),
        share * sum(term.per_token_length for term in moving),
        share * sum(term.per_chunk_row for term in moving),
        share * sum(term.per_batched_token for term in moving),
    )
    return line(one.phase, (*one.terms, slack))


RESIDENT = ("weights", "lora_weights")
SLACK_PART = "allocator_slack"


def without_slack(one: Line, tokens: int, sequence_len: int, rows: int) -> float:
    """A line's live tensors alone."""
    return one.bytes_at(tokens, sequence_len, rows) - one.terms[-1].bytes_at(tokens, sequence_len, rows)


def live_bytes(architecture: Architecture, setup: Setup, cpu: bool = False) -> float:
    """Live tensors of one device at the peak, without allocator slack and overheads."""
    tokens = setup.micro_batch * setup.sequence_len
    rows = chunk_rows(tokens, architecture.vocab_size, architecture.hidden_size)
    return max(without_slack(one, tokens, setup.sequence_len, rows) for one in peak_lines(architecture, setup, cpu))


def peak_bytes(architecture: Architecture, setup: Setup, machine: Machine) -> int:
    """`predict_memory(...).total_bytes` without the explanation: what the search calls.

    It never shrinks when micro-batch, sequence length or rank grow, all else equal.
    """
    cpu = machine.backend == "cpu"
    tokens, length = setup.micro_batch * setup.sequence_len, setup.sequence_len
    rows = chunk_rows(tokens, architecture.vocab_size, architecture.hidden_size)
    lines = peak_lines(architecture, setup, cpu, overhead_factor(machine))
    most = round(max(one.bytes_at(tokens, length, rows) for one in lines))
    return most + overhead_bytes(most, machine)


def predict_memory(architecture: Architecture, setup: Setup, machine: Machine) -> Memory:
    """The predicted peak of one device as named parts, of the phase where it is largest; host RAM beside it.

    Raises ValueError for an optimizer or a LoRA target that is not known.
    """
    tokens, length = setup.micro_batch * setup.sequence_len, setup.sequence_len
    rows = chunk_rows(tokens, architecture.vocab_size, architecture.hidden_size)
    lines = peak_lines(architecture, setup, machine.backend == "cpu", overhead_factor(machine))
    top = max(lines, key=lambda one: one.bytes_at(tokens, length, rows))
    most = round(top.bytes_at(tokens, length, rows))
    parts = [Part(term.name, round(term.bytes_at(tokens, length, rows)), _fill(term, tokens)) for term in top.terms]
    parts = [part for part in parts if part.bytes]
    # parts are whole bytes: what rounding loses goes to the largest, so that they sum to the total
    largest = max(range(len(parts)), key=lambda index: parts[index].bytes)
    parts[largest] = replace(parts[largest], bytes=parts[largest].bytes + most - sum(part.bytes for part in parts))
    phases: dict[str, int] = {}
    for one in lines:
        phases[one.phase] = max(phases.get(one.phase, 0), round(without_slack(one, tokens, length, rows)))
    return Memory(
        parts=(*parts, *overhead_parts(machine)),
        peak_phase=top.phase,
        phases=tuple(phases.items()),
        host_parts=_host_parts(architecture, setup, tokens),
    )


def _fill(term: Term, tokens: int) -> str:
    per_token = term.per_token
    return f"{term.how}; {per_token:,.0f} B/token x {tokens:,} tokens" if per_token else term.how


def _host_parts(architecture: Architecture, setup: Setup, tokens: int) -> tuple[Part, ...]:
    """Host RAM of all ranks of one machine: the process, offloads, and loading."""
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
    return tuple(parts)
