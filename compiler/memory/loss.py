"""The end of the forward pass on the symbolic tape: final norm, head and the four cross-entropies, forward and
backward."""

from __future__ import annotations

from functools import lru_cache

from compiler.architecture import Architecture
from compiler.memory.layer import RMS_STYLE
from compiler.memory.operations import (
    FP32,
    HALF,
    Adapter,
    cast,
    layer_norm,
    linear,
    rms_norm,
    scale,
    unary,
)
from compiler.memory.static import autocasts
from compiler.memory.tape import Grads, Size, Storage, Tape, Tensor, highest
from compiler.quick import dataclass
from compiler.values import Setup


@dataclass(frozen=True, slots=True)
class LossCost:
    moments: tuple[tuple[Size, str], ...]
    gradients: float
    """Bytes of gradients that stay: the head's, in full fine-tuning."""
    head_copy: float
    """Two-byte copy of an FP32 head that autocast makes and keeps until forward ends."""
    logit_bytes: int
    """Bytes of a logit."""
    held: Size
    """Live when forward has ended and backward has not begun."""
    idle: float
    """Per token: two-byte logits that are dead, or unchanged, while FP32 ones are made, which need blocks of their
    own."""


def loss_cost(architecture: Architecture, setup: Setup, stream_width: int, head_width: int) -> LossCost:
    trains_head = setup.method == "full" or setup.train_embeddings
    full, autocast, copied = setup.method == "full", autocasts(setup), setup.fsdp == "none"
    return _cost(architecture, setup.cross_entropy, stream_width, head_width, trains_head, full, autocast, copied)


@lru_cache(maxsize=1024)
def _cost(
    a: Architecture,
    cross_entropy: str,
    stream_width: int,
    head_width: int,
    trains_head: bool,
    full: bool,
    autocast: bool,
    copied: bool,
) -> LossCost:
    tape = Tape(autocast=autocast)
    hidden = tape.leaf(a.hidden_size, stream_width)
    hidden.storage = tape.bytes_(a.hidden_size * stream_width)
    hidden = _final_norm(tape, hidden, a, full)
    run = {"standard": _standard, "chunked": _chunked, "liger": _liger, "cut": _cut}[cross_entropy]
    loss, logits = run(tape, hidden, a, head_width, trains_head)
    del hidden
    if copied:
        _returned(tape, logits)
    del logits
    held = tape.live
    tape.backward(loss.node, [Storage(tape, (4.0, 0.0, 0.0, 0.0))])
    copy = HALF * a.vocab_size * a.hidden_size if autocast and head_width == FP32 else 0
    width = HALF if autocast else head_width
    return LossCost(_moments(tape), tape.gradients, float(copy), width, held, _idle(a, cross_entropy, width))


def _idle(a: Architecture, cross_entropy: str, width: int) -> float:
    """The standard loss works in FP32; logits that are scaled (Granite) are there twice before."""
    if cross_entropy not in ("standard", "chunked") or width == FP32:
        return 0.0
    blocks = (cross_entropy == "standard") + (a.logits_scaling is not None)
    return float(blocks * width * a.vocab_size)


def _moments(tape: Tape) -> tuple[tuple[Size, str], ...]:
    """The highest moments of each phase: autocast's copies and copies of chunks are beside some of them only."""
    seen = tape.seen()
    phases = dict.fromkeys(phase for _, phase in seen)
    kept = [highest(moment for moment in seen if moment[1] == phase) for phase in phases]
    return tuple(moment for moments in kept for moment in moments)


def evaluation_moments(
    architecture: Architecture, setup: Setup, stream_width: int, head_width: int
) -> tuple[tuple[Size, str], ...]:
    """The highest moments of the end of an evaluation's forward pass. Liger falls back to the standard loss there."""
    fallback = {"liger": "standard"}
    loss = fallback.get(setup.cross_entropy, setup.cross_entropy)
    return _evaluation(architecture, loss, stream_width, head_width, setup.method == "full", autocasts(setup))


@lru_cache(maxsize=256)
def _evaluation(
    a: Architecture, cross_entropy: str, stream_width: int, head_width: int, full: bool, autocast: bool
) -> tuple[tuple[Size, str], ...]:
    tape = Tape(recording=False, autocast=autocast)
    hidden = tape.leaf(a.hidden_size, stream_width)
    hidden.storage = tape.bytes_(a.hidden_size * stream_width)
    hidden = _final_norm(tape, hidden, a, full)
    run = {"standard": _standard, "chunked": _chunked, "cut": _cut}[cross_entropy]
    loss, logits = run(tape, hidden, a, head_width, False)
    del hidden
    _returned(tape, logits)
    del loss, logits
    return _moments(tape)


def _returned(tape: Tape, logits: Tensor | None) -> None:
    """Under autocast accelerate copies the logits that the model returns to FP32, after autocast has let go of its
    copies of the weights."""
    tape.phase = "returned"
    if tape.autocast and logits is not None:
        copied = tape.bytes_(FP32 * logits.elements)
        del copied


def _final_norm(tape: Tape, hidden: Tensor, a: Architecture, full: bool) -> Tensor:
    if a.norm == "rmsnorm":
        return rms_norm(tape, hidden, RMS_STYLE.get(a.model_type, "llama"), full)
    return layer_norm(tape, hidden, cast_back=a.norm == "layernorm-plain")


