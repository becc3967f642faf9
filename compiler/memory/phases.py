"""The moments of a step that can be its peak: the loss, a layer's backward, the last gradients, the optimizer."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.architecture import Architecture
from compiler.families import FAMILIES
from compiler.memory.fsdp import beside_layers, gathered, root_tail, whole_gradients
from compiler.memory.layer import LayerCost, layer_cost
from compiler.memory.lines import Line, Term, line
from compiler.memory.loss import LossCost, loss_cost
from compiler.memory.shards import Shard, shard
from compiler.memory.slack import Idle
from compiler.memory.static import Static, autocasts, static_state
from compiler.values import Setup


def needs_mask(architecture: Architecture, setup: Setup) -> bool:
    """Whether `sdpa` is given a mask: a sliding window shorter than the sequence."""
    window = architecture.sliding_window
    return setup.attention == "sdpa" and window is not None and setup.sequence_len > window


def step_lines(architecture: Architecture, setup: Setup, cpu: bool) -> tuple[tuple[Line, ...], Idle]:
    """The moments, the optimizer's last, and what of them the allocator is left with."""
    static = static_state(architecture, setup)
    rank = shard(architecture, setup, static)
    layer = steady_layer(architecture, setup, static.stream_bytes, cpu)
    resident = line("", base_terms(setup, static, rank))
    lasting = line("", _model_terms(architecture, setup, static.stream_bytes, layer), resident)
    # nobody saves a mask: only what a checkpoint is recomputed with outlives the model's forward, until its backward
    masks = mask_terms(architecture, setup, static.stream_bytes) if setup.gradient_checkpointing != "off" else ()
    base = line("", masks, lasting)
    gradients = Term("gradients", _gradient_words(static, rank), rank.gradients)
    running = gradients._replace(const=rank.carried) if setup.zero_stage else gradients
    stack = _stack(architecture, setup, layer, cpu)
    head = loss_cost(architecture, setup, layer.stream_width, static.embedding_bytes)
    made = _made(architecture, setup, static, rank, layer, head)
    reduced = (Term("zero_buffers", f"reduce buckets{_suffix(rank)}", rank.reduction),) if rank.reduction else ()
    upon = [line("", (*terms, *reduced), base) for terms in beside_layers(architecture, setup, rank)]
    held = line("", (*gathered(architecture, setup, rank, 1, 1), *_carried(setup, running)), base)
    lines = [
        *_loss_lines(architecture, setup, held, stack, head),
        *_layer_lines(architecture, setup, upon, running, stack, made),
        *_gather_lines(architecture, setup, base, rank, gradients, stack, head, made),
    ]
    if setup.zero_stage:
        words = f"gradients, the buckets that reduce them, and what is gathered, at the end of backward{_suffix(rank)}"
        lines.append(line("backward", (Term("zero_buffers", words, rank.tail),), lasting))
    elif setup.method == "full" or setup.train_embeddings:
        tail = root_tail(architecture, setup, rank, gradients)
        tail = tail or (gradients, _embedding_tail(architecture, setup, static))
        lines.append(line("backward", tail, lasting))
    step = Term(
        "optimizer_temporaries", f"{setup.optimizer}: copies of the gradients during the step", rank.step_copies
    )
    lines.append(line("optimizer", (gradients, step), resident))
    return tuple(lines), Idle(layer.highest, head.idle, rank.gradients + rank.buffers + rank.reduction)


@dataclass(frozen=True, slots=True)
class Made:
    """Bytes of gradients that one rank has once the loss's or a layer's backward is done."""

    head: float
    layer: float


def _made(
    architecture: Architecture, setup: Setup, static: Static, rank: Shard, layer: LayerCost, head: LossCost
) -> Made:
    """FSDP: the head's stays whole until the end; a layer's are reduced with the layer (adapters' on the tape)."""
    if setup.zero_stage:  # all go into buckets, but for a tied head's, which waits for the embedding's
        return Made(head.gradients if architecture.tie_word_embeddings else 0.0, 0.0)
    share = rank.gradients / static.gradients if static.gradients else 0.0
    if setup.fsdp == "none":
        return Made(share * head.gradients, share * layer.gradients)
    offloaded = setup.offload == "params"
    return Made(head.gradients, 0.0 if offloaded else layer.gradients * (share if setup.method == "full" else 1.0))


