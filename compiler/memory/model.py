"""The peak of one training step: the lines of one setup, the cheap total and the explained prediction."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from compiler.architecture import Architecture
from compiler.memory.lines import Line, Term, chunk_rows, line
from compiler.memory.outside import eval_lines, host_loading, load_line
from compiler.memory.overhead import overhead_bytes, overhead_factor, overhead_parts, slack_share
from compiler.memory.phases import needs_mask, step_lines
from compiler.memory.shards import shard
from compiler.memory.static import static_state
from compiler.values import Machine, Memory, Part, Setup


def peak_lines(
    architecture: Architecture, setup: Setup, cpu: bool = False, slack_factor: float = 1.0
) -> tuple[Line, ...]:
    """The moments of a step that can be its peak, and last that of loading.

    They do not depend on micro-batch; on sequence length only where a sliding window needs a mask (`sdpa`). The last
    term of each is the allocator's slack, `slack_factor` times the usual one.
    """
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
        setup.fsdp,
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
        fsdp,
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
        fsdp=fsdp,
        offload=offload,
        devices=devices,
    )
    share = slack_share(setup, cpu)
    words = f"{share:.0%} of all but the weights: held by the allocator, not in use"
    if slack_factor != 1.0:
        words += f"; times {slack_factor:.2f}, measured on this machine"
    step = tuple(_with_slack(one, share * slack_factor, words) for one in step_lines(architecture, setup, cpu))
    return (*step, _with_slack(load_line(architecture, setup, cpu), 0.0, words))


def _eval_lines(architecture: Architecture, setup: Setup, cpu: bool, slack_factor: float) -> tuple[Line, ...]:
    share = slack_share(setup, cpu) * slack_factor
    words = f"{share:.0%} of all but the weights: held by the allocator, not in use"
    return tuple(_with_slack(one, share, words) for one in eval_lines(architecture, setup, cpu))


def _with_slack(one: Line, share: float, words: str) -> Line:
    """Add what the allocator holds beside the tensors that come and go within a step. The share is the same for all
    lines of a setup and so are the weights, so the highest line stays the highest."""
    slack = Term(
        SLACK_PART,
        words,
        share * one.moving,
        share * one.per_token,
        share * one.per_token_length,
        share * one.per_chunk_row,
        share * one.per_batched_token,
    )
    return line(one.phase, (slack,), one)


SLACK_PART = "allocator_slack"


def without_slack(one: Line, tokens: int, sequence_len: int, rows: int) -> float:
    """A line's live tensors alone."""
    return one.bytes_at(tokens, sequence_len, rows) - one.terms[-1].bytes_at(tokens, sequence_len, rows)


def live_bytes(architecture: Architecture, setup: Setup, cpu: bool = False) -> float:
    """Live tensors of one device at the peak of a training step, without allocator slack and overheads."""
    tokens = setup.micro_batch * setup.sequence_len
    rows = chunk_rows(tokens, architecture.vocab_size, architecture.hidden_size)
    lines = (one for one in peak_lines(architecture, setup, cpu) if one.phase != "load")
    return max(without_slack(one, tokens, setup.sequence_len, rows) for one in lines)


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


def eval_bytes(architecture: Architecture, setup: Setup, machine: Machine, eval_batch: int) -> int:
    """Device memory of an evaluation with `eval_batch` full rows at once, overheads included."""
    tokens, length = eval_batch * setup.sequence_len, setup.sequence_len
    lines = _eval_lines(architecture, setup, machine.backend == "cpu", overhead_factor(machine))
    most = round(max(one.bytes_at(tokens, length, 0) for one in lines))
    return most + overhead_bytes(most, machine)


def predict_memory(architecture: Architecture, setup: Setup, machine: Machine, eval_batch: int = 0) -> Memory:
    """The predicted peak of one device as named parts, of the phase where it is largest; host RAM beside it.

    `eval_batch` rows are evaluated at once during the run; 0: no evaluation. Where loading is the largest phase, the
    parts are those of the step, and what loading took beyond them is the allocator's: it keeps what it was given.
    Raises ValueError for an optimizer or a LoRA target that is not known.
    """
    cpu, factor, length = machine.backend == "cpu", overhead_factor(machine), setup.sequence_len
    tokens = setup.micro_batch * length
    rows = chunk_rows(tokens, architecture.vocab_size, architecture.hidden_size)
    *step, load = peak_lines(architecture, setup, cpu, factor)
    moments = [(one, one.bytes_at(tokens, length, rows), tokens) for one in step]
    if eval_batch:
        tried = eval_batch * length
        lines = _eval_lines(architecture, setup, cpu, factor)
        moments += [(one, one.bytes_at(tried, length, 0), tried) for one in lines]
    top, size, counted = max(moments, key=lambda moment: moment[1])
    loading = load.bytes_at(0, 0, 0)
    parts = _parts(top, counted, length, rows, round(max(size, loading)), loading - size)
    phases: dict[str, int] = {"load": round(loading)}
    for one, _, used in moments:
        phases[one.phase] = max(phases.get(one.phase, 0), round(without_slack(one, used, length, rows)))
    return Memory(
        parts=(*parts, *overhead_parts(machine)),
        peak_phase="load" if loading > size else top.phase,
        phases=tuple(phases.items()),
        host_parts=_host_parts(architecture, setup, tokens, cpu),
    )


def _parts(top: Line, tokens: int, length: int, rows: int, total: int, kept_bytes: float) -> list[Part]:
    """The terms of a line as whole bytes that sum to `total`; `kept_bytes` above 0 stay with the allocator since
    loading."""
    sizes = [term.bytes_at(tokens, length, rows) for term in top.terms]
    words = [_fill(term, tokens) for term in top.terms]
    if kept_bytes > 0:
        sizes[-1] += kept_bytes
        words[-1] = f"{words[-1]}; and {kept_bytes:,.0f} B that loading took beyond this step"
    parts = [
        Part(term.name, round(size), how)
        for term, size, how in zip(top.terms, sizes, words, strict=True)
        if round(size)
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
