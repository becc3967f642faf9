"""The peak of one training step: the lines of one setup, the cheap total and the explained prediction."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from compiler.architecture import Architecture
from compiler.memory.layer import LayerCost, layer_cost
from compiler.memory.lines import Line, Term, chunk_rows, line
from compiler.memory.loss import LossCost, loss_cost
from compiler.memory.overhead import overhead_bytes, overhead_parts, slack_share
from compiler.memory.static import Static, static_state
from compiler.memory.zero import Shard, shard
from compiler.values import Machine, Memory, Part, Setup


def peak_lines(architecture: Architecture, setup: Setup, cpu: bool = False) -> tuple[Line, ...]:
    """The moments of a step that can be its peak. They do not depend on micro-batch; on sequence length only where a
    sliding window needs a mask (`sdpa`). The last term of each is the allocator's slack."""
    length = setup.sequence_len if _needs_mask(architecture, setup) else 1
    shape = (
        setup.method, min(2, setup.gradient_accumulation), length, setup.gradient_checkpointing, setup.optimizer, setup.attention,
        setup.cross_entropy, setup.precision, setup.weights_dtype, setup.lora_r, setup.lora_dropout > 0, setup.lora_targets,
        setup.lora_kernels, setup.double_quant, setup.train_embeddings, setup.zero_stage, setup.offload, setup.devices,
    )  # fmt: skip
    return _lines_of_shape(architecture, shape, cpu)


@lru_cache(maxsize=4096)
def _lines_of_shape(architecture: Architecture, shape: tuple[Any, ...], cpu: bool) -> tuple[Line, ...]:
    (method, accumulation, length, checkpointing, optimizer, attention, cross_entropy, precision, weights_dtype, rank, dropout, targets,
     kernels, double_quant, train_embeddings, zero_stage, offload, devices) = shape  # fmt: skip
    setup = Setup(
        method=method, micro_batch=1, gradient_accumulation=accumulation, sequence_len=length, gradient_checkpointing=checkpointing,
        optimizer=optimizer, attention=attention, cross_entropy=cross_entropy, sample_packing=False, precision=precision,
        weights_dtype=weights_dtype, lora_r=rank, lora_dropout=float(dropout), lora_targets=targets, lora_kernels=kernels,
        double_quant=double_quant, train_embeddings=train_embeddings, zero_stage=zero_stage, offload=offload, devices=devices,
    )  # fmt: skip
    return tuple(_with_slack(one, slack_share(setup, cpu)) for one in _peak_lines(architecture, setup, cpu))


def _with_slack(one: Line, share: float) -> Line:
    """Add what the allocator holds beside the tensors that come and go within a step. The share is the same for all lines of a
    setup and so are the weights, so the highest line stays the highest."""
    moving = [term for term in one.terms if term.name not in RESIDENT]
    slack = Term(SLACK_PART, f"{share:.0%} of all but the weights: held by the allocator, not in use",
                 share * sum(term.const for term in moving), share * sum(term.per_token for term in moving),
                 share * sum(term.per_token_length for term in moving), share * sum(term.per_chunk_row for term in moving),
                 share * sum(term.per_batched_token for term in moving))  # fmt: skip
    return line(one.phase, (*one.terms, slack))


RESIDENT = ("weights", "lora_weights")
SLACK_PART = "allocator_slack"


def without_slack(one: Line, tokens: int, sequence_len: int, rows: int) -> float:
    """A line's live tensors alone."""
    return one.bytes_at(tokens, sequence_len, rows) - one.terms[-1].bytes_at(tokens, sequence_len, rows)


def _needs_mask(architecture: Architecture, setup: Setup) -> bool:
    window = architecture.sliding_window
    return setup.attention == "sdpa" and window is not None and setup.sequence_len > window


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
    most = round(max(one.bytes_at(tokens, length, rows) for one in peak_lines(architecture, setup, cpu)))
    return most + overhead_bytes(most, machine)


def predict_memory(architecture: Architecture, setup: Setup, machine: Machine) -> Memory:
    """The predicted peak of one device as named parts, of the phase where it is largest; host RAM beside it.

    Raises ValueError for an optimizer or a LoRA target that is not known.
    """
    tokens, length = setup.micro_batch * setup.sequence_len, setup.sequence_len
    rows = chunk_rows(tokens, architecture.vocab_size, architecture.hidden_size)
    lines = peak_lines(architecture, setup, machine.backend == "cpu")
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


