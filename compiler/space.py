"""The search space: for each searched field the options that may be tried, and those that may not, with rule and
reason.

A field that the recipe pins has one option. `Rejected.runs` tells what cannot work from what the quality policy
(docs/quality-policy.md) does not do unasked: the first makes a pinned plan unfit, the second is taken as asked for.
"""

from __future__ import annotations

from collections.abc import Callable

from compiler.domain import Domain, Rejected, domain
from compiler.rules.draft import Draft, percent
from compiler.rules.schedule import rows_per_sequence, too_many_rows
from compiler.rules.text import truncated_share
from compiler.sharding import fsdp, offload, zero_stage

LENGTH_UNIT = 64
"""Sequence lengths are multiples of it: matrix shapes that tensor cores like."""
MAX_TRUNCATED_SHARE = 0.01
LIGER_FAMILIES = frozenset(
    [
        "gemma",
        "gemma2",
        "gemma3_text",
        "granite",
        "llama",
        "mistral",
        "olmo2",
        "phi3",
        "qwen2",
        "qwen3",
        "smollm3",
    ]  # sorted
)
"""Of our families those in liger_kernel 0.8 `transformers/monkey_patch.py`, MODEL_TYPE_TO_APPLY_LIGER_FN; for the
others
Axolotl's plugin does nothing and says so in a warning only."""


def method(draft: Draft) -> Domain:
    """Adapters: BF16 LoRA before 4-bit. Full fine-tuning and 8-bit only when asked for."""
    rejected = (
        Rejected(
            "full",
            "full fine-tuning is done only when asked for: adapters learn facts of this size as well and forget less "
            "(Biderman et al., arXiv:2405.09673), at a fraction of the memory",
            runs=True,
        ),
        Rejected(
            "lora-8bit",
            "int8 weights take twice the memory of 4-bit ones and are slower; where bf16 does not fit, "
            "NF4 with double quantisation matches 16-bit results (QLoRA, arXiv:2305.14314)",
            runs=True,
        ),
    )
    options: tuple[str, ...] = ("lora", "qlora-4bit")
    if draft.case.machine.backend == "xpu":
        options = ("lora",)
        why = (
            "bitsandbytes' 4-bit kernels are not verified upstream on XPU with Axolotl; 16-bit LoRA needs none of them"
        )
        rejected += (Rejected("qlora-4bit", why, runs=True),)
    because = "adapters on frozen weights: 16-bit before 4-bit at the same time per epoch"
    smaller = "adapters on frozen weights in 4 bits (NF4): faster here than what 16 bits leave room for"
    return domain(draft, "method", options, because, rejected, (("qlora-4bit", smaller),))


