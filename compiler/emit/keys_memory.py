"""Keys that decide memory: adapter and quantisation, precision, attention, checkpointing, cross-entropy, DeepSpeed."""

from __future__ import annotations

from compiler.emit.commented import Key, Section
from compiler.emit.deepspeed_json import deepspeed_config
from compiler.emit.fsdp import fsdp_keys
from compiler.emit.reasons import decided, why
from compiler.families import embedding_modules
from compiler.memory import skips_upcast
from compiler.values import Plan

QUANTISATION = {
    "full": (None, False, False),
    "lora": ("lora", False, False),
    "lora-8bit": ("lora", True, False),
    "qlora-4bit": ("qlora", False, True),
}
"""method -> adapter, load_in_8bit, load_in_4bit (rule 3: `adapter: lora` with load_in_4bit passes validation and trains
BF16)."""

KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")


def adapter(plan: Plan) -> Section:
    """Method and LoRA. Full fine-tuning has no adapter keys but the two that say that nothing is quantised."""
    name, in_8bit, in_4bit = QUANTISATION[plan.setup.method]
    reason = why(plan, "method")
    keys = [Key("adapter", name, reason)] if name else []
    keys += [
        Key("load_in_8bit", in_8bit, f"follows the method{'' if name else ': ' + reason}"),
        Key("load_in_4bit", in_4bit, "follows the method (rule 3)"),
    ]
    if in_4bit:
        kwargs: dict[str, object] = {"bnb_4bit_use_double_quant": plan.setup.double_quant}
        if plan.setup.fsdp != "none":
            kwargs["bnb_4bit_quant_storage"] = "bfloat16"
        storage = {"bnb_4bit_quant_storage": "packed as the dtype of the rest of a layer: what FSDP gathers has one"}
        keys.append(Key("bnb_config_kwargs", kwargs, why(plan, "double_quant"), storage))
    if skips_upcast(plan.case.model.architecture, plan.setup):
        reason = "or Axolotl casts them to FP32 and back while loading, which can need more than training does"
        keys.append(Key("embeddings_skip_upcast", True, reason))
    if name:
        keys += _lora(plan)
    return Section("method", tuple(keys))


def _lora(plan: Plan) -> list[Key]:
    setup = plan.setup
    keys = [
        decided(plan, "lora_r", "lora_r", setup.lora_r),
        decided(plan, "lora_alpha", "lora_alpha", setup.lora_alpha),
        decided(plan, "lora_dropout", "lora_dropout", setup.lora_dropout),
        *_targets(plan),
    ]
    if setup.train_embeddings:
        keys += _embeddings(plan)
    reason = why(plan, "lora_kernels") + "; all four are written, or Axolotl turns them on by itself (rule 14)"
    keys += [Key(name, setup.lora_kernels, reason if name == KERNELS[0] else "as above") for name in KERNELS]
    return keys


def _targets(plan: Plan) -> list[Key]:
    targets = plan.setup.lora_targets
    if targets == "all-linear":
        return [Key("lora_target_linear", True, why(plan, "lora_targets"))]
    if targets == "attention":
        names = [linear.name for linear in plan.case.model.architecture.linears if linear.group == "attention"]
    else:
        names = list(targets)
    return [Key("lora_target_modules", names, why(plan, "lora_targets"))]


def _embeddings(plan: Plan) -> list[Key]:
    architecture = plan.case.model.architecture
    tied = architecture.tie_word_embeddings
    names = embedding_modules(architecture.model_type, tied)
    keys = [Key("lora_modules_to_save", names, why(plan, "train_embeddings"))]
    if tied:
        reason = "the head shares the embedding's weight; untied copies would drift apart (rule 16)"
        keys.append(Key("peft_ensure_weight_tying", True, reason))
    return keys


def memory(plan: Plan) -> Section:
    """Precision, attention, checkpointing and the loss."""
    setup = plan.setup
    keys = [
        Key(
            "bf16",
            setup.precision == "bf16",
            why(plan, "precision") + "; never `auto`, which means FP16 on a CPU (rule 25)",
        ),
        Key("fp16", setup.precision == "fp16", "follows precision"),
        Key(
            "tf32",
            tf32(plan),
            why(plan, "tf32") if setup.precision in ("bf16", "tf32") else f"precision is {setup.precision}",
        ),
        decided(plan, "attn_implementation", "attention"),
        *_checkpointing(plan),
        *_cross_entropy(plan),
    ]
    return Section("memory and precision", tuple(keys))


def tf32(plan: Plan) -> bool:
    """On where the card has it, unless FP32 or FP16 was chosen: `fp32` means exact products."""
    return plan.setup.precision == "tf32" or (plan.setup.precision == "bf16" and bool(plan.decision("tf32").value))


def _checkpointing(plan: Plan) -> list[Key]:
    kind = plan.setup.gradient_checkpointing
    keys = [Key("gradient_checkpointing", kind != "off", why(plan, "gradient_checkpointing") + " (rule 6)")]
    if kind != "off":
        frozen_shards = plan.setup.zero_stage == 3 and plan.setup.method != "full"
        reason = "the maintained implementation; the other needs inputs with gradients"
        if frozen_shards:
            reason = "ZeRO-3 drops frozen weights while the other implementation still compares their shapes (it stops)"
        keys.append(Key("gradient_checkpointing_kwargs", {"use_reentrant": frozen_shards}, reason))
    if kind == "offload":
        keys.append(Key("activation_offloading", "hidden_states",
                        "each layer's saved input waits in host RAM; `true` would keep activations instead of "
                        "computing them again (rule 8)"))  # fmt: skip
    else:
        keys.append(Key("activation_offloading", False, "follows gradient_checkpointing"))
    return keys


def _cross_entropy(plan: Plan) -> list[Key]:
    """Exactly one loss: every flag whose plugin is loaded is written, since a plugin's own default may be `true` (rule
    2)."""
    kind, reason = plan.setup.cross_entropy, why(plan, "cross_entropy")
    if kind == "liger":
        return [
            Key("liger_fused_linear_cross_entropy", True, reason),
            Key("liger_cross_entropy", False, "the fused loss above replaces it"),
            Key("liger_rms_norm", False, "its memory and speed are not part of the plan"),
            Key("liger_glu_activation", False, "its memory and speed are not part of the plan"),
            Key("liger_rope", False, "its memory and speed are not part of the plan"),
            Key("chunked_cross_entropy", False, "one loss only (rule 2)"),
        ]
    if kind == "cut":
        return [Key("cut_cross_entropy", True, reason), Key("chunked_cross_entropy", False, "one loss only (rule 2)")]
    return [Key("chunked_cross_entropy", kind == "chunked", reason)]


def deepspeed(plan: Plan) -> Section:
    """Inline, not a path: it is validated and cannot be missing (rule 21). No key at all where there is no ZeRO (rule
    19); FSDP's keys where it shards instead (rule 22)."""
    config = deepspeed_config(plan)
    if config is None:
        return Section("several devices", fsdp_keys(plan))
    reason = (
        why(plan, "deepspeed")
        + "; inline, so that it cannot be missing (rule 21); deepspeed.json beside this file is the same"
    )
    inside = {
        "zero_allow_untested_optimizer": "the optimizer above is torch's",
        "zero_force_ds_cpu_optimizer": "DeepSpeed's own CPU Adam is compiled at start, which often fails (rule 20)",
    }
    return Section("several devices", (Key("deepspeed", config, reason, inside),))
