"""The fused kernels of fms-acceleration (`plugins/fused-ops-and-kernels`, FOAK), by their allocations: cross-entropy,
RMSNorm and RoPE extracted from Unsloth, LoRA fused over q, k, v and o of quantised weights, Liger's linear loss.

They exist to hold the tracer against what that project published; no plan of ours uses them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn

from compiler.memory.lines import chunk_rows
from compiler.trace.quantised import dequantise
from compiler.trace.versions import Version
from compiler.values import Setup


class CrossEntropy(torch.autograd.Function):
    """`Fast_CrossEntropyLoss`: logits and one log-sum-exp a row are kept; backward writes over the logits."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        losses = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
        ctx.save_for_backward(logits, torch.empty_like(losses), target)
        return losses

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.saved_tensors[0], None


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """`FastCrossEntropyLoss`."""
    return CrossEntropy.apply(logits, target).sum() / torch.count_nonzero(target != -100)


def more_reserved_bytes(config: dict[str, Any], setup: Setup, version: Version) -> int:
    """What a run with FOAK's `FastCrossEntropyLoss` reserves beyond the replay: one more block of the logits that the
    loss reads.

    Observed, not derived: `max_memory_allocated` leaves no room for such a tensor beside the others, and FOAK's code
    makes none. But reserved memory of Mistral with 16-bit LoRA is above the replay by 4 bytes a logit and a few hidden
    states at three batch sizes, to 8 MiB; Mistral's 4-bit rows, and SantaCoder's with the 2 bytes that its loss reads,
    agree. Granite, which divides its logits first, has no such block in six rows.
    """
    if setup.cross_entropy != "standard" or config.get("logits_scaling") is not None:
        return 0
    width = 2 if config["model_type"] in version.unconverted else 4
    return width * config["vocab_size"] * setup.micro_batch * setup.sequence_len


class LinearCrossEntropy(torch.autograd.Function):
    """`LigerFusedLinearCrossEntropyFunction` as FOAK has it: each chunk of logits also goes to FP32 and back, and is
    scaled into one more copy."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        tokens, size = hidden.shape
        rows, dtype = chunk_rows(tokens, weight.shape[0], size), hidden.dtype
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_hidden = torch.zeros_like(hidden)
        loss = torch.zeros(tokens, dtype=torch.float32, device=hidden.device)
        for start in range(0, tokens, rows):
            part = hidden[start : start + rows]
            logits = part @ weight.t()
            logits = logits.float()
            logits = logits.to(dtype)
            scaled = logits * 1.0
            grad_hidden[start : start + rows] = scaled @ weight
            if grad_weight is not None:
                torch.addmm(grad_weight, logits.t(), part, out=grad_weight)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return loss.sum()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden, grad_weight, None


class RMSNorm(torch.autograd.Function):
    """`Fast_RMS_Layernorm`: input and one number a row are kept; backward writes over the gradient."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        rows = torch.empty(hidden.numel() // hidden.shape[-1], dtype=torch.float32, device=hidden.device)
        ctx.save_for_backward(hidden, weight, rows)
        return torch.empty_like(hidden)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad, None


