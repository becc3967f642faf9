"""Bytes that live through the whole step: weights, adapters, gradients, optimizer states and the optimizer's
temporaries.

The dtypes are Axolotl's (0.19, `loaders/model.py`): norms, embeddings and head go to FP32 at loading and back to the
weights' dtype when there is an adapter, an attention implementation without FP32 casts, or cut cross-entropy; k-bit
preparation moves every other 16-bit tensor (the biases) to FP32; adapters are FP32 under autocast.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from compiler.architecture import Architecture
from compiler.quick import dataclass
from compiler.values import Setup

DTYPE_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
NF4_DOUBLE_QUANT_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Per weight: 4 bits, one 8-bit scale a block of 64, one FP32 scale of scales per 256 blocks (QLoRA,
arXiv:2305.14314, section 3)."""
NF4_BYTES = 0.5 + 4 / 64
"""Per weight without double quantisation: 4 bits and one FP32 scale a block of 64."""
BLOCK_8BIT = 256
"""Elements that share one FP32 scale in bitsandbytes' 8-bit optimizer states."""
MIN_8BIT_ELEMENTS = 4096
"""Smaller tensors keep FP32 states (bitsandbytes `optim/optimizer.py`, `min_8bit_size`)."""
MIN_PAGED_ELEMENTS = 100_000
"""Smaller states stay on the device (`get_state_buffer`)."""


@dataclass(frozen=True, slots=True)
class Optimizer:
    """State bytes of one trainable parameter, and what a step allocates beside it."""

    states: int
    """Tensors of the parameter's size kept between steps."""
    bits8: bool = False
    paged: bool = False
    """States of at least 1e5 elements live in managed host memory."""
    state_fp32: bool = False
    """States are FP32 whatever the parameter's dtype; otherwise they follow it."""
    copies: int = 0
    """Parameter-sized temporaries of one step (`foreach` implementations)."""
    factored: bool = False


OPTIMIZERS = {
    "adamw_torch_fused": Optimizer(2),
    "adamw_torch": Optimizer(2, copies=1),
    "adamw_8bit": Optimizer(2, bits8=True),
    "adamw_bnb_8bit": Optimizer(2, bits8=True),
    "paged_adamw_8bit": Optimizer(2, bits8=True, paged=True),
    "paged_adamw_32bit": Optimizer(2, paged=True, state_fp32=True),
    "lion_8bit": Optimizer(1, bits8=True),
    "paged_lion_8bit": Optimizer(1, bits8=True, paged=True),
    "sgd": Optimizer(0),
}
"""Axolotl's name -> what it keeps. An optimizer that is not here has not been traced and is refused."""


@dataclass(frozen=True, slots=True)
class Static:
    """Bytes of one device without sharding, and the numbers of parameters behind them."""

    weights: int
    adapters: int
    gradients: int
    states: int
    host_states: int
    """Paged states: in host RAM."""
    step_copies: int
    embedding_bytes: int
    """Bytes of one element of embeddings, head and norms after loading."""
    stream_bytes: int
    """Bytes of one element of the residual stream."""
    linear_bytes: float
    """Bytes of one weight of a decoder layer's linears."""
    total_parameters: int
    trainable_parameters: int
    embedding_gradient: int


class Kept(NamedTuple):
    """The fields of a setup that decide its static state; named as there."""

    method: str
    optimizer: str
    attention: str
    cross_entropy: str
    weights_dtype: str
    double_quant: bool
    train_embeddings: bool
    lora_r: int | None
    lora_targets: str | tuple[str, ...] | None
    fsdp: str
    cast: bool
    """DeepSpeed casts every parameter to 16 bits."""