def sequence_len(draft: Draft) -> Domain:
    """Lengths that drop at most 1 % of the rows; multiples of 64 within the model's context."""
    dataset, context = draft.case.dataset, draft.case.model.architecture.max_position_embeddings
    whole = min(_round_up(dataset.max_tokens), context)
    shortest = min(_round_up(_length_keeping(draft, 1 - MAX_TRUNCATED_SHARE)), context)
    options = tuple(dict.fromkeys((whole, shortest)))
    share = truncated_share(dataset, shortest)
    basis = "measured" if dataset.measured else "assumed: no dataset is built yet"
    because = f"{shortest:,} tokens hold all but {percent(share)} of the rows ({basis}; longest {dataset.max_tokens:,})"
    shorter = tuple(
        Rejected(
            length,
            f"drops {percent(truncated_share(dataset, length))} of the rows; more than "
            f"{percent(MAX_TRUNCATED_SHARE)} is never dropped unasked",
            runs=True,
        )
        for length in (shortest // 4, shortest // 2)
        if length >= LENGTH_UNIT
    )
    shorter_would = because.partition(" (")[0]
    longest = f"no row is dropped: the longest has {dataset.max_tokens:,} tokens ({basis}); {shorter_would}"
    return domain(draft, "sequence_len", options, because, shorter, ((whole, longest),) if whole > shortest else ())


def _length_keeping(draft: Draft, share: float) -> int:
    dataset = draft.case.dataset
    if not dataset.length_histogram:
        return dataset.p99_tokens
    total = sum(rows for _, rows in dataset.length_histogram)
    seen = 0
    for bound, rows in dataset.length_histogram:
        seen += rows
        if seen >= share * total:
            return bound
    return dataset.max_tokens


def _round_up(length: int) -> int:
    return max(LENGTH_UNIT, -(-length // LENGTH_UNIT) * LENGTH_UNIT)


def sample_packing(draft: Draft) -> Domain:
    """Never against an effective batch that is asked for: a packed sequence is several rows."""
    asked, setup_len = draft.asked("effective_batch"), sequence_len(draft).options[-1]
    rows = rows_per_sequence(draft, setup_len, True)
    if not draft.case.machine.flash_attention_2:
        no = Rejected(
            True,
            "rows are kept apart only by flash_attention_2 or flex_attention, which this machine does not run; "
            "with sdpa "
            "Axolotl warns of zero loss (axolotl 0.19 `schemas/config.py`)",
            runs=True,
        )
        return domain(draft, "sample_packing", (False,), no.reason, (no,))
    if asked:
        no = Rejected(
            True,
            f"{asked} rows a step are asked for; packed, {asked} sequences of {setup_len:,} tokens would be about "
            f"{asked * rows:.0f} rows, a different training",
            runs=True,
        )
        return domain(draft, "sample_packing", (False,), no.reason, (no,))
    crowded = [too_many_rows(draft, length) for length in sequence_len(draft).options]
    if all(crowded):
        no = Rejected(True, crowded[0], runs=True)
        return domain(draft, "sample_packing", (False,), no.reason, (no,))
    if rows < 1.25:
        no = Rejected(True, f"a sequence holds {rows:.2g} rows on average: nothing to pack", runs=True)
        return domain(draft, "sample_packing", (False,), no.reason, (no,))
    return domain(
        draft,
        "sample_packing",
        (False, True),
        f"about {rows:.1f} rows of average length fit one sequence of {setup_len:,} tokens",
    )


def attention(draft: Draft) -> Domain:
    """What the device runs and the model allows: soft-capped scores are dropped silently by sdpa (Gemma 2)."""
    machine, architecture = draft.case.machine, draft.case.model.architecture
    softcap = architecture.attn_logit_softcapping
    rejected = [*_flash_obstacle(draft), *_flex_obstacle(draft)]
    options = ["flash_attention_2"] if not _flash_obstacle(draft) else []
    if softcap:
        rejected.append(
            Rejected(
                "sdpa",
                f"{architecture.model_type} caps attention scores at {softcap:g}; sdpa drops the cap without a word "
                "(transformers #32865) and trains another model",
            )
        )
        because = f"{architecture.model_type} caps attention scores at {softcap:g}, which " + (
            "flash_attention_2 (flash-attn 2.6 or newer) does without holding all scores"
            if options
            else f"of what {machine.name} runs only eager does; it holds all scores"
        )
    else:
        options.insert(0, "sdpa")
        because = "sdpa comes with torch and never holds all scores; flash_attention_2 needs the package flash-attn"
    if options:
        rejected.append(
            Rejected("eager", f"holds all scores, length x length for each head; {options[0]} never does", runs=True)
        )
    return domain(draft, "attention", tuple(options) or ("eager",), because, tuple(rejected))


def _flash_obstacle(draft: Draft) -> tuple[Rejected, ...]:
    machine, compute = draft.case.machine, draft.value("precision")
    if not machine.flash_attention_2:
        needs = "compute capability sm_80 or newer" if machine.backend == "cuda" else "a CUDA or ROCm device"
        device = f"{machine.name} ({machine.capability or machine.backend})"
        return (Rejected("flash_attention_2", f"FlashAttention-2 needs {needs}; this is {device}"),)
    if compute not in ("bf16", "fp16"):
        return (Rejected("flash_attention_2", f"FlashAttention-2 computes in BF16 or FP16; precision is {compute}"),)
    return ()


def _flex_obstacle(draft: Draft) -> tuple[Rejected, ...]:
    machine = draft.case.machine
    if machine.backend == "cpu":
        return (Rejected("flex_attention", "flex_attention has no backward pass on a CPU"),)
    if draft.case.model.architecture.attention_dropout:
        return (Rejected("flex_attention", "the model drops attention scores in training; flex_attention cannot"),)
    if not machine.flash_attention_2:
        return (Rejected("flex_attention", f"flex_attention is not verified on {machine.name}", runs=True),)
    why = "compiles a kernel for each new shape; flash_attention_2 does the same work and runs here"
    return (Rejected("flex_attention", why, runs=True),)


def cross_entropy(draft: Draft) -> Domain:
    """Standard where its logits fit; fused (Liger) or chunked otherwise. Cut needs Axolotl's fork and is taken only
    when asked for."""
    backend, architecture = draft.case.machine.backend, draft.case.model.architecture
    rejected = [
        Rejected(
            "cut",
            "needs Axolotl's fork of cut-cross-entropy, which no package index has",
            runs=backend in ("cuda", "rocm"),
        )
    ]
    options = ["standard", "liger", "chunked"]
    if draft.value("label_smoothing"):
        why = "label smoothing is computed from whole logits, which this loss never gives out"
        return domain(
            draft,
            "cross_entropy",
            ("standard",),
            why,
            tuple(Rejected(name, why) for name in ("liger", "chunked", "cut")),
        )
    if backend not in ("cuda", "rocm"):
        options.remove("liger")
        runs = backend == "xpu"
        rejected.append(
            Rejected(
                "liger",
                f"Liger's Triton kernels are {'not verified upstream with Axolotl' if runs else 'not for'} on "
                f"{backend}",
                runs=runs,
            )
        )
    elif architecture.model_type not in LIGER_FAMILIES:
        options.remove("liger")
        rejected.append(
            Rejected(
                "liger",
                f"Liger has no kernels for {architecture.model_type}: Axolotl would warn and use the standard loss",
            )
        )
    if "liger" in options:
        options.remove("chunked")
        rejected.append(Rejected("chunked", "holds 16-bit logits whole; Liger, which runs here, never does", runs=True))
    if backend in ("cpu", "xpu"):
        options.remove("chunked")
        obstacle = "not verified upstream on XPU" if backend == "xpu" else "that needs a C++ compiler beside Python"
        why = f"Axolotl compiles its chunked loss with torch.compile; {obstacle}"
        rejected.append(Rejected("chunked", why, runs=True))
    vocabulary = f"vocabulary {architecture.vocab_size:,}: the standard loss holds every logit several times"
    instead = (
        ("liger", f"{vocabulary}; Liger computes the loss in pieces and never holds all of them"),
        ("chunked", f"{vocabulary}; the chunked loss holds them once, in 16 bits"),
    )
    return domain(draft, "cross_entropy", tuple(options), f"{vocabulary}, and there is room", tuple(rejected), instead)


def gradient_checkpointing(draft: Draft) -> Domain:
    """Off where it fits; on costs a second forward pass; offload copies what is left over PCIe."""
    backend = draft.case.machine.backend
    because = "every layer keeps its activations: there is room for them, and no second forward pass"
    instead = (
        ("on", "only each layer's input is kept and the layer is computed again: the fastest that fits needs that"),
        (
            "offload",
            "each layer's input waits in host RAM and the layer is computed again: what `on` keeps on the "
            "device does not fit",
        ),
    )
    if backend in ("cuda", "rocm"):
        return domain(draft, "gradient_checkpointing", ("off", "on", "offload"), because, instead=instead)
    reason = (
        "Axolotl's activation offload uses CUDA streams; it "
        f"{'fails' if backend == 'cpu' else 'is not verified'} on {backend}"
    )
    rejected = (Rejected("offload", reason, runs=backend == "xpu"),)
    return domain(draft, "gradient_checkpointing", ("off", "on"), because, rejected, instead)


def optimizer(draft: Draft) -> Domain:
    """32-bit AdamW in one fused kernel; 8-bit or paged states where memory asks for it."""
    backend = draft.case.machine.backend
    options: tuple[str, ...] = ("adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit")
    rejected = [
        Rejected("sgd", "needs no states, but another learning rate and more steps: not the same training", runs=True),
        Rejected("adamw_torch", "the same numbers as adamw_torch_fused, slower, with temporary copies", runs=True),
        Rejected("adafactor", "another optimizer with other learning rates: only when asked for", runs=True),
        Rejected("lion_8bit", "another optimizer with other learning rates: only when asked for", runs=True),
        Rejected("paged_adamw_32bit", "paging 32-bit states moves four times the bytes of 8-bit ones", runs=True),
    ]
    if backend != "cuda":
        names = ("paged_adamw_8bit",) if backend in ("rocm", "cpu") else ("adamw_8bit", "paged_adamw_8bit")
        options = tuple(name for name in options if name not in names)
        rejected += [
            Rejected(name, f"bitsandbytes' {name} is not verified on {backend}", runs=name == "adamw_8bit")
            for name in names
        ]
    if draft.value("precision") == "fp32" and backend == "cpu":
        options = ("adamw_torch_fused",)
    because = "AdamW with 32-bit states, in one fused kernel"
    same = "a quarter of the bytes, with the result of 32-bit ones (arXiv:2110.02861)"
    instead = (
        ("adamw_8bit", f"AdamW with 8-bit states: {same}"),
        ("paged_adamw_8bit", f"AdamW with 8-bit states that may move to host RAM: {same}"),
    )
    return domain(draft, "optimizer", options, because, tuple(rejected), instead)


DOMAINS: tuple[Callable[[Draft], Domain], ...] = (
    method,
    gradient_checkpointing,
    zero_stage,
    fsdp,
    offload,
    sequence_len,
    sample_packing,
    attention,
    cross_entropy,
    optimizer,
)
"""The searched fields, in the order in which they decide between setups of equal speed (docs/quality-policy.md).
Micro-batch and accumulation follow from the effective batch (`compiler.choose`)."""
