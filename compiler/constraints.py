"""What cannot go together: pairs of fields, each with the reason. The search skips such setups; a pinned one is
predicted, but unfit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from compiler.rules.draft import Draft
from compiler.values import Setup

BITSANDBYTES = frozenset({"adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "lion_8bit"})


def sample_packing(setup: Setup) -> str | None:
    """Only variable-length attention keeps packed rows apart and trains (axolotl #449, PR #1465, #3453)."""
    if setup.sample_packing and setup.attention not in ("flash_attention_2", "flex_attention"):
        return (
            f"packed rows leak into one another or train at zero loss under {setup.attention}; they need "
            "flash_attention_2 or flex_attention"
        )
    return None


def zero_stage(setup: Setup) -> str | None:
    """ZeRO-3 cannot gather 4-bit or 8-bit weights (axolotl #933, #1092, #1154); one device has only offloads to
    gain."""
    if setup.zero_stage == 3 and setup.method in ("qlora-4bit", "lora-8bit"):
        return (
            f"ZeRO-3 shards weights that bitsandbytes has packed: {setup.method} fails at loading; data "
            "parallel or ZeRO-1/2 work"
        )
    if setup.zero_stage and setup.devices == 1 and setup.offload == "none":
        return "DeepSpeed on one device without an offload shards nothing"
    return None


def fsdp(setup: Setup) -> str | None:
    """What FSDP2 cannot be combined with (axolotl 0.19 `schemas/validation.py`, `monkeypatch/fsdp2_qlora.py`)."""
    if setup.fsdp == "none":
        return None
    if setup.zero_stage:
        return f"FSDP and ZeRO-{setup.zero_stage} both shard: Axolotl takes the two together and fails later (rule 22)"
    if setup.devices == 1:
        return "FSDP on one device shards nothing"
    if setup.optimizer in BITSANDBYTES:
        return f"{setup.optimizer} is bitsandbytes', whose kernels fail on FSDP2's shards (rule 17)"
    if setup.method == "lora-8bit":
        return "Axolotl patches FSDP2 for int8 weights, and nobody has verified it: 4-bit or 16-bit weights work"
    if setup.train_embeddings:
        return "trained FP32 copies beside frozen 16-bit tables: what FSDP2 gathers of them is not known"
    if setup.weights_dtype == "fp16":
        return "FP16's loss scaling is not verified with FSDP2; it is for BF16"
    return None


def offload(setup: Setup) -> str | None:
    """DeepSpeed offloads optimizer states from stage 2 on and weights in stage 3; FSDP both or neither."""
    if setup.fsdp != "none":
        return "FSDP offloads weights and states together: write `params`" if setup.offload == "optimizer" else None
    if setup.offload == "optimizer" and setup.zero_stage < 2:
        return "offloading optimizer states needs ZeRO-2 or ZeRO-3"
    if setup.offload == "params" and setup.zero_stage != 3:
        return "offloading weights needs ZeRO-3"
    return None


def optimizer(setup: Setup) -> str | None:
    """bitsandbytes states and DeepSpeed do not mix: flattened shards lose the per-tensor quantisation, CPU Adam is
    FP32."""
    if setup.zero_stage and setup.optimizer in BITSANDBYTES:
        return f"{setup.optimizer} quantises states per tensor; DeepSpeed flattens tensors into shards" + (
            " and steps with its own CPU Adam" if setup.offload != "none" else ""
        )
    return None


def lora_kernels(setup: Setup) -> str | None:
    """Axolotl refuses its kernels with 8-bit weights (0.19 `schemas/validation.py`)."""
    if setup.lora_kernels and setup.method == "lora-8bit":
        return "Axolotl refuses its LoRA kernels with 8-bit weights"
    return None


def precision(setup: Setup) -> str | None:
    """FP16 weights cannot be trained: GradScaler raises "Attempting to unscale FP16 gradients"
    (torch/amp/grad_scaler.py). Weights of one 16-bit type under autocast to the other exist in no stack."""
    if setup.method == "full" and setup.weights_dtype == "fp16":
        return "FP16 weights cannot be trained: their gradients cannot be unscaled; weights_dtype: fp32 works"
    if {setup.precision, setup.weights_dtype} == {"bf16", "fp16"}:
        return (
            f"weights in {setup.weights_dtype.upper()} do not go with {setup.precision.upper()}: Axolotl loads them in "
            "the precision's own type"
        )
    return None


def train_embeddings(setup: Setup) -> str | None:
    """PEFT trains a copy in the weights' dtype (`ModulesToSaveWrapper`), and GradScaler refuses FP16 gradients."""
    if setup.train_embeddings and setup.method != "full" and setup.precision == setup.weights_dtype == "fp16":
        return "the trained copy of the embeddings is FP16, whose gradients cannot be unscaled; BF16 or FP32 work"
    return None


CONSTRAINTS: tuple[Callable[[Setup], str | None], ...] = (
    sample_packing,
    zero_stage,
    fsdp,
    offload,
    optimizer,
    lora_kernels,
    precision,
    train_embeddings,
)


def conflict(setup: Setup) -> tuple[str, str] | None:
    """(rule, reason) of the first constraint that `setup` breaks, or None."""
    for rule in CONSTRAINTS:
        reason = rule(setup)
        if reason:
            return rule.__name__, reason
    return None


def inexpressible(setup: Setup) -> tuple[str, str] | None:
    """What Axolotl 0.19 has no keys for, and what to write instead; written anyway, the run would differ from the plan
    without a word. Other trainers can: the setup is predicted, and no config is made of it.

    The dtype of the weights follows the precision there (`resolve_dtype` in axolotl/utils/config/__init__.py).
    """
    follows = {"bf16": "bf16", "fp16": "fp16", "tf32": "fp32", "fp32": "fp32"}[setup.precision]
    if setup.method == "lora-8bit" and follows == "fp32":
        follows = "fp16"
    if setup.weights_dtype == follows:
        return None
    what = f"Axolotl loads weights as {follows} when precision is {setup.precision}, and weights_dtype is "
    if setup.method == "full" and follows == "fp16":
        fix = "write `training.precision: bf16`, or `fp32` where the card has no BF16; FP16 weights cannot be trained"
    else:
        fix = "leave training.weights_dtype out, or choose the precision that goes with it"
    return what + setup.weights_dtype, fix


def dominated(draft: Draft, values: Mapping[str, Any]) -> bool:
    """Options that another one equals or beats in both memory and time, so that leaving them out changes no choice."""
    plain = values["attention"] == "flash_attention_2" and not values["sample_packing"] and values["method"] != "full"
    # with adapters, unpacked, sdpa takes the same memory and time and needs no further package
    return plain and not (draft.states("attention") or draft.case.model.architecture.attn_logit_softcapping)
