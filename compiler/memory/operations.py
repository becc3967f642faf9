"""The operations of a decoder as torch runs them: what each allocates, saves and passes back.

All take and return `Tensor`s of a `Tape`. Widths are bytes per element. Under autocast linears compute in two bytes;
without it (`precision` fp32 and tf32) in the width of their weights, which their input then has.
"""

from __future__ import annotations

from compiler.memory.tape import ZERO, Grads, Storage, Tape, Tensor
from compiler.quick import dataclass

FP32, HALF = 4, 2


@dataclass(frozen=True, slots=True)
class Adapter:
    """What a linear of one setup looks like to autograd."""

    rank: int = 0
    """0: no adapter."""
    dropout: bool = False
    cpu_dropout: bool = False
    quant: str = "none"
    """`none`, `4bit`, `8bit`."""
    trainable: bool = False
    """Full fine-tuning: the weight has a gradient and its input is kept."""
    weight_width: int = HALF
    double_quant: bool = True
    ranks: int = 0
    """FSDP over so many: no autocast, the factors' two-byte weights are gathered when they are needed. 0: none."""
    fp16: bool = False
    """The two-byte numbers are FP16, in which the 8-bit kernels work: no copies in and out."""
    narrow: bool = False
    """DeepSpeed: the factors are two bytes wide, like all else, and nothing is cast."""

    @property
    def narrowed_before(self) -> bool:
        """FSDP and DeepSpeed bring the factors in two bytes, and reduce their gradients later."""
        return self.narrow or self.ranks > 0


def cast(tape: Tape, x: Tensor, width: int) -> Tensor:
    if x.width == width:
        return x
    old, elements = x.width, x.elements
    return tape.make(
        tape.bytes_(elements * width), elements, width, (x,), (), lambda grad: (tape.bytes_(elements * old),)
    )


def narrow(tape: Tape, x: Tensor) -> Tensor:
    """What autocast hands to a matrix product."""
    return cast(tape, x, HALF) if tape.autocast else x


def add(tape: Tape, a: Tensor, b: Tensor) -> Tensor:
    """Residual: the gradient goes to both unchanged."""
    width = max(a.width, b.width)
    widths = (a.width, b.width)
    elements = a.elements

    def backward(grad: list[Storage]) -> Grads:
        return tuple(grad[0] if one == width else tape.bytes_(elements * one) for one in widths)

    return tape.make(tape.bytes_(elements * width), elements, width, (a, b), (), backward)


def scale(tape: Tape, x: Tensor) -> Tensor:
    """Times a Python number: nothing is saved."""
    elements, width = x.elements, x.width
    return tape.make(
        tape.bytes_(elements * width), elements, width, (x,), (), lambda grad: (tape.bytes_(elements * width),)
    )


def unary(tape: Tape, x: Tensor, keep_output: bool = False) -> Tensor:
    """An activation that saves its input (SiLU, GELU) or its output (tanh)."""
    elements, width = x.elements, x.width
    out = tape.bytes_(elements * width)
    saved = out if keep_output else x.storage
    return tape.make(out, elements, width, (x,), (saved,), lambda grad: (tape.bytes_(elements * width),))


def multiply(tape: Tape, a: Tensor, b: Tensor) -> Tensor:
    """Both factors are saved; their gradients are made one after the other."""
    elements, width = a.elements, max(a.width, b.width)
    widths = (a.width, b.width)

    def backward(grad: list[Storage]) -> Grads:
        return tuple(tape.bytes_(elements * one) for one in widths)

    return tape.make(tape.bytes_(elements * width), elements, width, (a, b), (a.storage, b.storage), backward)


