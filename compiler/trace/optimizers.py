"""Optimizers by their allocations: torch's own where they run on fake tensors, bitsandbytes' by size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from compiler.memory.static import BLOCK_8BIT, MIN_8BIT_ELEMENTS, MIN_PAGED_ELEMENTS, Optimizer


class BitsAndBytesOptimizer(torch.optim.Optimizer):
    """States of bitsandbytes' AdamW and Lion. `fp32`: parameters that transformers keeps out of 8 bit (every
    nn.Embedding)."""

    def __init__(self, parameters: Iterable[nn.Parameter], kind: Optimizer, fp32: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {})
        self.kind, self.fp32 = kind, {id(one) for one in fp32}
        self.maps: list[torch.Tensor] = []

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is None or self.state[parameter]:
                continue
            if not self.maps:
                self.maps = [torch.zeros(256, dtype=torch.float32, device=parameter.device) for _ in range(2)]
            self.state[parameter] = self._states(parameter)

    def _states(self, parameter: nn.Parameter) -> dict[str, Any]:
        elements = parameter.numel()
        bits8 = self.kind.bits8 and elements >= MIN_8BIT_ELEMENTS and id(parameter) not in self.fp32
        states: dict[str, Any] = {"step": 0}
        for index in range(1, self.kind.states + 1):
            if not (self.kind.paged and elements >= MIN_PAGED_ELEMENTS):
                dtype = torch.uint8 if bits8 else torch.float32
                states[f"state{index}"] = torch.zeros(parameter.shape, dtype=dtype, device=parameter.device)
            if bits8:
                scales = -(-elements // BLOCK_8BIT)
                states[f"absmax{index}"] = torch.zeros(scales, dtype=torch.float32, device=parameter.device)
        return states


def make_optimizer(model: nn.Module, name: str, kind: Optimizer) -> torch.optim.Optimizer:
    """The optimizer of a setup over the model's trainable parameters."""
    trainable = [one for one in model.parameters() if one.requires_grad]
    if kind.bits8 or kind.paged:
        embeddings = [
            one for module in model.modules() if isinstance(module, nn.Embedding) for one in module.parameters()
        ]
        return BitsAndBytesOptimizer(trainable, kind, embeddings)
    if name == "sgd":
        return torch.optim.SGD(trainable, lr=1e-5, foreach=True)
    return torch.optim.AdamW(trainable, lr=1e-5, fused=not kind.copies, foreach=bool(kind.copies))
