"""What one decoder layer keeps for its backward pass, and what it needs on top at the worst moment of that backward.

All results are bytes per token (flash attention), plus bytes per token and sequence length for `eager`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from compiler.architecture import Architecture
from compiler.values import Setup


@dataclass(frozen=True, slots=True)
class LayerCost:
    saved: tuple[float, float, float]
    """(const, per token, per token x length) kept from forward to backward."""
    peaks: tuple[tuple[str, float, float, float], ...]
    """(moment, const, per token, per token x length) alive inside the layer at its worst moments, saved tensors included."""


def layer_cost(architecture: Architecture, setup: Setup) -> LayerCost:
    return _layer_cost(architecture, setup.method, setup.attention, setup.lora_r, setup.lora_dropout > 0, setup.lora_targets,
                       setup.lora_kernels, setup.cross_entropy == "cut")  # fmt: skip


@lru_cache(maxsize=256)
def _layer_cost(architecture: Architecture, method: str, attention: str, rank: int | None, dropout: bool,
                targets: str | tuple[str, ...], kernels: bool, cut: bool) -> LayerCost:  # fmt: skip
    a = architecture
    hidden, q, kv, mlp = a.hidden_size, a.query_size, a.kv_size, a.intermediate_size
    full = method == "full"
    selected = () if full else a.lora_linears(targets)
    has_mlp = any(one.group == "mlp" for one in selected)
    if full:
        saved, extra = 16 * hidden + 4 * q + 4 * kv + 8 * mlp, q + 4 * mlp
    elif kernels:
        saved, extra = 12 * hidden + 4 * q + 4 * kv + 4 * mlp, 4 * hidden + q + 2 * mlp
    elif method == "lora":
        saved = 18 * hidden + 6 * q + 4 * kv + 8 * mlp if has_mlp else 14 * hidden + 6 * q + 4 * kv + 6 * mlp
        extra = (8 if has_mlp else 2) * hidden + q + 6 * mlp
    else:
        saved, extra = (12 if has_mlp else 10) * hidden + 4 * q + 4 * kv + (8 if has_mlp else 6) * mlp, q + (4 if has_mlp else 6) * mlp
    if dropout and not full and not kernels:
        saved += 20 * hidden + 4 * q + 4 * mlp if method == "lora" else 16 * hidden + 4 * q + 2 * mlp
        extra = 8 * hidden + q + (10 if method == "lora" else 2) * mlp
    if method == "lora-8bit":
        extra = 4 * hidden + q + 3.3 * mlp
    saved += 0 if kernels else 2 * (rank or 0) * len(selected)
    saved += (8 * hidden if a.norms_per_layer == 4 else 0) + (4 * (q + kv) if a.qk_norm else 0) + 4 * a.num_heads
    saved += (4 * hidden if a.fused_qkv else 0) + (10 * hidden if full and attention in ("eager", "sdpa") and not cut else 0)
    largest = 2 * max(linear.weights for linear in a.linears) if full or method in ("lora-8bit", "qlora-4bit") else 0
    gradients = sum(4 * (rank or 0) * (one.in_features + one.out_features) for one in selected)
    scores = a.num_heads * (8 if a.attn_logit_softcapping else 6) if attention == "eager" else 0
    hump = a.num_heads * (16 if a.attn_logit_softcapping else 14) if attention == "eager" else 0
    peaks = [("backward of the MLP", float(largest + gradients), float(saved + extra), float(scores))]
    if hump:
        peaks.append(("backward of the softmax", float(gradients), float(saved - 8 * mlp), float(hump)))
    return LayerCost((0.0, float(saved), float(scores)), tuple(peaks))