def rms_norm(tape: Tape, x: Tensor, style: str, trainable: bool, heads: float = 1.0) -> Tensor:
    """RMSNorm in FP32. `style`: `llama` (weight after the cast back), `gemma` and `olmo2` (weight before it)."""
    elements, width = x.elements, x.width
    wide = cast(tape, x, FP32)
    squares = tape.bytes_(elements * FP32)
    inverse = tape.bytes_(heads * FP32 * 2)
    del squares

    def normalise_backward(grad: list[Storage]) -> Grads:
        # d/dx of x * rsqrt(mean(x^2)): the product for the mean, then the power's own chain, met by the direct path
        direct = tape.bytes_(elements * FP32)
        product = tape.bytes_(elements * FP32)
        del product
        grad.clear()
        chain = [tape.bytes_(elements * FP32) for _ in range(3)]  # mean, power, times two
        back = tape.bytes_(elements * FP32)
        chain.clear()
        total = tape.bytes_(elements * FP32)
        del direct, back
        return (total,)

    def weight_backward(grad: list[Storage]) -> Grads:
        inner = tape.bytes_(elements * grad_width)
        if trainable:
            product = tape.bytes_(elements * grad_width)
            del product
        return (inner,)

    normal = tape.make(
        tape.bytes_(elements * FP32), elements, FP32, (wide,), (wide.storage, inverse), normalise_backward
    )
    del wide
    if style == "llama":
        normal = cast(tape, normal, width)
    grad_width = normal.width
    kept = (normal.storage,) if trainable else ()
    out = tape.make(tape.bytes_(elements * grad_width), elements, grad_width, (normal,), kept, weight_backward)
    del normal
    return cast(tape, out, width)


def layer_norm(tape: Tape, x: Tensor, cast_back: bool) -> Tensor:
    """LayerNorm, which autocast takes to FP32; `cast_back` where the module itself goes to FP32 and back."""
    elements, width = x.elements, x.width
    wide = cast(tape, x, FP32) if tape.autocast or cast_back else x
    made = wide.width
    statistics = tape.bytes_(2 * FP32)
    out = tape.make(
        tape.bytes_(elements * made),
        elements,
        made,
        (wide,),
        (wide.storage, statistics),
        lambda grad: (tape.bytes_(elements * made),),
    )
    del wide
    return cast(tape, out, width) if cast_back else out


def linear(tape: Tape, x: Tensor, outputs: float, kind: Adapter, bias: bool = False) -> Tensor:
    """A linear with its adapter, as PEFT's layer runs it (`tuners/lora/layer.py`, `bnb.py`)."""
    base = _base_linear(tape, x, outputs, kind)
    if not kind.rank:
        return base
    if kind.quant == "4bit":
        base = _clone(tape, base)
    elements, rank = x.elements, kind.rank
    # PEFT casts the input to the factors' dtype; with 4-bit weights only where autocast does not
    wide = not kind.narrow and (kind.quant == "none" or not tape.autocast or kind.ranks > 0)
    source = cast(tape, x, FP32) if wide else x
    dropped = dropout(tape, source, kind.cpu_dropout) if kind.dropout else source
    taken = narrow(tape, dropped)
    del dropped
    low = _small_matmul(tape, taken, elements, rank, kind)
    del taken
    high = _small_matmul(tape, low, rank, outputs, kind)
    del low
    scaled = scale(tape, high)
    del high
    if kind.quant != "none" and not tape.autocast:
        scaled = cast(tape, scaled, base.width)
    out = add(tape, base, scaled)
    width = base.width
    del base, scaled, source
    return cast(tape, out, width) if kind.quant == "none" else out


def _clone(tape: Tape, x: Tensor) -> Tensor:
    return tape.make(tape.bytes_(x.elements * x.width), x.elements, x.width, (x,), (), lambda grad: (grad[0],))


def dropout(tape: Tape, x: Tensor, cpu: bool, per: str = "per_token") -> Tensor:
    """The CPU keeps the scaled mask in the input's dtype, CUDA one byte an element (ATen `native_dropout`). `per`: what
    `x.elements` are of, as `Tape.bytes_` calls it."""
    elements, width = x.elements, x.width
    whole = {per: elements * width}
    mask = tape.bytes_(**{per: elements * (width if cpu else 1)})
    out = tape.bytes_(**whole)
    return tape.make(out, elements, width, (x,), (mask,), lambda grad: (tape.bytes_(**whole),))


def _small_matmul(tape: Tape, x: Tensor, inputs: float, outputs: float, kind: Adapter) -> Tensor:
    """One of the two LoRA factors: FP32 weight, under autocast its two-byte copy and a gradient in both."""
    size, autocast = inputs * outputs, tape.autocast
    if kind.ranks:
        return _sharded_matmul(tape, x, inputs, outputs, kind)
    width = HALF if autocast or kind.narrow else FP32
    saved = [x.storage]
    if autocast:
        saved.append(tape.bytes_(const=HALF * size))

    def backward(grad: list[Storage]) -> Grads:
        first = tape.bytes_(const=HALF * size) if autocast else None
        wide = tape.bytes_(const=(HALF if kind.narrow else FP32) * size)
        del first
        tape.keep(wide)
        return (tape.bytes_(width * inputs),)

    return tape.make(tape.bytes_(width * outputs), outputs, width, (x,), saved, backward)