def _peak_lines(architecture: Architecture, setup: Setup, cpu: bool) -> tuple[Line, ...]:
    static = static_state(architecture, setup)
    rank = shard(architecture, setup, static)
    base = (*_base_terms(setup, static, rank), *_model_terms(architecture, setup, static.stream_bytes))
    gradients = Term("gradients", _gradient_words(static, rank), rank.gradients)
    layer = steady_layer(architecture, setup, static.stream_bytes, cpu)
    head = loss_cost(architecture, setup, layer.stream_width, static.embedding_bytes)
    share = rank.gradients / static.gradients if static.gradients else 0.0
    lines = [
        *_loss_lines(architecture, setup, (*base, *_carried(setup, gradients)), layer, head),
        *_layer_lines(architecture, setup, base, gradients, layer, head, share),
    ]
    if setup.method == "full" or setup.train_embeddings:
        lines.append(line("backward", (*base, gradients, _embedding_tail(architecture, setup, static))))
    step = Term(
        "optimizer_temporaries", f"{setup.optimizer}: copies of the gradients during the step", rank.step_copies
    )
    lines.append(line("optimizer", (*base, gradients, step)))
    return tuple(lines)


def steady_layer(architecture: Architecture, setup: Setup, stream_width: int, cpu: bool) -> LayerCost:
    """The cost of all layers but the first: LayerNorm families may widen the residual stream in the first one."""
    cost = layer_cost(architecture, setup, stream_width, cpu)
    return cost if cost.stream_width == stream_width else layer_cost(architecture, setup, cost.stream_width, cpu)


def _carried(setup: Setup, gradients: Term) -> tuple[Term, ...]:
    """Gradients of earlier micro-steps."""
    return (gradients,) if setup.gradient_accumulation > 1 else ()


_LOSS_WORDS = {
    "standard": "logits in two bytes, FP32 copy, log-softmax and its gradient, and the hidden states around them",
    "chunked": "logits in two bytes and accelerate's FP32 copy of them, and the hidden states around them",
    "liger": "one chunk of logits, the gradient of the hidden states, and the hidden states around them",
    "cut": "no logits: one log-sum-exp a token, the gradient of the hidden states, and the hidden states around them",
}


def _loss_lines(
    architecture: Architecture, setup: Setup, base: tuple[Term, ...], layer: LayerCost, head: LossCost
) -> list[Line]:
    kept = _kept(setup, layer, architecture, architecture.num_layers)
    copies = Term("autocast_copies", "two-byte copies of FP32 weights that autocast keeps during forward",
                  _autocast_copies(architecture, setup))  # fmt: skip
    made = []
    for size, phase in head.moments:
        loss = Term("logits", _LOSS_WORDS[setup.cross_entropy], *size)
        extra = (copies,) if phase == "forward" and copies.const else ()
        if setup.cross_entropy == "chunked":  # chunks along the length of several rows are not contiguous
            extra += (Term("logit_chunks", "two-byte copies of the chunks of logits, with a micro-batch above 1",
                           per_batched_token=2.0 * architecture.vocab_size),)  # fmt: skip
        made.append(line("loss", (*base, *kept, *extra, loss)))
    return made


def _layer_lines(architecture: Architecture, setup: Setup, base: tuple[Term, ...], gradients: Term, layer: LayerCost,
                 head: LossCost, share: float) -> list[Line]:  # fmt: skip
    """Backward of the last layer (all that forward kept is there) and of the first (all gradients are there)."""
    mode, layers = setup.gradient_checkpointing, architecture.num_layers
    moments = {"off": layer.plain, "on": layer.recomputed, "offload": layer.fetched}[mode]
    others = {"off": (layers - 1, 0), "on": (layers, 1), "offload": (0, 0)}[mode]
    made = []
    for size, phase in moments:
        inside = Term("layer", f"one layer, {phase}: saved tensors, gradients in flight, one dequantised weight", *size)
        if setup.gradient_accumulation > 1:
            tied = architecture.tie_word_embeddings and head.gradients
            waiting = (
                (
                    Term(
                        "head_gradient", "the tied head's gradient, waiting for the embedding's", share * head.gradients
                    ),
                )
                if tied
                else ()
            )
            made.append(
                line("layer", (*base, gradients, *waiting, *_kept(setup, layer, architecture, others[0]), inside))
            )
            continue
        for kept, done in ((others[0], 0), (others[1], layers - 1)):
            there = Term("gradients", gradients.how + ", so far", share * (head.gradients + done * layer.gradients))
            made.append(line("layer", (*base, there, *_kept(setup, layer, architecture, kept), inside)))
    return made


