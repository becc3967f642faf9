"""What older transformers' model classes keep alive around the loss: read from their `modeling_*.py` of each version.

Only what changes memory: how the standard loss treats the logits, and whether `use_cache` is switched off under
gradient checkpointing. A family that is not named follows its version's rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Version:
    """The loss path of one transformers version."""

    loss: str
    """`current`: the installed class's own; `kept`: `loss_function`, 16-bit logits stay in the output beside an FP32
    copy and its shifted copy; `copied`: the class's own loss, logits are returned in FP32, then shifted into a copy."""
    unconverted: frozenset[str] = frozenset()
    """Families whose own loss shifts the logits in the dtype that the head gives, without an FP32 copy."""
    cached: frozenset[str] = frozenset()
    """Families that leave `use_cache` on under gradient checkpointing: every layer's keys and values (with a fused
    projection the whole of its output, of which they are views) live as long as the model's outputs."""
    expanded: frozenset[str] = frozenset()
    """Families that repeat grouped keys and values to all heads before flash attention, which does not need it."""
    source: str = ""


_BIG_CODE = frozenset({"gpt_bigcode"})
VERSIONS: Mapping[str, Version] = {
    "current": Version("current", source="transformers 5.16.1"),
    "4.48": Version(
        "kept",
        _BIG_CODE,
        _BIG_CODE,
        source="transformers 4.48.1: loss/loss_utils.py ForCausalLMLoss; modeling_gpt_bigcode.py has a loss of its own "
        "and is the one decoder without `use_cache = False` under checkpointing",
    ),
    "4.45": Version(
        "copied",
        _BIG_CODE,
        _BIG_CODE,
        frozenset({"mistral", "qwen2", "phi3", "starcoder2"}),
        "transformers 4.45.2: `logits = logits.float()`, `shift_logits = logits[..., :-1, :].contiguous()` in every "
        "class but GPT-BigCode's, which shifts the 16-bit logits; `repeat_kv` in four flash attention classes",
    ),
}
