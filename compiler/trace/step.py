"""Trace real training steps of a setup on fake tensors and report the peak, phase by phase and part by part.

The Hugging Face model class, PEFT's layers, torch's autograd and the optimizer run for real; shapes, dtypes,
aliasing and lifetimes are real, the numbers are not there. No GPU and no weights are needed.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from compiler.architecture import Architecture, config_dict
from compiler.constraints import conflict
from compiler.families import kernels_cannot
from compiler.memory.static import DTYPE_BYTES, autocasts, optimizer_of
from compiler.stacks import AXOLOTL, Stack
from compiler.trace.allocator import replay, replay_expandable
from compiler.trace.attention import patched_functions
from compiler.trace.build import build_model, to_fake
from compiler.trace.foak import foak_patches, more_reserved_bytes
from compiler.trace.follower import Labels, Snapshot, StorageFollower
from compiler.trace.loading import loading_events
from compiler.trace.lora_kernels import install_lora_kernels, kernel_patches
from compiler.trace.optimizers import make_optimizer
from compiler.trace.sharding import ranks, resize_patches, shard_model, sharded_stack
from compiler.trace.versions import VERSIONS
from compiler.values import Setup

STEPS = 2
"""The first step makes the optimizer's states; the second is the steady one."""
PHASES = ("forward", "backward", "optimizer")


@dataclass(frozen=True, slots=True)
class Trace:
    """Live bytes of one device over two training steps."""

    phases: tuple[tuple[str, Snapshot], ...]
    peak_phase: str
    resident_bytes: int
    """After loading, before the first step."""
    allocated_bytes: int
    """Peak of `max_memory_allocated`: whole blocks of the caching allocator; cuBLAS workspaces are not in it."""
    reserved_bytes: int
    """Peak of `max_memory_reserved`."""
    beyond_replay_bytes: int
    """Of it, what no replayed tensor explains but readings show (`compiler.trace.foak.more_reserved_bytes`)."""
    parameters: int
    trainable_parameters: int
    seconds: float

    @property
    def peak(self) -> Snapshot:
        return dict(self.phases)[self.peak_phase]

    @property
    def total_bytes(self) -> int:
        return self.peak.total_bytes


def trace_step(
    config: dict[str, Any] | Architecture,
    setup: Setup,
    stack: Stack = AXOLOTL,
    capacity_bytes: int | None = None,
    on_cpu: bool = False,
    steady: bool = False,
) -> Trace:
    """Trace `setup` on one device: the whole of it, or rank 0 of FSDP; ZeRO and offloads are not traced. `config` is a
    Hugging Face config with `model_type`, or an Architecture.

    `capacity_bytes` is what torch may reserve before it returns free segments. `on_cpu` leaves dropout and LayerNorm
    as the CPU runs them; their CUDA kernels keep other tensors. `steady` makes the optimizer's states and an earlier
    micro-step's gradients first and traces one micro-step: the same peak of live tensors in less time, but a reserved
    peak of no first step. Raises ValueError for what cannot be traced.
    """
    started = time.perf_counter()
    values = config_dict(config) if isinstance(config, Architecture) else dict(config)
    if stack is AXOLOTL:
        _refuse(values["model_type"], setup)
        stack = sharded_stack(stack) if setup.fsdp != "none" else stack
    model, causal = build_model(values, setup, stack)
    parameters = sum(one.numel() for one in causal.parameters())
    patches = patched_functions(stack.sdpa_kernel == "memory_efficient", on_cpu) + (
        kernel_patches() if setup.lora_kernels else []
    )
    if stack.foak:
        patches += foak_patches(causal)
    trainable = sum(one.numel() for one in model.parameters() if one.requires_grad)
    with patched(patches), ranks(setup) as mesh, FakeTensorMode(allow_non_fake_inputs=True):
        to_fake(model)
        if mesh is not None:
            shard_model(model, setup, mesh)
        if setup.lora_kernels:
            install_lora_kernels(causal)
        follower = _run(model, causal, setup, stack, steady)
    phases = tuple((name, follower.peaks[name]) for name in PHASES)
    if stack.expandable_segments:
        (reserved, allocated), beyond = replay_expandable(follower.events), 0
    else:
        reserved, allocated = replay(follower.events, capacity_bytes)
        beyond = more_reserved_bytes(values, setup, VERSIONS[stack.transformers]) if stack.foak else 0
    if capacity_bytes is not None and reserved + beyond > capacity_bytes:
        beyond = 0  # what is only cached makes room
    resident = follower.resident_bytes
    del model, causal, follower
    gc.collect()  # autograd graphs hold cycles; the next trace must not count their storages
    return Trace(
        phases,
        max(phases, key=lambda phase: phase[1].total_bytes)[0],
        resident,
        allocated,
        reserved + beyond,
        beyond,
        parameters,
        trainable,
        time.perf_counter() - started,
    )


