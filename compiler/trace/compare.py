"""A planned setup held against its trace: total, parts and phases."""

from __future__ import annotations

from dataclasses import dataclass, replace

from compiler.architecture import Architecture
from compiler.memory import predict_memory
from compiler.memory.outside import loads_on_device
from compiler.memory.overhead import overhead_parts
from compiler.stacks import Stack
from compiler.trace.outside import trace_evaluation, trace_loading
from compiler.trace.step import Trace, trace_step
from compiler.values import Machine, Memory, Setup

TOLERANCE = 0.03
"""The planner promises to be this near to a trace; `recipe verify` fails beyond it."""
OVERHEADS = ("cuda_context", "cublas_workspace", "allocator_slack")
"""Parts that are no live tensors: a trace has nothing to say about them."""
SHARES = {
    "weights": ("weights",),
    "lora_weights": ("lora_weights",),
    "optimizer_states": ("optimizer_states",),
    "gradients": ("gradients", "head_gradient", "embedding_gradient"),
}
"""Row of the comparison -> planned parts. All other planned parts and traced kinds are `activations and loss`."""
REST = "activations and loss"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the comparison, in bytes of live tensors."""

    name: str
    traced: int
    planned: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """A setup's trace beside its plan. `note` says what of the setup could not be traced."""

    traced: Trace
    planned: Memory
    parts: tuple[Row, ...]
    phases: tuple[Row, ...]
    note: str

    @property
    def traced_bytes(self) -> int:
        return self.traced.total_bytes

    @property
    def planned_bytes(self) -> int:
        return sum(part.bytes for part in self.planned.parts if part.name not in OVERHEADS)

    @property
    def error(self) -> float:
        """(planned - traced) / traced."""
        return self.planned_bytes / self.traced_bytes - 1


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run under some stack would report, in bytes of one device."""

    traced: Trace
    allocated: int
    """`torch.cuda.max_memory_allocated`: live tensors in whole blocks, cuBLAS workspaces among them."""
    reserved: int
    """`torch.cuda.max_memory_reserved`: the same events replayed through the caching allocator."""
    device: int
    """The process as `nvidia-smi` shows it: reserved memory and the CUDA context."""
    note: str


def figures(architecture: Architecture, setup: Setup, machine: Machine, stack: Stack) -> Figures:
    """Trace two steps of `setup` as `stack` does them, on one device of `machine` and without sharding."""
    setup, note = _on_one_device(setup)
    traced = trace_step(architecture, setup, stack, machine.vram_bytes, on_cpu=machine.backend == "cpu")
    overheads = {part.name: part.bytes for part in overhead_parts(machine)}
    workspace = overheads.get("cublas_workspace", 0)
    reserved = traced.reserved_bytes + workspace
    if traced.beyond_replay_bytes:
        seen = (
            f"{traced.beyond_replay_bytes / 2**20:,.0f} MiB of reserved memory are no replayed tensor's: readings of "
            "FOAK's fused loss show them, the cause is not known"
        )
        note = f"{note}; {seen}" if note else seen
    return Figures(traced, traced.allocated_bytes + workspace, reserved, reserved + overheads["cuda_context"], note)


def _on_one_device(setup: Setup) -> tuple[Setup, str]:
    """The setup without ZeRO and offload, and what to say of that; FSDP is traced as it is."""
    if not setup.zero_stage and setup.offload == "none":
        return setup, ""
    note = (
        f"ZeRO stage {setup.zero_stage}, offload {setup.offload}: traced on one device without sharding; "
        "what a rank keeps of weights, gradients and optimizer states is arithmetic over these numbers"
    )
    if setup.fsdp != "none":
        return replace(setup, offload="none"), "shards in host RAM: traced with the shards on the device"
    return replace(setup, zero_stage=0, offload="none", devices=1), note


def compare(
    architecture: Architecture, setup: Setup, machine: Machine, eval_batch: int = 0, eval_length: int | None = None
) -> Comparison:
    """Trace `setup` and set its live tensors against the plan's. FSDP is traced as it is, rank 0 of it; ZeRO and
    offloads as one whole device: its activations are those of every rank, while its shards are arithmetic. Where
    nothing is sharded, loading and an evaluation of `eval_batch` rows of `eval_length` tokens (0: none) as well."""
    cpu, whole = machine.backend == "cpu", setup.zero_stage == 0 and setup.fsdp == "none"
    beside = [_loading(architecture, setup, machine)] if whole and loads_on_device(setup, cpu) else []
    setup, note = _on_one_device(setup)
    planned = predict_memory(architecture, setup, machine, live=True)
    traced = trace_step(architecture, setup, on_cpu=cpu, steady=True)
    if eval_batch and whole:
        length = eval_length or setup.sequence_len
        ours = dict(predict_memory(architecture, setup, machine, eval_batch, length).phases)["eval"]
        beside.append(Row("evaluation", trace_evaluation(architecture, setup, eval_batch, length, cpu), ours))
    return Comparison(traced, planned, _parts(traced, planned), (*_phases(traced, planned), *beside), note)


def _loading(architecture: Architecture, setup: Setup, machine: Machine) -> Row:
    ours = dict(predict_memory(architecture, setup, machine).phases)["load"]
    return Row("loading", trace_loading(architecture, setup), ours)


def _parts(traced: Trace, planned: Memory) -> tuple[Row, ...]:
    kinds = dict(traced.peak.kinds)
    live = {part.name: part.bytes for part in planned.parts if part.name not in OVERHEADS}
    rows = []
    for name, members in SHARES.items():
        row = Row(name, kinds.pop(name, 0), sum(live.pop(member, 0) for member in members))
        if row.traced or row.planned:
            rows.append(row)
    rows.append(Row(REST, sum(kinds.values()), sum(live.values())))
    return tuple(rows)


def _phases(traced: Trace, planned: Memory) -> tuple[Row, ...]:
    """Forward and backward as one (the planner's lines are moments of the loss and of a layer), and the optimizer's
    step."""
    phases, ours = {name: one.total_bytes for name, one in traced.phases}, dict(planned.phases)
    step = Row("optimizer", phases["optimizer"], ours["optimizer"])
    most = max(size for name, size in ours.items() if name in ("loss", "layer", "backward"))
    return Row("forward and backward", max(phases["forward"], phases["backward"]), most), step
