"""Attention of one layer on the symbolic tape: flash (also sdpa without a mask), sdpa with a mask, and eager."""

from __future__ import annotations

from compiler.architecture import Architecture
from compiler.memory.operations import FP32, HALF, cast
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
    query, key, value = (cast(tape, one, HALF) for one in (query, key, value))
    size, kv, heads = a.query_size, a.kv_size, a.num_heads
    padded = heads * -(-a.head_dim // 32) * 32
    out = tape.bytes_(HALF * size)
    log_sum_exp = tape.bytes_(FP32 * heads)

    def backward(grad: list[Storage]) -> Grads:
        grads = (tape.bytes_(HALF * size), tape.bytes_(HALF * kv), tape.bytes_(HALF * kv))
        work = [tape.bytes_(FP32 * (heads + padded))]
        if kv != size:
            work += [tape.bytes_(HALF * size), tape.bytes_(HALF * size)]
        return grads

    saved = (query.storage, key.storage, value.storage, out, log_sum_exp)
    return tape.make(out, size, HALF, (query, key, value), saved, backward)


def _repeat(tape: Tape, x: Tensor, size: int) -> Tensor:
    """Grouped keys or values expanded to all heads."""
    if x.elements == size:
        return x
    elements, width = x.elements, x.width
    return tape.make(tape.bytes_(size * width), size, width, (x,), (), lambda grad: (tape.bytes_(elements * width),))


def masked_sdpa(tape: Tape, query: Tensor, key: Tensor, value: Tensor, a: Architecture) -> Tensor:
    """SDPA with a boolean mask (sliding window): the memory-efficient kernel with an additive bias made per call."""
    query, key, value = (cast(tape, one, HALF) for one in (query, key, value))
    size, heads = a.query_size, a.num_heads
    key, value = _repeat(tape, key, size), _repeat(tape, value, size)
    bias = tape.bytes_(per_length=HALF)
    inverse = tape.bytes_(per_length=1)
    del inverse
    out = tape.bytes_(HALF * size)
    log_sum_exp = tape.bytes_(FP32 * heads)

    def backward(grad: list[Storage]) -> Grads:
        grads = tuple(tape.bytes_(HALF * size) for _ in range(3))
        work = tape.bytes_(FP32 * (heads + size))
        del work
        return grads

    saved = (query.storage, key.storage, value.storage, bias, out, log_sum_exp)
    return tape.make(out, size, HALF, (query, key, value), saved, backward)


def eager(tape: Tape, query: Tensor, key: Tensor, value: Tensor, a: Architecture) -> Tensor:
    """Scores kept whole: scaled, capped (Gemma 2), masked, FP32 softmax, and the two-byte copy that meets the
    values."""
    size, heads = a.query_size, a.num_heads
    key, value = _repeat(tape, key, size), _repeat(tape, value, size)
    narrow_query, narrow_key = cast(tape, query, HALF), cast(tape, key, HALF)
    scores = _product(tape, narrow_query, narrow_key, heads, size)
    del narrow_query, narrow_key
    scores = _elementwise(tape, scores)
    if a.attn_logit_softcapping:
        scores = _elementwise(tape, scores)
        scores = _tanh(tape, scores)
        scores = _elementwise(tape, scores)
    scores = _elementwise(tape, scores, passes=True)
    weights = _softmax(tape, scores)
    narrow = _narrow(tape, weights)
    del weights, scores
    narrow_value = cast(tape, value, HALF)

    def backward(grad: list[Storage]) -> Grads:
        return (tape.bytes_(per_length=HALF * heads), tape.bytes_(HALF * size))

    saved = (narrow.storage, narrow_value.storage)
    mixed = tape.make(tape.bytes_(HALF * size), size, HALF, (narrow, narrow_value), saved, backward)
    # heads go back behind the length: a copy
    return tape.make(tape.bytes_(HALF * size), size, HALF, (mixed,), (), lambda grad: (grad[0],))


def _product(tape: Tape, query: Tensor, key: Tensor, heads: int, size: int) -> Tensor:
    def backward(grad: list[Storage]) -> Grads:
        return (tape.bytes_(HALF * size), tape.bytes_(HALF * size))

    out = tape.bytes_(per_length=HALF * heads)
    return tape.make(out, heads, HALF, (query, key), (query.storage, key.storage), backward)


def _elementwise(tape: Tape, x: Tensor, passes: bool = False) -> Tensor:
    """Times a number, or plus the mask (`passes`: the gradient goes through unchanged)."""
    heads = x.elements
    out = tape.bytes_(per_length=HALF * heads)
    return tape.make(
        out, heads, HALF, (x,), (), lambda grad: (grad[0] if passes else tape.bytes_(per_length=HALF * heads),)
    )


def _tanh(tape: Tape, x: Tensor) -> Tensor:
    heads = x.elements
    out = tape.bytes_(per_length=HALF * heads)
    return tape.make(out, heads, HALF, (x,), (out,), lambda grad: (tape.bytes_(per_length=HALF * heads),))


def _softmax(tape: Tape, x: Tensor) -> Tensor:
    """FP32 result from two-byte scores in one kernel; backward makes grad * output first (ATen SoftMax.cu)."""
    heads = x.elements
    out = tape.bytes_(per_length=FP32 * heads)

    def backward(grad: list[Storage]) -> Grads:
        product = tape.bytes_(per_length=FP32 * heads)
        result = tape.bytes_(per_length=HALF * heads)
        del product
        return (result,)

    return tape.make(out, heads, FP32, (x,), (out,), backward)


def _narrow(tape: Tape, x: Tensor) -> Tensor:
    heads = x.elements
    out = tape.bytes_(per_length=HALF * heads)
    return tape.make(out, heads, HALF, (x,), (), lambda grad: (tape.bytes_(per_length=FP32 * heads),))