def _autocast_copies(architecture: Architecture, setup: Setup) -> float:
    """Autocast keeps the two-byte copy of every FP32 leaf it met until forward ends; without checkpointing the layers' own
    saved tensors already hold them, and the fused kernels cast by themselves."""
    if setup.gradient_checkpointing == "off":
        return 0.0
    if setup.method == "full":
        return 2.0 * architecture.parameters.linear if setup.weights_dtype == "fp32" else 0.0
    return 0.0 if setup.lora_kernels else 2.0 * architecture.lora_parameters(setup.lora_r or 0, setup.lora_targets)


def _embedding_tail(architecture: Architecture, setup: Setup, static: Static) -> Term:
    """Tied: the head's gradient waits for the embedding's, and both for their sum; gradients of earlier micro-steps are
    beside them. Untied: the embedding's gradient is the last of the gradients, or is added to an earlier one."""
    several = setup.gradient_accumulation > 1
    tables = (3 if several else 2) if architecture.tie_word_embeddings else int(several)
    return Term(
        "embedding_gradient",
        "gradients of head and embedding before they are added up",
        tables * static.embedding_gradient,
    )


def _model_terms(architecture: Architecture, setup: Setup, stream_width: int) -> tuple[Term, ...]:
    """Tensors of the whole model that stay through forward and backward."""
    terms = []
    scaled = architecture.model_type in SCALED_EMBEDDINGS
    if setup.method != "full" and (setup.gradient_checkpointing != "on" or scaled):
        terms.append(Term("embedding_output", "the embeddings' output, a leaf of the graph with adapters", 0,
                          float(stream_width * architecture.hidden_size)))  # fmt: skip
    if setup.attention == "eager":
        masks = 2 if 0 < architecture.windowed_layers < architecture.num_layers else 1
        terms.append(
            Term("attention_mask", f"{masks} causal masks of length x length", 0, 0, float(masks * stream_width))
        )
    elif _needs_mask(architecture, setup):
        terms.append(Term("attention_mask", "boolean mask of the sliding window", 0, 0, 1.0))
    return tuple(terms)


SCALED_EMBEDDINGS = ("granite",)
"""Families that multiply the embeddings outside the embedding module: the product is what the first layer reads."""


def _base_terms(setup: Setup, static: Static, rank: Shard) -> tuple[Term, ...]:
    suffix = f"; {rank.how}" if rank.how else ""
    return tuple(term for term in (
        Term("weights", f"{static.total_parameters:,} parameters: linears at {static.linear_bytes:.4g} B, embeddings and norms at "
             f"{static.embedding_bytes} B{suffix}", rank.weights),
        Term("lora_weights", f"{static.trainable_parameters:,} adapter parameters{suffix}", rank.adapters),
        Term("optimizer_states", f"{setup.optimizer} over {static.trainable_parameters:,} parameters{suffix}", rank.states),
        Term("zero_buffers", f"reduce and gather buffers{suffix}", rank.buffers),
    ) if term.const)  # fmt: skip


def _gradient_words(static: Static, rank: Shard) -> str:
    return f"{static.trainable_parameters:,} trainable parameters" + (f"; {rank.how}" if rank.how else "")


def _kept(setup: Setup, layer: LayerCost, architecture: Architecture, layers: int) -> tuple[Term, ...]:
    """What `layers` layers leave behind in forward for their backward."""
    if setup.gradient_checkpointing == "offload" or not layers:
        return ()
    if setup.gradient_checkpointing == "on":
        stream = layer.stream_width * architecture.hidden_size
        return (
            Term(
                "checkpoints",
                f"input of each of {layers} layers in {layer.stream_width} bytes",
                0,
                float(stream * layers),
            ),
        )
    return (Term("activations", f"saved tensors of {layers} layers", *(layers * value for value in layer.saved)),)


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
