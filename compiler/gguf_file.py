"""A Hugging Face folder -> one GGUF file for llama.cpp and Ollama.

Written here because no package on PyPI ships llama.cpp's converter beside the `gguf` library without replacing that
library.
Covers the families whose tensors and tokenizer are fully known (FAMILIES); others are refused, never approximated.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.problems import WorldProblem

CONVERTER_HINT = (
    "convert the merged folder with llama.cpp's convert_hf_to_gguf.py; vLLM and transformers load it as it is"
)


@dataclass(frozen=True, slots=True)
class Family:
    """What llama.cpp expects of a `model_type`."""

    architecture: str
    permute: bool
    """llama.cpp rotates pairs of neighbours in its `llama` architecture; Hugging Face rotates halves."""


FAMILIES = {
    "llama": Family("llama", True),
    "qwen2": Family("qwen2", False),
    "qwen3": Family("qwen3", False),
}

NATIVE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_0", "q4_0")
"""File types that the gguf library writes itself (gguf.quants); K-quants need llama.cpp's `llama-quantize`."""

PRE_TOKENIZERS = (
    ("llama-bpe", r"\p{N}{1,3}"),
    ("qwen2", r"\p{N}|"),
)
"""llama.cpp's name -> what tells the splitting pattern of tokenizer.json apart from the others."""