def _sharded_matmul(tape: Tape, x: Tensor, inputs: float, outputs: float, kind: Adapter) -> Tensor:
    """The same under FSDP: gathered in two bytes for forward and again for backward, whose gradient is reduced in two
    bytes and kept as an FP32 shard."""
    size = inputs * outputs
    gathered = tape.bytes_(const=HALF * size)

    def backward(grad: list[Storage]) -> Grads:
        weight = tape.bytes_(const=HALF * size)
        whole = tape.bytes_(const=HALF * size)
        result = tape.bytes_(HALF * inputs)
        del weight
        flat = tape.bytes_(const=HALF * size)
        del whole
        tape.keep(tape.bytes_(const=FP32 * size / kind.ranks))
        del flat
        return (result,)

    out = tape.make(tape.bytes_(HALF * outputs), outputs, HALF, (x,), (x.storage,), backward)
    del gathered
    return out


def _base_linear(tape: Tape, x: Tensor, outputs: float, kind: Adapter) -> Tensor:
    inputs = x.elements
    size = inputs * outputs
    if kind.quant == "4bit":
        return _linear_4bit(tape, x, outputs, size, kind)
    if kind.quant == "8bit":
        return _linear_8bit(tape, x, outputs, size, kind)
    taken = narrow(tape, x)
    weight, copy = weight_leaf(tape, size, kind)
    width = taken.width
    saved = [taken.storage] if kind.trainable else []
    if copy is not None:
        saved.append(copy)

    def backward(grad: list[Storage]) -> Grads:
        made = tape.bytes_(const=width * size) if kind.trainable else None
        return (tape.bytes_(width * inputs), made)

    return tape.make(tape.bytes_(width * outputs), outputs, width, (taken, weight), saved, backward)


def weight_leaf(tape: Tape, size: float, kind: Adapter) -> tuple[Tensor, Storage | None]:
    """A weight as a matrix product meets it, and the two-byte copy that autocast made of it. Where it trains, its
    gradient arrives in the width of the product and stays in the weight's own."""
    copied = tape.autocast and kind.weight_width != HALF

    def backward(grad: list[Storage]) -> Grads:
        made = tape.bytes_(const=kind.weight_width * size) if copied else grad[0]
        tape.keep(made)
        return ()

    copy = tape.bytes_(const=HALF * size) if copied else None
    weight = tape.make(Storage(tape, ZERO), 0, kind.weight_width, (), (), backward)
    return weight, copy


def dequantised(tape: Tape, size: float, kind: Adapter) -> Storage:
    """The weight of a 4-bit linear in the dtype that it was loaded in, then in the one that is computed in."""
    scales = tape.bytes_(const=FP32 * size / 64) if kind.double_quant else None
    weight = tape.bytes_(const=kind.weight_width * size)
    del scales
    if tape.autocast and kind.weight_width != HALF:
        weight = tape.bytes_(const=HALF * size)
    return weight


def _linear_4bit(tape: Tape, x: Tensor, outputs: float, size: float, kind: Adapter) -> Tensor:
    width, inputs = x.width, x.elements
    computed = HALF if tape.autocast else kind.weight_width
    taken = cast(tape, x, computed)

    def backward(grad: list[Storage]) -> Grads:
        weight = dequantised(tape, size, kind)
        result = tape.bytes_(computed * inputs)
        del weight
        return (result,)

    weight = dequantised(tape, size, kind)
    out = tape.make(tape.bytes_(computed * outputs), outputs, computed, (taken,), (), backward)
    del weight, taken
    return cast(tape, out, width)


def _linear_8bit(tape: Tape, x: Tensor, outputs: float, size: float, kind: Adapter) -> Tensor:
    inputs, width = x.elements, x.width
    direct = kind.fp16 and width == HALF
    half = None if direct else tape.bytes_(HALF * inputs)
    quantised = tape.bytes_(inputs + FP32)
    del half
    product = tape.bytes_(FP32 * outputs)
    out_storage = tape.bytes_(HALF * outputs)
    del product
    if not direct:
        out_storage = tape.bytes_(width * outputs)
    del quantised

    def backward(grad: list[Storage]) -> Grads:
        weight = tape.bytes_(const=width * size)
        result = tape.bytes_(width * inputs)
        del weight
        return (result,)

    return tape.make(out_storage, outputs, width, (x,), (x.storage,), backward)
