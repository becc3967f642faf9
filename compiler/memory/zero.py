"""DeepSpeed ZeRO and offload: what one rank keeps of the static state, its buffers, and host RAM.

Bytes follow DeepSpeed 0.18.9 (`runtime/zero/stage_1_and_2.py`, `stage3.py`), and two real processes are held against
them part by part (`tests/test_zero.py`). The engine casts every parameter to 16 bits; 16-bit gradients, an FP32 copy of
the rank's share and FP32 states are beside it.

    stages 1, 2   two reduce buckets while a backward runs, a third while one is reduced; the share's gradients get a
                  buffer of their own; at the step they are flattened, then FP32
    stage 3       one bucket and the share's gradients from the start, a copy of the bucket while it is reduced; weights
                  are gathered module by module, embeddings and head stay from forward to backward
"""

from __future__ import annotations

from compiler.architecture import Architecture
from compiler.memory.shards import Shard
from compiler.memory.static import DTYPE_BYTES, Static, cast_whole, optimizer_of
from compiler.quick import dataclass
from compiler.values import Setup

MAX_BUCKET_ELEMENTS = 5 * 10**7
"""Of `reduce_bucket_size` and `allgather_bucket_size`: 100 MB, four times DDP's buckets. DeepSpeed's default is ten
times that, of which stages 1 and 2 hold three at a time: 3 GB of a card."""
OVERFLOW_BYTES = 11
"""Of an element while DeepSpeed looks for infinities in a gradient on its way to host RAM: an FP32 copy, three masks of
one byte and an FP32 mask (`_has_inf_or_nan`)."""
NORM_BYTES = 8
"""Of an element of the gradient whose norm is taken, in FP64 (`get_grad_norm_direct`)."""
PERSISTENT_ROWS = 10
"""`stage3_param_persistence_threshold` in units of the hidden size: smaller parameters are never sharded."""


def bucket_elements(trainable: int) -> int:
    """`reduce_bucket_size` as it is emitted. DeepSpeed allocates a bucket whole however little is trained, so a small
    model's is no larger than its gradients."""
    return min(MAX_BUCKET_ELEMENTS, trainable + trainable % 2)  # DeepSpeed refuses an odd number


def layer_elements(architecture: Architecture) -> int:
    counts = architecture.parameters
    return counts.linear_per_layer + counts.bias_per_layer + counts.norm_per_layer


def live_elements(architecture: Architecture) -> int:
    """`stage3_max_live_parameters` as it is emitted: embeddings, head, a layer and the next one. DeepSpeed's default of
    10^9 keeps 2 GB of weights gathered."""
    return _tables_elements(architecture) + architecture.parameters.final_norm + 2 * layer_elements(architecture)


def _tables_elements(architecture: Architecture) -> int:
    return architecture.parameters.embedding + architecture.parameters.head


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of one rank from which its moments are made."""

    width: int
    """Of a parameter and of its gradient."""
    whole: float
    """All gradients."""
    part: float
    """The share's gradients."""
    master: float
    """The share in FP32: the copy of the weights, and again the gradients at the step."""
    bucket: float
    overflows: bool
    """Gradients take more than one bucket."""
    largest: float
    """Elements of the largest trained tensor."""
    table: float
    """Bytes of the embeddings' gradient; 0 where they are not trained."""


def sizes(architecture: Architecture, setup: Setup, static: Static) -> Sizes:
    trainable, ranks = static.trainable_parameters, max(1, setup.devices)
    width = 2 if cast_whole(setup) else DTYPE_BYTES[setup.weights_dtype]
    full, counts = setup.method == "full", architecture.parameters
    trains_tables = full or setup.train_embeddings
    if full:
        largest = max(counts.embedding, *(one.weights for one in architecture.linears))
    else:
        chosen = architecture.lora_linears(setup.lora_targets)
        sides = (side for one in chosen for side in (one.in_features, one.out_features))
        largest = max((setup.lora_r or 0) * max(sides), counts.embedding if trains_tables else 0)
    bucket = bucket_elements(trainable)
    return Sizes(
        width=width,
        whole=float(width * trainable),
        part=width * trainable / ranks,
        master=4.0 * trainable / ranks,
        bucket=float(width * bucket),
        overflows=trainable > bucket,
        largest=float(largest),
        table=float(width * counts.embedding) if trains_tables else 0.0,
    )


def zero_shard(architecture: Architecture, setup: Setup, static: Static) -> Shard:
    """What one rank holds, and host RAM of all ranks, under the setup's ZeRO stage and offload."""
    found = sizes(architecture, setup, static)
    if setup.zero_stage == 3:
        return _third_stage(architecture, setup, static, found)
    return _first_stages(setup, static, found)


def _words(setup: Setup) -> str:
    offloaded = f", {setup.offload} offloaded to host RAM" if setup.offload != "none" else ""
    return f"ZeRO-{setup.zero_stage} over {max(1, setup.devices)} devices{offloaded}"


