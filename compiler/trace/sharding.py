"""FSDP2 in a trace: torch's own `fully_shard`, wrapped as Axolotl wraps it, over a process group without processes.

The groups, hooks, gathers, frees and reductions are torch's; only what a collective would bring is not there. Rank 0
of `Setup.devices` is traced. Axolotl 0.19 `monkeypatch/accelerate/fsdp2.py`; accelerate applies no autocast to an
FSDP2 model, its policy casts what is gathered, inputs and outputs instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from compiler.families import FAMILIES
from compiler.stacks import Stack
from compiler.trace.follower import StorageFollower
from compiler.values import Setup

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def sharded_stack(stack: Stack) -> Stack:
    """The stack as FSDP runs it: nothing is cast at loading, and no autocast."""
    return replace(stack, autocast="none", upcast="none")


@contextlib.contextmanager
def ranks(setup: Setup) -> Iterator[Any]:
    """A device mesh of `setup.devices` ranks that do not exist; None where nothing is sharded. Enter it outside the
    fake mode: a mesh holds real rank numbers."""
    if setup.fsdp == "none":
        yield None
        return
    import torch.distributed as distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=setup.devices)
    try:
        yield init_device_mesh("cpu", (setup.devices,))
    finally:
        distributed.destroy_process_group()


def shard_model(model: nn.Module, setup: Setup, mesh: Any) -> None:
    """Wrap adapters, decoder layers and the root, innermost first."""
    from peft.tuners.lora import LoraLayer
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    half = HALVES.get(setup.precision)
    policy = MixedPrecisionPolicy(half, half, half) if half else MixedPrecisionPolicy()
    settings = {"mesh": mesh, "reshard_after_forward": setup.fsdp == "full_shard", "mp_policy": policy}
    layer_classes = {family.layer_class for family in FAMILIES.values()}
    for module in reversed(list(model.modules())):
        if isinstance(module, LoraLayer):
            for part in (*module.lora_A.values(), *module.lora_B.values()):
                if not isinstance(part, FSDPModule):
                    fully_shard(part, **settings)
        if type(module).__name__ in layer_classes:
            fully_shard(module, **settings)
    fully_shard(model, **settings)


def resize_patches(follower: StorageFollower) -> list[tuple[Any, str, Any]]:
    """FSDP2 frees and allocates gathered weights by resizing their storage; the follower has to be told."""
    from torch.distributed.fsdp._fully_shard import _fsdp_param, _fsdp_param_group

    allocate, free = _fsdp_param.alloc_storage, _fsdp_param.free_storage

    def alloc_storage(tensor: torch.Tensor) -> None:
        allocate(tensor)
        follower.add(tensor, "weights")

    def free_storage(tensor: torch.Tensor) -> None:
        follower.forget(tensor)
        free(tensor)

    return [
        (_fsdp_param, "alloc_storage", alloc_storage),
        (_fsdp_param, "free_storage", free_storage),
        (_fsdp_param_group, "alloc_storage", alloc_storage),
    ]
