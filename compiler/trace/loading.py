"""What loading leaves in the caching allocator: the order in which weights are born, and what lives beside them for a
moment. Its segments stay, so the reserved peak of a step depends on them.

Quantised weights go through the device one by one in two bytes (bitsandbytes `Params4bit`, `Int8Params`; 4-bit scales
are FP32 before they are quantised themselves), and tensors that are cast afterwards leave their old copy behind.
Weights that are not quantised are moved as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from compiler.trace.follower import BLOCK_BYTES, StorageFollower
from compiler.trace.quantised import BLOCK

Event = tuple[int, int]


class _Log:
    """Events of tensors that the follower knows, and of temporaries (numbers below zero)."""

    def __init__(self, follower: StorageFollower) -> None:
        self.follower, self.events = follower, []
        self.born: set[int] = set()

    events: list[Event]

    def keep(self, tensor: torch.Tensor) -> None:
        number, size = self.follower.entry(tensor)
        if size and number not in self.born:
            self.born.add(number)
            self.events.append((number, size))

    def temporary(self, size: int) -> Callable[[], None]:
        """A birth; the returned function is its death."""
        number, size = -len(self.events) - 1, -(-size // BLOCK_BYTES) * BLOCK_BYTES
        self.events.append((number, size))
        return lambda: self.events.append((number, -size))


def loading_events(model: nn.Module, follower: StorageFollower, loaded_bytes: int) -> list[Event]:
    """Births of all parameters and buffers of a traced model, as loading makes them, with its temporaries.

    `loaded_bytes`: width in which weights arrive. Adapters come last, when PEFT adds them.
    """
    log = _Log(follower)
    quantised = [module for module in model.modules() if _is_quantised(module)]
    inside = {id(tensor) for module in quantised for tensor in _own(module)}
    casts, adapters = [], []
    for name, module in model.named_modules():
        if _is_quantised(module):
            _quantise(log, module, loaded_bytes)
        for tensor in _own(module):
            if id(tensor) in inside and not _later(module, tensor):
                continue
            if "lora_" in name:
                adapters.append(tensor)
            elif quantised and tensor.dtype == torch.float32 and tensor.is_floating_point() and loaded_bytes == 2:
                casts.append((tensor, log.temporary(tensor.numel() * loaded_bytes)))
            else:
                log.keep(tensor)
    for tensor, free in casts:
        log.keep(tensor)
        free()
    for tensor in adapters:
        log.keep(tensor)
    return log.events


def _own(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _is_quantised(module: nn.Module) -> bool:
    return "double_quant" in vars(module) or "SCB" in module._buffers


def _later(module: nn.Module, tensor: torch.Tensor) -> bool:
    """A quantised layer's bias is loaded like any other tensor."""
    return tensor is getattr(module, "bias", None)


def _quantise(log: _Log, module: nn.Module, loaded_bytes: int) -> None:
    count = module.out_features * module.in_features
    free_weight = log.temporary(count * loaded_bytes)
    buffers = dict(module._buffers)
    bias = {id(module.bias)} if getattr(module, "bias", None) is not None else set()
    if buffers.get("absmax2") is not None:  # nested scales: FP32, less their mean, then one byte each
        scales = -(-count // BLOCK) * 4
        free_scales = log.temporary(scales)
        log.keep(module.weight)
        log.keep(buffers["offset"])
        free_centred = log.temporary(scales)
        log.keep(buffers["absmax"])
        log.keep(buffers["absmax2"])
        free_centred()
        free_scales()
    for tensor in _own(module):
        if id(tensor) not in bias:
            log.keep(tensor)
    free_weight()