def _refuse(model_type: str, setup: Setup) -> None:
    """Raises ValueError for what Axolotl cannot run, in the planner's words."""
    clash = conflict(setup)
    cannot = kernels_cannot(model_type) if setup.lora_kernels else None
    if clash or cannot:
        raise ValueError(clash[1] if clash else cannot)


@contextlib.contextmanager
def patched(patches: list[tuple[Any, str, Any]]) -> Iterator[None]:
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    try:
        for owner, name, replacement in patches:
            setattr(owner, name, replacement)
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def follow(model: nn.Module, causal: nn.Module, setup: Setup) -> StorageFollower:
    """A follower that has counted the model's parameters and buffers."""
    trainable = [one for one in model.parameters() if one.requires_grad]
    shapes = frozenset(tuple(one.shape) for one in trainable if one.dim() == 2)
    follower = StorageFollower(Labels(causal.config.vocab_size, shapes))
    for parameter in model.parameters():
        kind = "lora_weights" if parameter.requires_grad and setup.method != "full" else "weights"
        follower.add(parameter, kind)
    for buffer in model.buffers():
        follower.add(buffer, "weights")
    return follower


def _run(model: nn.Module, causal: nn.Module, setup: Setup, stack: Stack, steady: bool) -> StorageFollower:
    trainable = [one for one in model.parameters() if one.requires_grad]
    follower = follow(model, causal, setup)
    for parameter in trainable:
        parameter.register_post_accumulate_grad_hook(lambda one: follower.add(one.grad, "gradients"))
    model.train()
    optimizer = make_optimizer(model, setup.optimizer, optimizer_of(setup))
    follower.resident_bytes = follower.total_bytes
    if setup.fsdp == "none":  # shards are cut from weights that lie in RAM
        follower.events[:] = loading_events(model, follower, DTYPE_BYTES[setup.weights_dtype])
    with patched(resize_patches(follower) if setup.fsdp != "none" else []), follower:
        follower.enter("load")
        micro_steps = min(2, setup.gradient_accumulation)
        if steady:
            make_states(trainable, optimizer, follower)
            if micro_steps > 1:
                _make_gradients(trainable, follower)
        for _ in range(1 if steady else STEPS):
            _step(model, trainable, optimizer, setup, stack, follower, 1 if steady else micro_steps)
    return follower


def _step(
    model: nn.Module,
    trainable: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    setup: Setup,
    stack: Stack,
    follower: StorageFollower,
    micro_steps: int,
) -> None:
    """One optimizer step as HF Trainer does it; more than two micro-steps change nothing."""
    autocast = stack.autocast if autocasts(setup) else "none"
    dtype = torch.bfloat16  # stands for FP16 too, see `half_dtype`
    for _ in range(micro_steps):
        tokens = torch.randint(0, 1000, (setup.micro_batch, setup.sequence_len))
        follower.enter("forward")
        with torch.autocast("cpu", dtype=dtype) if autocast != "none" else contextlib.nullcontext():
            outputs = model(input_ids=tokens, labels=tokens.clone(), use_cache=False)
        if autocast == "accelerate" and outputs.logits is not None and outputs.logits.dtype != torch.float32:
            copied = outputs.logits.float()
            del copied
        loss = outputs.loss
        if not stack.keeps_outputs:
            del outputs
        if setup.gradient_accumulation > 1:
            loss = loss / setup.gradient_accumulation
        follower.enter("backward")
        loss.backward()
        del loss
    follower.enter("optimizer")
    if stack.clips_gradients:
        torch.nn.utils.clip_grad_norm_(trainable, 1.0, foreach=True)
    optimizer.step()
    _name_states(optimizer, follower)
    follower.enter("optimizer")
    optimizer.zero_grad(set_to_none=True)


def make_states(trainable: list[nn.Parameter], optimizer: torch.optim.Optimizer, follower: StorageFollower) -> None:
    for parameter in trainable:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    _name_states(optimizer, follower)
    optimizer.zero_grad(set_to_none=True)


def _make_gradients(trainable: list[nn.Parameter], follower: StorageFollower) -> None:
    """What an earlier micro-step leaves: the next one needs most, and is the only one that has to be run."""
    for parameter in trainable:
        parameter.grad = torch.zeros_like(parameter)
        follower.add(parameter.grad, "gradients")


def _name_states(optimizer: torch.optim.Optimizer, follower: StorageFollower) -> None:
    for states in optimizer.state.values():
        for value in states.values():
            if isinstance(value, torch.Tensor):
                follower.add(value, "optimizer_states")
