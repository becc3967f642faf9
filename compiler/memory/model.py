"""The peak of one training step: the lines of one setup, the cheap total and the explained prediction."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from compiler.architecture import Architecture
from compiler.memory.layer import layer_cost
from compiler.memory.lines import Line, Term, chunk_rows, line
from compiler.memory.overhead import overhead_bytes, overhead_parts
from compiler.memory.static import Static, static_state
from compiler.memory.zero import Shard, shard
from compiler.values import Machine, Memory, Part, Setup


def peak_lines(architecture: Architecture, setup: Setup) -> tuple[Line, ...]:
    """The moments of a step that can be its peak. They do not depend on micro-batch and sequence length."""
    return _peak_lines(architecture, replace(setup, micro_batch=1, sequence_len=1, gradient_accumulation=min(2, setup.gradient_accumulation)))


def live_bytes(architecture: Architecture, setup: Setup) -> float:
    """Live tensors of one device at the peak, without overheads."""
    tokens = setup.micro_batch * setup.sequence_len
    rows = chunk_rows(tokens, architecture.vocab_size, architecture.hidden_size)
    return max(one.bytes_at(tokens, setup.sequence_len, rows) for one in peak_lines(architecture, setup))


def peak_bytes(architecture: Architecture, setup: Setup, machine: Machine) -> int:
    """`predict_memory(...).total_bytes` without the explanation: what the search calls.

    It never shrinks when micro-batch, sequence length or rank grow, all else equal.
    """
    live = round(live_bytes(architecture, setup))
    return live + overhead_bytes(live, machine)


def predict_memory(architecture: Architecture, setup: Setup, machine: Machine) -> Memory:
    """The predicted peak of one device as named parts, of the phase where it is largest; host RAM beside it.

    Raises ValueError for an optimizer or a LoRA target that is not known.
    """
    tokens, length = setup.micro_batch * setup.sequence_len, setup.sequence_len
    rows = chunk_rows(tokens, architecture.vocab_size, architecture.hidden_size)
    lines = peak_lines(architecture, setup)
    top = max(lines, key=lambda one: one.bytes_at(tokens, length, rows))
    live = round(top.bytes_at(tokens, length, rows))
    parts = [Part(term.name, round(term.bytes_at(tokens, length, rows)), _fill(term, tokens)) for term in top.terms]
    parts = [part for part in parts if part.bytes]
    # parts are whole bytes: what rounding loses goes to the largest, so that they sum to the live total
    largest = max(range(len(parts)), key=lambda index: parts[index].bytes)
    parts[largest] = replace(parts[largest], bytes=parts[largest].bytes + live - sum(part.bytes for part in parts))
    phases: dict[str, int] = {}
    for one in lines:
        phases[one.phase] = max(phases.get(one.phase, 0), round(one.bytes_at(tokens, length, rows)))
    return Memory(
        parts=(*parts, *overhead_parts(live, machine)),
        peak_phase=top.phase,
        phases=tuple(phases.items()),
        host_parts=_host_parts(architecture, setup, tokens),
    )


def _fill(term: Term, tokens: int) -> str:
    per_token = term.per_token
    return f"{term.how}; {per_token:,.0f} B/token x {tokens:,} tokens" if per_token else term.how


@lru_cache(maxsize=4096)
def _peak_lines(architecture: Architecture, setup: Setup) -> tuple[Line, ...]:
    static = static_state(architecture, setup)
    rank = shard(architecture, setup, static)
    base = _base_terms(setup, static, rank)
    gradients = Term("gradients", _gradient_words(setup, static, rank), rank.gradients)
    carried = (gradients,) if setup.gradient_accumulation > 1 else ()
    cost = layer_cost(architecture, setup)
    hidden = architecture.hidden_size
    stream, layers = static.stream_bytes * hidden, architecture.num_layers
    kept = _kept(setup, cost.saved, stream, layers)
    loss = _loss_term(architecture, setup, static)
    lines = [line("loss", (*base, *carried, *kept, loss, Term("stream", "hidden states around the final norm", 0, 8.0 * hidden)))]
    for moment, const, per_token, per_length in cost.peaks:
        inside = Term("layer", f"one layer at the {moment}", const, per_token, per_length)
        lines.append(line("layer", (*base, *carried, *_kept_beside(setup, cost.saved, stream, layers), inside,
                                    Term("stream", "gradient of the residual stream", 0, 2.0 * hidden))))  # fmt: skip
    if setup.method == "full" or setup.train_embeddings:
        table = Term("embedding_gradient", "gradients of embedding and head before they are added up",
                     static.embedding_gradient * (2 if architecture.tie_word_embeddings else 1))  # fmt: skip
        lines.append(line("backward", (*base, gradients, table)))
    step = Term("optimizer_temporaries", f"{setup.optimizer}: copies of the gradients during the step", rank.step_copies)
    lines.append(line("optimizer", (*base, gradients, step)))
    return tuple(lines)


def _base_terms(setup: Setup, static: Static, rank: Shard) -> tuple[Term, ...]:
    suffix = f"; {rank.how}" if rank.how else ""
    return tuple(term for term in (
        Term("weights", f"{static.total_parameters:,} parameters: linears at {static.linear_bytes:.4g} B, embeddings and norms at "
             f"{static.embedding_bytes} B{suffix}", rank.weights),
        Term("lora_weights", f"{static.trainable_parameters:,} adapter parameters{suffix}", rank.adapters),
        Term("optimizer_states", f"{setup.optimizer} over {static.trainable_parameters:,} parameters{suffix}", rank.states),
        Term("zero_buffers", f"reduce and gather buffers{suffix}", rank.buffers),
    ) if term.const)  # fmt: skip


def _gradient_words(setup: Setup, static: Static, rank: Shard) -> str:
    return f"{static.trainable_parameters:,} trainable parameters" + (f"; {rank.how}" if rank.how else "")


def _kept(setup: Setup, saved: tuple[float, float, float], stream: int, layers: int) -> tuple[Term, ...]:
    """What forward leaves behind for backward, when the loss is computed."""
    if setup.gradient_checkpointing == "offload":
        return ()
    if setup.gradient_checkpointing == "on":
        return (Term("checkpoints", f"input of each of {layers} layers", 0, float(stream * layers)),)
    const, per_token, per_length = saved
    return (Term("activations", f"saved tensors of {layers} layers", layers * const, layers * per_token, layers * per_length),)


def _kept_beside(setup: Setup, saved: tuple[float, float, float], stream: int, layers: int) -> tuple[Term, ...]:
    """The same while one layer runs backward: without checkpointing, the other layers' saved tensors."""
    return _kept(setup, saved, stream, layers - 1 if setup.gradient_checkpointing == "off" else layers)


