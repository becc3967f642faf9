"""The real model class of a setup on fake tensors: dtypes, quantised layers, adapters, checkpointing, loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from compiler.families import embedding_modules
from compiler.memory.static import autocasts, optimizer_of
from compiler.stacks import Stack
from compiler.trace.attention import FLASH, FLEX, register_flash
from compiler.trace.checkpointing import install_checkpointing
from compiler.trace.foak import install_foak
from compiler.trace.losses import install_loss
from compiler.trace.quantised import quantise_linears
from compiler.trace.versions import VERSIONS
from compiler.values import Setup

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
ATTENTION = {"eager": "eager", "sdpa": "sdpa", "flash_attention_2": FLASH, "flex_attention": FLEX}
UPCAST_NAMES = ("embed_tokens", "lm_head")


def half_dtype(setup: Setup) -> torch.dtype:
    """The dtype that stands for FP16. Under FP16 autocast it is BF16, in which the CPU knows more operators: the sizes
    are the same, and so is what equals what."""
    return torch.bfloat16 if setup.precision == "fp16" else torch.float16


def load_model(config: dict[str, Any], setup: Setup) -> nn.Module:
    """The causal LM as it comes from disk, on the meta device. Raises ValueError for a model_type transformers does not
    know."""
    from transformers import AutoModelForCausalLM

    register_flash()
    dtype = weights_dtype(setup)
    with torch.device("meta"):
        causal = AutoModelForCausalLM.from_config(_model_config(config, setup), dtype=dtype)
    causal.config._attn_implementation = ATTENTION[setup.attention]
    if setup.method in ("qlora-4bit", "lora-8bit"):
        compute = DTYPES["bf16"] if autocasts(setup) else dtype  # Axolotl's `bnb_4bit_compute_dtype` is `torch_dtype`
        bits = 4 if setup.method == "qlora-4bit" else 8
        quantise_linears(causal, bits, dtype, compute, setup.double_quant, half_dtype(setup))
    return causal


def weights_dtype(setup: Setup) -> torch.dtype:
    """Of the weights that are not quantised."""
    return half_dtype(setup) if setup.weights_dtype == "fp16" else DTYPES[setup.weights_dtype]


def build_model(config: dict[str, Any], setup: Setup, stack: Stack) -> tuple[nn.Module, nn.Module]:
    """(model to call, its causal LM) on the meta device. Raises ValueError for a model_type transformers does not
    know."""
    optimizer_of(setup)
    causal, dtype = load_model(config, setup), weights_dtype(setup)
    cast_loaded(causal, setup, stack)
    model = causal if setup.method == "full" else _adapt(causal, setup, stack, dtype)
    version = VERSIONS[stack.transformers]
    for module in causal.modules():
        module.expands_keys = causal.config.model_type in version.expanded
    install_checkpointing(causal, setup.gradient_checkpointing, stack.reentrant)
    install_loss(causal, setup.cross_entropy, version, stack.foak)
    if stack.foak:
        install_foak(causal, setup.method == "qlora-4bit")
    return model, causal


def _model_config(config: dict[str, Any], setup: Setup) -> Any:
    from transformers import AutoConfig

    values = dict(config)
    made = AutoConfig.for_model(values.pop("model_type"), **values)
    if made.max_position_embeddings < setup.sequence_len:
        made.max_position_embeddings = setup.sequence_len
    if getattr(made, "pad_token_id", None) is not None and made.pad_token_id >= made.vocab_size:
        made.pad_token_id = None
    made.use_cache = False
    made._attn_implementation = ATTENTION[setup.attention]
    return made


def _adapt(causal: nn.Module, setup: Setup, stack: Stack, dtype: torch.dtype) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    causal.requires_grad_(False)
    causal.enable_input_require_grads()
    tied = causal.config.tie_word_embeddings
    adapter = LoraConfig(
        r=setup.lora_r,
        lora_alpha=setup.lora_alpha or setup.lora_r,
        lora_dropout=setup.lora_dropout,
        bias="none",
        target_modules=lora_target_names(causal, setup.lora_targets),
        modules_to_save=embedding_modules(causal.config.model_type, tied) if setup.train_embeddings else None,
        ensure_weight_tying=setup.train_embeddings and tied,
        task_type="CAUSAL_LM",
    )
    with torch.device("meta"):
        model = get_peft_model(causal, adapter, autocast_adapter_dtype=stack.adapter_fp32)
    if not stack.adapter_fp32:  # PEFT takes the base layer's dtype, but not on meta
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
    return model


def lora_target_names(causal: nn.Module, targets: str | tuple[str, ...]) -> list[str]:
    """Module names for PEFT, of every linear but the head or of those that `lora_targets` selects."""
    linears = sorted(
        {name.rpartition(".")[2] for name, module in causal.named_modules() if _is_linear(module)} - {"lm_head"}
    )
    if targets == "all-linear":
        return linears
    if targets == "attention":
        chosen = [name for name in linears if name in ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "c_attn")]
        return [*chosen, "attn.c_proj"] if "c_attn" in chosen else chosen  # the MLP has a c_proj too
    return [targets] if isinstance(targets, str) else list(targets)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or hasattr(module, "SCB") or hasattr(module, "double_quant")


def cast_loaded(causal: nn.Module, setup: Setup, stack: Stack, skip_tables: bool = False) -> None:
    """Dtypes of norms, embeddings, head and biases after loading. `skip_tables`: Axolotl's `embeddings_skip_upcast`.

    Axolotl: 1. norms, embeddings and head to FP32; 2. k-bit preparation of a quantised model: every other 16-bit
    tensor to FP32; 3. back to the weights' dtype when there is an adapter, flash-like attention or cut cross-entropy.
    """
    quantised, dtype = setup.method in ("qlora-4bit", "lora-8bit"), weights_dtype(setup)
    tables = () if skip_tables else UPCAST_NAMES
    if stack.upcast == "norms":
        for name, module in causal.named_modules():
            if "norm" in name or "ln_" in name:
                module.to(torch.float32)
        return
    if stack.upcast == "none" or (stack.upcast == "kbit" and not quantised):
        return
    if stack.upcast == "axolotl":
        _cast_named(causal, torch.float32, tables)
    if quantised:
        for name, parameter in causal.named_parameters():
            if skip_tables and any(one in name for one in UPCAST_NAMES):
                continue
            if parameter.dtype in (torch.float16, torch.bfloat16) and not hasattr(parameter, "quant_type"):
                parameter.data = parameter.data.to(torch.float32)
    flash_like = setup.attention not in ("eager", "sdpa")
    if stack.upcast == "axolotl" and (setup.method != "full" or flash_like or setup.cross_entropy == "cut"):
        _cast_named(causal, dtype, tables)


def _cast_named(causal: nn.Module, dtype: torch.dtype, tables: tuple[str, ...]) -> None:
    for name, module in causal.named_modules():
        if "norm" in name or (any(one in name for one in tables) and hasattr(module, "weight")):
            for parameter in module.parameters():  # one by one, as `Module.to` does, which cannot swap fake ones
                parameter.data = parameter.data.to(dtype)


def to_fake(model: nn.Module) -> None:
    """Replace every meta tensor by a fake one that claims a device; tied tensors stay tied. Call inside the fake
    mode."""
    made: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor, parameter: bool) -> torch.Tensor:
        if id(tensor) not in made:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            new = nn.Parameter(empty, requires_grad=tensor.requires_grad) if parameter else empty
            for attribute in ("compress_statistics", "quant_type"):
                if hasattr(tensor, attribute):
                    setattr(new, attribute, getattr(tensor, attribute))
            made[id(tensor)] = new
        return made[id(tensor)]

    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = fake(parameter, True)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = fake(buffer, False)