Loss = tuple[Tensor, Tensor | None]
"""The loss, and the logits where the model returns them."""


def _logits(tape: Tape, hidden: Tensor, a: Architecture, head_width: int, trains_head: bool) -> Tensor:
    logits = linear(tape, hidden, a.vocab_size, Adapter(trainable=trains_head, weight_width=head_width))
    if a.logits_scaling is not None:
        logits = scale(tape, logits)
    if a.final_logit_softcapping:
        logits = scale(tape, logits)
        logits = unary(tape, logits, keep_output=True)
        logits = scale(tape, logits)
    return logits


def _standard(tape: Tape, hidden: Tensor, a: Architecture, head_width: int, trains_head: bool) -> Loss:
    """transformers' `ForCausalLMLoss`, and accelerate's FP32 copy of the logits that the model returns."""
    logits = _logits(tape, hidden, a, head_width, trains_head)
    vocab = a.vocab_size
    wide = cast(tape, logits, FP32)
    probabilities = tape.bytes_(FP32 * vocab)

    def softmax_backward(grad: list[Storage]) -> Grads:
        return (tape.bytes_(FP32 * vocab),)

    def pick_backward(grad: list[Storage]) -> Grads:
        return (tape.bytes_(FP32 * vocab),)

    normal = tape.make(probabilities, vocab, FP32, (wide,), (probabilities,), softmax_backward)
    del probabilities, wide
    loss = tape.make(tape.bytes_(const=FP32), 0, FP32, (normal,), (), pick_backward)
    return loss, logits


def _chunked(tape: Tape, hidden: Tensor, a: Architecture, head_width: int, trains_head: bool) -> Loss:
    """Axolotl's chunks under torch.compile: two-byte logits kept, gradients in two bytes, then joined; accelerate's
    FP32 copy of the returned logits is the highest moment."""
    logits = _logits(tape, hidden, a, head_width, trains_head)
    tape.phase = "chunks"
    vocab, width = a.vocab_size, logits.width
    rows = tape.bytes_(2 * FP32)

    def parts_backward(grad: list[Storage]) -> Grads:
        return (tape.bytes_(width * vocab),)

    def join_backward(grad: list[Storage]) -> Grads:
        return (tape.bytes_(width * vocab),)

    parts = tape.make(logits.storage, vocab, width, (logits,), (), join_backward)
    loss = tape.make(tape.bytes_(const=FP32), 0, FP32, (parts,), (parts.storage, rows), parts_backward)
    return loss, logits


def _liger(tape: Tape, hidden: Tensor, a: Architecture, head_width: int, trains_head: bool) -> Loss:
    """One chunk of logits at a time; both gradients are made in forward and wait for backward."""
    size, width, inputs = a.vocab_size * a.hidden_size, hidden.width, a.hidden_size
    copied = tape.autocast and head_width == FP32
    computed = HALF if tape.autocast else head_width
    saved = [tape.bytes_(width * inputs)]
    if trains_head:
        saved.append(tape.bytes_(const=head_width * size))
    losses = tape.bytes_(FP32)
    casts = tape.bytes_(const=HALF * size) if copied else None
    narrowed = tape.bytes_(per_row=HALF * inputs) if width != computed else None
    logits = tape.bytes_(per_row=computed * a.vocab_size)
    if not trains_head:
        del casts  # autocast keeps copies of trained leaves alone
        casts = None
    again = tape.bytes_(const=HALF * size) if copied else None
    part = tape.bytes_(per_row=computed * inputs)
    del part, again
    if trains_head:
        product = tape.bytes_(const=computed * size)
        if head_width != computed:
            wide = tape.bytes_(const=head_width * size)
            del wide
        del product
    del logits, casts, narrowed, losses

    def backward(grad: list[Storage]) -> Grads:
        if trains_head:
            tape.keep(saved[1])
        result = saved[0]
        saved.clear()
        return (result,)

    return tape.make(tape.bytes_(const=FP32), 0, FP32, (hidden,), (), backward), None


def _cut(tape: Tape, hidden: Tensor, a: Architecture, head_width: int, trains_head: bool) -> Loss:
    """Only one FP32 log-sum-exp a token survives; backward writes both gradients directly. The casts of autocast are
    part of the function, whose gradients the engine widens while what it saved is still there."""
    size, inputs, own = a.vocab_size * a.hidden_size, a.hidden_size, hidden.width
    width = HALF if tape.autocast else own
    saved = [tape.bytes_(width * inputs) if own != width else hidden.storage, tape.bytes_(FP32)]
    if head_width != width:
        saved.append(tape.bytes_(const=width * size))

    def backward(grad: list[Storage]) -> Grads:
        result = tape.bytes_(width * inputs)
        made = tape.bytes_(const=width * size) if trains_head else None
        if own != width:
            result = tape.bytes_(own * inputs)
        if made is not None and head_width != width:
            made = tape.bytes_(const=head_width * size)
        if made is not None:
            tape.keep(made)
        return (result,)

    return tape.make(tape.bytes_(const=FP32), 0, FP32, (hidden,), saved, backward), None
