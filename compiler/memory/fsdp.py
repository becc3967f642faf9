"""PyTorch's FSDP2 (`torch.distributed.fsdp.fully_shard`, torch 2.13): what one rank keeps, gathers and reduces.

Axolotl 0.19 wraps every decoder layer, every adapter matrix, and what is left (embeddings, final norm, head) as the
root (`monkeypatch/accelerate/fsdp2.py`). Each parameter is split along its first dimension, rows padded to a multiple
of the ranks; all stay in the dtype in which they were loaded, for FSDP skips Axolotl's FP32 casts. A group is gathered
before its forward and again before its backward:

    root    from the start of forward to its end, and from the start of backward to its end
    layer   while it computes; beside it the flat buffer of its own all-gather (forward) or of the next one (backward)
    trained a layer's gradients are whole until its backward is done, then copied into one flat buffer, reduced and
            scattered; the buffer lives until the next layer's is made
"""

from __future__ import annotations

from compiler.architecture import Architecture
from compiler.memory.lines import Term
from compiler.memory.shards import Shard
from compiler.memory.static import DTYPE_BYTES, Static, linear_bytes, optimizer_of
from compiler.quick import dataclass
from compiler.values import Setup

NF4_PACKED_BYTES = 0.5
"""Of a 4-bit weight; its scales are no parameters and stay whole on every rank."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Bytes of one rank's shards and of what is gathered, padding included."""

    layer: float
    """One layer's frozen or trained weights, gathered."""
    root: float
    """Embeddings, final norm and head, gathered."""
    layer_shard: float
    root_shard: float
    replicated: float
    """What is no parameter and stays whole: scales of 4-bit weights, GPT-BigCode's mask."""
    adapter_shard: float
    """Elements of all adapter matrices on one rank."""


def groups(architecture: Architecture, setup: Setup) -> Groups:
    counts, ranks = architecture.parameters, max(1, setup.devices)
    width, four_bit = DTYPE_BYTES[setup.weights_dtype], setup.method == "qlora-4bit"
    per_weight = NF4_PACKED_BYTES if four_bit else float(width)
    layer = per_weight * counts.linear_per_layer + width * (counts.bias_per_layer + counts.norm_per_layer)
    shard = 0.0
    for one in architecture.linears:
        rows = _padded(one.out_features, ranks)
        # packed 4-bit weights are one long column, whose padding is nothing
        shard += per_weight * (one.weights / ranks if four_bit else rows * one.in_features)
        shard += width * rows if one.bias else 0.0
    shard += width * counts.norm_per_layer / ranks
    table = counts.embedding + counts.head
    root = float(width * (table + counts.final_norm + counts.positions))
    rows = _padded(architecture.vocab_size, ranks) / architecture.vocab_size
    root_shard = width * (table * rows + (counts.final_norm + counts.positions) / ranks)
    return Groups(layer, root, shard, root_shard, _replicated(architecture, setup), _adapters(architecture, setup))


