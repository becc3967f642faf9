"""Evaluation during the run: how long a held-out row may be, how many at once, and how often.

Evaluation holds whole logits even where training fuses its loss (Liger), and would run out of memory after hours.
Axolotl's `eval_sequence_len` bounds the length of its rows (axolotl 0.19 `utils/data/sft.py`; longer ones are treated
as `excess_length_strategy` says), so that a small budget need not do without it.
"""

from __future__ import annotations

import math

from compiler.memory import eval_bytes, margin_bytes, peak_bytes, resident_bytes
from compiler.rules.draft import Draft, stated
from compiler.rules.schedule import steps_per_epoch, total_steps
from compiler.space import LENGTH_UNIT
from compiler.units import format_size
from compiler.values import Case, Decision, Setup


def eval_sequence_len(draft: Draft) -> Decision:
    """Tokens of the longest row that evaluation meets: the longest held-out row, or what fits of it."""
    dataset, whole = draft.case.dataset, draft.setup.sequence_len
    if draft.setup.sample_packing:
        why = "batches are padded to the sequence length, in evaluation too"
        return Decision("eval_sequence_len", whole, why, "eval_sequence_len")
    longest = min(whole, _round_up(dataset.eval_max_tokens))
    basis = "measured" if dataset.measured else "assumed: no dataset is built yet"
    rows = f"the longest held-out row has {dataset.eval_max_tokens:,} tokens ({basis})"
    fits = _longest_that_fits(draft, longest)
    if fits == longest or fits < _least_length(draft.case, draft.setup):
        return Decision("eval_sequence_len", longest, rows, "eval_sequence_len")
    why = f"{rows}; one of {fits:,} is what fits with whole logits. Longer ones are left to `recipe eval`"
    return Decision("eval_sequence_len", fits, why, "eval_sequence_len")


def asked_for(draft: Draft) -> bool:
    """Whether the recipe wants evaluation during the run: the setup must then have room for it."""
    wanted = draft.asked("eval_every") not in (None, "never") or draft.asked("early_stopping")
    return bool(wanted) and draft.case.dataset.eval_path is not None


def least_bytes(case: Case, setup: Setup) -> int:
    """What evaluation takes at the least: one row of average length, a whole sequence where rows are packed."""
    return eval_bytes(case.model.architecture, setup, case.machine, 1, _least_length(case, setup))


def _least_length(case: Case, setup: Setup) -> int:
    if setup.sample_packing:
        return setup.sequence_len
    dataset = case.dataset
    average = _round_up(math.ceil(dataset.mean_tokens))
    return min(setup.sequence_len, _round_up(dataset.eval_max_tokens), average)


def _round_up(length: int) -> int:
    return max(1, -(-length // LENGTH_UNIT)) * LENGTH_UNIT


def _longest_that_fits(draft: Draft, longest: int) -> int:
    """Tokens, at most `longest`, of a row that evaluation holds within the budget; 0 when not even the shortest."""
    low, high = 0, longest // LENGTH_UNIT
    if _fits(draft, longest):
        return longest
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _fits(draft, middle * LENGTH_UNIT) else (low, middle - 1)
    return low * LENGTH_UNIT


def _fits(draft: Draft, length: int, rows: int = 1) -> bool:
    """Whether evaluating is not what would break the budget: it stays within it, or within the peak of training."""
    needed = _needed(draft, length, rows)
    machine = draft.case.machine
    if needed <= _peak(draft):
        return True
    resident = resident_bytes(draft.case.model.architecture, draft.setup, machine)
    return needed + margin_bytes(needed, resident, machine) <= machine.budget_bytes


def _needed(draft: Draft, length: int, rows: int) -> int:
    case = draft.case
    return eval_bytes(case.model.architecture, draft.setup, case.machine, rows, length)


def _peak(draft: Draft) -> int:
    return peak_bytes(draft.case.model.architecture, draft.setup, draft.case.machine)


def eval_batch(draft: Draft) -> Decision:
    """As many rows as stay within the peak of training, at most the micro-batch."""
    setup, length = draft.setup, draft.value("eval_sequence_len")
    batch, most = setup.micro_batch, _peak(draft)
    if _needed(draft, length, batch) <= most:
        why = f"the micro-batch ({batch}): evaluation then never needs more than a training step"
        return Decision("eval_batch", batch, why, "eval_batch")
    size = next((size for size in range(batch - 1, 0, -1) if _needed(draft, length, size) <= most), 1)
    rows, need = ("one row", "needs") if size == 1 else (f"{size} rows", "need")
    why = (
        f"evaluation keeps whole logits, which the {setup.cross_entropy} loss does not in training: {rows} of "
        f"{length:,} tokens {need} {format_size(_needed(draft, length, size))}"
    )
    more = f", the micro-batch ({batch}) more" if batch > size else ""
    return Decision("eval_batch", size, why + more, "eval_batch")


def eval_sample_packing(draft: Draft) -> Decision:
    return Decision(
        "eval_sample_packing", False, "every held-out row counts once, whatever its length", "eval_sample_packing"
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
    if not draft.asked("early_stopping") and not _fits(
        draft, draft.value("eval_sequence_len"), draft.value("eval_batch")
    ):
        why = "a held-out row with whole logits needs more than the budget; `recipe eval` measures after the run"
        return Decision("eval_every", "never", why, "eval_every")
    total = total_steps(draft)
    steps, note = max(1, min(math.ceil(steps_per_epoch(draft) / 2), total // 3)), ""
    saves = draft.asked("save_every")
    if draft.asked("early_stopping") and isinstance(saves, int):
        steps = next(size for size in range(min(steps, saves), 0, -1) if saves % size == 0)
        note = f"; save_every ({saves:,}) is a multiple of it, as early stopping needs"
    why = f"steps between evaluations: {max(1, total // steps)} in the run of {total:,} steps{note}"
    return Decision("eval_every", steps, why, "eval_every")
