"""What a device holds beside live tensors, and how sure a prediction is.

CUDA: the process's context, cuBLAS workspaces, and what the caching allocator reserves beyond live tensors. The constants are
fitted on published measurements (`docs/accuracy.md` says which and how well); a CPU has neither, its slack is the C allocator's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from compiler.values import Machine, Memory, Part

MIB = 2**20
CUBLAS_BYTES = round(16.25 * MIB)
"""Two cuBLAS workspaces of 8.125 MiB, allocated through torch (ATen/cuda/CUDABlas.cpp); Hopper takes 2 x 32 MiB."""
CUBLAS_HOPPER_BYTES = 64 * MIB


@dataclass(frozen=True, slots=True)
class Overhead:
    """One backend's constants."""

    context_bytes: int
    slack: float
    """Reserved but unused, as a share of live bytes."""
    error: float
    """Standard deviation of log(measured / predicted) of the whole, from the calibration rows."""
    how_context: str


OVERHEADS = {
    "cuda": Overhead(350 * MIB, 0.08, 0.06, "CUDA context, 141 MiB (T4) to 500 MiB (A100)"),
    "rocm": Overhead(500 * MIB, 0.10, 0.08, "HIP context; not measured, taken above CUDA's"),
    "xpu": Overhead(500 * MIB, 0.12, 0.10, "Level Zero context; not measured, taken above CUDA's"),
    "cpu": Overhead(900 * MIB, 0.05, 0.08, "Python, torch and the trainer's own code in RAM"),
}
CONFIDENCE = 0.95
"""A setup `fits` when it stays inside the budget with this probability, `does not fit` below 1 minus it."""
Z_CONFIDENCE = 1.6449


def overhead_parts(live_bytes: float, machine: Machine) -> tuple[Part, ...]:
    """The named parts beside live tensors: `cublas_workspace` (CUDA), `cuda_context`, `allocator_slack`."""
    constants = OVERHEADS[machine.backend]
    workspace = _workspace(machine)
    parts = [Part("cuda_context", constants.context_bytes, constants.how_context)]
    if workspace:
        parts.append(Part("cublas_workspace", workspace, "two cuBLAS workspaces that torch allocates for itself"))
    slack = round(constants.slack * live_bytes)
    parts.append(Part("allocator_slack", slack, f"{constants.slack:.0%} of live bytes: reserved by the allocator, not in use"))
    return tuple(parts)


def overhead_bytes(live_bytes: float, machine: Machine) -> int:
    """The sum of `overhead_parts`, without building them."""
    constants = OVERHEADS[machine.backend]
    return constants.context_bytes + _workspace(machine) + round(constants.slack * live_bytes)


def _workspace(machine: Machine) -> int:
    if machine.backend != "cuda":
        return 0
    return CUBLAS_HOPPER_BYTES if (machine.capability or "").startswith("sm_9") else CUBLAS_BYTES


def fit_probability(total_bytes: int, budget_bytes: int, machine: Machine) -> float:
    """Probability that the run stays within the budget: the error of log(measured / predicted) is taken as normal."""
    if total_bytes <= 0:
        return 1.0
    z = math.log(budget_bytes / total_bytes) / OVERHEADS[machine.backend].error
    return 0.5 * math.erfc(-z / math.sqrt(2))


def margin_bytes(total_bytes: int, machine: Machine) -> int:
    """Bytes to keep free above the prediction, so that it fits with probability `CONFIDENCE`. Rounded up."""
    return math.ceil(total_bytes * math.expm1(Z_CONFIDENCE * OVERHEADS[machine.backend].error))


def verdict(memory: Memory, machine: Machine) -> tuple[str, float, int]:
    """(`fits` | `uncertain` | `does not fit`, probability, margin_bytes) of a prediction against `machine.budget_bytes`.

    `fits` exactly when `memory.total_bytes + margin_bytes <= machine.budget_bytes`. Host RAM that is known and too small
    makes it `does not fit`.
    """
    total = memory.total_bytes
    margin = margin_bytes(total, machine)
    probability = fit_probability(total, machine.budget_bytes, machine)
    if machine.host_ram_bytes is not None and memory.host_bytes > machine.host_ram_bytes:
        return "does not fit", 0.0, margin
    if total + margin <= machine.budget_bytes:
        return "fits", probability, margin
    return ("does not fit" if probability < 1 - CONFIDENCE else "uncertain"), probability, margin
