"""What training stacks do differently with the same model: dtypes, autocast, attention kernel, loss, what a loop
keeps alive.

The planner speaks for Axolotl. The others exist to hold the tracer against measurements that people published from
them; every value is read from the stack's code or its documentation, none is set per measurement.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stack:
    name: str
    autocast: str
    """`accelerate` (16-bit autocast, outputs copied to FP32), `plain` (autocast alone), `none`."""
    adapter_fp32: bool
    """LoRA weights in FP32; otherwise in the weights' dtype."""
    upcast: str
    """Dtype policy after loading: `axolotl`, `kbit` (PEFT's `prepare_model_for_kbit_training`: every 16-bit tensor
    of a quantised model to FP32), `norms` (norms alone to FP32), `none`."""
    sdpa_kernel: str = "flash"
    """Kernel behind `attention: sdpa`: `flash`, or `memory_efficient` before Ampere."""
    transformers: str = "current"
    """Which version's losses and caches: a key of `compiler.trace.versions.VERSIONS`."""
    keeps_outputs: bool = False
    """A hand-written loop whose `outputs` variable keeps the logits alive through backward."""
    clips_gradients: bool = True
    evidence: str = ""


AXOLOTL = Stack(
    "axolotl",
    "accelerate",
    True,
    "axolotl",
    evidence="Axolotl 0.19.0 loaders/model.py `_configure_embedding_dtypes`; HF Trainer, accelerate's BF16 autocast",
)
PEFT_LOOP = Stack(
    "peft-loop",
    "none",
    True,
    "kbit",
    sdpa_kernel="memory_efficient",
    keeps_outputs=True,
    clips_gradients=False,
    evidence="fitcheck-llm measure.py: no autocast, `out` held through backward, torch AdamW, T4",
)
PEFT_SCRIPT = Stack(
    "peft-script",
    "none",
    True,
    "kbit",
    keeps_outputs=True,
    evidence="can-i-finetune-this: a script that records memory after forward, so holds the outputs; recorded without "
    "autocast; prepare_model_for_kbit_training, paged 8-bit AdamW",
)
_FMS = "fms-acceleration benchmarks: "
FMS = Stack(
    "fms",
    "none",
    True,
    "none",
    transformers="4.48",
    evidence=_FMS + "weights loaded in BF16, adapters FP32, no autocast flag; 16-bit logits kept in the output",
)
FMS_QLORA = Stack(
    "fms-qlora",
    "accelerate",
    True,
    "norms",
    transformers="4.48",
    evidence=_FMS + "4-bit weights, norms in FP32, BF16 autocast",
)
FMS_OLD = Stack(
    "fms-before-4.46",
    "none",
    True,
    "none",
    transformers="4.45",
    evidence=_FMS + "transformers 4.45: shifted FP32 logits",
)
FMS_QLORA_OLD = Stack(
    "fms-qlora-before-4.46",
    "accelerate",
    True,
    "norms",
    transformers="4.45",
    evidence=_FMS + "4-bit weights, transformers 4.45",
)
_ACCELERATED = "its own `_prepare_model_for_kbit_training` (framework_plugin_bnb.py) casts nothing: 16-bit norms"
FMS_ACCELERATED = Stack(
    "fms-accelerated-qlora",
    "accelerate",
    True,
    "none",
    transformers="4.48",
    evidence=_FMS + _ACCELERATED,
)
FMS_ACCELERATED_OLD = Stack(
    "fms-accelerated-qlora-before-4.46",
    "accelerate",
    True,
    "none",
    transformers="4.45",
    evidence=_FMS + _ACCELERATED + ", transformers 4.45",
)
STACKS = (
    AXOLOTL,
    PEFT_LOOP,
    PEFT_SCRIPT,
    FMS,
    FMS_QLORA,
    FMS_OLD,
    FMS_QLORA_OLD,
    FMS_ACCELERATED,
    FMS_ACCELERATED_OLD,
)
