"""The run around the steps: checkpoints, stopping, resuming, logging, launcher."""

from __future__ import annotations

from compiler.rules.draft import Draft, stated
from compiler.rules.schedule import steps_per_epoch, total_steps
from compiler.values import Decision


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
    if asked and draft.case.dataset.eval_path is None:
        why = "asked for in the recipe, which has no dataset and so no held-out rows to watch"
        return Decision("early_stopping", None, why, "early_stopping")
    if asked:
        return stated("early_stopping", asked, note="evaluations without a better loss")
    return Decision(
        "early_stopping",
        None,
        "the loss of held-out rows rises before recall does: it is no reason to stop",
        "early_stopping",
    )


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
