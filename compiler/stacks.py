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
    reentrant: bool = False
    """Re-entrant gradient checkpointing: transformers' default before 5."""
    foak: bool = False
    """The fused kernels of fms-acceleration (`compiler.trace.foak`)."""
    keeps_outputs: bool = False
    """A hand-written loop whose `outputs` variable keeps the logits alive through backward."""
    clips_gradients: bool = True
    expandable_segments: bool = False
    """Whether the allocator is told `expandable_segments:True`."""
    evidence: str = ""


AXOLOTL = Stack(
    "axolotl",
    "accelerate",
    True,
    "axolotl",
    expandable_segments=True,
    evidence="Axolotl 0.19.0 loaders/model.py `_configure_embedding_dtypes`; HF Trainer, accelerate's BF16 autocast; "
    "utils/__init__.py `set_pytorch_cuda_alloc_conf`",
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
HF_TRAINER = Stack(
    "hf-trainer",
    "accelerate",
    True,
    "kbit",
    reentrant=True,
    evidence="transformers' Trainer or TRL's SFTTrainer with `bf16`, PEFT, prepare_model_for_kbit_training for "
    "quantised weights; no published row of it is scored here",
)
PEFT_COMPARISON = Stack(
    "peft-comparison",
    "none",
    True,
    "none",
    keeps_outputs=True,
    evidence="PEFT's method_comparison/MetaMathQA/run.py: BF16 weights, adapters FP32, a loop of its own without "
    "autocast that holds `outputs`; its rows state reserved memory at unknown lengths",
)
_FMS = {
    "fms": ("none", "none", "weights in BF16 (--torch_dtype bfloat16), adapters FP32, no mixed-precision flag"),
    "fms-qlora": ("accelerate", "norms", "baseline-peft-bnb: 4-bit weights, norms in FP32, --bf16 autocast"),
    "fms-accelerated": (
        "accelerate",
        "none",
        "--bf16 autocast; for 4-bit weights its own `_prepare_model_for_kbit_training` (framework_plugin_bnb.py) casts "
        "nothing",
    ),
}
_FMS_VERSIONS = {
    "": ("4.48", "refs/requirements_update_cross_entropy_and_deps.txt: torch 2.4.1, transformers 4.48.1, trl 0.13.0"),
    "-4.45": ("4.45", "refs/requirements.txt and requirements_granite.txt: torch 2.4.1, transformers 4.45.0 to 4.45.2"),
}


def _fms() -> tuple[Stack, ...]:
    """fms-acceleration's benchmark: three ways to load, with and without its fused kernels, two sets of packages."""
    return tuple(
        Stack(
            name + ("-foak" if foak else "") + suffix,
            autocast,
            True,
            upcast,
            transformers=version,
            reentrant=True,
            foak=foak,
            evidence=f"fms-acceleration scripts/benchmarks: {loading}; {packages}"
            + ("; fused kernels" if foak else ""),
        )
        for name, (autocast, upcast, loading) in _FMS.items()
        for foak in ((False,) if name == "fms-qlora" else (False, True))
        for suffix, (version, packages) in _FMS_VERSIONS.items()
    )


STACKS = (AXOLOTL, HF_TRAINER, PEFT_LOOP, PEFT_SCRIPT, PEFT_COMPARISON, *_fms())
