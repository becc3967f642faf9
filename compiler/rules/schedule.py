"""How long, how fast, and how gently: epochs, steps, learning rate and its schedule, regularisation."""

from __future__ import annotations

import math

from compiler.padding import row_tokens
from compiler.rules.draft import Draft, stated
from compiler.values import Decision

ROWS_PER_STEP = 16
MIN_STEPS = 100


def epochs(draft: Draft) -> Decision:
    """Three passes: each fact is then seen at least 3 x (rows a fact) times, without copying the training text."""
    asked = draft.asked("epochs")
    if asked is not None:
        return stated("epochs", asked)
    limit = draft.asked("max_steps")
    if limit:
        return Decision("epochs", None, f"max_steps ({limit}) ends the run", "epochs")
    return Decision(
        "epochs",
        3,
        "three passes over the rows; watch the recall questions, not the loss, to see whether more help",
        "epochs",
    )


def max_steps(draft: Draft) -> Decision:
    asked = draft.asked("max_steps")
    return stated("max_steps", asked) if asked else Decision("max_steps", None, "epochs end the run", "max_steps")


def rows_per_step(draft: Draft) -> int:
    """Rows that one optimizer step shall see when the recipe does not say: 16, fewer for a small dataset."""
    rows, passes = draft.case.dataset.rows, draft.value("epochs") or 1
    batch = ROWS_PER_STEP
    while batch > 4 and rows * passes / batch < MIN_STEPS and not draft.asked("max_steps"):
        batch //= 2
    return batch


def rows_per_sequence(draft: Draft, sequence_len: int, packing: bool) -> float:
    """How many rows a sequence holds: one, or what fits of average length when packed."""
    return max(1.0, sequence_len / max(1.0, draft.case.dataset.mean_tokens)) if packing else 1.0


def too_many_rows(draft: Draft, sequence_len: int) -> str | None:
    """Why packed sequences of this length would be another training: what is pinned, or one a device, makes more than
    twice the rows that a step sees unpacked."""
    sequences = effective_batch_for(draft, sequence_len, True)
    rows = sequences * rows_per_sequence(draft, sequence_len, True)
    plain = effective_batch_for(draft, sequence_len, False)
    if rows <= 2 * plain:
        return None
    packed = f"{sequences} sequences of {sequence_len:,} tokens, packed"
    return f"{packed}, would be about {rows:.0f} rows a step, not {plain}"


