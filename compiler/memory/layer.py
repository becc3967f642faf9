"""One decoder layer on the symbolic tape: what it keeps for backward, and its highest moments."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache, partial
from weakref import ref

from compiler.architecture import Architecture
from compiler.memory import attention as kernels
from compiler.memory.lora_kernels import fused_mlp, fused_projection
from compiler.memory.operations import FP32, Adapter, add, dropout, layer_norm, linear, multiply, rms_norm, scale, unary
from compiler.memory.static import autocasts, cast_whole
from compiler.memory.tape import ZERO, Grads, Moment, Size, Storage, Tape, Tensor, highest
from compiler.quick import dataclass
from compiler.values import Setup

RMS_STYLE = {"gemma": "gemma", "gemma2": "gemma", "gemma3_text": "gemma", "olmo2": "olmo2"}
"""Families whose RMSNorm multiplies by its weight in FP32, before casting back; the others after (`llama`)."""


@dataclass(frozen=True, slots=True)
class LayerKey:
    """All of a setup that changes one layer's tape."""

    quant: str
    rank: int
    dropout: bool
    cpu_dropout: bool
    targets: str | tuple[str, ...]
    kernels: bool
    attention: str
    stream_width: int
    weight_width: int
    masked: bool
    mask_width: int
    """Bytes of an element of the additive mask (`eager`): the embeddings' dtype."""
    single: bool
    """One row at a time, where that spares the copies of a single key head for all query heads."""
    autocast: bool
    fp16: bool
    double_quant: bool
    ranks: int
    """FSDP over so many; 0: none."""
    narrow: bool
    """DeepSpeed: all is two bytes wide."""

    @property
    def full(self) -> bool:
        return self.targets == "none"


@dataclass(frozen=True, slots=True)
class LayerCost:
    saved: Size
    """Kept from forward to backward when the layer is not checkpointed."""
    plain: tuple[tuple[Size, str], ...]
    """Highest moments of forward and backward without checkpointing, the layer's own saved tensors included."""
    recomputed: tuple[tuple[Size, str], ...]
    """Highest moments of recomputation and backward, the gradient of the layer's output included."""
    fetched: tuple[tuple[Size, str], ...]
    """The same when the layer's input is brought back from host RAM: input and output are alive beside it."""
    gradients: float
    """Bytes of the parameters' gradients that the layer's backward leaves behind."""
    stream_width: int
    """Bytes of an element of the layer's output."""
    keeps_input: bool
    """Whether `saved` holds the layer's input as it came."""
    highest: Size
    """The highest of `recomputed` for a usual batch: others are so for shorter or longer ones."""


def layer_cost(
    architecture: Architecture,
    setup: Setup,
    stream_width: int,
    cpu: bool = False,
    windowed: bool = True,
    mask_width: int | None = None,
) -> LayerCost:
    """The cost of one layer of this setup. Independent of micro-batch; of sequence length but for a window's mask.
    `windowed`: of a layer that attends to the window where the model has both kinds. `mask_width`: where it is not that
    of the stream."""
    key = layer_key(architecture, setup, stream_width, cpu, mask_width)
    later = setup.gradient_accumulation > 1 or setup.zero_stage > 0  # DeepSpeed moves each gradient into its bucket
    return _cost(architecture, key if windowed or not key.masked else replace(key, masked=False), later)


def one_row_matters(architecture: Architecture, setup: Setup) -> bool:
    """Whether a micro-batch of 1 keeps other tensors: a single key head is then expanded without a copy (`eager`)."""
    return setup.attention == "eager" and architecture.num_kv_heads == 1


def layer_key(
    architecture: Architecture, setup: Setup, stream_width: int, cpu: bool, mask_width: int | None = None
) -> LayerKey:
    full, window = setup.method == "full", architecture.sliding_window
    return LayerKey(
        quant={"qlora-4bit": "4bit", "lora-8bit": "8bit"}.get(setup.method, "none"),
        rank=0 if full else setup.lora_r or 0,
        dropout=setup.lora_dropout > 0,
        cpu_dropout=cpu,
        targets="none" if full else setup.lora_targets,
        kernels=setup.lora_kernels,
        attention=setup.attention,
        stream_width=stream_width,
        weight_width=4 if setup.weights_dtype == "fp32" and not cast_whole(setup) else 2,
        masked=setup.attention == "sdpa" and window is not None and setup.sequence_len > window,
        mask_width=mask_width or stream_width,
        single=setup.micro_batch == 1 and one_row_matters(architecture, setup),
        autocast=autocasts(setup),
        fp16=setup.weights_dtype == "fp16",
        double_quant=setup.double_quant,
        ranks=0 if setup.fsdp == "none" else setup.devices,
        narrow=cast_whole(setup),
    )