class Rope(torch.autograd.Function):
    """`Fast_RoPE_Embedding`: in place, forward and backward."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor) -> torch.Tensor:
        return states.view_as(states)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad.contiguous()


def rope(query: torch.Tensor, key: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """`fast_rope_embedding`."""
    return tuple(Rope.apply(one.transpose(1, 2)).transpose(1, 2) for one in (query, key))  # type: ignore[return-value]


class FusedLora(torch.autograd.Function):
    """`LoRA_QKV` and `LoRA_W` over linears that read one input: the input and its dropped-out copy for each linear are
    kept. `grad_over_input`: the input's gradient is written over the kept input (`LoRA_QKV` does, `LoRA_W` does not).
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, layers: tuple[nn.Module, ...], grad_over_input: bool, *adapters: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        rows = inputs.reshape(-1, inputs.shape[-1])
        outs, dropped = [], []
        for layer, down, up in zip(layers, adapters[::2], adapters[1::2], strict=True):
            out = torch.matmul(rows, _weight(layer).t())
            kept = layer.lora_dropout["default"](rows)
            out += (kept @ down.t().to(rows.dtype)) @ (1.0 * up.t().to(rows.dtype))
            outs.append(out.view(*inputs.shape[:-1], -1))
            dropped.append(kept)
        ctx.layers, ctx.over = layers, grad_over_input
        ctx.save_for_backward(inputs, *dropped, *adapters)
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        count = len(ctx.layers)
        inputs, *rest = ctx.saved_tensors
        dropped, adapters = rest[:count], rest[count:]
        rows = inputs.reshape(-1, inputs.shape[-1])
        grads = tuple(grad.reshape(-1, grad.shape[-1]) for grad in grads)
        made: list[torch.Tensor] = []
        for grad, kept, down, up in zip(grads, dropped, adapters[::2], adapters[1::2], strict=True):
            grad_down = kept.t() @ (grad @ up.to(grad.dtype))
            grad_up = (down.to(grad.dtype) @ kept.t()) @ grad
            made += [grad_down.t().to(down.dtype), grad_up.t().to(up.dtype)]
        total: torch.Tensor | None = None
        for index, (layer, grad, kept) in enumerate(zip(ctx.layers, grads, dropped, strict=True)):
            weight = _weight(layer).to(grad.dtype)
            if not index and ctx.over:
                total = rows  # `torch.matmul(..., out=X)`
            else:
                through = torch.matmul(grad, weight)
                total = through if total is None else total.add_(through)
                del through
            del weight
            down, up = adapters[2 * index], adapters[2 * index + 1]
            assert total is not None
            total += (kept != 0) * (grad @ up.to(grad.dtype) @ (1.0 * down.to(grad.dtype)))
        assert total is not None
        return (total.view(inputs.shape), None, None, *made)


def _weight(layer: Any) -> torch.Tensor:
    base = layer.base_layer
    return dequantise(base) if hasattr(base, "double_quant") else base.weight


def _apply(layers: tuple[Any, ...], inputs: torch.Tensor, grad_over_input: bool) -> tuple[torch.Tensor, ...]:
    adapters = [one for layer in layers for one in (layer.lora_A["default"].weight, layer.lora_B["default"].weight)]
    with torch.autocast("cpu", enabled=False):
        return FusedLora.apply(inputs, layers, grad_over_input, *adapters)


def _fuse(attention: nn.Module) -> None:
    """The first of q, k and v that is called computes all three; o is its own."""
    layers = tuple(getattr(attention, name) for name in ("q_proj", "k_proj", "v_proj"))
    waiting: dict[int, torch.Tensor] = {}

    def one(index: int, layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        if not waiting:
            waiting.update(enumerate(_apply(layers, inputs, True)))
        return waiting.pop(index)

    for index, layer in enumerate(layers):
        layer.forward = MethodType(lambda self, inputs, index=index: one(index, self, inputs), layer)
    attention.o_proj.forward = MethodType(lambda self, inputs: _apply((self,), inputs, False)[0], attention.o_proj)


def install_foak(model: nn.Module, quantised: bool) -> None:
    """Patch a Llama-like model as FOAK's rules do: RMSNorm always, LoRA where the weights are quantised."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2].endswith("norm") and hasattr(module, "variance_epsilon"):
            module.forward = MethodType(lambda self, hidden: RMSNorm.apply(hidden, self.weight), module)
        elif quantised and hasattr(module, "o_proj") and hasattr(module.o_proj, "lora_A"):
            _fuse(module)


def foak_patches(model: nn.Module) -> list[tuple[Any, str, Callable[..., Any]]]:
    """(object, attribute, replacement) for the time of a trace: the RoPE of the model's own file."""
    module = sys.modules[type(model).__module__]
    return [(module, "apply_rotary_pos_emb", rope)] if hasattr(module, "apply_rotary_pos_emb") else []


def linear_loss_forward(function: Callable[..., torch.Tensor], decoder: Callable[[nn.Module], nn.Module]) -> Any:
    """`lce_forward`: the hidden states are shifted into a copy, the loss is made from that."""

    def forward(self: nn.Module, labels: torch.Tensor | None = None, **given: Any) -> Any:
        from types import SimpleNamespace

        hidden = decoder(self)(**given | {"use_cache": False})[0]
        shifted, target = hidden[..., :-1, :].contiguous(), labels[..., 1:].contiguous()
        loss = function(shifted.view(-1, shifted.shape[-1]), self.lm_head.weight, target.view(-1))
        return SimpleNamespace(loss=loss, logits=None)

    return forward


__all__ = [
    "LinearCrossEntropy",
    "cross_entropy",
    "foak_patches",
    "install_foak",
    "linear_loss_forward",
    "more_reserved_bytes",
]
