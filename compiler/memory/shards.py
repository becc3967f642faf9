"""What one rank keeps of the static state: all of it, or its share under DeepSpeed's ZeRO or PyTorch's FSDP2."""

from __future__ import annotations

from compiler.architecture import Architecture
from compiler.memory.static import Static
from compiler.quick import dataclass
from compiler.values import Setup


@dataclass(frozen=True, slots=True)
class Shard:
    """Bytes of one rank; host RAM is that of all ranks together."""

    weights: float
    adapters: float
    gradients: float
    states: float
    step_copies: float
    buffers: float = 0.0
    """ZeRO's flat buffers, there through the whole step."""
    reduction: float = 0.0
    """ZeRO: buffers that are there while a backward runs."""
    tail: float = 0.0
    """ZeRO: the most that lies beside weights and states when a backward ends."""
    carried: float = 0.0
    """ZeRO: gradients of earlier micro-steps, and the buffers that are kept for them."""
    gathered: float = 0.0
    """ZeRO-3: weights gathered at a time."""
    layer: float = 0.0
    """FSDP: one layer's weights, gathered."""
    root: float = 0.0
    """FSDP: embeddings, final norm and head, gathered."""
    root_shard: float = 0.0
    """Its share on one rank."""
    host_states: float = 0.0
    host_weights: float = 0.0
    how: str = ""
    """Empty where nothing is sharded or offloaded."""


def shard(architecture: Architecture, setup: Setup, static: Static) -> Shard:
    """The static state of one rank under the setup's sharding and offload; without either, the whole of it."""
    if setup.fsdp != "none":
        from compiler.memory.fsdp import fsdp_shard  # most plans need neither

        return fsdp_shard(architecture, setup, static)
    if setup.zero_stage or setup.offload != "none":
        from compiler.memory.zero import zero_shard

        return zero_shard(architecture, setup, static)
    return Shard(
        static.weights,
        static.adapters,
        static.gradients,
        static.states,
        static.step_copies,
        host_states=static.host_states,
    )