@lru_cache(maxsize=1024)
def _cost(architecture: Architecture, key: LayerKey, later: bool) -> LayerCost:
    """What the caller holds around the layer is the same for all of its forward and all of its backward, so that one
    run of the layer gives all three ways of keeping its activations."""
    ran = _run(architecture, key)
    backward, size = ran.later if later else ran.backward, architecture.hidden_size * key.stream_width
    stream: Size = (0.0, size, 0.0, 0.0)
    around: Size = (0.0, size + _before_recomputing(architecture, key), 0.0, 0.0)
    both: Size = (0.0, 2 * size, 0.0, 0.0)
    # without checkpointing nothing else counts the input: the caller holds it until the layer returns, and then who
    # saved it; then comes the gradient of the output, which the next layer has not let go yet
    kept = stream if ran.keeps_input else ZERO
    end = _sum(ran.end, kept)
    plain = [*_above(ran.forward, stream), (_sum(end, ran.output), "forward"), *_above(backward, kept)]
    fetched = [*_above(ran.forward, both), *_above(backward, _sum(stream, ran.output))]
    # the mask is beside forward alone, whose own highest moments then count
    alone = _highest(plain[: len(ran.forward) + 1]) if key.attention == "eager" or key.masked else ()
    recomputed = _highest([*_above(ran.until_last_save, around), *backward])
    return LayerCost(
        tuple(live - own for live, own in zip(end, ran.output, strict=True)),  # type: ignore[arg-type]
        tuple(dict.fromkeys((*_highest(plain), *alone))),
        recomputed,
        _highest(fetched),
        ran.gradients,
        ran.stream_width,
        ran.keeps_input,
        max((size for size, _ in recomputed), key=_usual),
    )


def _usual(size: Size) -> float:
    """Bytes with two rows of 2,048 tokens."""
    const, token, length, _ = size
    return const + 4096 * (token + 2048 * length)


@dataclass(frozen=True, slots=True)
class Run:
    """One layer, forward and backward. Sizes are of what the layer makes, and in backward of its output's gradient."""

    forward: tuple[Moment, ...]
    until_last_save: tuple[Moment, ...]
    """Those of `forward` that a recomputation meets as well."""
    end: Size
    """Alive when forward is done: the output, and what is saved."""
    output: Size
    backward: tuple[Moment, ...]
    later: tuple[Moment, ...]
    """`backward` where gradients of an earlier micro-step exist, to which new ones are added."""
    gradients: float
    stream_width: int
    keeps_input: bool


@lru_cache(maxsize=1024)
def _run(a: Architecture, key: LayerKey) -> Run:
    tape = Tape(autocast=key.autocast)
    x = tape.leaf(a.hidden_size, key.stream_width)
    incoming = ref(x.storage)
    out = decoder_layer(tape, x, a, key)
    del x
    forward, end, output = tape.seen(), tape.live, out.storage.size
    width, root = out.width, out.node
    del out  # the next layer has read it
    keeps_input = incoming() is not None
    grad = [tape.bytes_(a.hidden_size * width)]
    tape.moments.clear()
    tape.backward(root, grad)
    return Run(
        tuple(highest(forward)),
        tuple(highest(forward[: tape.saved_at])),
        end,
        output,
        tuple(highest(tape.seen())),
        tuple(highest(tape.seen(later=True))),
        tape.gradients,
        width,
        keeps_input,
    )


def _sum(one: Size, other: Size) -> Size:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3]


def _above(moments: Iterable[Moment], held: Size) -> list[Moment]:
    """Moments during which the caller holds something more."""
    return [(_sum(size, held), phase) for size, phase in moments]


def _highest(moments: list[Moment]) -> tuple[Moment, ...]:
    first: dict[Size, str] = {}
    for size, phase in moments:
        first.setdefault(size, phase)
    return tuple(highest(first.items()))


def _before_recomputing(a: Architecture, key: LayerKey) -> float:
    """Bytes per token of gradients made before the layer is recomputed: backward runs through the layer's last
    operations until one asks for a saved tensor. Casts and multiplications by a number save nothing, nor does a
    4-bit linear without adapter."""
    width = 2 if key.autocast else key.weight_width
    if a.residual_dropout:
        return 0.0
    if a.norms_per_layer == 4 or a.model_type == "olmo2":
        return 4 * a.hidden_size  # the norm's cast back
    scaled = width * a.hidden_size if a.model_type == "granite" else 0
    if _adapter(a, key, a.linears[-1].name).rank:
        return scaled if key.kernels else scaled + width * a.hidden_size  # the adapter's scaling
    return scaled + (width * a.intermediate_size if key.quant == "4bit" else 0)


def decoder_layer(tape: Tape, x: Tensor, a: Architecture, key: LayerKey) -> Tensor:
    """Attention and MLP with their norms and residuals, in the order the family's class runs them."""
    before, after = a.model_type != "olmo2", a.norms_per_layer == 4 or a.model_type == "olmo2"
    named: list[Tensor] = []
    for block in (_attention, _mlp):
        hidden = _norm(tape, x, a, key.full) if before else x
        made = block(tape, hidden, a, key)
        del hidden
        if after:
            made = _norm(tape, made, a, key.full)
        if a.residual_dropout and tape.recording:
            made = dropout(tape, made, key.cpu_dropout)
        if a.model_type == "granite":  # residual multiplier
            made = scale(tape, made)
        x = add(tape, x, made)
        if a.learned_positions:  # GPT-BigCode's block has a name for what attention made until it returns
            named.append(made)
        del made
    return x