def _first_stages(setup: Setup, static: Static, found: Sizes) -> Shard:
    """Stages 1 and 2."""
    ranks, several = max(1, setup.devices), setup.gradient_accumulation > 1
    states = _states(setup, found)
    buckets, part, extra = 2 * found.bucket, found.part, float(found.width * found.largest)
    kept = part if found.overflows else 0.0
    # a tensor that no bucket holds is reduced in a copy of itself
    beyond = max(found.bucket, _tables(found))
    buffers = host_states = 0.0
    if setup.offload != "none":
        buffers = extra  # the buffer through which gradients come back to be added up
        tensor = extra if found.largest * found.width > found.bucket else 0.0
        tail = buckets + max(beyond, OVERFLOW_BYTES * found.largest + tensor)
        shared = part if several else 0.0
        # FP32 copy, states and FP32 gradients; the share in 16 bits on its way back; a buffer; gradients added up
        host_states = ranks * (states + found.master + part + extra + shared)
        states = part = carried = step = 0.0
        reduction = buckets
    elif setup.zero_stage == 1:
        carried = found.whole + buckets if several else 0.0  # the buckets stay until gradients are reduced at last
        reduction = 0.0 if several else buckets + kept
        # the table's own is among the gradients of earlier micro-steps
        tail = max(carried + _tables(found) - found.table, buckets + kept + beyond)
        step = max(_step(setup, found), NORM_BYTES * _of_share(found))
    else:
        carried = part if several else 0.0
        reduction = buckets + kept
        tail = carried + reduction + beyond
        step = max(_step(setup, found), NORM_BYTES * _of_share(found))
    return Shard(
        static.weights,
        static.adapters,
        part,
        states,
        step,
        buffers,
        reduction=reduction,
        tail=tail,
        carried=carried,
        host_states=host_states,
        how=_words(setup),
    )


def _third_stage(architecture: Architecture, setup: Setup, static: Static, found: Sizes) -> Shard:
    ranks = max(1, setup.devices)
    states, part = _states(setup, found), found.part
    whole = _persistent(architecture, setup) * found.width
    weights, adapters = static.weights / ranks + whole, static.adapters / ranks
    step = max(_step(setup, found), NORM_BYTES * found.largest / ranks)
    host_states = host_weights = normed = 0.0
    buffers = found.bucket + part
    if setup.offload != "none":
        host_states = ranks * (states + found.master + part)
        states = step = 0.0
        buffers -= part
        normed = NORM_BYTES * found.largest / ranks  # on its way to host RAM
    if setup.offload == "params":
        host_weights, weights, adapters = (weights - whole + adapters) * ranks, whole, 0.0
    gathered = float(found.width * live_elements(architecture))
    return Shard(
        weights,
        adapters,
        0.0,  # the share's are among the buffers
        states,
        step,
        buffers,
        reduction=found.bucket if found.overflows else 0.0,
        tail=found.width * _tables_elements(architecture) + max(found.bucket + normed, _tables(found)),
        gathered=gathered,
        host_states=host_states,
        host_weights=host_weights,
        how=_words(setup),
    )


def _states(setup: Setup, found: Sizes) -> float:
    """FP32 copy of the share's weights and its states."""
    kind = optimizer_of(setup)
    if kind.paged:
        return found.master
    return found.master * (1 + kind.states * ((1 + 4 / 256) / 4 if kind.bits8 else 1))


def _step(setup: Setup, found: Sizes) -> float:
    """Beside the share's gradients: their flat copy and the FP32 one made of it; then, instead of both, the FP32 one
    and what the optimizer makes of it."""
    alone = found.part if setup.zero_stage < 3 else 0.0
    return max(found.part + found.master, found.master * (1 + optimizer_of(setup).copies) - alone)


def _of_share(found: Sizes) -> float:
    """Elements of the largest gradient of which the share has a part."""
    return min(found.largest, found.part / found.width)


def _tables(found: Sizes) -> float:
    """Bytes of the embeddings' gradients when they are made: with a tied head its own, the embedding's and their sum;
    without, one that is reduced in a copy of itself. Counted as tied."""
    return 3 * found.table


def _persistent(architecture: Architecture, setup: Setup) -> int:
    """Elements of parameters that are never sharded: norms, biases, and adapters' factors that are small enough."""
    counts, limit = architecture.parameters, PERSISTENT_ROWS * architecture.hidden_size
    found = counts.norm + counts.bias
    if setup.method != "full":
        rank, chosen = setup.lora_r or 0, architecture.lora_linears(setup.lora_targets)
        sides = (rank * side for one in chosen for side in (one.in_features, one.out_features))
        found += architecture.num_layers * sum(size for size in sides if size <= limit)
    return found
