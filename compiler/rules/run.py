"""The run around the steps: evaluation, checkpoints, stopping, resuming, logging, launcher."""

from __future__ import annotations

import math

from compiler.memory import eval_bytes, margin_bytes, peak_bytes
from compiler.rules.draft import Draft, stated
from compiler.rules.schedule import steps_per_epoch, total_steps
from compiler.units import format_size
from compiler.values import Decision


def eval_batch(draft: Draft) -> Decision:
    """As many rows as stay within the peak of training, at most the micro-batch. Evaluation holds whole logits even
    where training fuses its loss (Liger), and would run out of memory after hours."""
    case, setup = draft.case, draft.setup
    architecture, machine, batch = case.model.architecture, case.machine, setup.micro_batch
    most = peak_bytes(architecture, setup, machine)
    if eval_bytes(architecture, setup, machine, batch) <= most:
        why = f"the micro-batch ({batch}): evaluation then never needs more than a training step"
        return Decision("eval_batch", batch, why, "eval_batch")
    within = (size for size in range(batch - 1, 0, -1) if eval_bytes(architecture, setup, machine, size) <= most)
    size = next(within, 1)
    needed = format_size(eval_bytes(architecture, setup, machine, size))
    rows = "one row" if size == 1 else f"{size} rows"
    why = f"evaluation keeps whole logits, which the {setup.cross_entropy} loss does not in training: {rows} at once"
    return Decision(
        "eval_batch",
        size,
        f"{why} need {needed}, the micro-batch ({batch}) more" if batch > size else f"{why} need {needed}",
        "eval_batch",
    )


def eval_sample_packing(draft: Draft) -> Decision:
    return Decision(
        "eval_sample_packing", False, "every held-out row counts once, whatever its length", "eval_sample_packing"
    )


def pad_to_sequence_len(draft: Draft) -> Decision:
    if draft.setup.sample_packing:
        return Decision(
            "pad_to_sequence_len",
            True,
            "packed sequences are full anyway, and equal shapes keep memory flat",
            "pad_to_sequence_len",
        )
    return Decision(
        "pad_to_sequence_len",
        False,
        "a batch is padded to its longest row; memory is budgeted at the full length",
        "pad_to_sequence_len",
    )


def early_stopping(draft: Draft) -> Decision:
    asked = draft.asked("early_stopping")
    if asked:
        return stated("early_stopping", asked, note="evaluations without a better loss")
    return Decision(
        "early_stopping",
        None,
        "the loss of held-out rows rises before recall does: it is no reason to stop",
        "early_stopping",
    )


def eval_every(draft: Draft) -> Decision:
    """In optimizer steps: twice a pass over the data, at least three times in a run; `never` without held-out rows."""
    asked = draft.asked("eval_every")
    if asked == "epoch" and draft.asked("early_stopping"):
        steps = steps_per_epoch(draft)
        return stated("eval_every", steps, note=f"one epoch is {steps:,} steps; early stopping wants steps")
    if asked:
        return stated("eval_every", asked)
    if not draft.case.dataset.eval_rows or draft.case.dataset.eval_path is None:
        return Decision("eval_every", "never", "there are no held-out rows", "eval_every")
    if not draft.asked("early_stopping") and _evaluation_exceeds(draft):
        why = "one held-out row with whole logits needs more than the budget; `recipe eval` measures after the run"
        return Decision("eval_every", "never", why, "eval_every")
    total = total_steps(draft)
    steps = max(1, min(math.ceil(steps_per_epoch(draft) / 2), total // 3))
    return Decision(
        "eval_every",
        steps,
        f"steps between evaluations: {max(1, total // steps)} in the run of {total:,} steps",
        "eval_every",
    )


def _evaluation_exceeds(draft: Draft) -> bool:
    """Whether evaluating is what would break the budget: training alone stays within it."""
    architecture, machine = draft.case.model.architecture, draft.case.machine
    step = peak_bytes(architecture, draft.setup, machine)
    needed = eval_bytes(architecture, draft.setup, machine, draft.value("eval_batch"))
    return needed > step and needed + margin_bytes(needed, machine) > machine.budget_bytes


def save_every(draft: Draft) -> Decision:
    """A multiple of eval_every, as early stopping and the best checkpoint need."""
    asked, every = draft.asked("save_every"), draft.value("eval_every")
    if asked == "epoch" and draft.asked("early_stopping") and isinstance(every, int):
        steps = every * max(1, round(steps_per_epoch(draft) / every))
        return stated("save_every", steps, note=f"about one epoch, a multiple of eval_every ({every:,})")
    if asked:
        return stated("save_every", asked)
    if isinstance(every, int):
        return Decision("save_every", every, "with every evaluation, so that the best one can be kept", "save_every")
    if every == "epoch":
        return Decision("save_every", "epoch", "with every evaluation", "save_every")
    steps = max(1, min(steps_per_epoch(draft), total_steps(draft) // 2))
    return Decision(
        "save_every", steps, "once a pass over the rows: a run that breaks loses one at the most", "save_every"
    )


def keep_checkpoints(draft: Draft) -> Decision:
    asked = draft.asked("keep_checkpoints")
    if asked:
        return stated("keep_checkpoints", asked)
    return Decision("keep_checkpoints", 2, "the newest, to resume from, and the one before it", "keep_checkpoints")


def resume(draft: Draft) -> Decision:
    asked = draft.asked("resume")
    if asked:
        return stated("resume", asked)
    return Decision(
        "resume",
        False,
        "starts anew; checkpoints keep the optimizer, so `training.resume: true` goes on from the newest",
        "resume",
    )


def logging(draft: Draft) -> Decision:
    asked = draft.asked("logging")
    if asked:
        return stated("logging", asked)
    return Decision(
        "logging", draft.case.recipe.training.logging, "files in the output folder, no account needed", "logging"
    )


def deepspeed(draft: Draft) -> Decision:
    """None, or the stage and what is offloaded: DeepSpeed comes in only where sharding or offload is needed."""
    setup = draft.setup
    if setup.zero_stage == 0:
        why = (
            "FSDP shards instead"
            if setup.fsdp != "none"
            else "plain data parallel: every device holds all of it"
            if setup.devices > 1
            else "one device and no offload: DeepSpeed would only be in the way"
        )
        return Decision("deepspeed", None, why, "deepspeed")
    return Decision(
        "deepspeed",
        {"stage": setup.zero_stage, "offload": setup.offload},
        f"ZeRO-{setup.zero_stage}" + ("" if setup.offload == "none" else f" with {setup.offload} in host RAM"),
        "deepspeed",
    )


def peer_to_peer(draft: Draft) -> Decision:
    """Without direct copies between cards NCCL may hang: the environment variable is then part of the launch."""
    machine = draft.case.machine
    if machine.count < 2 or machine.backend != "cuda":
        return Decision("peer_to_peer", None, "nothing passes between CUDA cards here", "peer_to_peer")
    if machine.peer_to_peer:
        return Decision("peer_to_peer", True, f"{machine.name} copies directly between cards", "peer_to_peer")
    return Decision(
        "peer_to_peer",
        False,
        f"{machine.name} has no direct copies between cards: NCCL_P2P_DISABLE=1, or NCCL may hang",
        "peer_to_peer",
    )
