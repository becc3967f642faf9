"""What a machine or a model cannot do, whatever the memory: the rules that need facts."""

from collections.abc import Callable, Iterator

from compiler.check_types import Complaint, Facts, close, shown
from compiler.families import kernels_cannot
from compiler.recipe import CustomGpu
from compiler.units import format_size
from compiler.values import Machine


def budgets(facts: Facts) -> Iterator[Complaint]:
    """A card has VRAM, a CPU has RAM; neither can give more than it has."""
    for name, machine in facts.machines.items():
        target, path = facts.recipe.targets[name], ("targets", name)
        if machine.backend == "cpu":
            if target.vram_budget is not None:
                yield Complaint((*path, "vram_budget"), "a CPU has no VRAM", "write `ram_budget`", True)
            if target.ram_budget and target.host_ram and target.ram_budget > target.host_ram:
                message = f"ram_budget is above host_ram ({format_size(target.host_ram)})"
                yield Complaint((*path, "ram_budget"), message, "leave some for the system")
            continue
        if target.ram_budget is not None:
            fix = "write `vram_budget` for the card, `host_ram` for the machine's RAM"
            yield Complaint((*path, "ram_budget"), "`ram_budget` is for `gpu: cpu`", fix, True)
        whole = _memory(facts, name, machine)
        if target.vram_budget is not None and target.vram_budget > whole:
            message = f"{machine.name} has {format_size(whole)}"
            yield Complaint((*path, "vram_budget"), message, "write less, or delete the line to use all of it")


def _memory(facts: Facts, name: str, machine: Machine) -> int:
    """What the box says (`24 GiB`), which people write though the driver keeps a little of it."""
    from compiler.facts import gpus

    if isinstance(facts.recipe.targets[name].gpu, CustomGpu):
        return machine.vram_bytes
    nominal = gpus()[machine.id].vram_gib
    return max(machine.vram_bytes, round((nominal or 0) * 2**30))


def described_card(facts: Facts) -> Iterator[Complaint]:
    """A description that contradicts itself."""
    for name, target in facts.recipe.targets.items():
        card = target.gpu
        if not isinstance(card, CustomGpu):
            continue
        path = ("targets", name, "gpu")
        if card.capability and card.backend != "cuda":
            yield Complaint((*path, "capability"), "only CUDA cards have a compute capability", "delete it", True)
        if card.capability and card.bf16 and int(card.capability[3:].rstrip("a")) < 80:
            message = f"{card.capability} does not compute BF16, and `bf16` is true"
            yield Complaint((*path, "capability"), message, "add `bf16: false`")


def precision(facts: Facts) -> Iterator[Complaint]:
    """BF16 needs Ampere, TF32 too; no CPU trains in FP16 (PyTorch documentation, CPU autocast)."""
    asked = facts.stated("precision")
    for name, machine in facts.machines.items():
        able = {"bf16": machine.bf16, "fp16": machine.fp16, "tf32": machine.tf32}.get(asked or "", True)
        if not able:
            other = "bf16" if machine.bf16 else "fp16"
            message = f"target `{name}`: {machine.name} does not train in {asked.upper()}"
            yield facts.complain("precision", message, f"write `{other}`, or `auto` to let each target have its own")


def attention(facts: Facts) -> Iterator[Complaint]:
    """What the device runs."""
    asked = facts.stated("attention")
    if asked == "flex_attention" and facts.model and facts.model.architecture.attention_dropout:
        message = f"`{shown(facts.model.id)}` drops attention scores in training, which flex_attention refuses"
        yield facts.complain("attention", message, "write `sdpa` or `eager`, or `auto`")
        return
    for name, machine in facts.machines.items():
        if asked == "flash_attention_2" and not machine.flash_attention_2:
            needs = "sm_80 or newer" if machine.backend == "cuda" else "a CUDA or ROCm card"
            message = f"target `{name}`: FlashAttention-2 needs {needs}, not {machine.capability or machine.backend}"
            yield facts.complain("attention", message, "write `sdpa` or `eager`, or `auto`")
        if asked == "flex_attention" and machine.backend == "cpu":
            message = f"target `{name}`: flex_attention has no backward pass on a CPU"
            yield facts.complain("attention", message, "write `sdpa` or `eager`, or `auto`")


def soft_capping(facts: Facts) -> Iterator[Complaint]:
    """sdpa drops Gemma 2's soft-capping without a word and trains another model (transformers #32865, #31887)."""
    cap = facts.model.architecture.attn_logit_softcapping if facts.model else None
    if cap and facts.stated("attention") == "sdpa":
        message = f"sdpa drops the soft-capping of `{shown(facts.model.id)}` without a word"
        yield facts.complain("attention", message, "write `flash_attention_2` or `eager`, or `auto`")


