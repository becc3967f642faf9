"""Follows every tensor storage from birth to death, so that live bytes are what `torch.cuda.max_memory_allocated`
would count."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BLOCK_BYTES = 512
"""The CUDA caching allocator rounds every request up to this (c10/cuda/CUDACachingAllocator.h, kMinBlockSize)."""
KINDS = ("weights", "lora_weights", "optimizer_states", "gradients", "logits", "activations")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Live bytes at one moment, by kind of tensor."""

    total_bytes: int
    kinds: tuple[tuple[str, int], ...]


@dataclass
class Labels:
    """How a new tensor is told apart by its shape; exact for kinds that are named when made, a label for the rest."""

    vocab_size: int
    gradient_shapes: frozenset[tuple[int, ...]] = field(default_factory=frozenset)

    def of(self, tensor: torch.Tensor, phase: str) -> str:
        shape = tuple(tensor.shape)
        if (
            phase == "backward"
            and len(shape) == 2
            and (shape in self.gradient_shapes or shape[::-1] in self.gradient_shapes)
        ):
            return "gradients"
        return "logits" if len(shape) > 1 and shape[-1] == self.vocab_size else "activations"


class StorageFollower(TorchDispatchMode):
    """Counts the storages of every operator's outputs while they live. The peak is kept per phase, with its split by
    kind."""

    def __init__(self, labels: Labels) -> None:
        super().__init__()
        self.labels = labels
        self.phase = "load"
        self.peaks: dict[str, Snapshot] = {}
        self.events: list[tuple[int, int]] = []
        """(storage number, +bytes when born or -bytes when dead), for the allocator's replay."""
        self.resident_bytes = 0
        """Live before the first step; set by who runs the steps."""
        self._live = dict.fromkeys(KINDS, 0)
        self._total = 0
        self._storages: dict[int, tuple[int, int, str]] = {}
        self._born = 0

    @property
    def total_bytes(self) -> int:
        return self._total

    def add(self, tensor: torch.Tensor, kind: str | None = None) -> None:
        """Count a tensor's storage once; a later call with `kind` only renames it. Of a sharded tensor (DTensor) the
        rank's own part counts."""
        tensor = getattr(tensor, "_local_tensor", tensor)
        if not isinstance(tensor, torch.Tensor) or tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            self._rename(key, kind)
            return
        size = -(-storage.nbytes() // BLOCK_BYTES) * BLOCK_BYTES
        if not size:
            return
        kind = kind or self.labels.of(tensor, self.phase)
        self._born += 1
        self._storages[key] = (self._born, size, kind)
        self._live[kind] += size
        self._total += size
        self.events.append((self._born, size))
        weakref.finalize(storage, self._drop, key)
        self._note()

    def forget(self, tensor: torch.Tensor) -> None:
        """The tensor lives on without its memory."""
        self._drop(tensor.untyped_storage()._cdata)

    def entry(self, tensor: torch.Tensor) -> tuple[int, int]:
        """(storage number, bytes) of a counted tensor; (0, 0) of one that has no bytes."""
        number, size, _ = self._storages.get(tensor.untyped_storage()._cdata, (0, 0, ""))
        return number, size

    def enter(self, phase: str) -> None:
        self.phase = phase
        self._note()

    def _note(self) -> None:
        seen = self.peaks.get(self.phase)
        # >=: of equal steps the later counts, in which the optimizer's states carry their name
        if seen is None or self._total >= seen.total_bytes:
            self.peaks[self.phase] = Snapshot(self._total, tuple(self._live.items()))

    def _rename(self, key: int, kind: str | None) -> None:
        number, size, old = self._storages[key]
        if kind is not None and kind != old:
            self._live[old] -= size
            self._live[kind] += size
            self._storages[key] = (number, size, kind)

    def _drop(self, key: int) -> None:
        entry = self._storages.pop(key, None)
        if entry is not None:
            number, size, kind = entry
            self._live[kind] -= size
            self._total -= size
            self.events.append((number, -size))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.add(out)
        else:
            for leaf in tree_leaves(out):
                self.add(leaf)
        return out
