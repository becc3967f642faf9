"""Attention of one layer on the symbolic tape: the kernels of flash attention and sdpa, and eager."""

from __future__ import annotations

from compiler.architecture import Architecture
from compiler.memory.operations import FP32, HALF, dropout, narrow, scale
from compiler.memory.tape import Grads, Storage, Tape, Tensor


def rotary(tape: Tape, x: Tensor, table_width: int) -> Tensor:
    """x * cos + rotate_half(x) * sin; only the tables are saved. The result has the wider of the two dtypes."""
    elements, own, width = x.elements, x.width, max(x.width, table_width)
    product = tape.bytes_(elements * width)
    halves = tape.bytes_(elements * own / 2)
    turned = tape.bytes_(elements * own)
    del halves
    second = tape.bytes_(elements * width)
    del turned
    out = tape.bytes_(elements * width)
    del product, second

    def backward(grad: list[Storage]) -> Grads:
        sine = tape.bytes_(elements * width)
        halves = tape.bytes_(elements * own / 2)
        padded = [tape.bytes_(elements * own) for _ in range(2)]
        del sine, halves
        padded.pop()
        return (tape.bytes_(elements * own),)

    return tape.make(out, elements, width, (x,), (), backward)


def flash(tape: Tape, query: Tensor, key: Tensor, value: Tensor, a: Architecture) -> Tensor:
    """FlashAttention-2: query, key, value, output and log-sum-exp are saved; backward adds the FP32 accumulator of the
    query's gradient, its row sums, and with grouped keys the expanded gradients."""
    query, key, value = (narrow(tape, one) for one in (query, key, value))
    size, kv, heads, width = a.query_size, a.kv_size, a.num_heads, query.width
    padded = heads * -(-a.head_dim // 32) * 32
    out = tape.bytes_(width * size)
    log_sum_exp = tape.bytes_(FP32 * heads)

    def backward(grad: list[Storage]) -> Grads:
        grads = (tape.bytes_(width * size), tape.bytes_(width * kv), tape.bytes_(width * kv))
        work = [tape.bytes_(FP32 * (heads + padded))]
        if kv != size:
            work += [tape.bytes_(width * size), tape.bytes_(width * size)]
        return grads

    saved = (query.storage, key.storage, value.storage, out, log_sum_exp)
    return tape.make(out, size, width, (query, key, value), saved, backward)


def _repeat(tape: Tape, x: Tensor, size: int, view: bool = False) -> Tensor:
    """Grouped keys or values expanded to all heads."""
    if x.elements == size:
        return x
    elements, width = x.elements, x.width
    out = x.storage if view else tape.bytes_(size * width)
    return tape.make(out, size, width, (x,), (), lambda grad: (tape.bytes_(elements * width),))


def efficient(tape: Tape, query: Tensor, key: Tensor, value: Tensor, a: Architecture, masked: bool) -> Tensor:
    """The memory-efficient kernel; with a boolean mask (sliding window) an additive bias is made per call."""
    query, key, value = (narrow(tape, one) for one in (query, key, value))
    size, heads, width = a.query_size, a.num_heads, query.width
    view = a.num_kv_heads == 1  # expanding a single head needs no copy
    key, value = _repeat(tape, key, size, view), _repeat(tape, value, size, view)
    saved = [query.storage, key.storage, value.storage]
    if masked:
        saved.append(tape.bytes_(per_length=width))
        inverse = tape.bytes_(per_length=1)
        del inverse
    out = tape.bytes_(width * size)
    saved += [out, tape.bytes_(FP32 * heads)]

    def backward(grad: list[Storage]) -> Grads:
        grads = tuple(tape.bytes_(width * size) for _ in range(3))
        work = tape.bytes_(FP32 * (heads + (size if width == HALF else 0)))
        del work
        return grads

    return tape.make(out, size, width, (query, key, value), saved, backward)


def plain(tape: Tape, query: Tensor, key: Tensor, value: Tensor, a: Architecture) -> Tensor:
    """torch's own kernel for what no other takes: FP32 with grouped keys. All scores are held."""
    size, heads = a.query_size, a.num_heads
    key, value = _repeat(tape, key, size), _repeat(tape, value, size)
    query, key = scale(tape, query), scale(tape, key)
    scores = _product(tape, query, key, heads, size)
    del query, key
    weights = _softmax(tape, scores)
    del scores

    def backward(grad: list[Storage]) -> Grads:
        return (tape.bytes_(per_length=FP32 * heads), tape.bytes_(FP32 * size))

    saved = (weights.storage, value.storage)
    return tape.make(tape.bytes_(FP32 * size), size, FP32, (weights, value), saved, backward)


def eager(
    tape: Tape, query: Tensor, key: Tensor, value: Tensor, a: Architecture, mask_width: int, single: bool, cpu: bool
) -> Tensor:
    """Scores kept whole: scaled, capped (Gemma 2), masked (which widens them to the mask's dtype), FP32 softmax, and
    the copy that meets the values."""
    size, heads = a.query_size, a.num_heads
    key, value = _repeat(tape, key, size, single), _repeat(tape, value, size, single)
    taken_query, taken_key = narrow(tape, query), narrow(tape, key)
    width = taken_query.width
    scores = _product(tape, taken_query, taken_key, heads, size)
    del taken_query, taken_key
    scores = _scores(tape, scores)
    if a.attn_logit_softcapping:
        scores = _scores(tape, scores)
        scores = _scores(tape, scores, keep=True)
        scores = _scores(tape, scores)
    scores = _masked(tape, scores, max(width, mask_width))
    weights = _softmax(tape, scores)
    del scores
    taken = _narrowed(tape, weights, width)
    del weights
    if a.attention_dropout and tape.recording:
        taken = dropout(tape, taken, cpu, "per_length")
    taken_value = narrow(tape, value)

    def backward(grad: list[Storage]) -> Grads:
        return (tape.bytes_(per_length=width * heads), tape.bytes_(width * size))

    saved = (taken.storage, taken_value.storage)
    mixed = tape.make(tape.bytes_(width * size), size, width, (taken, taken_value), saved, backward)
    # heads go back behind the length: a copy
    return tape.make(tape.bytes_(width * size), size, width, (mixed,), (), lambda grad: (grad[0],))


def _product(tape: Tape, query: Tensor, key: Tensor, heads: int, size: int) -> Tensor:
    width = query.width

    def backward(grad: list[Storage]) -> Grads:
        return (tape.bytes_(width * size), tape.bytes_(width * size))

    out = tape.bytes_(per_length=width * heads)
    return tape.make(out, heads, width, (query, key), (query.storage, key.storage), backward)


def _scores(tape: Tape, x: Tensor, keep: bool = False) -> Tensor:
    """Times a number, or (`keep`) its tanh, which is saved."""
    size = x.width * x.elements
    out = tape.bytes_(per_length=size)
    saved = (out,) if keep else ()
    return tape.make(out, x.elements, x.width, (x,), saved, lambda grad: (tape.bytes_(per_length=size),))


def _masked(tape: Tape, x: Tensor, width: int) -> Tensor:
    """Plus the mask: the gradient goes through, in the scores' own dtype."""
    heads, own = x.elements, x.width
    out = tape.bytes_(per_length=width * heads)
    return tape.make(
        out, heads, width, (x,), (), lambda grad: (grad[0] if own == width else tape.bytes_(per_length=own * heads),)
    )


def _softmax(tape: Tape, x: Tensor) -> Tensor:
    """FP32 result in one kernel; backward makes grad * output first (ATen SoftMax.cu)."""
    heads, own = x.elements, x.width
    out = tape.bytes_(per_length=FP32 * heads)

    def backward(grad: list[Storage]) -> Grads:
        product = tape.bytes_(per_length=FP32 * heads)
        result = tape.bytes_(per_length=own * heads)
        del product
        return (result,)

    return tape.make(out, heads, FP32, (x,), (out,), backward)


def _narrowed(tape: Tape, x: Tensor, width: int) -> Tensor:
    if x.width == width:
        return x
    heads = x.elements
    out = tape.bytes_(per_length=width * heads)
    return tape.make(out, heads, width, (x,), (), lambda grad: (tape.bytes_(per_length=FP32 * heads),))
