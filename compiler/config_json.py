"""What a `config.json` says, value by value: each is of its type and in its range, or the model is refused with a
sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from compiler.families import FAMILIES, Family

MAX_SIZE = 2**24
"""No dimension of a real model comes near it; it keeps a typing mistake from becoming a plan."""
_BIAS_DEFAULTS = {"use_bias": True, "attention_bias": False, "mlp_bias": False}
ACTIVATIONS = ("silu", "swish", "gelu", "gelu_pytorch_tanh")
_LANGUAGE_MODEL = re.compile(r"ForCausalLM|LMHead|ForConditionalGeneration")
_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")


class UnsupportedArchitecture(ValueError):
    """The configuration describes a model that cannot be planned; the message says why and what would work."""


def refuse(config: Mapping[str, Any], model_type: Any) -> None:
    if not isinstance(model_type, str):
        raise UnsupportedArchitecture("config.json names no `model_type`; take the one that lies beside the weights")
    if any(config.get(key) for key in _EXPERT_KEYS):
        raise UnsupportedArchitecture(f"{model_type} is a mixture of experts; only dense decoders are planned so far")
    if "text_config" in config or "vision_config" in config:
        raise UnsupportedArchitecture(
            f"{model_type} wraps a text model with other modalities; take a text-only model "
            "(for Gemma 3: google/gemma-3-1b-it)"
        )
    if model_type not in FAMILIES:
        raise UnsupportedArchitecture(f"model_type {model_type!r} is not modelled; these are: {', '.join(FAMILIES)}")
    if config.get("quantization_config"):
        raise UnsupportedArchitecture(
            "these weights are already quantised; name the unquantised model, "
            "it is quantised while loading (training.method: qlora-4bit)"
        )
    unknown = _activation(config)
    if unknown:
        raise UnsupportedArchitecture(unknown)
    heads = config.get("architectures") or ()
    bare = [name for name in heads if isinstance(name, str) and not _LANGUAGE_MODEL.search(name)]
    if isinstance(heads, list) and bare:
        raise UnsupportedArchitecture(
            f"these are the weights of {bare[0]}, without a language model's head, which would start at random; name "
            "the model that they were made from"
        )
    types = config.get("layer_types") or []
    if not isinstance(types, list):
        raise UnsupportedArchitecture(f"config.json: `layer_types` is {types!r}, not a list with an entry a layer")
    other = sorted({str(kind) for kind in types} - {"full_attention", "sliding_attention"})
    if other:
        raise UnsupportedArchitecture(
            f"layers of type {', '.join(other)} are not modelled; full and sliding attention are"
        )


def _activation(config: Mapping[str, Any]) -> str:
    """What is wrong with the activation that a config names, or "". The trace and the closed forms know native kernels
    that keep their input; ReLU keeps its output, which the MLP keeps anyway (14 % less in a step without checkpoints),
    and Axolotl's LoRA kernels stop at it."""
    for key in ("hidden_act", "hidden_activation", "activation_function"):
        name = config.get(key)
        if name is not None and name not in ACTIVATIONS:
            return f"config.json: the activation `{key}: {name}` is not modelled; {', '.join(ACTIVATIONS)} are"
    return ""


WINDOWS_FROM = 28
"""`max_window_layers` of transformers' Qwen classes where the config leaves it out."""


def window_of(config: Mapping[str, Any], family: Family, layers: int) -> tuple[int | None, int]:
    """(window, number of windowed layers), (None, 0) when no layer has one."""
    window = config.get("sliding_window", family.window)
    if window is None or (family.window_needs_flag and not boolean(config, "use_sliding_window", False)):
        return None, 0
    window = size_of({"sliding_window": window}, "sliding_window", None)
    types = config.get("layer_types")
    if types and len(types) != layers:
        raise UnsupportedArchitecture(f"config.json: `layer_types` has {len(types)} entries for {layers} layers")
    if types:
        windowed = sum(kind == "sliding_attention" for kind in types)
    elif family.window_every:
        turns = config.get("no_rope_layers")
        every = size_of(config, "no_rope_layer_interval", family.window_every)
        windowed = sum(not one for one in turns) if isinstance(turns, list) else layers // every
    elif family.window_needs_flag:
        full = config.get("max_window_layers")  # as many from the first on attend to everything; 0 is a number
        windowed = layers if full == 0 else max(0, layers - size_of(config, "max_window_layers", WINDOWS_FROM))
    else:
        every = family.full_attention_every
        windowed = layers - layers // every if every else layers
    return (window, windowed) if windowed else (None, 0)


def head_dim_of(config: Mapping[str, Any], family: Family, even_share: int) -> int:
    """An explicit null means hidden_size / heads; a missing key, the default of the class."""
    if "head_dim" not in config and family.head_dim:
        return family.head_dim
    return size_of(config, "head_dim", even_share)


def size_of(config: Mapping[str, Any], key: str, default: int | None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if value is None:
        raise UnsupportedArchitecture(f"config.json has no `{key}`")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_SIZE:
        raise UnsupportedArchitecture(f"config.json: `{key}` is {value!r}, not a whole number from 1 to {MAX_SIZE}")
    return value


def factor(config: Mapping[str, Any], key: str, default: float | None) -> float | None:
    """What something is divided by; an explicit null means that it is not."""
    value = config.get(key, default)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and 0 < value < float("inf")):
        raise UnsupportedArchitecture(f"config.json: `{key}` is {value!r}, not a number above 0 or null")
    return value


def drops(config: Mapping[str, Any], key: str) -> bool:
    """Whether a dropout's probability is above 0."""
    value = config.get(key) or 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise UnsupportedArchitecture(f"config.json: `{key}` is {value!r}, not a number from 0 to below 1")
    return value > 0


def flag(config: Mapping[str, Any], rule: bool | str) -> bool:
    return boolean(config, rule, _BIAS_DEFAULTS[rule]) if isinstance(rule, str) else rule


def boolean(config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, bool):
        raise UnsupportedArchitecture(f"config.json: `{key}` is {value!r}, not true or false")
    return value