def _loss_term(architecture: Architecture, setup: Setup, static: Static) -> Term:
    vocab, hidden = architecture.vocab_size, architecture.hidden_size
    head = static.head_gradient
    if setup.cross_entropy == "standard":
        per = 14 if architecture.final_logit_softcapping else 12
        cast = 2.0 * vocab * hidden if static.embedding_bytes == 4 else 0.0
        return Term("logits", f"{per} B x {vocab:,} vocabulary: BF16 logits, FP32 copy, log-softmax and its gradient", cast, float(per * vocab))
    if setup.cross_entropy == "chunked":
        return Term("logits", f"4 B x {vocab:,} vocabulary: BF16 logits and their gradient, FP32 only in chunks", 0, 4.0 * vocab)
    stream = 2.0 * static.stream_bytes * hidden
    if setup.cross_entropy == "liger":
        return Term("logits", "one chunk of logits and the hidden states' gradient", 2.0 * head, stream, 0.0, 2.0 * vocab)
    return Term("logits", "log-sum-exp only, and the hidden states' gradient", float(head), stream)


def _host_parts(architecture: Architecture, setup: Setup, tokens: int) -> tuple[Part, ...]:
    """Host RAM of all ranks of one machine: the process, offloads, and loading."""
    static = static_state(architecture, setup)
    rank = shard(architecture, setup, static)
    devices = max(1, setup.devices)
    parts = [Part("host_process", devices * 3 * 2**30, f"{devices} training processes of about 3 GiB: Python, torch, CUDA's own")]
    if rank.host_states:
        parts.append(Part("host_optimizer", round(rank.host_states), "optimizer states in host RAM" + (f"; {rank.how}" if rank.how else "; paged")))
    if rank.host_weights:
        parts.append(Part("host_weights", round(rank.host_weights), f"weights in host RAM; {rank.how}"))
    if setup.gradient_checkpointing == "offload":
        each = static.stream_bytes * architecture.hidden_size * architecture.num_layers * tokens
        parts.append(Part("host_checkpoints", devices * each, f"input of each of {architecture.num_layers} layers x {tokens:,} tokens"))
    return tuple(parts)