def fused_losses(facts: Facts) -> Iterator[Complaint]:
    """Liger and cut cross-entropy are Triton kernels; Triton has no CPU back end."""
    asked = facts.stated("cross_entropy")
    for name, machine in facts.machines.items():
        if asked in ("liger", "cut") and machine.backend == "cpu":
            message = f"target `{name}`: `{asked}` is a Triton kernel, which no CPU runs"
            yield facts.complain("cross_entropy", message, "write `standard` or `chunked`, or `auto`")


def kernels(facts: Facts) -> Iterator[Complaint]:
    """Axolotl's LoRA kernels allocate on CUDA by name, and replace attention code that they must find."""
    cannot = kernels_cannot(facts.model.architecture.model_type) if facts.model else None
    if facts.stated("lora_kernels") and cannot:
        yield facts.complain("lora_kernels", cannot, "write `false`, or `auto`")
        return
    for name, machine in facts.machines.items():
        if facts.stated("lora_kernels") and machine.backend not in ("cuda", "rocm"):
            message = f"target `{name}`: LoRA kernels run on CUDA only"
            yield facts.complain("lora_kernels", message, "write `false`, or `auto`")


def activation_offload(facts: Facts) -> Iterator[Complaint]:
    """Axolotl moves activations by CUDA streams; on a CPU they are in RAM already."""
    for name, machine in facts.machines.items():
        if facts.stated("gradient_checkpointing") == "offload" and machine.backend == "cpu":
            message = f"target `{name}`: a CPU's activations are in RAM already"
            yield facts.complain("gradient_checkpointing", message, "write `on`, or `auto`")


def paged_states(facts: Facts) -> Iterator[Complaint]:
    """bitsandbytes 0.50 keeps them in RAM like the others, with a warning: the name promises what does not happen."""
    asked = facts.stated("optimizer") or ""
    for name, machine in facts.machines.items():
        if asked.startswith("paged_") and machine.backend == "cpu":
            message = f"target `{name}`: `{asked}` has nowhere to page to, the states of a CPU are in RAM already"
            fix = "write `adamw_torch_fused`" if asked.endswith("32bit") else "write `adamw_8bit`"
            yield facts.complain("optimizer", message, f"{fix}, or `auto`")


def zero_devices(facts: Facts) -> Iterator[Complaint]:
    """One device has nothing to shard; DeepSpeed then only serves an offload."""
    stage = facts.stated("zero_stage")
    if not stage or facts.stated("offload") != "none":
        return
    for name, machine in facts.machines.items():
        if machine.count == 1:
            message = f"target `{name}` has one device: ZeRO shards nothing without an offload"
            yield facts.complain("zero_stage", message, "write 0 or `auto`, or `offload: optimizer`")


def fsdp_devices(facts: Facts) -> Iterator[Complaint]:
    """FSDP shards between CUDA or ROCm cards; one device has nothing to shard."""
    if facts.stated("fsdp") in (None, "none"):
        return
    for name, machine in facts.machines.items():
        if machine.count == 1:
            message = f"target `{name}` has one device: FSDP shards nothing"
            yield facts.complain("fsdp", message, "write `none` or `auto`")
        elif not machine.bf16:
            message = f"target `{name}`: FSDP is planned in BF16, which {machine.name} does not compute"
            yield facts.complain("fsdp", message, "write `none` or `auto`")


def context_length(facts: Facts) -> Iterator[Complaint]:
    """Positions beyond the model's were never trained; a learned table has no rows for them."""
    length = facts.stated("sequence_len")
    most = facts.model.architecture.max_position_embeddings if facts.model else None
    if length is not None and most is not None and length > most:
        message = f"`{shown(facts.model.id)}` knows {most:,} positions"
        yield facts.complain("sequence_len", message, f"write at most {most}")


def module_names(facts: Facts) -> Iterator[Complaint]:
    """PEFT finds nothing under a misspelled name, and only when the weights are loaded."""
    targets = facts.stated("lora_targets")
    if facts.model is None or not isinstance(targets, tuple):
        return
    known = [linear.name for linear in facts.model.architecture.linears]
    for number, name in enumerate(targets):
        if name not in known and name not in ("all-linear", "attention", "auto"):
            near = close(name, known)
            fix = f"did you mean `{near}`?" if near else f"it has {', '.join(known)}"
            message = f"`{shown(facts.model.id)}` has no linear layer `{shown(name)}`"
            yield Complaint(("training", "lora_targets", number), message, fix)


MACHINE_RULES: tuple[Callable[[Facts], Iterator[Complaint]], ...] = (
    budgets,
    described_card,
    precision,
    attention,
    soft_capping,
    fused_losses,
    kernels,
    activation_offload,
    paged_states,
    zero_devices,
    fsdp_devices,
    context_length,
    module_names,
)
