"""bitsandbytes' 4-bit and 8-bit linears as CUDA runs them, by their allocations.

bitsandbytes' own fake kernels are not used: they hide the dequantised temporary that CUDA allocates.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

BLOCK = 64
"""Weights that share one scale (bitsandbytes' default `blocksize` for 4-bit)."""
NESTED_BLOCK = 256


def dequantise(layer: Any) -> torch.Tensor:
    """The 16-bit weight of a 4-bit layer; nested scales are expanded first (`functional.dequantize_4bit`)."""
    if layer.double_quant:
        _scales = torch.empty(layer.absmax.shape, dtype=torch.float32, device=layer.absmax.device).add_(layer.offset)
    return torch.empty((layer.out_features, layer.in_features), dtype=layer.weight_dtype, device=layer.weight.device)


class MatMul4Bit(torch.autograd.Function):
    """bitsandbytes 0.50 `MatMul4Bit` for more than 1536 rows: dequantise, then a plain linear; only the packed
    weight is kept."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, bias: torch.Tensor | None, layer: Any) -> torch.Tensor:
        ctx.layer = layer
        return F.linear(inputs, dequantise(layer).to(inputs.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_bias = grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        return torch.matmul(grad, dequantise(ctx.layer).to(grad.dtype)), grad_bias, None


class MatMul8Bit(torch.autograd.Function):
    """bitsandbytes 0.50 `MatMul8bitLt`, threshold 6.0. Outlier columns (data dependent, about 0.1 %) are left out."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, bias: torch.Tensor | None, layer: Any) -> torch.Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1])
        empty = partial(torch.empty, device=inputs.device)
        half = rows.to(layer.half_dtype)
        _quantised, _scales = empty(rows.shape, dtype=torch.int8), empty((rows.shape[0],), dtype=torch.float32)
        del half
        product = empty((rows.shape[0], layer.out_features), dtype=torch.int32)
        scaled = empty(product.shape, dtype=layer.half_dtype)
        del product
        out = scaled.to(rows.dtype)  # a bias is added in place before (`backends/cuda/ops.py`, int8_mm_dequant)
        ctx.layer, ctx.shape = layer, inputs.shape
        ctx.save_for_backward(rows)
        return out.reshape(*inputs.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad = grad.reshape(-1, grad.shape[-1]).contiguous()
        (rows,) = ctx.saved_tensors
        weight = ctx.layer.weight.to(rows.dtype, copy=True).mul_(ctx.layer.SCB.unsqueeze(1).mul(1.0 / 127.0))
        grad_bias = grad.sum(0) if ctx.needs_input_grad[1] else None
        return torch.matmul(grad.to(rows.dtype), weight).view(ctx.shape), grad_bias, None


def quantise_linears(
    model: nn.Module,
    bits: int,
    weight_dtype: torch.dtype,
    compute_dtype: torch.dtype,
    double_quant: bool,
    half_dtype: torch.dtype,
) -> None:
    """Replace every linear but the head (transformers' `modules_to_not_convert`) by its 4-bit or 8-bit counterpart,
    on meta."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] != "lm_head":
            parent = model.get_submodule(name.rpartition(".")[0])
            layer = (
                _linear_4bit(module, weight_dtype, compute_dtype, double_quant)
                if bits == 4
                else _linear_8bit(module, half_dtype)
            )
            setattr(parent, name.rpartition(".")[2], layer)
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = bits == 4, bits == 8


def _linear_4bit(
    linear: nn.Linear, weight_dtype: torch.dtype, compute_dtype: torch.dtype, double_quant: bool
) -> nn.Module:
    import bitsandbytes as bnb

    class TracedLinear4bit(bnb.nn.Linear4bit):
        def __init__(self) -> None:
            nn.Module.__init__(self)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            dtype, inputs = inputs.dtype, inputs.to(self.compute_dtype)
            bias = None if self.bias is None else self.bias.to(self.compute_dtype)
            with torch.autocast("cpu", enabled=False):
                out = MatMul4Bit.apply(inputs, bias, self)
            return out.to(dtype)

    layer = TracedLinear4bit()
    layer.out_features, layer.in_features = linear.weight.shape
    count = linear.weight.numel()
    blocks = -(-count // BLOCK)
    meta = partial(torch.empty, device="meta")
    packed = nn.Parameter(meta((count // 4, 1), dtype=torch.bfloat16), requires_grad=False)
    packed.compress_statistics, packed.quant_type, packed.quant_state = double_quant, "nf4", None
    layer.weight, layer.bias, layer.compute_dtype, layer.weight_dtype = packed, linear.bias, compute_dtype, weight_dtype
    layer.compute_type_is_set, layer.quant_state, layer.quant_storage = True, None, torch.bfloat16
    layer.double_quant = double_quant
    buffers = {
        "absmax": meta((blocks,), dtype=torch.uint8 if double_quant else torch.float32),
        "code": meta((16,), dtype=torch.float32),
    }
    if double_quant:
        buffers |= {
            "absmax2": meta((-(-blocks // NESTED_BLOCK),), dtype=torch.float32),
            "code2": meta((256,), dtype=torch.float32),
            "offset": meta((), dtype=torch.float32),
        }
    for name, tensor in buffers.items():
        layer.register_buffer(name, tensor, persistent=False)
    return layer


def _linear_8bit(linear: nn.Linear, half_dtype: torch.dtype) -> nn.Module:
    import bitsandbytes as bnb

    class TracedLinear8bit(bnb.nn.Linear8bitLt):
        def __init__(self) -> None:
            nn.Module.__init__(self)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", enabled=False):
                return MatMul8Bit.apply(inputs, self.bias, self)

    layer = TracedLinear8bit()
    layer.out_features, layer.in_features = linear.weight.shape
    layer.weight = nn.Parameter(torch.empty(linear.weight.shape, dtype=torch.int8, device="meta"), requires_grad=False)
    layer.bias = linear.bias
    layer.register_buffer(
        "SCB", torch.empty((layer.out_features,), dtype=torch.float32, device="meta"), persistent=False
    )
    layer.state = SimpleNamespace(
        has_fp16_weights=False, threshold=6.0, use_pool=False, is_training=True, memory_efficient_backward=False
    )
    layer.index, layer.half_dtype = None, half_dtype
    return layer
