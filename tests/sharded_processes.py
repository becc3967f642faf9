"""Two real processes over gloo: torch's FSDP2 on real tensors of a small model, each rank's storages followed.

Started by test_fsdp.py: python sharded_processes.py RANK RANKS STORE METHOD. Prints a JSON object: bytes after sharding
and the peak of two steps.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from dataclasses import replace

from planner_cases import SMALL, case

from compiler.values import Setup

SETUP = Setup(
    method="lora", micro_batch=1, gradient_accumulation=1, sequence_len=64, gradient_checkpointing="on",
    optimizer="adamw_torch_fused", attention="eager", cross_entropy="standard", sample_packing=False,
    precision="bf16", weights_dtype="bf16", lora_r=9, lora_alpha=18, devices=2, fsdp="full_shard",
)  # fmt: skip
"""Rank 9 over two processes: uneven rows. Eager attention, whose operators are the same on CPU and CUDA."""


def setup_of(method: str) -> Setup:
    return SETUP if method == "lora" else replace(SETUP, method=method, lora_r=None, lora_alpha=None)


def architecture():
    """Three layers of a real family with tied embeddings, small enough for a laptop."""
    return replace(case(SMALL).model.architecture, num_layers=3, windowed_layers=0, vocab_size=4096)


LET_GO_S = 0.05
"""gloo's thread reports a collective as done and only then lets go of its tensors; a peak that is read to the byte must
not depend on who of the two is scheduled first."""


def settle_collectives() -> None:
    """Every collective that FSDP2 calls returns when gloo no longer holds its tensors."""
    import torch.distributed as distributed

    for name in ("all_gather_single", "reduce_scatter_single"):

        def settled(*args, call, **options):
            work = call(*args, **options)
            time.sleep(LET_GO_S)
            return work

        setattr(distributed, name, functools.partial(settled, call=getattr(distributed, name)))


def measure(rank: int, ranks: int, store: str, method: str) -> dict[str, int]:
    import torch
    import torch.distributed as distributed
    from torch.distributed.device_mesh import init_device_mesh

    from compiler.architecture import config_dict
    from compiler.stacks import AXOLOTL
    from compiler.trace.build import build_model
    from compiler.trace.sharding import shard_model, sharded_stack
    from compiler.trace.step import _run

    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    settle_collectives()
    setup, stack = setup_of(method), sharded_stack(AXOLOTL)
    model, causal = build_model(config_dict(architecture()), setup, stack)
    model.to_empty(device="cpu")
    causal.tie_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.01)
        for module in model.modules():
            if hasattr(module, "inv_freq"):
                module.inv_freq.fill_(0.5)
    shard_model(model, setup, init_device_mesh("cpu", (ranks,)))
    follower = _run(model, causal, setup, stack, False)
    distributed.destroy_process_group()
    return {
        "resident": follower.resident_bytes,
        "peak": max(snapshot.total_bytes for snapshot in follower.peaks.values()),
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])))
