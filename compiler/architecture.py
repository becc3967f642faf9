"""The shape of a dense decoder, read from its `config.json`: every linear, every norm, every parameter.

Each family is one entry of `compiler.families.FAMILIES`. Parameter counts are checked against the real `transformers`
classes on the meta device (`tests/test_architecture.py`). What is not understood is refused, never approximated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any

from compiler.config_json import (
    UnsupportedArchitecture,
    boolean,
    drops,
    factor,
    flag,
    head_dim_of,
    refuse,
    size_of,
    window_of,
)
from compiler.families import FAMILIES
from compiler.quick import dataclass


@dataclass(frozen=True, slots=True)
class Linear:
    """One `nn.Linear` of a decoder layer."""

    name: str
    """As `lora_target_modules` names it."""
    in_features: int
    out_features: int
    bias: bool
    group: str
    """`attention` or `mlp`."""

    @property
    def weights(self) -> int:
        return self.in_features * self.out_features


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of parameters (not bytes), by the module classes that loaders treat differently."""

    embedding: int
    head: int
    """0 where the head shares the embedding's weight."""
    positions: int
    """Learned position embedding (GPT-BigCode); 0 elsewhere."""
    linear_per_layer: int
    """Weights of the linears of one layer: what 4-bit and 8-bit loading quantises."""
    bias_per_layer: int
    norm_per_layer: int
    """Norms of one layer, query/key norms included."""
    final_norm: int
    layers: int

    @property
    def linear(self) -> int:
        return self.layers * self.linear_per_layer

    @property
    def bias(self) -> int:
        return self.layers * self.bias_per_layer

    @property
    def norm(self) -> int:
        return self.layers * self.norm_per_layer + self.final_norm

    @property
    def total(self) -> int:
        return self.embedding + self.head + self.positions + self.linear + self.bias + self.norm


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A dense decoder. All sizes are numbers of elements; `linears` describes one layer, the layers are alike."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    tie_word_embeddings: bool
    max_position_embeddings: int
    sliding_window: int | None = None
    """Tokens a windowed layer attends to; None when every layer attends to all."""
    windowed_layers: int = 0
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    logits_scaling: float | None = None
    """Granite divides the logits by it: one more tensor of tokens x vocabulary. None: no such step."""
    qk_norm: bool = False
    qk_norm_per_head: bool = True
    """True: one weight of `head_dim` each for queries and keys; False: one over all heads (OLMo 2)."""
    norms_per_layer: int = 2
    norm: str = "rmsnorm"
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    gated_mlp: bool = True
    fused_qkv: bool = False
    fused_gate_up: bool = False
    learned_positions: int = 0
    """Rows of the learned position embedding; 0 with rotary positions."""
    attention_dropout: bool = False
    """Of the scores after softmax, in training."""
    residual_dropout: bool = False
    """Of what attention and MLP add to the residual stream."""
    embedding_dropout: bool = False

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Kept: a plan asks for it a thousand times, with every piece that is derived once for a shape."""
        return hash(tuple(getattr(self, one.name) for one in dataclasses.fields(self)))

    @property
    def query_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """The linears of one layer, in the order of their use."""
        hidden, query, kv, mlp = self.hidden_size, self.query_size, self.kv_size, self.intermediate_size
        shapes: list[tuple[str, int, int, bool, str]] = []
        if self.fused_qkv:
            shapes.append(("qkv_proj", hidden, query + 2 * kv, self.attention_bias, "attention"))
        else:
            shapes += [
                (name, hidden, size, self.attention_bias, "attention")
                for name, size in (("q_proj", query), ("k_proj", kv), ("v_proj", kv))
            ]
        shapes.append(("o_proj", query, hidden, self.output_bias, "attention"))
        if self.fused_gate_up:
            shapes.append(("gate_up_proj", hidden, 2 * mlp, self.mlp_bias, "mlp"))
        else:
            if self.gated_mlp:
                shapes.append(("gate_proj", hidden, mlp, self.mlp_bias, "mlp"))
            shapes.append(("up_proj", hidden, mlp, self.mlp_bias, "mlp"))
        shapes.append(("down_proj", mlp, hidden, self.mlp_bias, "mlp"))
        names = dict(FAMILIES[self.model_type].names)
        return tuple(Linear(names.get(name, name), *rest) for name, *rest in shapes)

    @cached_property
    def parameters(self) -> Parameters:
        per_norm = {"rmsnorm": 1, "layernorm": 2, "layernorm-plain": 0}[self.norm] * self.hidden_size
        qk = 0
        if self.qk_norm:
            qk = 2 * self.head_dim if self.qk_norm_per_head else self.query_size + self.kv_size
        embedding = self.vocab_size * self.hidden_size
        return Parameters(
            embedding=embedding,
            head=0 if self.tie_word_embeddings else embedding,
            positions=self.learned_positions * self.hidden_size,
            linear_per_layer=sum(linear.weights for linear in self.linears),
            bias_per_layer=sum(linear.out_features for linear in self.linears if linear.bias),
            norm_per_layer=self.norms_per_layer * per_norm + qk,
            final_norm=per_norm,
            layers=self.num_layers,
        )

    def lora_linears(self, targets: str | tuple[str, ...]) -> tuple[Linear, ...]:
        """The linears of one layer that `lora_targets` selects. Raises ValueError for a name the model has not."""
        if targets == "all-linear":
            return self.linears
        if targets == "attention":
            return tuple(linear for linear in self.linears if linear.group == "attention")
        wanted = (targets,) if isinstance(targets, str) else targets
        unknown = sorted(set(wanted) - {linear.name for linear in self.linears})
        if unknown:
            raise ValueError(
                f"{self.model_type} has no linear named {', '.join(unknown)}; "
                f"it has {', '.join(linear.name for linear in self.linears)}"
            )
        return tuple(linear for linear in self.linears if linear.name in wanted)

    def lora_parameters(self, rank: int, targets: str | tuple[str, ...]) -> int:
        """Parameters of the adapters of all layers: rank x (in + out) for each selected linear."""
        return self.num_layers * sum(rank * (one.in_features + one.out_features) for one in self.lora_linears(targets))


def from_config(config: Mapping[str, Any]) -> Architecture:
    """Read a Hugging Face `config.json`. Raises UnsupportedArchitecture for anything but a dense decoder."""
    model_type = config.get("model_type")
    refuse(config, model_type)
    family = FAMILIES[model_type]
    alias = dict(family.keys)

    def size(name: str, default: int | None = None) -> int:
        return size_of(config, alias.get(name, name), default)

    hidden, heads, layers = size("hidden_size"), size("num_attention_heads"), size("num_hidden_layers")
    if model_type == "gpt_bigcode":
        kv_heads = 1 if boolean(config, "multi_query", True) else heads
    else:
        kv_heads = size("num_key_value_heads", heads)
    if heads % kv_heads:
        raise UnsupportedArchitecture(
            f"num_attention_heads ({heads}) is no multiple of num_key_value_heads ({kv_heads})"
        )
    if family.heads_divide_hidden and hidden % heads:
        raise UnsupportedArchitecture(
            f"hidden_size ({hidden}) is no multiple of num_attention_heads ({heads}); transformers refuses to load it"
        )
    positions = size("max_position_embeddings")
    window, windowed = window_of(config, family, layers)
    bias = {name: flag(config, getattr(family, name)) for name in ("attention_bias", "output_bias", "mlp_bias")}
    found = Architecture(
        model_type=model_type,
        vocab_size=size("vocab_size"),
        hidden_size=hidden,
        intermediate_size=size("intermediate_size", 4 * hidden if family.learned_positions else None),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim_of(config, family, hidden // heads),
        tie_word_embeddings=boolean(config, "tie_word_embeddings", family.tied),
        max_position_embeddings=positions,
        sliding_window=window,
        windowed_layers=windowed,
        attn_logit_softcapping=factor(config, "attn_logit_softcapping", family.attention_softcap),
        final_logit_softcapping=factor(config, "final_logit_softcapping", family.final_softcap),
        logits_scaling=factor(config, "logits_scaling", 1.0) if model_type == "granite" else None,
        qk_norm=family.qk_norm != "none",
        qk_norm_per_head=family.qk_norm != "full",
        norms_per_layer=family.norms_per_layer,
        norm=family.norm,
        gated_mlp=family.gated_mlp,
        fused_qkv=family.fused_qkv,
        fused_gate_up=family.fused_gate_up,
        learned_positions=positions if family.learned_positions else 0,
        **{name: drops(config, key) for name, key in family.dropouts},
        **bias,
    )
    return _known(found)


@lru_cache(maxsize=256)
def _known(architecture: Architecture) -> Architecture:
    """The first of equal ones: what was derived for it is found by identity."""
    return architecture


def config_dict(architecture: Architecture) -> dict[str, Any]:
    """A `config.json` from which `transformers` builds a model of this shape; what decides no shape stays default."""
    family = FAMILIES[architecture.model_type]
    alias = dict(family.keys)
    sizes = {
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.hidden_size,
        "intermediate_size": architecture.intermediate_size,
        "num_hidden_layers": architecture.num_layers,
        "num_attention_heads": architecture.num_heads,
        "max_position_embeddings": architecture.max_position_embeddings,
    }
    config: dict[str, Any] = {"model_type": architecture.model_type}
    config["tie_word_embeddings"] = architecture.tie_word_embeddings
    config |= {alias.get(name, name): value for name, value in sizes.items()}
    # written where it is off too: GPT-BigCode's class turns it on by default
    config |= {key: 0.1 if getattr(architecture, name) else 0.0 for name, key in family.dropouts}
    if architecture.model_type == "gpt_bigcode":
        return config | {"multi_query": architecture.num_kv_heads == 1}
    config |= {"num_key_value_heads": architecture.num_kv_heads, "head_dim": architecture.head_dim}
    config["sliding_window"] = architecture.sliding_window
    if family.window_needs_flag and architecture.sliding_window:
        config["use_sliding_window"] = True
        if family.window_every:
            config["no_rope_layer_interval"] = architecture.num_layers // architecture.windowed_layers
        else:
            config["max_window_layers"] = architecture.num_layers - architecture.windowed_layers
    for name in ("attention_bias", "mlp_bias"):
        key = getattr(family, name)
        if isinstance(key, str):
            config[key] = getattr(architecture, name)
    for name in ("attn_logit_softcapping", "final_logit_softcapping", "logits_scaling"):
        if getattr(architecture, name) is not None:
            config[name] = getattr(architecture, name)
    # classes fill in token ids of their own vocabulary, which a smaller vocabulary does not have
    return config | {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
