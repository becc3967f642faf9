"""The FSDP2 keys of axolotl.yaml, each with its reason (axolotl 0.19 `schemas/fsdp.py`, `utils/trainer.py`)."""

from __future__ import annotations

from typing import Any

from compiler.emit.commented import Key
from compiler.emit.reasons import why
from compiler.families import FAMILIES
from compiler.values import Plan


def fsdp_keys(plan: Plan) -> tuple[Key, ...]:
    """`fsdp_version` and `fsdp_config`; nothing where the plan has no FSDP."""
    if plan.setup.fsdp == "none":
        return ()
    version = "FSDP2; without it Axolotl 0.19 takes FSDP1, which it removes next"
    return (
        Key("fsdp_version", 2, version),
        Key("fsdp_config", fsdp_config(plan), why(plan, "fsdp") + " (rule 22)", _inside(plan)),
    )


def fsdp_config(plan: Plan) -> dict[str, Any]:
    setup = plan.setup
    return {
        "reshard_after_forward": setup.fsdp == "full_shard",
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_layer_cls_to_wrap": FAMILIES[plan.case.model.architecture.model_type].layer_class,
        "offload_params": setup.offload == "params",
        "cpu_ram_efficient_loading": loads_on_one_rank(plan),
        "state_dict_type": "SHARDED_STATE_DICT",
        "final_state_dict_type": "FULL_STATE_DICT",
    }


def loads_on_one_rank(plan: Plan) -> bool:
    """Not with 4-bit weights: they are quantised on rank 0 alone then, and their shapes differ between the ranks
    (axolotl 0.19 `schemas/validation.py`, check_fsdp2_cpu_ram_efficient_loading_w_4bit)."""
    return plan.setup.method != "qlora-4bit"


def _inside(plan: Plan) -> dict[str, str]:
    full_shard = plan.setup.fsdp == "full_shard"
    return {
        "reshard_after_forward": "a layer's gathered weights are dropped after its forward and gathered again for its "
        "backward"
        if full_shard
        else "gathered weights stay until backward",
        "transformer_layer_cls_to_wrap": "one layer is what is gathered at a time; embeddings and head are gathered "
        "with the whole model",
        "offload_params": why(plan, "offload"),
        "cpu_ram_efficient_loading": "rank 0 reads the weights and hands out the shards"
        if loads_on_one_rank(plan)
        else "4-bit weights are quantised by every rank for itself; Axolotl refuses `true` with them",
        "state_dict_type": "checkpoints in shards: no device or host ever holds all of one; `axolotl "
        "merge-sharded-fsdp-weights` joins them",
        "final_state_dict_type": "the end of the run is one whole model or adapter, which `recipe export` reads",
    }
