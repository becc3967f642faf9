"""What a device holds beside live tensors, and how sure a prediction is.

CUDA: the process's context and cuBLAS workspaces; what the caching allocator reserves is in `compiler.memory.slack`.
The band is fitted on published measurements (`docs/accuracy.md` says which and how well).
"""

from __future__ import annotations

import math

from compiler.quick import dataclass
from compiler.values import Machine, Memory, Part

MIB = 2**20
CUBLAS_BYTES = round(16.25 * MIB)
"""Two cuBLAS workspaces of 8.125 MiB, allocated through torch (ATen/cuda/CUDABlas.cpp); Hopper takes 2 x 32 MiB."""
CUBLAS_HOPPER_BYTES = 64 * MIB


@dataclass(frozen=True, slots=True)
class Overhead:
    """One backend's constants."""

    context_bytes: int
    bias: float
    """Mean of log(measured / predicted) over the calibration rows: below zero, the prediction is on the safe side."""
    error: float
    """Standard deviation of the same; of groups of readings the widest."""
    how_context: str
    weights_known: bool = False
    """`bias` and `error` are of what comes beside the weights: published readings miss the whole by 7 % on average
    where weights are less than a third of it, by 4 % up to 60 %, by 2 % above. Else they are of the whole."""


CUDA_CONTEXT_BYTES = {"sm_75": 141 * MIB, "sm_80": 540 * MIB}
"""CUDA context by compute capability, where a published reading tells it: a T4 with torch 2.10 (CUDA 12.8), process
less reserved memory, the same in all 59 readings; an A100 with torch 2.4 (CUDA 12.1), nvidia-smi less the replay's
reserved memory. Other cards take what lies between."""
CONTEXT_ERROR_BYTES = round((540 - 141) * MIB / math.sqrt(12))
"""Standard deviation of the context of a card where none was read: anything between those two is as likely."""
OVERHEADS = {
    "cuda": Overhead(
        340 * MIB,
        -0.013,
        0.113,
        "CUDA context and driver; measured 141 MiB on a T4, 540 on an A100",
        weights_known=True,
    ),
    "rocm": Overhead(500 * MIB, -0.05, 0.11, "HIP context; not measured, taken above CUDA's"),
    "xpu": Overhead(500 * MIB, -0.05, 0.12, "Level Zero context; not measured, taken above CUDA's"),
    "cpu": Overhead(900 * MIB, 0.0, 0.08, "Python, torch and the trainer's own code in RAM"),
}
CONFIDENCE = 0.95
"""A setup `fits` when it stays inside the budget with this probability, `does not fit` below 1 minus it."""
Z_CONFIDENCE = 1.6449


def overhead_parts(machine: Machine) -> tuple[Part, ...]:
    """What a process takes whatever it trains: `cuda_context`, and `cublas_workspace` on CUDA."""
    constants, workspace = OVERHEADS[machine.backend], _workspace(machine)
    context, how = _context(machine), constants.how_context
    if context != constants.context_bytes:
        how += f"; times {overhead_factor(machine):.2f}, measured on this machine"
    parts = [Part("cuda_context", context, how)]
    if workspace:
        parts.append(Part("cublas_workspace", workspace, "two cuBLAS workspaces that torch allocates for itself"))
    return tuple(parts)


def overhead_bytes(line_bytes: float, machine: Machine) -> int:
    """The sum of `overhead_parts`; the allocator's slack is already in a line's bytes."""
    return _context(machine) + _workspace(machine)


def overhead_factor(machine: Machine) -> float:
    """Measured over predicted memory beside live tensors, from this project's own runs; 1 where there are none."""
    return 1.0 if machine.measured is None else machine.measured.overhead_factor


def _context(machine: Machine) -> int:
    """Torch's figures of a GPU leave its context out, so only that of a CPU, the process itself, is ever measured."""
    if machine.backend == "cuda":
        return cuda_context_bytes(machine.capability)
    usual = OVERHEADS[machine.backend].context_bytes
    return round(usual * overhead_factor(machine)) if machine.backend == "cpu" else usual


def cuda_context_bytes(capability: str | None) -> int:
    """Device memory of a CUDA process beside what torch reserves."""
    return CUDA_CONTEXT_BYTES.get(capability or "", OVERHEADS["cuda"].context_bytes)


def _workspace(machine: Machine) -> int:
    if machine.backend != "cuda":
        return 0
    return CUBLAS_HOPPER_BYTES if (machine.capability or "").startswith("sm_9") else CUBLAS_BYTES


def _uncertain(total_bytes: int, resident_bytes: int, machine: Machine) -> tuple[int, float]:
    """The part of a prediction that the error band speaks of, and the deviation of log(measured / predicted) of it."""
    constants = OVERHEADS[machine.backend]
    if not constants.weights_known:
        return total_bytes, constants.error
    uncertain = total_bytes - resident_bytes
    if (machine.capability or "") in CUDA_CONTEXT_BYTES:
        return uncertain, constants.error
    return uncertain, math.hypot(constants.error, CONTEXT_ERROR_BYTES / max(1, uncertain))


def fit_probability(total_bytes: int, resident_bytes: int, budget_bytes: int, machine: Machine) -> float:
    """Probability that the run stays within the budget: the error of log(measured / predicted) is taken as normal."""
    uncertain, error = _uncertain(total_bytes, resident_bytes, machine)
    room = budget_bytes - total_bytes + uncertain
    if uncertain <= 0 or room <= 0:
        return float(uncertain <= 0 <= room)
    z = (math.log(room / uncertain) - OVERHEADS[machine.backend].bias) / error
    return 0.5 * math.erfc(-z / math.sqrt(2))


def margin_bytes(total_bytes: int, resident_bytes: int, machine: Machine) -> int:
    """Bytes to keep free above the prediction, so that it fits with probability `CONFIDENCE`. Rounded up."""
    uncertain, error = _uncertain(total_bytes, resident_bytes, machine)
    share = max(0.0, math.expm1(OVERHEADS[machine.backend].bias + Z_CONFIDENCE * error))
    return math.ceil(uncertain * share)


def verdict(memory: Memory, machine: Machine) -> tuple[str, float, int]:
    """(`fits` | `uncertain` | `does not fit`, probability, margin_bytes) of a prediction against
    `machine.budget_bytes`.

    `fits` exactly when `memory.total_bytes + margin_bytes <= machine.budget_bytes`. Host RAM that is known and too
    small makes it `does not fit`.
    """
    return verdict_of(memory.total_bytes, memory.resident_bytes, memory.host_bytes, machine)


def verdict_of(total: int, resident: int, host_bytes: int, machine: Machine) -> tuple[str, float, int]:
    """`verdict` of a prediction's totals."""
    margin = margin_bytes(total, resident, machine)
    probability = fit_probability(total, resident, machine.budget_bytes, machine)
    if machine.host_ram_bytes is not None and host_bytes > machine.host_ram_bytes:
        return "does not fit", 0.0, margin
    if total + margin <= machine.budget_bytes:
        return "fits", probability, margin
    return ("does not fit" if probability < 1 - CONFIDENCE else "uncertain"), probability, margin
