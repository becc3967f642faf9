"""What the device computes in: precision, TF32, the dtype of the weights."""

from __future__ import annotations

from compiler.rules.draft import Draft, stated
from compiler.values import Decision


def precision(draft: Draft) -> Decision:
    """BF16 where the device has it, FP16 where it has not; written out because Axolotl's `auto` means FP16 on a CPU."""
    machine, asked = draft.case.machine, draft.asked("precision")
    if asked:
        missing = {"bf16": not machine.bf16, "fp16": not machine.fp16, "tf32": not machine.tf32}.get(asked, False)
        return stated(
            "precision", asked, note=f"{machine.name} does not compute {asked.upper()} natively" if missing else ""
        )
    if machine.backend == "cpu":
        return Decision(
            "precision",
            "bf16",
            "no CPU trains in FP16; BF16 runs on all of them: natively on Zen 4/5 and from Sapphire "
            "Rapids on, emulated (correct, slower) elsewhere, a Core i9-14900K included",
            "precision",
        )
    if machine.bf16:
        return Decision(
            "precision", "bf16", f"{machine.name} computes BF16 natively: FP32's range, no loss scaling", "precision"
        )
    if draft.full:
        return Decision(
            "precision",
            "fp32",
            f"{machine.name} has no BF16, and FP16 weights cannot be trained: their gradients "
            "cannot be unscaled, so full fine-tuning runs in FP32 here",
            "precision",
        )
    return Decision(
        "precision", "fp16", f"{machine.name} has no BF16; FP16 with loss scaling, adapters stay FP32", "precision"
    )


def tf32(draft: Draft) -> Decision:
    """What is left in FP32 (norm statistics, adapters' sums) may use TF32 where the card has it."""
    machine = draft.case.machine
    if machine.tf32:
        return Decision(
            "tf32", True, f"{machine.name} has TF32: FP32 matrix products that remain run on tensor cores", "tf32"
        )
    return Decision("tf32", False, f"{machine.name} has no TF32", "tf32")


def weights_dtype(draft: Draft) -> Decision:
    """The weights that are not quantised follow the precision; full fine-tuning in FP16 or FP32 keeps FP32 weights."""
    asked, compute = draft.asked("weights_dtype"), draft.value("precision")
    if asked:
        return stated("weights_dtype", asked)
    if draft.asked("method") == "lora-8bit" and compute in ("fp32", "tf32"):
        why = "Axolotl loads what 8-bit quantisation leaves over in FP16 where nothing asks for BF16"
        return Decision("weights_dtype", "fp16", why, "weights_dtype")
    if compute == "bf16" or (compute == "fp16" and not draft.full):
        return Decision("weights_dtype", compute, f"2 bytes a weight, as precision is {compute}", "weights_dtype")
    return Decision("weights_dtype", "fp32", f"4 bytes a weight: precision is {compute}", "weights_dtype")
