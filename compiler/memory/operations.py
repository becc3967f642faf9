"""The operations of a decoder as torch runs them under BF16 autocast: what each allocates, saves and passes back.

All take and return `Tensor`s of a `Tape`. Widths are bytes per element. Autocast makes linears compute in two bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.memory.tape import Grads, Storage, Tape, Tensor

FP32, HALF = 4, 2


@dataclass(frozen=True, slots=True)
class Adapter:
    """What a linear of one setup looks like to autograd."""

    rank: int = 0
    """0: no adapter."""
    dropout: bool = False
    cpu_dropout: bool = False
    """The CPU keeps the scaled mask in the input's dtype, CUDA one byte an element (ATen `native_dropout`)."""
    quant: str = "none"
    """`none`, `4bit`, `8bit`."""
    trainable: bool = False
    """Full fine-tuning: the weight has a gradient and its input is kept."""
    weight_width: int = HALF


def cast(tape: Tape, x: Tensor, width: int) -> Tensor:
    if x.width == width:
        return x
    old, elements = x.width, x.elements
    return tape.make(
        tape.bytes_(elements * width), elements, width, (x,), (), lambda grad: (tape.bytes_(elements * old),)
    )


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
    """LayerNorm, which autocast takes to FP32; `cast_back` where the module itself returns the input's dtype."""
    elements, width = x.elements, x.width
    wide = cast(tape, x, FP32)
    statistics = tape.bytes_(2 * FP32)
    out = tape.make(
        tape.bytes_(elements * FP32),
        elements,
        FP32,
        (wide,),
        (wide.storage, statistics),
        lambda grad: (tape.bytes_(elements * FP32),),
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
    source = cast(tape, x, FP32) if kind.quant == "none" else x
    dropped = _dropout(tape, source, kind) if kind.dropout else source
    narrow = cast(tape, dropped, HALF)
    del dropped
    low = _small_matmul(tape, narrow, elements, rank, kind)
    del narrow
    high = _small_matmul(tape, low, rank, outputs, kind)
    del low
    scaled = scale(tape, high)
    del high
    out = add(tape, base, scaled)
    del base, scaled, source
    return out


def _clone(tape: Tape, x: Tensor) -> Tensor:
    return tape.make(tape.bytes_(x.elements * x.width), x.elements, x.width, (x,), (), lambda grad: (grad[0],))


def _dropout(tape: Tape, x: Tensor, kind: Adapter) -> Tensor:
    elements, width = x.elements, x.width
    mask = tape.bytes_(elements * (width if kind.cpu_dropout else 1))
    out = tape.bytes_(elements * width)
    return tape.make(out, elements, width, (x,), (mask,), lambda grad: (tape.bytes_(elements * width),))


def _small_matmul(tape: Tape, x: Tensor, inputs: float, outputs: float, kind: Adapter) -> Tensor:
    """One of the two LoRA factors: FP32 weight, its two-byte copy of autocast, a gradient in both."""
    size = inputs * outputs
    copy = tape.bytes_(const=HALF * size)

    def backward(grad: list[Storage]) -> Grads:
        narrow = tape.bytes_(const=HALF * size)
        wide = tape.bytes_(const=FP32 * size)
        del narrow
        tape.keep(wide)
        return (tape.bytes_(HALF * inputs),)

    return tape.make(tape.bytes_(HALF * outputs), outputs, HALF, (x,), (x.storage, copy), backward)


def _base_linear(tape: Tape, x: Tensor, outputs: float, kind: Adapter) -> Tensor:
    inputs = x.elements
    size = inputs * outputs
    if kind.quant == "4bit":
        return _linear_4bit(tape, x, outputs, size)
    if kind.quant == "8bit":
        return _linear_8bit(tape, x, outputs, size)
    narrow = cast(tape, x, HALF)
    saved = [narrow.storage] if kind.trainable else []
    if kind.weight_width != HALF:
        saved.append(tape.bytes_(const=HALF * size))

    def backward(grad: list[Storage]) -> Grads:
        if kind.trainable:
            weight = tape.bytes_(const=HALF * size)
            if kind.weight_width != HALF:
                weight = tape.bytes_(const=kind.weight_width * size)
            tape.keep(weight)
        return (tape.bytes_(HALF * inputs),)

    return tape.make(tape.bytes_(HALF * outputs), outputs, HALF, (narrow,), saved, backward)


def dequantised(tape: Tape, size: float) -> Storage:
    scales = tape.bytes_(const=FP32 * size / 64)
    weight = tape.bytes_(const=HALF * size)
    del scales
    return weight


def _linear_4bit(tape: Tape, x: Tensor, outputs: float, size: float) -> Tensor:
    width, inputs = x.width, x.elements
    narrow = cast(tape, x, HALF)

    def backward(grad: list[Storage]) -> Grads:
        weight = dequantised(tape, size)
        result = tape.bytes_(HALF * inputs)
        del weight
        return (result,)

    weight = dequantised(tape, size)
    out = tape.make(tape.bytes_(HALF * outputs), outputs, HALF, (narrow,), (), backward)
    del weight, narrow
    return cast(tape, out, width)


def _linear_8bit(tape: Tape, x: Tensor, outputs: float, size: float) -> Tensor:
    inputs, width = x.elements, x.width
    half = tape.bytes_(HALF * inputs)
    quantised = tape.bytes_(inputs + FP32)
    del half
    product = tape.bytes_(FP32 * outputs)
    scaled = tape.bytes_(HALF * outputs)
    del product
    out_storage = tape.bytes_(width * outputs)
    del scaled, quantised

    def backward(grad: list[Storage]) -> Grads:
        weight = tape.bytes_(const=width * size)
        result = tape.bytes_(width * inputs)
        del weight
        return (result,)

    return tape.make(out_storage, outputs, width, (x,), (x.storage,), backward)
