"""Count the bytes and kernels of one layer on a trace of a real training step, and compare `compiler/traffic.py`.

    python benchmarks/speed_traffic.py [MODEL ...]

A layer is the difference between traces of two layers and of one, without checkpointing. Views and allocations count
nothing; every other operator reads its inputs and writes its outputs once. Matrix products are told apart: of theirs,
only what the adapters add is compared. Kernels that the trace stands in for by an allocation (fused SwiGLU, INT8
quantisation) are not seen.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from compiler.architecture import Architecture
from compiler.facts import models, rates
from compiler.speed import micro_work
from compiler.traffic import AXOLOTL, Stack, layer_of
from compiler.values import Setup

TOKENS = 2048
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
ALLOCATIONS = ("empty", "new_empty", "zeros", "ones", "randint", "arange", "scalar_tensor", "full")
MODELS = (
    "meta-llama/Llama-3.2-1B", "Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen3-0.6B", "google/gemma-2-2b-it",
    "microsoft/Phi-3-mini-4k-instruct", "bigcode/starcoder2-3b", "bigcode/gpt_bigcode-santacoder",
)  # fmt: skip
SETUP = Setup(
    method="full", micro_batch=1, gradient_accumulation=1, sequence_len=TOKENS, gradient_checkpointing="off",
    optimizer="adamw_torch", attention="flash_attention_2", cross_entropy="standard", sample_packing=False,
    precision="bf16", weights_dtype="bf16",
)  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"method": "lora", "lora_r": 16},
    "qlora": {"method": "qlora-4bit", "lora_r": 16},
}


def traced(architecture: Architecture, setup: Setup) -> dict[tuple[str, bool], float]:
    """(phase, whether products) -> bytes of one step of `setup`."""
    import torch
    from torch.utils._pytree import tree_leaves

    from compiler.trace import step

    found: dict[tuple[str, bool], float] = {}

    class Counter(step.StorageFollower):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = super().__torch_dispatch__(func, types, args, kwargs)
            name = func._schema.name.split("::")[1]
            into = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
            made = [one for one in tree_leaves(out) if isinstance(one, torch.Tensor)]
            storages = {one.untyped_storage()._cdata for one in into}
            view = not func._schema.is_mutable and all(one.untyped_storage()._cdata in storages for one in made)
            if self.phase in ("forward", "backward") and not view and not name.startswith(ALLOCATIONS):
                tensors = {(one.untyped_storage()._cdata, one.storage_offset(), one.numel()): one for one in into}
                moved = sum(_bytes(one) for one in (*tensors.values(), *made))
                key = (self.phase, name in PRODUCTS)
                found[key] = found.get(key, 0.0) + moved
            return out

    with patch.object(step, "StorageFollower", Counter):
        step.trace_step(architecture, setup, steady=True)
    return found


def _bytes(tensor: Any) -> int:
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def traced_layer(architecture: Architecture, setup: Setup) -> tuple[float, float]:
    """(forward, backward) bytes per token of one layer: elementwise kernels, and the adapters' products."""
    one, two = (traced(replace(architecture, num_layers=layers), setup) for layers in (1, 2))
    tokens, passes = setup.micro_batch * setup.sequence_len, {"forward": 1, "backward": 1 + (setup.method == "full")}
    shapes, weights = layer_of(architecture, setup).shapes, architecture.parameters.linear / architecture.num_layers
    base = 2 * (shapes.inputs + shapes.outputs) + 2 * weights / tokens
    forward, backward = (
        sum(two[phase, products] - one[phase, products] for products in (False, True)) / tokens - count * base
        for phase, count in passes.items()
    )
    return forward, backward


def counted_layer(architecture: Architecture, setup: Setup, stack: Stack = AXOLOTL) -> tuple[float, float]:
    """The same by `compiler.traffic`, without the factors that strided kernels and thin products take longer."""
    plain = rates() | {"strided_factor": 1.0, "thin_factor": 1.0}
    with patch("compiler.traffic.rates", lambda: plain):
        from compiler import traffic

        traffic.forget()
        layer = layer_of(architecture, setup, stack)
    traffic.forget()
    return layer.forward_bytes, layer.backward_bytes


def main() -> None:
    print("| model | method | forward, traced | counted | backward, traced | counted | kernels a step |")
    print("|---|---|---|---|---|---|---|")
    for name in sys.argv[1:] or MODELS:
        architecture = models()[name].architecture
        for method, changes in METHODS.items():
            setup = replace(SETUP, **changes)
            real, ours = traced_layer(architecture, setup), counted_layer(architecture, setup)
            sides = " | ".join(f"{a:,.0f} | {b:,.0f} ({b / a - 1:+.0%})" for a, b in zip(real, ours, strict=True))
            print(f"| {name} | {method} | {sides} | {micro_work(architecture, setup, TOKENS).kernels} |", flush=True)


if __name__ == "__main__":
    main()
