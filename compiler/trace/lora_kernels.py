"""Axolotl's fused LoRA kernels (`lora_mlp_kernel`, `lora_qkv_kernel`, `lora_o_kernel`): its own autograd Functions,
with only the Triton activation and the dequantisation replaced by equal allocations."""

from __future__ import annotations

import inspect
import sys
import textwrap
from types import MethodType, ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn

from compiler.trace.quantised import dequantise


def _dequantise(weight: torch.Tensor, quant_state: Any = None) -> torch.Tensor:
    if quant_state is None:
        return weight
    out = dequantise(quant_state.layer)
    return out.t() if weight.shape[0] == 1 else out


def _activation(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(gate)


def _activation_backward(grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return grad, gate, up  # the Triton kernel writes over its inputs


def _with_layer(original: Any) -> Any:
    """The packed weight that FSDP gathers is a new tensor and has lost its layer."""

    def parameters(projection: nn.Module) -> tuple[Any, ...]:
        weight, bias, state, *factors = original(projection)
        if state is None and hasattr(projection.base_layer, "double_quant"):
            state = SimpleNamespace(layer=projection.base_layer)
        return weight, bias, state, *factors

    return parameters


def kernel_patches() -> list[tuple[Any, str, Any]]:
    """(object, attribute, replacement) for the time of a trace."""
    import axolotl.kernels.lora as kernels
    import torch.amp.autocast_mode as modes

    autocast, dtype_of = modes.autocast, torch.get_autocast_dtype

    def on_traced_device(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return autocast("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    return [
        # the Functions are decorated for CUDA's autocast: let them use that of the device that is traced
        (modes, "autocast", on_traced_device),
        (torch, "get_autocast_dtype", lambda device_type: dtype_of("cpu" if device_type == "cuda" else device_type)),
        (kernels, "get_lora_parameters", _with_layer(kernels.get_lora_parameters)),
        (kernels, "dequantize", _dequantise),
        (kernels, "swiglu_forward", _activation),
        (kernels, "geglu_forward", _activation),
        (kernels, "swiglu_backward", _activation_backward),
        (kernels, "geglu_backward", _activation_backward),
    ]


def install_lora_kernels(model: nn.Module) -> None:
    """Do what Axolotl's `apply_lora_kernel_patches` does to each layer of a Llama-like model."""
    import axolotl.kernels.lora as kernels
    import axolotl.monkeypatch.lora_kernels as patches

    for module in model.modules():
        if hasattr(module, "double_quant"):
            module.weight.quant_state = SimpleNamespace(layer=module)
    activation = getattr(model.config, "hidden_act", None) or getattr(model.config, "hidden_activation", "silu")
    mlp_forward = kernels.apply_lora_mlp_geglu if "gelu" in activation else kernels.apply_lora_mlp_swiglu
    for layer in model.model.layers:
        attention = layer.self_attn
        if hasattr(attention, "q_proj"):
            qkv = _adapted(attention, "q_proj", "k_proj", "v_proj")
            attention.apply_qkv = MethodType(kernels.apply_lora_qkv if qkv else patches.original_apply_qkv, attention)
            attention.apply_o = MethodType(
                kernels.apply_lora_o if _adapted(attention, "o_proj") else patches.original_apply_o, attention
            )
            attention.forward = MethodType(_patched_forward(type(attention), patches), attention)
        if _adapted(layer.mlp, "gate_proj", "up_proj", "down_proj"):
            layer.mlp.forward = MethodType(mlp_forward, layer.mlp)


def _adapted(module: nn.Module, *names: str) -> bool:
    return all(hasattr(getattr(module, name, None), "lora_A") for name in names)


def _patched_forward(attention_class: type, patches: ModuleType) -> Any:
    """The class's forward with Axolotl's own text replacements for q, k, v and o."""
    source = textwrap.dedent(inspect.getsource(attention_class.forward))
    for original, patched in patches.QKV_PATCHES:
        if original in source:
            source = source.replace(original, patched)
            break
    source = source.replace(patches.ORIGINAL_O_CODE, patches.PATCHED_O_CODE).replace(
        "def forward(", "def patched_forward(", 1
    )
    names = dict(vars(sys.modules[attention_class.__module__]))
    exec("from __future__ import annotations\n" + source, names)
    return names["patched_forward"]