def _gather_lines(
    architecture: Architecture,
    setup: Setup,
    base: Line,
    rank: Shard,
    gradients: Term,
    stack: Stack,
    head: LossCost,
    made: Made,
) -> list[Line]:
    """FSDP's own moments: the first layer's gather while the root's buffer is still there, the root's second gather
    beside what the loss holds, the last layer's beside all that forward kept, and the reduction of a layer."""
    if setup.fsdp == "none":
        return []
    carried, kept = _carried(setup, gradients), _kept(setup, architecture, stack)
    width = stack[0][0].stream_width * architecture.hidden_size
    stream = Term("embedding_output", "the input of the first layer", 0, width)
    loss = Term("logits", "what the loss holds between forward and backward", *head.held)
    so_far = Term("gradients", gradients.how + ", so far", made.head)
    # the second layer's reduction: the first has no further gather beside it
    before_last = max(0, architecture.num_layers - 2) * made.layer
    last = Term("gradients", gradients.how + ", so far", made.head + before_last)
    lines = [
        line("gather", (*carried, *gathered(architecture, setup, rank, 2, 2, False), stream), base),
        line("gather", (*carried, *kept, *gathered(architecture, setup, rank, 2, 0), loss), base),
        line("gather", (*carried, *kept, *gathered(architecture, setup, rank, 1, 2), so_far, stream), base),
    ]
    if setup.method == "full":
        end = gathered(architecture, setup, rank, 1, 1, False)
        whole = whole_gradients(setup, rank, 0, 2)
        lines.append(line("layer", (*(carried or (last,)), *end, *whole), base))
    return lines


def steady_layer(architecture: Architecture, setup: Setup, stream_width: int, cpu: bool) -> LayerCost:
    """The cost of all layers but the first: LayerNorm families may widen the residual stream in the first one."""
    cost = layer_cost(architecture, setup, stream_width, cpu)
    if cost.stream_width == stream_width:
        return cost
    return layer_cost(architecture, setup, cost.stream_width, cpu, mask_width=stream_width)


Stack = tuple[tuple[LayerCost, int], ...]
"""Kinds of layers and how many there are of each; the kind of the last layer first, as backward meets them."""


def _stack(architecture: Architecture, setup: Setup, layer: LayerCost, cpu: bool) -> Stack:
    """Layers that attend to everything need no mask under `sdpa`; the windowed ones do."""
    layers, windowed = architecture.num_layers, architecture.windowed_layers
    if not needs_mask(architecture, setup) or windowed == layers:
        return ((layer, layers),)
    bare = layer_cost(architecture, setup, layer.stream_width, cpu, windowed=False)
    every = FAMILIES[architecture.model_type].full_attention_every
    kinds = ((layer, windowed), (bare, layers - windowed))
    return kinds[::-1] if every and layers % every == 0 else kinds


def _carried(setup: Setup, gradients: Term) -> tuple[Term, ...]:
    """Gradients of earlier micro-steps."""
    return (gradients,) if setup.gradient_accumulation > 1 else ()


_LOSS_WORDS = {
    "standard": "logits in two bytes, FP32 copy, log-softmax and its gradient, and the hidden states around them",
    "chunked": "logits in two bytes and accelerate's FP32 copy of them, and the hidden states around them",
    "liger": "one chunk of logits, the gradient of the hidden states, and the hidden states around them",
    "cut": "no logits: one log-sum-exp a token, the gradient of the hidden states, and the hidden states around them",
}


def _loss_lines(architecture: Architecture, setup: Setup, base: Line, stack: Stack, head: LossCost) -> list[Line]:
    kept = _kept(setup, architecture, stack)
    copies = Term(
        "autocast_copies",
        "two-byte copies of FP32 weights that autocast keeps during forward",
        _autocast_copies(architecture, setup),
    )
    made = []
    for size, phase in head.moments:
        loss = Term("logits", _LOSS_WORDS[setup.cross_entropy], *size)
        extra = (copies,) if phase in ("forward", "chunks") and copies.const else ()
        # chunks along the length of several rows are not contiguous; their copies take the logits' place in backward
        if setup.cross_entropy == "chunked" and phase in ("chunks", "returned"):
            extra += (
                Term(
                    "logit_chunks",
                    "two-byte copies of the chunks of logits, with a micro-batch above 1",
                    per_batched_token=head.logit_bytes * architecture.vocab_size,
                ),
            )
        made.append(line("loss", (*kept, *extra, loss), base))
    return made


def _layer_lines(
    architecture: Architecture,
    setup: Setup,
    upon: list[Line],
    gradients: Term,
    stack: Stack,
    made: Made,
) -> list[Line]:
    """Backward of the last layer of each kind (all that forward kept before it is there) and of the first layer (all
    gradients are there); `upon` has what else is there at the one and at the other."""
    mode, lines, after = setup.gradient_checkpointing, [], 0
    # FSDP, weights in training: the last layer but one has the buffer of the last gather beside it, which is more
    all_done = max(0, architecture.num_layers - (2 if setup.fsdp != "none" and setup.method == "full" else 1))
    for position, (layer, _) in enumerate(stack):
        moments = {"off": layer.plain, "on": layer.recomputed, "offload": layer.fetched}[mode]
        before = tuple(
            (kind, number - (kind is layer and mode == "off") - (index < position))
            for index, (kind, number) in enumerate(stack)
        )
        first = ((layer, 1),) if mode == "on" else ()
        for size, phase in moments:
            words = f"one layer, {phase}: saved tensors, gradients in flight, one dequantised weight"
            inside = Term("layer", words, *size)
            masks = mask_terms(architecture, setup, layer.stream_width) if mode == "off" and phase == "forward" else ()
            if setup.gradient_accumulation > 1:
                waiting = _waiting(architecture, setup, made)
                kept = _kept(setup, architecture, before)
                lines.append(line("layer", (gradients, *waiting, *masks, *kept, inside), upon[0]))
                continue
            for below, held, done in ((upon[0], before, after), (upon[1], first, all_done)):
                there = Term("gradients", gradients.how + ", so far", made.head + done * made.layer)
                lines.append(line("layer", (there, *masks, *_kept(setup, architecture, held), inside), below))
        after += 1
    return lines