def optimizer_of(setup: Setup | Kept) -> Optimizer:
    """Raises ValueError naming the known optimizers when this one has not been traced."""
    if setup.optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer {setup.optimizer!r}: its memory is not known; known are {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[setup.optimizer]


def autocasts(setup: Setup) -> bool:
    """Whether the step runs under 16-bit autocast: not where `precision` is fp32 or tf32, nor under DeepSpeed, whose
    engine casts the whole module instead (accelerate 1.13 `_prepare_deepspeed` wraps no forward)."""
    return setup.zero_stage == 0 and setup.precision in ("bf16", "fp16")


def cast_whole(setup: Setup) -> bool:
    """Whether every parameter, adapters included, is 16 bits wide: DeepSpeed 0.18.9 `_configure_distributed_model`
    calls `module.bfloat16()` or `module.half()`."""
    return setup.zero_stage > 0 and setup.precision in ("bf16", "fp16")


def static_state(architecture: Architecture, setup: Setup) -> Static:
    """What lives through the step on one device, before sharding and offload (those are in `zero.py`)."""
    return _static_state(
        architecture,
        Kept(
            setup.method,
            setup.optimizer,
            setup.attention,
            setup.cross_entropy,
            setup.weights_dtype,
            setup.double_quant,
            setup.train_embeddings,
            setup.lora_r,
            setup.lora_targets,
            setup.fsdp,
            cast_whole(setup),
        ),
    )


@lru_cache(maxsize=1024)
def _static_state(architecture: Architecture, setup: Kept) -> Static:
    counts, full = architecture.parameters, setup.method == "full"
    loaded = 2 if setup.cast else DTYPE_BYTES[setup.weights_dtype]
    # under FSDP Axolotl casts nothing, for a group has one dtype; what it casts DeepSpeed casts back
    sharded = setup.fsdp != "none" or setup.cast
    upcast = full and setup.attention in ("eager", "sdpa") and setup.cross_entropy != "cut" and not sharded
    embedding_bytes = 4 if upcast else loaded
    quantised = setup.method in ("lora-8bit", "qlora-4bit")
    # k-bit preparation takes GPT-BigCode's `wte` and `wpe` to FP32; Axolotl, which looks for other names, takes back
    # only what the head shares
    widened = quantised and architecture.learned_positions > 0 and not sharded
    each_linear = linear_bytes(setup, loaded)
    table = counts.embedding + counts.head
    weights = (
        each_linear * counts.linear
        + embedding_bytes * (table + counts.norm)
        + (4 if widened else loaded) * counts.positions
        + (4 - loaded if widened and counts.head else 0) * counts.embedding
        + (4 if quantised and not sharded else loaded) * counts.bias
    )
    weights += architecture.learned_positions**2  # GPT-BigCode's boolean causal mask is a buffer
    if setup.method == "lora-8bit":  # one FP32 scale an output row
        weights += 4 * counts.layers * sum(linear.out_features for linear in architecture.linears)
    if full:
        trainable, adapters, gradients = counts.total, 0, weights - architecture.learned_positions**2
    else:
        trainable = architecture.lora_parameters(setup.lora_r or 0, setup.lora_targets)
        adapters = gradients = (2 if setup.cast else 4) * trainable
    # PEFT trains a copy in the dtype of what it copies: it widens adapters only (peft 0.20 `cast_adapter_dtype`)
    extra = table if setup.train_embeddings and not full else 0
    adapters, gradients, trainable = adapters + loaded * extra, gradients + loaded * extra, trainable + extra
    states, host_states = _states(architecture, setup, gradients, trainable, table if full else extra)
    return Static(
        weights=round(weights),
        adapters=adapters,
        gradients=round(gradients),
        states=round(states),
        host_states=round(host_states),
        step_copies=round(gradients) * optimizer_of(setup).copies,
        embedding_bytes=embedding_bytes,
        stream_bytes=embedding_bytes if full else 4 if widened else loaded,
        linear_bytes=each_linear,
        total_parameters=counts.total,
        trainable_parameters=trainable,
        embedding_gradient=embedding_bytes * counts.embedding if full or extra else 0,
    )


def linear_bytes(setup: Setup | Kept, loaded: int) -> float:
    """Of one weight of a layer's linears; `loaded` bytes where it is not quantised."""
    if setup.method == "qlora-4bit":
        return NF4_DOUBLE_QUANT_BYTES if setup.double_quant else NF4_BYTES
    return 1 if setup.method == "lora-8bit" else loaded


def _states(
    architecture: Architecture, setup: Kept, parameter_bytes: float, trainable: int, table: int
) -> tuple[float, float]:
    """(device, host) bytes of the optimizer states, tensor by tensor for bitsandbytes: tensors under 4096 elements
    stay FP32, those under 1e5 are not paged, and every `nn.Embedding` stays FP32 (transformers'
    `Trainer.create_optimizer`)."""
    kind = optimizer_of(setup)
    if not kind.bits8 and not kind.paged:
        return kind.states * (4 * trainable if kind.state_fp32 else parameter_bytes), 0
    device = host = 0.0
    for count, elements, embedding in _trainable_tensors(architecture, setup, table):
        bits8 = kind.bits8 and elements >= MIN_8BIT_ELEMENTS and not embedding
        state = kind.states * count * elements * (1 if bits8 else 4)
        if bits8:
            device += kind.states * count * 4 * -(-elements // BLOCK_8BIT)
        if kind.paged and elements >= MIN_PAGED_ELEMENTS:
            host += state
        else:
            device += state
    return device, host


def _trainable_tensors(architecture: Architecture, setup: Kept, table: int) -> list[tuple[int, int, bool]]:
    """(how many, elements, is an embedding) of every trainable tensor."""
    layers, counts = architecture.num_layers, architecture.parameters
    tables = [(1, counts.embedding, True), (1, counts.head, False)] if table else []
    if setup.method != "full":
        rank = setup.lora_r or 0
        chosen = architecture.lora_linears(setup.lora_targets)
        return tables + [(layers, rank * side, False) for one in chosen for side in (one.in_features, one.out_features)]
    linears = [(layers, one.weights, False) for one in architecture.linears]
    biases = [(layers, one.out_features, False) for one in architecture.linears if one.bias]
    norms = [(layers, counts.norm_per_layer, False), (1, counts.final_norm, False)]
    return [entry for entry in (*tables, *linears, *biases, *norms, (1, counts.positions, True)) if entry[1]]
