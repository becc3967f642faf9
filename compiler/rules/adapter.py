"""The LoRA adapter: rank, scale, targets, kernels, and what is trained beside it."""

from __future__ import annotations

from compiler.families import kernels_cannot
from compiler.memory.static import DTYPE_BYTES
from compiler.rules.draft import Draft, stated
from compiler.values import Decision

MIN_RANK, MAX_RANK = 64, 256
BITS_PER_PARAMETER = 2
"""What a trained parameter can store (Allen-Zhu and Li, Knowledge Capacity Scaling Laws, arXiv:2404.05405)."""
BITS_PER_TOKEN = 3
"""Generous: about two nats of surprise a token in text that a model has never seen."""


def lora_targets(draft: Draft) -> Decision:
    """All linears: at equal parameters, adapting the MLPs matters more than a higher rank (QLoRA, arXiv:2305.14314,
    figure 2)."""
    if draft.full:
        return _no_adapter("lora_targets")
    asked = draft.asked("lora_targets")
    if asked:
        return stated("lora_targets", asked)
    names = ", ".join(linear.name for linear in draft.case.model.architecture.linears)
    return Decision(
        "lora_targets",
        "all-linear",
        f"adapters on every linear ({names}): needed to match full fine-tuning (QLoRA, arXiv:2305.14314)",
        "lora_targets",
    )


def lora_r(draft: Draft) -> Decision:
    """The rank whose adapters can hold what the dataset says; never below 64, because facts are what is to be
    learnt."""
    if draft.full:
        return _no_adapter("lora_r")
    architecture, targets, dataset = draft.case.model.architecture, draft.value("lora_targets"), draft.case.dataset
    asked = draft.asked("lora_r")
    if asked:
        count = architecture.lora_parameters(asked, targets)
        return stated("lora_r", asked, note=f"{count / 1e6:,.1f} M trainable parameters")
    need_bits = dataset.rows * dataset.mean_tokens * BITS_PER_TOKEN
    rank = MIN_RANK
    while rank < MAX_RANK and architecture.lora_parameters(rank, targets) * BITS_PER_PARAMETER < need_bits:
        rank *= 2
    count = architecture.lora_parameters(rank, targets)
    return Decision(
        "lora_r",
        rank,
        f"{count / 1e6:,.1f} M trainable parameters hold about {count * BITS_PER_PARAMETER / 1e6:,.0f} Mbit "
        f"({BITS_PER_PARAMETER} bits each, arXiv:2404.05405); {dataset.rows:,} rows of "
        f"{dataset.mean_tokens:,.0f} tokens hold at "
        f"most {need_bits / 1e6:,.1f} Mbit",
        "lora_r",
    )


def lora_alpha(draft: Draft) -> Decision:
    """Twice the rank: the adapter's output is scaled by alpha / r = 2, for which the learning rate below is chosen."""
    if draft.full:
        return _no_adapter("lora_alpha")
    rank, asked = draft.value("lora_r"), draft.asked("lora_alpha")
    if asked:
        return stated("lora_alpha", asked, note=f"scale {asked / rank:g}")
    return Decision("lora_alpha", 2 * rank, f"2 x lora_r ({rank}): the adapters' output is scaled by 2", "lora_alpha")


def lora_dropout(draft: Draft) -> Decision:
    """Zero: facts shall be memorised, and dropout nearly doubles what LoRA saves for the backward pass."""
    if draft.full:
        return _no_adapter("lora_dropout", 0.0)
    asked = draft.asked("lora_dropout")
    if asked is not None:
        return stated(
            "lora_dropout", asked, note="costs memory: the dropped inputs and masks are kept" if asked else ""
        )
    return Decision(
        "lora_dropout",
        0.0,
        "facts shall be remembered, and dropout keeps a copy and a mask of every adapter's input",
        "lora_dropout",
    )


def lora_kernels(draft: Draft) -> Decision:
    """Axolotl's fused kernels, always written out: left to its default Axolotl turns them on where they crash."""
    if draft.full:
        return _no_adapter("lora_kernels", False)
    asked = draft.asked("lora_kernels")
    obstacle = kernels_obstacle(draft, draft.setup.method if draft.setup else draft.asked("method"))
    if asked is not None:
        return stated("lora_kernels", asked, note=obstacle if asked and obstacle else "")
    if obstacle:
        return Decision("lora_kernels", False, obstacle, "lora_kernels")
    return Decision(
        "lora_kernels",
        True,
        "fused adapter and activation kernels: less is kept for the backward pass, fewer launches",
        "lora_kernels",
    )


def kernels_obstacle(draft: Draft, method: str | None) -> str | None:
    """Why Axolotl's LoRA kernels cannot run, or None. Source: axolotl 0.19 `monkeypatch/lora_kernels.py`,
    `schemas/validation.py`."""
    machine, architecture = draft.case.machine, draft.case.model.architecture
    if machine.backend != "cuda":
        return (
            f"Axolotl's LoRA kernels allocate on `cuda`; on {machine.backend} they are written false or the "
            "first step fails"
        )
    if method == "full":
        return "full fine-tuning has no adapter"
    if method == "lora-8bit":
        return "Axolotl refuses its LoRA kernels with 8-bit weights"
    if draft.value("lora_dropout"):
        return "dropout above 0: the kernels' memory and speed are known without dropout only"
    cannot = kernels_cannot(architecture.model_type)
    if cannot:
        return cannot
    if not architecture.gated_mlp:
        return f"the fused MLP kernel does not know the MLP of {architecture.model_type}"
    if draft.value("lora_targets") != "all-linear":
        return "the kernels fuse adapters on all linears; only some have one"
    if draft.value("weights_dtype") == "fp32":
        return "the kernels are for 16-bit weights"
    return None


def double_quant(draft: Draft) -> Decision:
    """Quantised scales: 0.516 instead of 0.5625 bytes a weight, no loss measured (QLoRA, arXiv:2305.14314, table 3)."""
    asked = draft.asked("double_quant")
    if asked is not None:
        return stated("double_quant", asked)
    linear = draft.case.model.architecture.parameters.linear
    saved = linear * (1 / 16 - 1 / 64 - 1 / 4096)
    return Decision(
        "double_quant",
        True,
        f"scales of 4-bit weights are quantised too: {saved / 2**20:,.0f} MiB less, "
        "no loss measured (arXiv:2305.14314)",
        "double_quant",
    )


def train_embeddings(draft: Draft) -> Decision:
    """Off: the chat template's tokens exist already. With adapters PEFT trains a copy in the weights' own dtype."""
    asked = draft.asked("train_embeddings")
    parameters = draft.case.model.architecture.parameters
    count, dtype = parameters.embedding + parameters.head, draft.value("weights_dtype")
    if draft.full:
        return Decision(
            "train_embeddings", False, "full fine-tuning trains them with everything else", "train_embeddings"
        )
    if asked is not None:
        return stated(
            "train_embeddings", asked, note=f"{count / 1e6:,.0f} M more trainable parameters" if asked else ""
        )
    return Decision(
        "train_embeddings",
        False,
        f"no token is added, so {count / 1e6:,.0f} M embedding parameters stay as they are "
        f"(a trained copy in {dtype.upper()} with AdamW: {4 * DTYPE_BYTES[dtype] * count / 2**30:,.1f} GiB)",
        "train_embeddings",
    )


def _no_adapter(name: str, value: object = None) -> Decision:
    return Decision(name, value, "full fine-tuning has no adapter", name)
