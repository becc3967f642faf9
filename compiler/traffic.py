"""Bytes that elementwise kernels move, and kernels launched, for one token of a training step.

Every coefficient is the number of bytes that the kernels of transformers' model classes, PEFT, bitsandbytes and
autograd read and write for one element, counted on traces of real steps (`benchmarks/speed_traffic.py` counts them
again and compares). What a matrix product reads and writes beside its weights is in `speed.micro_work`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from compiler.architecture import Architecture
from compiler.facts import rates
from compiler.quick import dataclass
from compiler.values import Setup


@dataclass(frozen=True, slots=True)
class Stack:
    """How another training program differs from an Axolotl plan; only comparisons with its measurements set it."""

    fused_layers: bool = False
    """Norms and rotary positions as one kernel each (Liger's layer kernels, which plans leave off)."""
    autocast: bool = True
    """16-bit autocast (accelerate): LayerNorm answers in FP32, PEFT's inputs are cast twice, outputs copied to FP32."""
    fp32_norms: bool = False
    """Norm weights in FP32 (PEFT's k-bit preparation): their output is FP32, and so are quantised linears' answers."""
    adapter_dtype_bytes: int = 4
    """Adapter weights; without autocast PEFT copies the adapter's input to their dtype."""
    adapter_collectives: bool = False
    """Every adapter matrix is gathered on its own (FSDP's wrapping for PEFT); ZeRO-3 keeps parameters that small."""
    upcast_logits: bool = True
    """The loss is computed in FP32; some older model classes leave the logits in 16 bits."""
    quantised_head_chunk: int = 0
    """Tokens of a row after which a quantised head is dequantised anew (LitGPT: 128); 0: the head is not quantised."""
    dequantise_seconds: float = 0.0
    """Seconds a weight, where an older bitsandbytes is not bound by bandwidth; 0: `dequantise_bytes_per_weight`."""
    fused_loss: bool = False
    """Cross-entropy over whole logits in one kernel that writes the gradient in their place (fms-acceleration)."""
    fp32_masters: bool = False
    """Full fine-tuning with 16-bit products whose shards, and so gradients and states of the optimizer, are FP32."""
    reduce_once: bool = False
    """Sharded gradients are added up over the micro-steps of a step and travel once (FSDP's `no_sync`)."""
    layer_host_seconds: float = 0.0
    """Host seconds of a layer's forward pass beyond its kernels' launches."""
    loop_seconds: float | None = None
    """Host seconds of one optimizer step where it is not transformers' Trainer; None: `step_seconds`."""


AXOLOTL = Stack()


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sums over the linears of one layer that no setting but the adapters' changes."""

    inputs: int
    outputs: int
    adapted: int
    """Linears that carry an adapter."""
    adapted_inputs: int
    adapted_outputs: int


@lru_cache(maxsize=1024)
def shapes_of(architecture: Architecture, targets: str | tuple[str, ...] | None) -> Shapes:
    linears = architecture.linears
    adapted = architecture.lora_linears(targets) if targets else ()
    return Shapes(
        sum(one.in_features for one in linears),
        sum(one.out_features for one in linears),
        len(adapted),
        sum(one.in_features for one in adapted),
        sum(one.out_features for one in adapted),
    )


class LayerKind(NamedTuple):
    """All of a setup that changes what one layer moves, under the setup's names."""

    method: str
    weights_dtype: str
    precision: str
    lora_kernels: bool
    lora_dropout: bool
    lora_targets: str | tuple[str, ...] | None

    @property
    def quantised(self) -> bool:
        return self.method in ("qlora-4bit", "lora-8bit")


@dataclass(frozen=True, slots=True)
class Layer:
    forward_bytes: float
    """Per token, adapters included."""
    backward_bytes: float
    kernels: float
    """Of one forward pass."""
    shapes: Shapes


def layer_of(architecture: Architecture, setup: Setup, stack: Stack = AXOLOTL) -> Layer:
    targets = None if setup.method == "full" else setup.lora_targets
    kind = LayerKind(
        setup.method, setup.weights_dtype, setup.precision, setup.lora_kernels, setup.lora_dropout > 0, targets
    )
    return _layer_of(architecture, kind, stack)


@lru_cache(maxsize=4096)
def _layer_of(a: Architecture, kind: LayerKind, stack: Stack) -> Layer:
    layer, adapters = layer_bytes(a, kind, stack), adapter_bytes(a, kind, stack)
    forward, backward = layer[0] + adapters[0], layer[1] + adapters[1]
    return Layer(forward, backward, layer_kernels(a, kind, stack), shapes_of(a, kind.lora_targets))


def forget() -> None:
    """After a change of rates (calibration): what was computed with the old ones."""
    _layer_of.cache_clear()


@dataclass(frozen=True, slots=True)
class Widths:
    """Bytes of an element at three places of a layer."""

    stream: int
    """The residual stream."""
    normed: int
    """What a norm hands to the linears."""
    inner: int
    """What linears answer: queries, keys, gate and up."""


def widths(a: Architecture, kind: LayerKind, stack: Stack) -> Widths:
    """FP32 weights make an FP32 stream; autocast's LayerNorm answers in FP32, and bitsandbytes' linears answer in the
    dtype of their input, so that a quantised model with LayerNorms runs all but its products in FP32."""
    if kind.precision in ("fp32", "tf32"):
        return Widths(4, 4, 4)
    quantised = kind.quantised
    if kind.weights_dtype == "fp32" and not quantised:
        return Widths(4, 4, 2)
    if not stack.fp32_norms and not (stack.autocast and a.norm != "rmsnorm"):
        return Widths(2, 2, 2)
    return Widths(4, 4, 4) if quantised else Widths(2, 4, 2)


def layer_bytes(a: Architecture, kind: LayerKind, stack: Stack) -> tuple[float, float]:
    """(forward, backward): bytes of one layer per token, adapters left out."""
    full, quantised = kind.method == "full", kind.quantised
    wide = widths(a, kind, stack)
    hidden, inner = a.hidden_size, wide.inner / 2
    rotated = a.query_size + a.kv_size
    readers = len(a.linears) - 2  # all but those that write to the stream read a norm's output
    norm = _norm_bytes(a, wide, stack, full)
    forward, backward = a.norms_per_layer * hidden * norm[0], a.norms_per_layer * hidden * norm[1]
    if a.qk_norm:
        each = _norm_bytes(a, Widths(wide.inner, wide.inner, wide.inner), stack, full)
        forward, backward = forward + rotated * each[0], backward + rotated * each[1]
    if not a.learned_positions:
        slow = rates()["strided_factor"]
        rotary = (4, 4) if stack.fused_layers else (20 * slow, 32 * slow)
        forward, backward = forward + rotary[0] * rotated * inner, backward + rotary[1] * rotated * inner
    gate = (6, 10) if kind.lora_kernels and a.gated_mlp else (10, 18) if a.gated_mlp else (4, 7)
    forward += gate[0] * a.intermediate_size * inner
    backward += gate[1] * a.intermediate_size * inner
    # two sums into the stream; backward adds up the gradients of those that read one norm: q, k, v, and gate, up
    forward += hidden * (12 if wide.stream == 2 else 24 if wide.inner == 4 else 20)
    backward += hidden * (6 * wide.stream + 3 * wide.normed * max(0, readers - 2))
    if a.gated_mlp and readers == 2:  # queries, keys, values and gate, up are slices of one answer each
        forward += 4 * rotated * inner
        backward += (28 * a.query_size + 48 * a.kv_size + 8 * a.intermediate_size) * inner
    if a.model_type == "granite":  # both branches are scaled before they are added
        forward, backward = forward + 8 * hidden * inner, backward + 8 * hidden * inner
    if wide.normed == 4 and kind.precision not in ("fp32", "tf32"):
        cast = 6 * readers * hidden  # every reader casts the norm's output to 16 bits for itself
        if quantised:  # answers back to FP32, attention's inputs down again, the last linear both
            projected = a.query_size + 2 * a.kv_size
            cast += 12 * projected + 6 * (a.intermediate_size * (3 if a.gated_mlp else 2) + hidden)
        forward, backward = forward + cast, backward + cast
    return forward, backward


def _norm_bytes(a: Architecture, wide: Widths, stack: Stack, trained: bool) -> tuple[float, float]:
    """(forward, backward) bytes an element. RMSNorm is six kernels, most in FP32; LayerNorm is one and a cast."""
    if stack.fused_layers:
        return 2.0 * wide.stream, 4.0 * wide.stream
    if a.norm != "rmsnorm":
        return {(2, 2): (4.0, 8.0), (2, 4): (14.0, 22.0)}.get((wide.stream, wide.normed), (8.0, 18.0))
    slow = rates()["strided_factor"]
    if wide.normed == 4:
        return 28 * slow, (84 if trained else 76) * slow
    if a.model_type in ("gemma", "gemma2", "gemma3_text", "olmo2"):  # these multiply by their weight in FP32
        return 40 * slow, (104 if trained else 88) * slow
    return 36 * slow, (92 if trained else 84) * slow


def adapter_bytes(a: Architecture, kind: LayerKind, stack: Stack) -> tuple[float, float]:
    """(forward, backward): bytes of the adapters of one layer per token, their products' own traffic included.

    PEFT copies the input to the adapter's dtype, scales the answer and adds it in kernels of their own (bitsandbytes'
    layers clone the base's answer first); Axolotl's LoRA kernels add in place."""
    if kind.method == "full":
        return 0.0, 0.0
    shapes = shapes_of(a, kind.lora_targets)
    quantised = kind.quantised
    if kind.lora_kernels:
        forward, backward = (2, 4), (6, 4)
    elif not stack.autocast:
        forward, backward = ((10, 28), (20, 28)) if stack.adapter_dtype_bytes == 4 else ((2, 12), (10, 8))
    elif not quantised:
        forward, backward = (14, 12), (22, 8)
    else:
        forward, backward = (2, 12 if kind.method == "lora-8bit" else 16), (10, 8)
        if widths(a, kind, stack).inner == 4:
            forward, backward = (forward[0] + 6, forward[1] + 8), (22, 14)
    dropout = 5 if kind.lora_dropout and not kind.lora_kernels else 0  # in, out, and a mask of one byte
    into, out = shapes.adapted_inputs, shapes.adapted_outputs
    # of these bytes the products themselves read or write 2 an element forward and 4 backward, slower than streamed
    thin = 2 * (rates()["thin_factor"] - 1) * (into + out)
    return (
        (forward[0] + dropout) * into + forward[1] * out + thin,
        (backward[0] + dropout) * into + backward[1] * out + 2 * thin,
    )


def int8_bytes(shapes: Shapes) -> int:
    """LLM.int8 turns inputs to FP16, quantises them row by row and turns INT32 sums back; forward only."""
    return 9 * shapes.inputs + 12 * shapes.outputs


LIGER_BYTES = 26
"""A logit: 12 are counted; the rest is what its products, cut into chunks, take longer: measured (docs/speed.md)."""


def loss_bytes(a: Architecture, setup: Setup, stack: Stack = AXOLOTL) -> float:
    """Per token: bytes of the loss's passes over the logits, forward and backward, and of the head's products."""
    standard = 58 if stack.upcast_logits else 28
    if stack.fused_loss and stack.upcast_logits:  # log-softmax, its pick and both backwards: three passes, not six
        standard -= 12  # with 16-bit logits, seven pairs of runs show no gain
    per_logit = {"standard": standard, "chunked": 42, "liger": LIGER_BYTES, "cut": 0}[setup.cross_entropy]
    if setup.cross_entropy in ("standard", "chunked"):  # the fused kernels do both in registers
        per_logit += (26 if a.final_logit_softcapping else 0) + (8 if a.logits_scaling else 0)
    return a.vocab_size * per_logit


def head_weight_bytes(a: Architecture, trained: bool) -> float:
    """Per micro-step: bytes of the head's weight that its products read, and of its gradient where it trains.

    Liger's fused loss reads the weight again for every chunk of `tokens x hidden / vocabulary` tokens: not counted,
    because no published run measures it (docs/speed.md, "What no row tells")."""
    return 2 * a.vocab_size * a.hidden_size * (2 + trained)


def layer_kernels(a: Architecture, kind: LayerKind, stack: Stack) -> float:
    """Kernels of one forward pass over a layer."""
    wide = widths(a, kind, stack)
    norm = 1 if stack.fused_layers else 6 if a.norm == "rmsnorm" else 1 if wide.normed == wide.stream else 2
    count = 6 + len(a.linears) + norm * (a.norms_per_layer + 2 * a.qk_norm) + (2 if a.gated_mlp else 1)
    count += 0 if a.learned_positions else 1 if stack.fused_layers else 10
    if wide.normed != wide.inner:
        count += len(a.linears) - 2
    if kind.method == "full":
        return count
    quantised = kind.quantised
    adapter = 4 if kind.lora_kernels else 6 if quantised or not stack.autocast else 8
    return count + adapter * shapes_of(a, kind.lora_targets).adapted + (3 * len(a.linears) if quantised else 0)