def write_gguf(folder: Path, target: Path, file_type: str, name: str) -> None:
    """Convert `folder` (config.json, safetensors, tokenizer.json) into `target`, whole or not at all.

    `file_type` is one of NATIVE_TYPES. Raises WorldProblem where the family, tokenizer or a package is missing.
    """
    gguf = _library()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    family = FAMILIES.get(config.get("model_type", ""))
    if family is None:
        known = ", ".join(FAMILIES)
        raise WorldProblem(
            f"GGUF of `{config.get('model_type')}` models is not written here (known: {known})", CONVERTER_HINT
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        writer = gguf.GGUFWriter(part, family.architecture)
        _metadata(writer, gguf, config, file_type, name)
        _tokenizer(writer, gguf, folder, config)
        for tensor, array, kind in _tensors(gguf, folder, config, family, file_type):
            writer.add_tensor(tensor, array, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _library() -> Any:
    try:
        import gguf
    except ImportError:
        raise WorldProblem("the gguf package is not installed", "pip install 'finetune-recipes[embedded]'") from None
    return gguf


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """transformers 5 keeps everything of the rotary embedding in `rope_parameters`; older folders in two keys."""
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    found.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    return found


def _head_dim(config: dict[str, Any]) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def _metadata(writer: Any, gguf: Any, config: dict[str, Any], file_type: str, name: str) -> None:
    writer.add_name(name)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config.get("num_key_value_heads") or config["num_attention_heads"])
    writer.add_key_length(_head_dim(config))
    writer.add_value_length(_head_dim(config))
    writer.add_rope_dimension_count(_head_dim(config))
    writer.add_rope_freq_base(_rope(config)["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    wanted = "ALL_F32" if file_type == "f32" else f"MOSTLY_{file_type.upper()}"
    writer.add_file_type(getattr(gguf.LlamaFileType, wanted))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _tokenizer(writer: Any, gguf: Any, folder: Path, config: dict[str, Any]) -> None:
    """Byte-level BPE out of tokenizer.json, special tokens and chat template out of the files beside it."""
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model = data["model"]
    if model.get("type") != "BPE":  # SentencePiece as BPE is refused by `pre_tokenizer`: it splits no bytes
        raise WorldProblem("GGUF is written here for byte-level BPE tokenizers only", CONVERTER_HINT)
    size = config["vocab_size"]
    tokens = [f"[PAD{number}]" for number in range(size)]
    kinds = [int(gguf.TokenType.UNUSED)] * size
    for token, number in model["vocab"].items():
        tokens[number], kinds[number] = token, int(gguf.TokenType.NORMAL)
    ids = dict(model["vocab"])
    for added in data.get("added_tokens", ()):
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        tokens[added["id"]], kinds[added["id"]] = added["content"], int(kind)
        ids[added["content"]] = added["id"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(data))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = model["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    _special_tokens(writer, folder, ids)


def _special_tokens(writer: Any, folder: Path, ids: dict[str, int]) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    for key, add in (("bos_token", writer.add_bos_token_id), ("eos_token", writer.add_eos_token_id),
                     ("pad_token", writer.add_pad_token_id), ("unk_token", writer.add_unk_token_id)):  # fmt: skip
        value = settings.get(key)
        text = value.get("content") if isinstance(value, dict) else value
        if text in ids:
            add(ids[text])
    writer.add_add_bos_token(bool(settings.get("add_bos_token", False)))  # chat templates write it themselves
    template = folder / "chat_template.jinja"
    text = template.read_text(encoding="utf-8") if template.is_file() else settings.get("chat_template")
    if isinstance(text, str):
        writer.add_chat_template(text)


def pre_tokenizer(data: dict[str, Any]) -> str:
    """llama.cpp's name for how tokenizer.json splits text before BPE. Raises WorldProblem for a pattern it has no name
    for.

    >>> pre_tokenizer({"pre_tokenizer": {"type": "ByteLevel", "use_regex": True}})
    'gpt-2'
    """
    steps = data.get("pre_tokenizer") or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        pattern = steps[0].get("pattern", {}).get("Regex", "")
        for name, mark in PRE_TOKENIZERS:
            if mark in pattern:
                return name
    raise WorldProblem("llama.cpp's name for this tokenizer's way of splitting text is not known here", CONVERTER_HINT)


def _tensors(gguf: Any, folder: Path, config: dict[str, Any], family: Family, file_type: str) -> Iterator[tuple]:
    """(name, array, type) of every tensor, one at a time: the model need not fit into memory twice."""
    from safetensors import safe_open

    architecture = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == family.architecture)
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise WorldProblem(f"{folder} holds no model*.safetensors", "merge the trained model again")
    if _rope(config).get("rope_type") == "llama3":
        yield "rope_freqs.weight", llama3_factors(config), gguf.GGMLQuantizationType.F32
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                if name == "lm_head.weight" and config.get("tie_word_embeddings"):
                    continue
                target = names.get_name(name, try_suffixes=(".weight", ".bias"))
                if target is None:
                    raise WorldProblem(f"llama.cpp has no tensor for {name}", CONVERTER_HINT)
                array = tensors.get_tensor(name).float().numpy()
                if family.permute and (found := re.search(r"\.self_attn\.([qk])_proj\.", name)):
                    array = permuted(array, _heads(config, found.group(1)))
                yield target, *_encoded(gguf, array, file_type)


def _heads(config: dict[str, Any], which: str) -> int:
    return (
        config["num_attention_heads"]
        if which == "q"
        else config.get("num_key_value_heads") or config["num_attention_heads"]
    )


def permuted(array: Any, heads: int) -> Any:
    """Rows of a query or key projection from Hugging Face's order (halves of a head) to llama.cpp's (pairs)."""
    rows = array.shape[0]
    return array.reshape(heads, 2, rows // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def _encoded(gguf: Any, array: Any, file_type: str) -> tuple[Any, Any]:
    """Norms and biases stay FP32; a matrix whose rows the block size does not divide stays FP16."""
    kinds = gguf.GGMLQuantizationType
    kind = kinds[file_type.upper()] if array.ndim > 1 else kinds.F32
    if array.ndim > 1 and array.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = kinds.F16
    return gguf.quantize(array, kind), kind


def llama3_factors(config: dict[str, Any]) -> Any:
    """What each rotary frequency is divided by: Llama 3.1's scaling, as transformers computes it
    (modeling_rope_utils.py)."""
    import numpy

    rope, dim = _rope(config), _head_dim(config)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    old = rope["original_max_position_embeddings"]
    factors = []
    for number in range(0, dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (number / dim)
        if wavelength < old / high:
            factors.append(1.0)
        elif wavelength > old / low:
            factors.append(rope["factor"])
        else:
            smooth = (old / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return numpy.array(factors, dtype=numpy.float32)
