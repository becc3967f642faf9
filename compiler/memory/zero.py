"""DeepSpeed ZeRO and offload: what one rank keeps of the static state, its buffers, and host RAM.

Bytes per parameter follow DeepSpeed 0.18.9: BF16 parameters 2, BF16 gradients 2, FP32 master copy 4, two FP32
moments 8, FP32 gradients of its own partition 4 at the step (`stage_1_and_2.py`,
`estimate_zero2_model_states_mem_needs`). These are analytic: no published single-run measurement isolates them.
"""

from __future__ import annotations

from compiler.architecture import Architecture
from compiler.memory.shards import Shard
from compiler.memory.static import Static, optimizer_of
from compiler.values import Setup

REDUCE_BUCKET_ELEMENTS = 5 * 10**8
"""DeepSpeed's default `reduce_bucket_size` and `allgather_bucket_size`."""


def zero_shard(architecture: Architecture, setup: Setup, static: Static) -> Shard:
    """The static state of one rank under the setup's ZeRO stage and offload."""
    stage, ranks, trainable = setup.zero_stage, max(1, setup.devices), static.trainable_parameters
    states = _state_bytes_per_parameter(setup) * trainable / ranks
    full = setup.method == "full"
    weights = 2.0 * static.total_parameters if full else float(static.weights)
    adapters = 0.0 if full else 2.0 * trainable
    gradients = 2.0 * trainable / (ranks if stage >= 2 else 1)
    bucket = min(REDUCE_BUCKET_ELEMENTS, trainable)
    buffers = 2.0 * bucket * (2 if stage in (1, 2) else 1)
    copies = 4.0 * trainable / ranks
    host_states = host_weights = 0.0
    if stage == 3:
        counts = architecture.parameters
        buffers += (
            2 * 2.0 * (counts.linear_per_layer + counts.bias_per_layer + counts.norm_per_layer) + 2.0 * counts.embedding
        )
        weights, adapters = weights / ranks, adapters / ranks
    if setup.offload in ("optimizer", "params"):
        # the host keeps master, moments and the FP32 gradients of every rank, plus a pinned transfer buffer
        host_states = (states + 4.0 * trainable / ranks) * ranks
        states = copies = 0.0
        gradients = 0.0 if stage >= 2 else gradients
    if setup.offload == "params":
        host_weights, weights, adapters = (weights + adapters) * ranks, 0.0, 0.0
    how = f"ZeRO-{stage} over {ranks} devices" + (
        f", {setup.offload} offloaded to host RAM" if setup.offload != "none" else ""
    )
    return Shard(
        weights,
        adapters,
        gradients,
        states,
        copies,
        buffers,
        host_states=host_states,
        host_weights=host_weights,
        how=how,
    )


def _state_bytes_per_parameter(setup: Setup) -> float:
    kind = optimizer_of(setup)
    if kind.paged:
        return 4.0
    return 4.0 + kind.states * (1 + 4 / 256 if kind.bits8 else 4)