def _norm(tape: Tape, x: Tensor, a: Architecture, trainable: bool, heads: float = 1.0) -> Tensor:
    if a.norm == "rmsnorm":
        return rms_norm(tape, x, RMS_STYLE.get(a.model_type, "llama"), trainable, heads)
    return layer_norm(tape, x, cast_back=a.norm == "layernorm-plain")


def _adapter(a: Architecture, key: LayerKey, name: str) -> Adapter:
    chosen = not key.full and any(one.name == name for one in a.lora_linears(key.targets))
    return Adapter(
        key.rank if chosen else 0,
        key.dropout,
        key.cpu_dropout,
        key.quant,
        key.full,
        key.weight_width,
        key.double_quant,
        key.ranks,
        key.fp16,
        key.narrow,
    )


def _attention(tape: Tape, x: Tensor, a: Architecture, key: LayerKey) -> Tensor:
    *projections, last = (one for one in a.linears if one.group == "attention")
    kinds = [_adapter(a, key, one.name) for one in projections]
    if a.fused_qkv:
        joined = linear(tape, x, projections[0].out_features, kinds[0])
        query, key_, value = _slices(tape, joined, (a.query_size, a.kv_size, a.kv_size))
        del joined
    elif key.kernels and all(kind.rank for kind in kinds):
        query, key_, value = fused_projection(tape, x, [one.out_features for one in projections], kinds[0])
    else:
        query, key_, value = (
            linear(tape, x, one.out_features, kind) for one, kind in zip(projections, kinds, strict=True)
        )
    if a.qk_norm:
        query = _norm(tape, query, a, key.full, a.num_heads if a.qk_norm_per_head else 1)
        key_ = _norm(tape, key_, a, key.full, a.num_kv_heads if a.qk_norm_per_head else 1)
    if not a.learned_positions:
        # a function turns both before it lets either go
        query, key_ = kernels.rotary(tape, query, key.stream_width), kernels.rotary(tape, key_, key.stream_width)
    run = _kernel(a, key, query.width)
    out = run(tape, query, key_, value, a)
    del query, key_, value
    kind = _adapter(a, key, last.name)
    if key.kernels and kind.rank and not a.fused_qkv:
        return fused_projection(tape, out, [last.out_features], kind)[0]
    return linear(tape, out, last.out_features, kind)


def _kernel(a: Architecture, key: LayerKey, width: int) -> Callable[..., Tensor]:
    """Which kernel attends. Without autocast FP32 reaches `sdpa`: CUDA's flash kernel does not take it, nor does the
    memory-efficient one take grouped keys (ATen `sdp_utils.cpp`)."""
    if key.attention == "eager":
        return partial(kernels.eager, mask_width=key.mask_width, single=key.single, cpu=key.cpu_dropout)
    wide = not key.autocast and width == FP32
    if key.attention == "sdpa" and (key.masked or (wide and a.kv_size == a.query_size)):
        return partial(kernels.efficient, masked=key.masked)
    return kernels.plain if key.attention == "sdpa" and wide else kernels.flash


def _slices(tape: Tape, x: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Views of a fused projection. Backward pads each gradient to the whole and adds them up."""
    whole = x.elements * x.width
    return tuple(tape.make(x.storage, size, x.width, (x,), (), lambda grad: (tape.bytes_(whole),)) for size in sizes)


def _mlp(tape: Tape, x: Tensor, a: Architecture, key: LayerKey) -> Tensor:
    linears = [one for one in a.linears if one.group == "mlp"]
    kinds = [_adapter(a, key, one.name) for one in linears]
    if key.kernels and len(linears) == 3 and all(kind.rank for kind in kinds):
        return fused_mlp(tape, x, a.intermediate_size, kinds[0])
    if a.fused_gate_up:
        joined = linear(tape, x, linears[0].out_features, kinds[0])
        gate, up = _chunks(tape, joined, a.intermediate_size)
        del joined
        made = multiply(tape, up, unary(tape, gate))
        del gate, up
    elif a.gated_mlp:
        active = unary(tape, linear(tape, x, linears[0].out_features, kinds[0]))
        made = multiply(tape, active, linear(tape, x, linears[1].out_features, kinds[1]))
        del active
    else:
        made = unary(tape, linear(tape, x, linears[0].out_features, kinds[0]))
    return linear(tape, made, linears[-1].out_features, kinds[-1])


def _chunks(tape: Tape, x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """`chunk(2)`: one node with two outputs; backward joins both gradients in a new tensor."""
    whole = x.elements * x.width
    parts: list[Storage] = []

    def hold(grad: list[Storage]) -> Grads:
        parts.append(grad[0])
        return (Storage(tape, ZERO),)

    def joined(grad: list[Storage]) -> Grads:
        out = tape.bytes_(whole)
        parts.clear()
        return (out,)

    both = tape.make(x.storage, x.elements, x.width, (x,), (), joined)
    gate, up = (tape.make(x.storage, size, x.width, (both,), (), hold) for _ in range(2))
    return gate, up
