"""The losses that replace the standard one, by their allocations: Liger's and cut cross-entropy, Axolotl's chunked
one, older transformers' shifted copies. The standard loss is transformers' own and needs nothing here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import MethodType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from compiler.memory.lines import chunk_rows
from compiler.trace.attention import autocast_dtype
from compiler.trace.foak import LinearCrossEntropy, linear_loss_forward
from compiler.trace.foak import cross_entropy as fused_cross_entropy
from compiler.trace.versions import Version

IGNORED = -100
CHUNKS = 8
"""Axolotl's `chunked_cross_entropy_num_chunks` default (`monkeypatch/loss/chunked.py`)."""


class LigerFusedLinear(torch.autograd.Function):
    """liger_kernel 0.8.1 `fused_linear_cross_entropy_forward`, operation for operation; its Triton kernels work in
    place."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        tokens, size = hidden.shape
        rows = chunk_rows(tokens, weight.shape[0], size)
        grad_hidden = torch.zeros_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        loss = torch.zeros(tokens, dtype=torch.float32, device=hidden.device)
        for start in range(0, tokens, rows):
            part = hidden[start : start + rows]
            logits = part @ weight.t()
            grad_hidden[start : start + rows] = logits @ weight
            if grad_weight is not None:
                product = torch.mm(logits.t(), part)
                grad_weight += product.float() if weight.dtype == torch.float32 else product
                del product
            del logits
        ctx.save_for_backward(grad_hidden, grad_weight)
        return loss.sum()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden, grad_weight, None


class CutCrossEntropy(torch.autograd.Function):
    """Cut cross-entropy (arXiv:2411.09009): only one FP32 log-sum-exp a token survives; gradients are written
    directly."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        dtype = autocast_dtype()
        if dtype is not None:
            hidden, weight = hidden.to(dtype), weight.to(dtype)
        log_sum_exp = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        picked = torch.empty_like(log_sum_exp)
        ctx.save_for_backward(hidden, weight, log_sum_exp, target)
        return (log_sum_exp - picked).mean()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, _lse, _target = ctx.saved_tensors
        grad_hidden = torch.zeros_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        _order = torch.empty(weight.shape[0], dtype=torch.int64, device=weight.device)
        return grad_hidden, grad_weight, None


class CompiledChunk(torch.autograd.Function):
    """Cross-entropy of one chunk of 16-bit logits under torch.compile: the FP32 values stay in registers, the logits
    and two numbers a row are kept, backward writes the 16-bit gradient."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        rows = torch.empty((2, logits.shape[0]), dtype=torch.float32, device=logits.device)
        ctx.save_for_backward(logits, rows, target)
        return rows.sum()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, _rows, _target = ctx.saved_tensors
        return torch.empty_like(logits), None


def chunked_loss(logits: torch.Tensor, labels: torch.Tensor, vocab_size: int | None = None, **_: Any) -> torch.Tensor:
    """Axolotl's `for_causal_lm_chunked_loss`: chunks along the length, summed one by one."""
    labels = F.pad(labels, (0, 1), value=IGNORED)[..., 1:].contiguous()
    total: torch.Tensor | float = 0.0
    for part, target in zip(logits.chunk(CHUNKS, dim=1), labels.chunk(CHUNKS, dim=1), strict=True):
        total = total + CompiledChunk.apply(part.reshape(-1, part.size(-1)), target.reshape(-1))
    assert isinstance(total, torch.Tensor)
    return total / labels.numel()


def _fused_forward(function: type[torch.autograd.Function]) -> Callable[..., CausalLMOutputWithPast]:
    def forward(
        self: nn.Module,
        input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        hidden = _decoder(self)(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, use_cache=False
        )[0]
        target = F.pad(labels, (0, 1), value=IGNORED)[..., 1:].contiguous().view(-1)
        loss = function.apply(hidden.reshape(-1, hidden.shape[-1]), self.lm_head.weight, target)
        # FSDP2 looks for tensors to hook onto in outputs of transformers' own kind only
        return CausalLMOutputWithPast(loss=loss, logits=None)

    return forward


def _shifted_forward(
    keep_logits: bool, convert: bool, caches: _Caches | None, loss_of: Callable[..., torch.Tensor]
) -> Callable[..., SimpleNamespace]:
    """The losses of older transformers (`compiler.trace.versions`): the logits, perhaps an FP32 copy of them, and a
    shifted copy. `keep_logits`: the output holds what the head gave, not the FP32 copy."""

    def forward(
        self: nn.Module,
        input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **_: Any,
    ) -> SimpleNamespace:
        with caches.kept() if caches else nullcontext([]) as cached:
            hidden = _decoder(self)(
                input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, use_cache=False
            )[0]
        logits = self.lm_head(hidden)
        softcap = getattr(self.config, "final_logit_softcapping", None)
        if softcap:
            logits = torch.tanh(logits / softcap) * softcap
        scaling = getattr(self.config, "logits_scaling", None)
        if scaling:
            logits = logits / scaling
        kept = logits if keep_logits else None
        if convert:
            logits = logits.float()
        shifted, target = logits[..., :-1, :].contiguous(), labels[..., 1:].contiguous()
        loss = loss_of(shifted.view(-1, shifted.shape[-1]), target.view(-1))
        return SimpleNamespace(loss=loss, logits=logits if kept is None else kept, past_key_values=cached)

    return forward


class _Caches:
    """Keeps what the layers' fused key/value projections give, as a cache that nobody switched off does."""

    def __init__(self, model: nn.Module) -> None:
        self.tensors: list[torch.Tensor] | None = None
        for name, module in model.named_modules():
            if name.endswith("attn.c_attn"):
                module.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if self.tensors is not None:
            self.tensors.append(output.detach())

    @contextmanager
    def kept(self) -> Iterator[list[torch.Tensor]]:
        """The list that fills while the model runs forward; a recomputation in backward adds nothing."""
        self.tensors = []
        try:
            yield self.tensors
        finally:
            self.tensors = None


def _decoder(model: nn.Module) -> nn.Module:
    return model.get_decoder() if hasattr(model, "get_decoder") else model.base_model


def install_loss(model: nn.Module, cross_entropy: str, version: Version, fused: bool = False) -> None:
    """Give the model the loss of a setup, the standard one as that version of transformers has it. After the adapter:
    what a cache keeps is the adapted projection's output. `fused`: with FOAK's kernels."""
    if fused and cross_entropy == "liger":
        model.forward = MethodType(linear_loss_forward(LinearCrossEntropy.apply, _decoder), model)
    elif cross_entropy == "liger":
        model.forward = MethodType(_fused_forward(LigerFusedLinear), model)
    elif cross_entropy == "cut":
        model.forward = MethodType(_fused_forward(CutCrossEntropy), model)
    elif cross_entropy == "chunked":
        model.loss_function = chunked_loss
    elif version.loss != "current":
        family = model.config.model_type
        caches = _Caches(model) if family in version.cached else None
        loss_of = fused_cross_entropy if fused else F.cross_entropy
        forward = _shifted_forward(version.loss == "kept", family not in version.unconverted, caches, loss_of)
        model.forward = MethodType(forward, model)