def _waiting(architecture: Architecture, setup: Setup, made: Made) -> tuple[Term, ...]:
    """Of a later micro-step: gradients that are not yet added to those of earlier ones."""
    if setup.fsdp != "none":
        there = made.head + (architecture.num_layers - 1) * made.layer * setup.lora_kernels
        words = "gradients that are whole until backward has ended"
        return (Term("head_gradient", words, there),) if there else ()
    if not (architecture.tie_word_embeddings and made.head):
        return ()
    return (Term("head_gradient", "the tied head's gradient, waiting for the embedding's", made.head),)


def _autocast_copies(architecture: Architecture, setup: Setup) -> float:
    """Autocast keeps the two-byte copy of every FP32 leaf it met until forward ends; without checkpointing the
    layers' own saved tensors already hold them, and the fused kernels cast by themselves."""
    if setup.gradient_checkpointing == "off" or not autocasts(setup) or setup.fsdp != "none":
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


def _model_terms(architecture: Architecture, setup: Setup, stream_width: int, layer: LayerCost) -> tuple[Term, ...]:
    """Tensors of the whole model that stay through forward and backward."""
    terms = []
    dropped = architecture.embedding_dropout
    if dropped:
        terms.append(Term("embedding_dropout", "mask of a byte an element", 0, float(architecture.hidden_size)))
    scaled = dropped or architecture.model_type in SCALED_EMBEDDINGS
    leaf = setup.method != "full" and not setup.train_embeddings
    counted = {"off": layer.keeps_input, "on": True, "offload": False}[setup.gradient_checkpointing]
    if leaf and (scaled or not counted):
        terms.append(
            Term(
                "embedding_output",
                "the embeddings' output, a leaf of the graph with adapters",
                0,
                float(stream_width * architecture.hidden_size),
            )
        )
    return tuple(terms)


def mask_terms(architecture: Architecture, setup: Setup, stream_width: int) -> tuple[Term, ...]:
    """The masks that all layers share."""
    terms = []
    if setup.attention == "eager":
        masks = 2 if 0 < architecture.windowed_layers < architecture.num_layers else 1
        terms.append(
            Term("attention_mask", f"{masks} causal masks of length x length", 0, 0, float(masks * stream_width))
        )
    elif needs_mask(architecture, setup):
        words = "boolean mask of the sliding window, the same for all rows"
        terms.append(Term("attention_mask", words, float(setup.sequence_len**2)))
    return tuple(terms)


SCALED_EMBEDDINGS = ("granite", "gpt_bigcode")
"""Families that change the embeddings outside the embedding module: by a factor, or by those of the positions. The
result is what the first layer reads."""


def base_terms(setup: Setup, static: Static, rank: Shard) -> tuple[Term, ...]:
    suffix = _suffix(rank)
    return tuple(
        term
        for term in (
            Term(
                "weights",
                f"{static.total_parameters:,} parameters: linears at {static.linear_bytes:.4g} B, "
                f"embeddings and norms at "
                f"{static.embedding_bytes} B{suffix}",
                rank.weights,
            ),
            Term("lora_weights", f"{static.trainable_parameters:,} adapter parameters{suffix}", rank.adapters),
            Term(
                "optimizer_states",
                f"{setup.optimizer} over {static.trainable_parameters:,} parameters{suffix}",
                rank.states,
            ),
            Term("zero_buffers", f"reduce and gather buffers{suffix}", rank.buffers),
        )
        if term.const
    )


def _suffix(rank: Shard) -> str:
    return f"; {rank.how}" if rank.how else ""


def _gradient_words(static: Static, rank: Shard) -> str:
    return f"{static.trainable_parameters:,} trainable parameters{_suffix(rank)}"


def _kept(setup: Setup, architecture: Architecture, stack: Stack) -> tuple[Term, ...]:
    """What layers leave behind in forward for their backward."""
    layers = sum(count for _, count in stack)
    if setup.gradient_checkpointing == "offload" or not layers:
        return ()
    if setup.gradient_checkpointing == "on":
        width = stack[0][0].stream_width
        words = f"input of each of {layers} layers in {width} bytes"
        return (Term("checkpoints", words, 0, float(width * architecture.hidden_size * layers)),)
    saved = (sum(count * cost.saved[index] for cost, count in stack) for index in range(4))
    return (Term("activations", f"saved tensors of {layers} layers", *saved),)