def effective_batch_for(draft: Draft, sequence_len: int, packing: bool) -> int:
    """Sequences of one optimizer step over all devices. Stated or pinned by its factors: exactly that. A multiple of
    the devices."""
    devices = draft.case.machine.count
    asked, micro, steps = (
        draft.asked("effective_batch"),
        draft.asked("micro_batch"),
        draft.asked("gradient_accumulation"),
    )
    if micro and steps:
        return micro * steps * devices
    if asked:
        unit = (micro or steps or 1) * devices
        return unit * max(1, round(asked / unit))
    wanted = rows_per_step(draft) / rows_per_sequence(draft, sequence_len, packing)
    power = 2 ** max(0, round(math.log2(max(1.0, wanted))))
    unit = (micro or steps or 1) * devices
    return unit * max(1, -(-power // unit))


def micro_batch(draft: Draft) -> Decision:
    """Rows of one forward pass. The largest is not always the fastest: rows are padded to the longest beside them."""
    setup, asked = draft.setup, draft.asked("micro_batch")
    if asked:
        return stated("micro_batch", asked)
    tokens = f"{setup.micro_batch} x {setup.sequence_len:,} tokens"
    return Decision("micro_batch", setup.micro_batch, f"{tokens} at the most: the fastest that fits", "micro_batch")


def gradient_accumulation(draft: Draft) -> Decision:
    """What the micro-batch leaves of the effective batch, so that the step stays the same whatever the card."""
    setup, asked = draft.setup, draft.asked("gradient_accumulation")
    if asked:
        return stated("gradient_accumulation", asked)
    quotient = f"{setup.effective_batch} / ({setup.micro_batch} x {setup.devices})"
    return Decision(
        "gradient_accumulation",
        setup.gradient_accumulation,
        f"{quotient}: keeps the effective batch exactly",
        "gradient_accumulation",
    )


def effective_batch(draft: Draft) -> Decision:
    """What one optimizer step averages over: micro_batch x gradient_accumulation x devices, kept exactly as asked
    for."""
    setup, asked = draft.setup, draft.asked("effective_batch")
    product = (
        f"{setup.micro_batch} x {setup.gradient_accumulation} x {setup.devices} "
        f"device{'s' if setup.devices > 1 else ''}"
    )
    if asked and asked != setup.effective_batch:
        return Decision(
            "effective_batch",
            setup.effective_batch,
            f"{asked} is asked for, but is no multiple of what is pinned and of "
            f"{setup.devices} devices; the nearest is {product}",
            "effective_batch",
        )
    if asked:
        return stated("effective_batch", asked, note=product)
    rows = rows_per_sequence(draft, setup.sequence_len, setup.sample_packing) * setup.effective_batch
    packed = f", packed: about {rows:.0f} rows" if setup.sample_packing else ""
    return Decision(
        "effective_batch",
        setup.effective_batch,
        f"{product}{packed}: {draft.case.dataset.rows:,} rows are {steps_per_epoch(draft):,} steps a pass",
        "effective_batch",
    )


def steps_per_epoch(draft: Draft) -> int:
    """Optimizer steps of one pass over the rows, as `compiler.speed` counts them."""
    return _steps(draft, 1.0)


def total_steps(draft: Draft) -> int:
    return draft.value("max_steps") or _steps(draft, draft.value("epochs"))


def _steps(draft: Draft, passes: float) -> int:
    setup, dataset = draft.setup, draft.case.dataset
    _, useful, _ = row_tokens(setup, dataset)
    tokens = dataset.rows * min(dataset.mean_tokens, setup.sequence_len) * passes
    return max(1, math.ceil(tokens / (useful * setup.effective_batch)))


def learning_rate(draft: Draft) -> Decision:
    """LoRA wants about ten times the rate of full fine-tuning (LoRA Without Regret, Thinking Machines 2025); larger
    models want less."""
    asked = draft.asked("learning_rate")
    if asked is not None:
        return stated("learning_rate", asked)
    count = draft.case.model.architecture.parameters.total
    rate = 5e-4 if count < 0.5e9 else 2e-4 if count < 5e9 else 1e-4
    if draft.full:
        return Decision(
            "learning_rate",
            rate / 10,
            f"full fine-tuning of {count / 1e9:.2g} B parameters: a tenth of LoRA's {rate:g}",
            "learning_rate",
        )
    return Decision(
        "learning_rate",
        rate,
        f"LoRA on {count / 1e9:.2g} B parameters with alpha = 2 x r: about ten times full fine-tuning's rate",
        "learning_rate",
    )


def lr_scheduler(draft: Draft) -> Decision:
    asked = draft.asked("lr_scheduler")
    if asked:
        return stated("lr_scheduler", asked)
    return Decision(
        "lr_scheduler",
        "cosine",
        "falls to zero without a step to tune; the end of the run refines what it learnt",
        "lr_scheduler",
    )


def warmup(draft: Draft) -> Decision:
    """A share of all steps (below 1) or a number of steps."""
    asked = draft.asked("warmup")
    if asked is not None:
        return stated("warmup", asked)
    steps = total_steps(draft)
    return Decision(
        "warmup",
        0.03,
        f"{max(1, round(0.03 * steps)):,} of {steps:,} steps: Adam's second moment settles before the rate is full",
        "warmup",
    )


def weight_decay(draft: Draft) -> Decision:
    asked = draft.asked("weight_decay")
    if asked is not None:
        return stated("weight_decay", asked)
    if draft.full:
        return Decision("weight_decay", 0.01, "mild, as full fine-tuning may drift far", "weight_decay")
    return Decision(
        "weight_decay", 0.0, "adapters start at zero and are small; decay would pull facts out again", "weight_decay"
    )


def max_grad_norm(draft: Draft) -> Decision:
    asked = draft.asked("max_grad_norm")
    if asked is not None:
        return stated("max_grad_norm", asked)
    return Decision("max_grad_norm", 1.0, "one bad batch cannot throw the run off", "max_grad_norm")


def neftune_alpha(draft: Draft) -> Decision:
    asked = draft.asked("neftune_alpha")
    if asked is not None:
        return stated("neftune_alpha", asked)
    return Decision(
        "neftune_alpha",
        None,
        "noise on embeddings helps style, not facts (arXiv:2310.05914 measures conversation)",
        "neftune_alpha",
    )


def label_smoothing(draft: Draft) -> Decision:
    asked = draft.asked("label_smoothing")
    if asked is not None:
        return stated(
            "label_smoothing",
            asked,
            note="the fused losses have no smoothing, so the logits are held whole" if asked else "",
        )
    return Decision("label_smoothing", 0.0, "identifiers and numbers have one right token", "label_smoothing")
