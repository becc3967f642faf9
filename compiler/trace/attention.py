"""Attention as CUDA runs it, by its allocations: which tensors are kept for backward and which workspaces a kernel
takes.

Only sizes and lifetimes matter on fake tensors, so the kernels below allocate and compute nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

FLEX = "traced_flex"
FLASH = "traced_fa"
"""Names under which the emulated kernels are registered; transformers looks for the package behind names with
`flash_attention`."""


def autocast_dtype() -> torch.dtype | None:
    """The dtype that autocast would compute in; None outside autocast."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


def _like_heads_last(tensor: torch.Tensor) -> torch.Tensor:
    """Empty, of the same (batch, heads, length, dim), laid out as (batch, length, heads, dim) as the kernels do."""
    batch, heads, length, dim = tensor.shape
    return torch.empty((batch, length, heads, dim), dtype=tensor.dtype, device=tensor.device).transpose(1, 2)


class FlashAttention(torch.autograd.Function):
    """FlashAttention-2 (flash_attn 2.x `flash_api.cpp`; torch's flash backend is the same code).

    q, k, v are (batch, heads, length, dim). Kept: q, k, v, out and the log-sum-exp. Backward also takes the FP32
    accumulator of dq, padded to 128 rows and 32 columns, and with grouped keys the expanded dk and dv.
    """

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        batch, heads, length, _ = query.shape
        out = _like_heads_last(query)
        log_sum_exp = torch.empty((batch, heads, length), dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, out, log_sum_exp)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value, _out, _lse = ctx.saved_tensors
        batch, heads, length, dim = query.shape
        empty = partial(torch.empty, device=query.device)
        grad = grad if grad.stride(-1) == 1 else grad.contiguous()
        grad_query, grad_key, grad_value = (_like_heads_last(one) for one in (query, key, value))
        rows, columns = -(-length // 128) * 128, -(-dim // 32) * 32
        _delta = empty((batch, heads, rows), dtype=torch.float32)
        _accumulator = empty((batch, rows, heads, columns), dtype=torch.float32)
        if key.shape[1] != heads:
            _expanded = [empty((batch, length, heads, dim), dtype=query.dtype) for _ in range(2)]
        return grad_query, grad_key, grad_value


class MemoryEfficientAttention(torch.autograd.Function):
    """torch's memory-efficient kernel, what SDPA takes on CUDA with an additive mask or on a card without flash."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        batch, heads, length, _ = query.shape
        out = _like_heads_last(query)
        log_sum_exp = torch.empty((batch, heads, -(-length // 32) * 32), dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, bias, out, log_sum_exp)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, _bias, _out, log_sum_exp = ctx.saved_tensors
        grads = tuple(_like_heads_last(one) for one in (query, key, value))
        _delta = torch.empty(log_sum_exp.shape, dtype=torch.float32, device=query.device)
        if query.dtype != torch.float32:
            _accumulator = torch.empty(query.shape, dtype=torch.float32, device=query.device)
        return (*grads, None)


class Softmax(torch.autograd.Function):
    """CUDA softmax (ATen/native/cuda/SoftMax.cu): 16-bit input with an FP32 result is one kernel without a copy;
    backward first makes grad * output."""

    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor, dim: int, dtype: torch.dtype) -> torch.Tensor:
        out = torch.empty_like(scores, dtype=dtype)
        ctx.save_for_backward(out)
        ctx.input_dtype = scores.dtype
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (out,) = ctx.saved_tensors
        _product = grad * out
        return torch.empty_like(out, dtype=ctx.input_dtype), None, None


def cuda_softmax(
    input: torch.Tensor,  # noqa: A002
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """`torch.nn.functional.softmax` as CUDA computes it; autocast takes it to FP32."""
    assert dim is not None
    return Softmax.apply(input, dim, dtype or (torch.float32 if autocast_dtype() is not None else input.dtype))


def cuda_sdpa(memory_efficient: bool) -> Callable[..., torch.Tensor]:
    """`scaled_dot_product_attention` as CUDA dispatches it: flash without a mask, else the memory-efficient kernel.

    `memory_efficient`: the card has no flash kernel (before Ampere).
    """

    def attend(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        dtype = autocast_dtype()
        if dtype is not None:
            query, key, value = (one.to(dtype) for one in (query, key, value))
        with torch.autocast("cpu", enabled=False):
            plain = attn_mask is None and not memory_efficient
            if plain and query.dtype == torch.float32 and enable_gqa:
                return _math_attention(query, key, value, scale)
            if plain and query.dtype != torch.float32:
                return FlashAttention.apply(query, key, value)
            if key.shape[1] != query.shape[1]:  # this kernel takes no grouped keys
                groups = query.shape[1] // key.shape[1]
                key, value = (one.repeat_interleave(groups, dim=1) for one in (key, value))
            if attn_mask is not None and attn_mask.dtype == torch.bool:
                attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(
                    attn_mask.logical_not(), float("-inf")
                )
            return MemoryEfficientAttention.apply(query, key, value, attn_mask)

    return attend


def _math_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> torch.Tensor:
    """FP32 with grouped keys: only the plain kernel takes it."""
    groups, factor = query.shape[1] // key.shape[1], (scale or query.shape[-1] ** -0.5) ** 0.5
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    causal = torch.zeros(query.shape[-2], key.shape[-2], dtype=query.dtype, device=query.device)
    weights = torch.matmul(query * factor, (key * factor).transpose(-2, -1)).add_(causal)
    weights = Softmax.apply(weights, -1, query.dtype)
    return torch.matmul(weights, value)


def _flash_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' `flash_attention_forward` on rows without padding: FP32 inputs are cast, the output has heads
    third."""
    if getattr(module, "expands_keys", False) and key.shape[1] != query.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = (one.repeat_interleave(groups, dim=1) for one in (key, value))
    if query.dtype == torch.float32:
        query, key, value = (one.to(autocast_dtype() or torch.bfloat16) for one in (query, key, value))
    with torch.autocast("cpu", enabled=False):
        out = FlashAttention.apply(query, key, value)
    return out.transpose(1, 2), None


def _flex_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' `flex_attention_forward`: the same tensors as flash attention keeps (query, key, value, output,
    log-sum-exp), in the dtype that they come in."""
    dtype = autocast_dtype()
    if dtype is not None:
        query, key, value = (one.to(dtype) for one in (query, key, value))
    with torch.autocast("cpu", enabled=False):
        out = FlashAttention.apply(query, key, value)
    return out.transpose(1, 2), None


def register_flash() -> None:
    """Make `FLASH` and `FLEX` values of transformers' `attn_implementation`."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    for name, forward in ((FLASH, _flash_forward), (FLEX, _flex_forward)):
        AttentionInterface.register(name, forward)
        AttentionMaskInterface.register(name, lambda *args, **kwargs: None)


