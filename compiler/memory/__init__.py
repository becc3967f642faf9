"""Peak memory of a training step, as named parts that sum to the total.

    predict_memory(architecture, setup, machine) -> Memory      explained, with host RAM
    peak_bytes(architecture, setup, machine) -> int             the same total, cheap: for searching
    verdict(memory, machine) -> (verdict, probability, margin_bytes)
    fit_probability(total_bytes, budget_bytes, machine) -> float
    margin_bytes(total_bytes, machine) -> int

`peak_bytes` never shrinks when micro-batch, sequence length or LoRA rank grow, all else equal.
"""

from compiler.memory.model import live_bytes, peak_bytes, peak_lines, predict_memory
from compiler.memory.overhead import fit_probability, margin_bytes, verdict

__all__ = ["fit_probability", "live_bytes", "margin_bytes", "peak_bytes", "peak_lines", "predict_memory", "verdict"]
