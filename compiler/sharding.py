"""The options of what is split between devices or kept in host RAM: `zero_stage`, `fsdp`, `offload`.

Part of the search space (`compiler.space`).
"""

from __future__ import annotations

from compiler.domain import Domain, Rejected, domain
from compiler.rules.draft import Draft


def zero_stage(draft: Draft) -> Domain:
    """DeepSpeed only with several devices or an offload: on one device without offload it adds nothing but trouble."""
    machine, adapter = draft.case.machine, not draft.full
    if machine.backend in ("cpu", "xpu"):
        why = f"Axolotl asks DeepSpeed for the nccl backend; on {machine.backend} " + (
            "one process trains" if machine.backend == "cpu" else "it is not verified"
        )
        return domain(draft, "zero_stage", (0,), why, tuple(Rejected(stage, why, runs=True) for stage in (1, 2, 3)))
    frozen = Rejected(
        3,
        "shards weights that are frozen: gathering them for each layer costs more than adapters save "
        "(LoRA with ZeRO-3: axolotl #1481)",
        runs=True,
    )
    needed = {"optimizer": 2, "params": 3}.get(draft.asked("offload") or "")
    if adapter and needed and not draft.states("zero_stage"):
        whole = (needed,) if machine.count == 1 else (0, needed)  # between devices FSDP offloads too
        return domain(draft, "zero_stage", whole, "what the offload asked for needs")
    if machine.count == 1:
        alone = Rejected(1, "one device has nothing to shard", runs=True)
        if adapter:
            spill = Rejected(
                2, "adapters' optimizer states are small; paged 8-bit states do the same without DeepSpeed", runs=True
            )
            return domain(draft, "zero_stage", (0,), "one device: nothing to shard", (alone, spill, frozen))
        return domain(draft, "zero_stage", (0, 2, 3), "one device: DeepSpeed only for an offload", (alone,))
    because = "plain data parallel needs the least traffic; a stage shards what does not fit"
    rejected = (Rejected(1, "stage 2 shards gradients as well, at no more traffic", runs=True),)
    if adapter:
        return domain(draft, "zero_stage", (0, 2), because, (*rejected, frozen))
    return domain(draft, "zero_stage", (0, 2, 3), because, rejected)


def fsdp(draft: Draft) -> Domain:
    """FSDP2 where several devices hold together what one cannot: it shards frozen and 4-bit weights too, which ZeRO
    does not."""
    machine = draft.case.machine
    both = ("full_shard", "shard_grad_op")
    if machine.backend not in ("cuda", "rocm"):
        why = "FSDP2 is not verified upstream on xpu"
        if machine.backend == "cpu":
            why = "Axolotl builds FSDP's device mesh for CUDA by name: on a CPU the run stops while it loads"
        rejected = tuple(Rejected(name, why, runs=machine.backend == "xpu") for name in both)
        return domain(draft, "fsdp", ("none",), why, rejected)
    if machine.count == 1:
        why = "one device has nothing to shard"
        return domain(draft, "fsdp", ("none",), why, tuple(Rejected(name, why) for name in both))
    keeps = Rejected(
        "shard_grad_op",
        "keeps what it gathered from forward to backward, so that all weights lie whole on every device: ZeRO-2 shards "
        "the same with less traffic",
        runs=True,
    )
    because = "plain data parallel and ZeRO gather no weights on the way; FSDP does, twice a micro-step"
    instead = (
        (
            "full_shard",
            "weights are split between the devices and gathered one layer at a time: what a device would otherwise "
            "have to hold whole does not fit",
        ),
    )
    if draft.value("weights_dtype") == "fp16":
        why = "FP16's loss scaling is not verified with FSDP2; it is for BF16"
        return domain(draft, "fsdp", ("none",), because, tuple(Rejected(name, why) for name in both))
    return domain(draft, "fsdp", ("none", "full_shard"), because, (keeps,), instead)


def offload(draft: Draft) -> Domain:
    """Optimizer states or weights in host RAM, over PCIe: the last resort before a smaller model."""
    machine = draft.case.machine
    if machine.backend in ("cpu", "xpu"):
        why = (
            "the device's memory is the host's"
            if machine.backend == "cpu"
            else "DeepSpeed's offload is not verified on xpu"
        )
        return domain(
            draft, "offload", ("none",), why, tuple(Rejected(name, why, runs=True) for name in ("optimizer", "params"))
        )
    because = "host RAM is reached over PCIe; used only where nothing else fits"
    if draft.full:
        return domain(draft, "offload", ("none", "optimizer", "params"), because)
    small = tuple(
        Rejected(name, f"only adapters are trained: {what}", runs=True)
        for name, what in (
            ("optimizer", "paged 8-bit states take less and need no DeepSpeed"),
            ("params", "frozen weights are smaller in 4 bits than they are slow over PCIe"),
        )
    )
    return domain(draft, "offload", ("none",), because, small)
