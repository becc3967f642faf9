"""The decoder families: what a `model_type` implies beyond its `config.json`. A new family is one entry here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """What a `model_type` implies and its `config.json` does not say. A string names the config key that decides."""

    layer_class: str
    """Class of a decoder layer in transformers, which FSDP wraps."""
    attention_bias: bool | str = False
    """Of q, k and v."""
    output_bias: bool | str = False
    """Of the attention's output projection."""
    mlp_bias: bool | str = False
    gated_mlp: bool = True
    fused_qkv: bool = False
    fused_gate_up: bool = False
    norm: str = "rmsnorm"
    """`rmsnorm` (weight), `layernorm` (weight and bias), `layernorm-plain` (no parameters)."""
    norms_per_layer: int = 2
    qk_norm: str = "none"
    """`none`, `head` (one weight of head_dim, shared by the heads) or `full` (over all heads)."""
    tied: bool = False
    """`tie_word_embeddings` where the config leaves it out."""
    window: int | None = None
    """`sliding_window` where the config leaves it out."""
    window_needs_flag: bool = False
    """`sliding_window` counts only when `use_sliding_window` is true (Qwen)."""
    full_attention_every: int | None = None
    """Every n-th layer attends to everything, the others to the window; None: all layers alike."""
    head_dim: int | None = None
    """`head_dim` where the config leaves it out; None: hidden_size / heads."""
    attention_softcap: float | None = None
    final_softcap: float | None = None
    learned_positions: bool = False
    keys: tuple[tuple[str, str], ...] = ()
    """(our name, the config's name) where they differ."""
    names: tuple[tuple[str, str], ...] = ()
    """(usual linear name, this family's name) where they differ."""


_BIG_CODE_KEYS = (
    ("hidden_size", "n_embd"),
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
    ("max_position_embeddings", "n_positions"),
    ("intermediate_size", "n_inner"),
)

FAMILIES: Mapping[str, Family] = {
    "llama": Family(
        "LlamaDecoderLayer",
        attention_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
    ),
    "mistral": Family("MistralDecoderLayer", window=4096),
    "qwen2": Family("Qwen2DecoderLayer", attention_bias=True, window_needs_flag=True),
    "qwen3": Family(
        "Qwen3DecoderLayer",
        head_dim=128,
        attention_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm="head",
        window_needs_flag=True,
    ),
    "gemma": Family(
        "GemmaDecoderLayer",
        head_dim=256,
        attention_bias="attention_bias",
        output_bias="attention_bias",
        tied=True,
    ),
    "gemma2": Family(
        "Gemma2DecoderLayer",
        head_dim=256,
        attention_bias="attention_bias",
        output_bias="attention_bias",
        norms_per_layer=4,
        tied=True,
        window=4096,
        full_attention_every=2,
        attention_softcap=50.0,
        final_softcap=30.0,
    ),
    "gemma3_text": Family(
        "Gemma3DecoderLayer",
        head_dim=256,
        attention_bias="attention_bias",
        output_bias="attention_bias",
        norms_per_layer=4,
        qk_norm="head",
        tied=True,
        window=4096,
        full_attention_every=6,
    ),
    "phi3": Family("Phi3DecoderLayer", fused_qkv=True, fused_gate_up=True),
    "granite": Family(
        "GraniteDecoderLayer",
        attention_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
    ),
    "olmo": Family(
        "OlmoDecoderLayer",
        attention_bias="attention_bias",
        output_bias="attention_bias",
        norm="layernorm-plain",
    ),
    "olmo2": Family("Olmo2DecoderLayer", attention_bias="attention_bias", output_bias="attention_bias", qk_norm="full"),
    "starcoder2": Family(
        "Starcoder2DecoderLayer",
        attention_bias="use_bias",
        output_bias="use_bias",
        mlp_bias="use_bias",
        gated_mlp=False,
        norm="layernorm",
        tied=True,
        names=(("up_proj", "c_fc"), ("down_proj", "c_proj")),
    ),
    "gpt_bigcode": Family(
        "GPTBigCodeBlock",
        attention_bias=True,
        output_bias=True,
        mlp_bias=True,
        gated_mlp=False,
        fused_qkv=True,
        norm="layernorm",
        tied=True,
        learned_positions=True,
        keys=_BIG_CODE_KEYS,
        names=(("qkv_proj", "c_attn"), ("o_proj", "attn.c_proj"), ("up_proj", "c_fc"), ("down_proj", "mlp.c_proj")),
    ),
    "smollm3": Family(
        "SmolLM3DecoderLayer",
        attention_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
        tied=True,
        window_needs_flag=True,
    ),
}
