"""Peak memory of a training step, as named parts that sum to the total.

    predict_memory(architecture, setup, machine, eval_batch=0, eval_length=None) -> Memory    explained, with host RAM
    peak_bytes(architecture, setup, machine) -> int             the same total, cheap
    host_bytes(architecture, setup, machine) -> int             host RAM of the same, cheap
    eval_bytes(architecture, setup, machine, eval_batch, eval_length=None) -> int      of an evaluation during the run
    merge_part(architecture, setup) -> Part | None              RAM of `axolotl merge-lora`
    verdict(memory, machine) -> (verdict, probability, margin_bytes)
    resident_bytes(architecture, setup, machine) -> int         the weights, whose size is known exactly
    fit_probability(total_bytes, resident_bytes, budget_bytes, machine) -> float
    margin_bytes(total_bytes, resident_bytes, machine) -> int

`peak_bytes` never shrinks when micro-batch, sequence length or LoRA rank grow, all else equal.
"""

from compiler.memory.model import eval_bytes, host_bytes, live_bytes, peak_bytes, predict_memory, resident_bytes
from compiler.memory.outside import merge_part, skips_upcast
from compiler.memory.overhead import fit_probability, margin_bytes, verdict, verdict_of

__all__ = [
    "eval_bytes",
    "fit_probability",
    "host_bytes",
    "live_bytes",
    "margin_bytes",
    "merge_part",
    "peak_bytes",
    "predict_memory",
    "resident_bytes",
    "skips_upcast",
    "verdict",
    "verdict_of",
]
