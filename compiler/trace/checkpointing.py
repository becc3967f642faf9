"""Gradient checkpointing whose kept hidden states live in host RAM (Axolotl's `hidden_states` offloading)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from compiler.trace.attention import autocast_dtype


class OffloadedCheckpoint(torch.autograd.Function):
    """Recompute with the layer's input brought back from the host: only its shape is kept on the device."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., torch.Tensor], hidden: torch.Tensor, *args: Any) -> torch.Tensor:
        ctx.function, ctx.args, ctx.autocast = function, args, autocast_dtype()
        ctx.shape, ctx.dtype, ctx.device = hidden.shape, hidden.dtype, hidden.device
        with torch.no_grad():
            return function(hidden, *args)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        hidden = torch.empty(ctx.shape, dtype=ctx.dtype, device=ctx.device).requires_grad_()
        with (
            torch.enable_grad(),
            torch.autocast("cpu", dtype=ctx.autocast or torch.bfloat16, enabled=ctx.autocast is not None),
        ):
            out = ctx.function(hidden, *ctx.args)
        torch.autograd.backward(out, grad)
        return (None, hidden.grad) + (None,) * len(ctx.args)


def _offloaded(function: Callable[..., torch.Tensor], hidden: torch.Tensor, *args: Any) -> torch.Tensor:
    return OffloadedCheckpoint.apply(function, hidden, *args)


def install_checkpointing(model: nn.Module, mode: str, reentrant: bool = False) -> None:
    """`off`, `on` (transformers' own) or `offload`."""
    if mode == "off":
        model.gradient_checkpointing_disable()
        return
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    if mode == "offload":
        for module in model.modules():
            if hasattr(module, "_gradient_checkpointing_func"):
                module._gradient_checkpointing_func = _offloaded
