"""Two real processes over gloo: DeepSpeed's own ZeRO on real tensors of a small model, each storage followed.

Started by test_zero.py: python zero_processes.py RANK RANKS STORE. Prints a JSON object a case: bytes of every part
when a step is done, and the highest moments of a device in forward, backward and the optimizer's step.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from planner_cases import SMALL, case
from sharded_processes import LET_GO_S

from compiler.values import Setup

FULL = Setup(
    method="full", micro_batch=1, gradient_accumulation=1, sequence_len=64, gradient_checkpointing="on",
    optimizer="adamw_torch", attention="eager", cross_entropy="standard", sample_packing=False, precision="bf16",
    weights_dtype="bf16", devices=2, zero_stage=2,
)  # fmt: skip
LORA = replace(FULL, method="lora", lora_r=16, lora_alpha=32)
SETUPS = {
    "stage 1": replace(FULL, zero_stage=1),
    "stage 1, accumulating": replace(FULL, zero_stage=1, gradient_accumulation=2),
    "stage 2": FULL,
    "stage 2, accumulating": replace(FULL, gradient_accumulation=2),
    "stage 2, optimizer offloaded": replace(FULL, offload="optimizer", gradient_accumulation=2),
    "stage 2, lora": LORA,
    "stage 3": replace(FULL, zero_stage=3),
    "stage 3, all offloaded": replace(FULL, zero_stage=3, offload="params"),
    "stage 3, lora": replace(LORA, zero_stage=3),
}
STEPS = 3
"""ZeRO-3 records the order of modules in the first; the last is the steady one."""
COLLECTIVES = ("all_reduce", "reduce_scatter_tensor", "all_gather_into_tensor")
"""gloo works on copies of its own in some of these, which NCCL does not."""


def architecture():
    """Six narrow layers of a real family with tied embeddings: no part is so small that another would hide it."""
    return replace(
        case(SMALL).model.architecture, num_layers=6, windowed_layers=0, vocab_size=4096, hidden_size=256,
        intermediate_size=704, num_heads=4, num_kv_heads=2, head_dim=64,
    )  # fmt: skip


def uncounted_collectives(follower_of: list[Any]) -> None:
    """Before DeepSpeed takes hold of them."""
    import torch.distributed as distributed

    for name in COLLECTIVES:

        def called(*args, call, **options):
            follower = follower_of[0]
            follower.counting = False
            try:
                work = call(*args, **options)
                if work is not None:
                    work.wait()
                time.sleep(LET_GO_S)
                return work
            finally:
                follower.counting = True

        setattr(distributed, name, functools.partial(called, call=getattr(distributed, name)))


def config_of(setup: Setup) -> dict[str, Any]:
    """What the compiler emits for a setup."""
    from compiler.emit.deepspeed_json import deepspeed_config

    found = SimpleNamespace(
        model=SimpleNamespace(architecture=architecture()), machine=SimpleNamespace(backend="cpu")
    )
    plan = SimpleNamespace(setup=setup, case=found, decision=lambda name: SimpleNamespace(value=1.0))
    config = deepspeed_config(plan)
    assert config is not None
    return config


def measure(setup: Setup, follower_of: list[Any]) -> dict[str, Any]:
    import deepspeed
    import torch

    from compiler.architecture import config_dict
    from compiler.memory.static import optimizer_of
    from compiler.stacks import AXOLOTL
    from compiler.trace.build import build_model
    from compiler.trace.follower import Labels, StorageFollower
    from compiler.trace.optimizers import make_optimizer

    class Follower(StorageFollower):
        counting = True

        def add(self, tensor, kind=None):
            if self.counting:
                super().add(tensor, kind)

    # as axolotl.yaml says for frozen weights under ZeRO-3
    stack = replace(AXOLOTL, reentrant=setup.zero_stage == 3 and setup.method != "full")
    model, causal = build_model(config_dict(architecture()), setup, stack)
    model.to_empty(device="cpu")
    causal.tie_weights()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.fill_(0.01)
    follower = follower_of[0] = Follower(Labels(architecture().vocab_size))
    for tensor in (*model.parameters(), *model.buffers()):
        follower.add(tensor, "weights")
    trained = [one for one in model.parameters() if one.requires_grad]
    with follower:
        engine, sharded, _, _ = deepspeed.initialize(
            model=model,
            optimizer=make_optimizer(model, setup.optimizer, optimizer_of(setup)),
            config=config_of(setup),
            model_parameters=trained,
        )
        engine.train()
        for _ in range(STEPS):
            follower.peaks.clear()
            for _ in range(setup.gradient_accumulation):
                tokens = torch.zeros((1, setup.sequence_len), dtype=torch.long)
                follower.enter("forward")
                loss = engine(input_ids=tokens, labels=tokens.clone(), use_cache=False).loss
                follower.enter("backward")
                engine.backward(loss)
                del loss
                follower.enter("optimizer")
                engine.step()
        parts = {name: _bytes(follower, tensors) for name, tensors in _parts(model, sharded).items()}
    return {"parts": parts, "peaks": {name: one.total_bytes for name, one in follower.peaks.items()}}


def _parts(model: Any, sharded: Any) -> dict[str, list[Any]]:
    """The tensors that DeepSpeed keeps, by what they are for."""
    flat = [*getattr(sharded, "single_partition_of_fp32_groups", ()),
            *getattr(sharded, "fp32_partitioned_groups_flat", ())]  # fmt: skip
    states = [one for kept in sharded.optimizer.state.values() for one in kept.values()]
    parameters = list(model.parameters())
    return {
        "weights": [*parameters, *(one.ds_tensor for one in parameters if hasattr(one, "ds_tensor"))],
        "states": [*flat, *states],
        "fp32_gradients": [one.grad for one in flat if one.grad is not None],
        "buckets": [bucket.buffer for bucket in sharded.ipg_buckets.values()],
        "share": [getattr(sharded, "grad_partitions_flat_buffer", None)],
        "returning": [getattr(sharded, "temp_grad_buffer_for_gpu_offload", None)],
        "host": [
            getattr(sharded, "temp_grad_buffer_for_cpu_offload", None),
            *getattr(sharded, "accumulated_grads_in_cpu", {}).values(),
            *getattr(sharded, "param_buffer_of_bit16_for_cpu_offload_groups", ()),
        ],
    }


def _bytes(follower: Any, tensors: list[Any]) -> int:
    import torch

    def single(values: Any) -> Iterator[Any]:
        for one in values if isinstance(values, list) else [values]:
            yield from (single(one) if isinstance(one, list) else [one])

    found = dict(follower.entry(one) for one in single(tensors) if isinstance(one, torch.Tensor))
    return sum(found.values())


def main(rank: int, ranks: int, store: str) -> None:
    follower_of: list[Any] = [SimpleNamespace(counting=True)]
    uncounted_collectives(follower_of)
    import deepspeed
    import torch.distributed as distributed

    deepspeed.init_distributed("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    for name, setup in SETUPS.items():
        print(json.dumps({"name": name, **measure(setup, follower_of)}), flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ.update(
        DS_ACCELERATOR="cpu", RANK=sys.argv[1], LOCAL_RANK=sys.argv[1], WORLD_SIZE=sys.argv[2],
        MASTER_ADDR="127.0.0.1", MASTER_PORT="29511",
    )  # fmt: skip
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
