"""The decoder families: what a `model_type` implies beyond its `config.json`. A new family is one entry here."""

from __future__ import annotations

from collections.abc import Mapping

from compiler.quick import dataclass


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
    window_every: int | None = None
    """Every n-th layer, which has no positions, attends to the window, the others to everything (SmolLM3)."""
    head_dim: int | None = None
    """`head_dim` where the config leaves it out; None: hidden_size / heads."""
    attention_softcap: float | None = None
    final_softcap: float | None = None
    learned_positions: bool = False
    lora_kernels: bool = True
    """Whether Axolotl's LoRA kernels find the attention code that they replace (axolotl 0.19
    `monkeypatch/lora_kernels.py`, QKV_PATCHES and ORIGINAL_O_CODE, in transformers 5.16); elsewhere loading fails."""
    heads_divide_hidden: bool = False
    """transformers refuses a `hidden_size` that is no multiple of the heads (`validate_architecture`)."""
    dropouts: tuple[tuple[str, str], ...] = (("attention_dropout", "attention_dropout"),)
    """(our name, the config's name) of the dropouts that the class has; they act in training."""
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
        heads_divide_hidden=True,
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
        heads_divide_hidden=True,
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
        heads_divide_hidden=True,
    ),
    "phi3": Family(
        "Phi3DecoderLayer",
        fused_qkv=True,
        fused_gate_up=True,
        lora_kernels=False,
        dropouts=(("attention_dropout", "attention_dropout"), ("residual_dropout", "resid_pdrop")),
    ),
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
        lora_kernels=False,
    ),
    "olmo2": Family(
        "Olmo2DecoderLayer",
        attention_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm="full",
        lora_kernels=False,
    ),
    "starcoder2": Family(
        "Starcoder2DecoderLayer",
        attention_bias="use_bias",
        output_bias="use_bias",
        mlp_bias="use_bias",
        gated_mlp=False,
        norm="layernorm",
        tied=True,
        dropouts=tuple((name, name) for name in ("attention_dropout", "residual_dropout", "embedding_dropout")),
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
        lora_kernels=False,
        dropouts=(
            ("attention_dropout", "attn_pdrop"),
            ("residual_dropout", "resid_pdrop"),
            ("embedding_dropout", "embd_pdrop"),
        ),
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
        window_every=4,
    ),
}


def embedding_modules(model_type: str, tied: bool) -> list[str]:
    """Modules that PEFT saves and trains whole where embeddings are trained beside adapters. Tied: PEFT ties the head
    to the trained copy by itself (`ensure_weight_tying`), but only where one of the names is one that it knows, which
    GPT-BigCode's `wte` is not (peft 0.20 `_check_tied_modules`)."""
    if FAMILIES[model_type].learned_positions:
        return ["wte", "lm_head"]
    return ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]


def kernels_cannot(model_type: str) -> str | None:
    """Why Axolotl's LoRA kernels fail on a family while the model loads, or None."""
    if FAMILIES[model_type].lora_kernels:
        return None
    return f"Axolotl's LoRA kernels do not know the attention code of {model_type} and stop at loading"
