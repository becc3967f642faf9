"""Tokens and files: chat template, end of turn, padding, where rows come from and where results go."""

from __future__ import annotations

import math

from compiler.rules.draft import Draft, percent, stated
from compiler.values import DatasetFacts, Decision

Z_99 = 2.3263
"""Standard deviations below which 99 % of a normal distribution lie."""


def chat_template(draft: Draft) -> Decision:
    """The model's own template; a base model without one gets ChatML, which needs no untrained token of its own in
    most tokenizers."""
    model = draft.case.model
    if model.chat_template:
        return Decision(
            "chat_template",
            model.chat_template,
            f"the template {model.id} was trained with ({model.source})",
            "chat_template",
        )
    return Decision(
        "chat_template",
        "chatml",
        f"{model.id} has no template; ChatML's markers are then learnt as plain text",
        "chat_template",
    )


def eot_tokens(draft: Draft) -> Decision:
    """Tokens that end a turn must be in the labels, or the model never learns to stop (Axolotl masks them unless
    told)."""
    model = draft.case.model
    if model.end_of_turn:
        names = ", ".join(f"`{token}`" for token in model.end_of_turn)
        return Decision(
            "eot_tokens",
            model.end_of_turn,
            f"{names} ends a turn of {model.id}; unnamed, Axolotl masks it and the model never learns to stop",
            "eot_tokens",
        )
    ending = ("<|im_end|>",) if draft.value("chat_template") == "chatml" else ()
    return Decision(
        "eot_tokens",
        ending,
        "the template's own end of a turn" if ending else "the template ends a turn with EOS",
        "eot_tokens",
    )


def train_on_eot(draft: Draft) -> Decision:
    """`turn`: the end of every trained turn is a label, the end of the user's turn is not."""
    return Decision("train_on_eot", "turn", "the assistant's end of turn is learnt, the user's is not", "train_on_eot")


def train_on_inputs(draft: Draft) -> Decision:
    """Only answers are learnt."""
    return Decision(
        "train_on_inputs",
        False,
        "only the assistant's tokens are labels; questions are given, not learnt",
        "train_on_inputs",
    )


def pad_token(draft: Draft) -> Decision:
    """Written out where it is known: a pad token that equals EOS would mask EOS."""
    model = draft.case.model
    if model.pad_token is None:
        return Decision("pad_token", None, "left to the tokenizer: none is known that differs from EOS", "pad_token")
    return Decision(
        "pad_token", model.pad_token, "the tokenizer's own, and not EOS: padding never masks the end", "pad_token"
    )


def train_path(draft: Draft) -> Decision:
    return _path(draft, "train_path", draft.case.dataset.train_path, "training rows")


def eval_path(draft: Draft) -> Decision:
    return _path(draft, "eval_path", draft.case.dataset.eval_path, "held-out rows, split off before variants were made")


def _path(draft: Draft, name: str, path: str | None, what: str) -> Decision:
    if path is None:
        return Decision(name, None, f"the recipe has no dataset, so no {what}", name)
    dataset = draft.case.dataset
    rows = dataset.rows if name == "train_path" else dataset.eval_rows
    source = "counted" if dataset.measured else "expected; `recipe data` has not run yet"
    return Decision(name, path, f"{what}: {rows:,} ({source})", name)


def prepared_path(draft: Draft) -> Decision:
    """Carries the digests of train.csv and of the held-out rows: Axolotl hashes the path of a file, not its content,
    and would train, or evaluate, on old tokens."""
    case, digest, held = draft.case, draft.case.dataset.sha256, draft.case.dataset.eval_sha256
    folder = f".cache/prepared/{case.recipe.name}/{case.target}"
    if digest:
        path = f"{folder}/{digest[:16]}" + (f"-{held[:8]}" if held else "")
        whose = "train.csv and of the held-out rows" if held else "train.csv"
        why = f"ends in the digest of {whose}: Axolotl's own key covers the path, not the content"
        return Decision("prepared_path", path, why, "prepared_path")
    return Decision(
        "prepared_path",
        f"{folder}/no-dataset-yet",
        "no dataset is built yet; the digest of train.csv comes here",
        "prepared_path",
    )


def output_dir(draft: Draft) -> Decision:
    case = draft.case
    return Decision(
        "output_dir", f"outputs/{case.recipe.name}/{case.target}", "one folder a recipe and target", "output_dir"
    )


def excess_length(draft: Draft) -> Decision:
    """Longer rows are dropped, not cut: half an answer teaches to stop in the middle. The share is stated."""
    length = draft.setup.sequence_len
    share = truncated_share(draft.case.dataset, length)
    return Decision(
        "excess_length",
        "drop",
        f"{percent(share)} of the rows are longer than {length:,} tokens; a row cut in its answer "
        "would teach to stop in the middle",
        "excess_length",
    )


def truncated_share(dataset: DatasetFacts, length: int) -> float:
    """Share of rows longer than `length` tokens, from the histogram or, without one, from the percentiles (upper
    bounds)."""
    if dataset.length_histogram:
        total = sum(rows for _, rows in dataset.length_histogram)
        return sum(rows for bound, rows in dataset.length_histogram if bound > length) / total if total else 0.0
    if length >= dataset.max_tokens:
        return 0.0
    share = max(0.0, 1 - _share_below(dataset, length))
    return min(share, 0.01) if length >= dataset.p99_tokens else max(share, 0.01)


def _share_below(dataset: DatasetFacts, length: int) -> float:
    """Lengths taken as log-normal with the given mean and 99th percentile, as `compiler.speed` takes them."""
    ratio = math.log(max(1.0, dataset.p99_tokens / max(1.0, dataset.mean_tokens)))
    # mean = exp(mu + s^2 / 2) and p99 = exp(mu + z s), hence s^2 / 2 - z s + log(p99 / mean) = 0: the smaller root
    spread = Z_99 - math.sqrt(max(0.0, Z_99**2 - 2 * ratio))
    if not spread:
        return float(length >= dataset.mean_tokens)
    middle = math.log(max(1.0, dataset.mean_tokens)) - spread**2 / 2
    return 0.5 * (1 + math.erf((math.log(length) - middle) / (spread * math.sqrt(2))))


def seed(draft: Draft) -> Decision:
    asked = draft.asked("seed")
    if asked is not None:
        return stated("seed", asked)
    return Decision(
        "seed",
        draft.case.recipe.training.seed,
        "fixed, so that two runs of one config see the same rows in the same order",
        "seed",
    )