class Dropout(torch.autograd.Function):
    """CUDA's `native_dropout`: a mask of one byte an element is kept. (The CPU keeps the scaled mask in the input's
    dtype.)"""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(torch.empty(inputs.shape, dtype=torch.bool, device=inputs.device))
        return torch.empty_like(inputs)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (_mask,) = ctx.saved_tensors
        return torch.empty_like(grad)


def _cuda_dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:  # noqa: A002
    return Dropout.apply(input) if training and p > 0 else input


def _cuda_layer_norm(layer_norm: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """CUDA's autocast takes `layer_norm` to FP32 (torch.amp, "CUDA ops that can autocast to float32"); the CPU's
    does not."""

    def run(
        input: torch.Tensor,  # noqa: A002
        shape: Any,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        eps: float = 1e-5,
    ) -> torch.Tensor:
        if autocast_dtype() is None:
            return layer_norm(input, shape, weight, bias, eps)
        weight, bias = (None if one is None else one.float() for one in (weight, bias))
        return layer_norm(input.float(), shape, weight, bias, eps)

    return run


def patched_functions(memory_efficient: bool, on_cpu: bool = False) -> list[tuple[Any, str, Any]]:
    """(object, attribute, replacement) for the time of a trace."""
    import transformers.masking_utils as masks

    enabled = torch.is_autocast_enabled
    return [
        (F, "scaled_dot_product_attention", cuda_sdpa(memory_efficient)),
        (F, "softmax", cuda_softmax),
        *([] if on_cpu else [(F, "dropout", _cuda_dropout), (F, "layer_norm", _cuda_layer_norm(F.layer_norm))]),
        # bitsandbytes' and PEFT's layers ask about CUDA's autocast: answer for the device that is traced
        (torch, "is_autocast_enabled", lambda *args: enabled(*(args if args and args[0] != "cuda" else ("cpu",)))),
        # transformers never skips the causal mask when it believes to be traced; a real run does skip it
        (masks, "is_tracing", lambda *args: False),
        (masks, "find_packed_sequence_indices", lambda *args, **kwargs: None),
    ]
