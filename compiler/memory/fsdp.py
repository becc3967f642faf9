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
    buffers = found.root + (layers if setup.fsdp == "shard_grad_op" else 2) * found.layer
    weights, gradients, copies = shards + found.replicated, trained, trained * optimizer_of(setup).copies
    host_states = host_weights = 0.0
    how = f"FSDP2 over {ranks} devices ({setup.fsdp})"
    if setup.offload == "params":
        buffers += 2 * found.layer_shard  # shards on their way from host RAM
        host_states, host_weights = ranks * (states + gradients + copies), ranks * (shards + adapters)
        weights, adapters, gradients, states, copies = found.replicated, 0.0, 0.0, 0.0, 0.0
        how += ", shards in host RAM"
    return Shard(
        weights,
        adapters,
        gradients,
        states,
        copies,
        buffers,
        2 * found.layer if full else 0.0,
        found.root if full else 0.0,
        host_states,
        host_weights,
        how,
    )