def _padded(rows: int, ranks: int) -> int:
    """Rows of a parameter's first dimension on rank 0."""
    return -(-rows // ranks)


def _replicated(architecture: Architecture, setup: Setup) -> float:
    mask = float(architecture.learned_positions**2)
    if setup.method != "qlora-4bit":
        return mask
    scales = linear_bytes(setup, DTYPE_BYTES[setup.weights_dtype]) - NF4_PACKED_BYTES
    return mask + scales * architecture.parameters.linear


def _adapters(architecture: Architecture, setup: Setup) -> float:
    if setup.method == "full":
        return 0.0
    rank, ranks = setup.lora_r or 0, max(1, setup.devices)
    chosen = architecture.lora_linears(setup.lora_targets)
    each = sum(_padded(rank, ranks) * one.in_features + _padded(one.out_features, ranks) * rank for one in chosen)
    return float(architecture.num_layers * each)


def fsdp_shard(architecture: Architecture, setup: Setup, static: Static) -> Shard:
    """What one rank holds, and host RAM of all ranks under `offload: params` (`CPUOffloadPolicy`)."""
    found, layers, ranks = groups(architecture, setup), architecture.num_layers, max(1, setup.devices)
    full = setup.method == "full"
    shards = layers * found.layer_shard + found.root_shard
    trained = shards if full else 4.0 * found.adapter_shard
    states = trained * (static.states / static.gradients if static.gradients else 0.0)
    adapters = 0.0 if full else trained
    weights, gradients, copies = shards + found.replicated, trained, trained * optimizer_of(setup).copies
    host_states = host_weights = 0.0
    how = f"FSDP2 over {ranks} devices ({setup.fsdp})"
    if setup.offload == "params":
        host_states, host_weights = ranks * (states + gradients + copies), ranks * (shards + adapters)
        weights, adapters, gradients, states, copies = found.replicated, 0.0, 0.0, 0.0, 0.0
        how += ", shards in host RAM"
    return Shard(
        weights,
        adapters,
        gradients,
        states,
        copies,
        layer=found.layer,
        root=found.root,
        root_shard=found.root_shard,
        host_states=host_states,
        host_weights=host_weights,
        how=how,
    )


def gathered(
    architecture: Architecture, setup: Setup, rank: Shard, roots: float, layers: float, forward_done: bool = True
) -> tuple[Term, ...]:
    """What is gathered at a moment: `roots` times embeddings and head, `layers` times a layer (flat buffers count like
    weights). The same at any moment under ZeRO-3; nothing without either. `forward_done`: `shard_grad_op` has gathered
    all and dropped nothing."""
    if setup.fsdp == "none":
        words = f"gathered weights: embeddings and head, and two layers; {rank.how}"
        return (Term("gathered_weights", words, rank.gathered),) if rank.gathered else ()
    if setup.fsdp == "shard_grad_op" and forward_done:
        roots, layers = 1, layers + architecture.num_layers - 1
    words = f"gathered weights and the flat buffers of their gathers: embeddings and head x {roots:g}"
    size = roots * rank.root + layers * rank.layer
    if setup.lora_kernels and forward_done:  # axolotl/kernels/lora.py gathers the factors and never drops them
        size += 2.0 * architecture.lora_parameters(setup.lora_r or 0, setup.lora_targets)
    if setup.offload == "params":
        size += rank.layer / max(1, setup.devices)  # the shard on its way from host RAM
    return (Term("fsdp_buffers", f"{words}, a layer x {layers:g}; {rank.how}", size),)


def whole_gradients(setup: Setup, rank: Shard, tables: float, layers: float) -> tuple[Term, ...]:
    """Full fine-tuning: gradients that are whole until they are reduced, and the flat buffer for it, in tables
    (embeddings and head) and layers."""
    if setup.fsdp == "none" or setup.method != "full":
        return ()
    words = f"whole gradients and the flat buffer that reduces them: embeddings and head x {tables:g}"
    size = tables * rank.root + layers * rank.layer
    return (Term("unreduced_gradients", f"{words}, a layer x {layers:g}", size),)


def beside_layers(architecture: Architecture, setup: Setup, rank: Shard) -> tuple[tuple[Term, ...], ...]:
    """During the backward of the last and of the first layer: the layer's weights; in full fine-tuning the next
    gather's buffer (adapters gather between layers) and the buffer in which the previous layer's gradients are
    reduced. Nothing without FSDP."""
    layers = 2 if setup.method == "full" else 1
    reduced = whole_gradients(setup, rank, 0, 1)
    kept = setup.lora_kernels  # the factors that they gathered stay; layers are dropped one by one
    return tuple((*gathered(architecture, setup, rank, 1, layers, one), *reduced) for one in (True, kept))


def root_tail(architecture: Architecture, setup: Setup, rank: Shard, gradients: Term) -> tuple[Term, ...]:
    """At the end of backward: tied, the head's gradient, the embedding's and their sum are whole; the first layer's
    buffer is still there, and the root has no shard of its gradients yet, but of earlier micro-steps."""
    if setup.fsdp == "none":
        return ()
    earlier = setup.gradient_accumulation > 1 or setup.offload == "params"
    share = 1.0 if earlier else 1.0 - rank.root_shard / rank.weights
    there = Term("gradients", gradients.how, share * gradients.const)
    whole = whole_gradients(setup, rank, 3 if architecture.tie_word_embeddings else 1, 1)
    return (there, *gathered(architecture, setup, rank, 1, 0, False), *whole)
