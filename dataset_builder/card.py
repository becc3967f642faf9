"""The dataset card: what is in the CSV, where it came from, what it cost, what was dropped and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from dataset_builder.ledger import Totals
from dataset_builder.lengths import Lengths
from dataset_builder.rows import Dropped, Grounded
from dataset_builder.spec import Dataset
from dataset_builder.variants import Rows


def card_text(name: str, dataset: Dataset, pairs: Sequence[Grounded], made: Rows, dropped: Sequence[Dropped],
              tokens: Lengths, path: str, spent: Mapping[str, Totals], notes: Sequence[str]) -> str:  # fmt: skip
    """card.md in Markdown. `spent`: purchases since the ledger was begun; `notes`: what fell short or must be known."""
    worded = Counter(pair.worded_by for pair in pairs)
    existing = Counter(row.source.rpartition("#")[0] for row in made.train if row.view == "existing")
    lines = [
        f"# Dataset `{name}`", "",
        f"{len(pairs):,} unique pairs, {len(made.train):,} training rows, {len(made.recall):,} recall questions "
        f"(trained facts, unseen wording), {len(made.transfer):,} transfer questions (held-out sections).", "",
        *(f"- {text}" for text in notes),
        f"- Generator: `{dataset.generator.model}`, asked by the path `{path}`.",
        f"- Questions worded by the model: {worded['model']:,}; by a template: {worded['template']:,} "
        f"({_share(worded['template'], len(pairs))}).",
        *(f"- Rows that existed before, taken as they are: {count:,} of {place} ({count / len(made.train):.1%} of the "
          "table)." for place, count in existing.items()),
        f"- Every {'other ' if existing else ''}answer is held by its source: the quote stands there verbatim, and "
        "every number, version, path, flag and identifier of the answer occurs in its chunk. Code checked this, not a "
        "model.",
        f"- Tokens a row: mean {tokens.mean:g}, 99 % at most {tokens.p99}, longest {tokens.longest} ({tokens.how}).",
        "",
        *_table("View", Counter(row.view for row in made.train), "rows"),
        *_table("Kind of question", Counter(pair.pair.kind for pair in pairs), "unique pairs"),
        *_table("Source", Counter(pair.chunk.origin for pair in pairs), "unique pairs"),
        *_table("Licence", Counter(row.licence or "not stated" for row in made.train), "rows"),
        *_cost(spent),
        *_table("Dropped because", Counter(_short_reason(one) for one in dropped), "candidates"),
    ]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def _short_reason(one: Dropped) -> str:
    return f"{one.stage}: {one.reason.split(':')[0]}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "none"


def _table(title: str, counts: Counter[str], unit: str) -> list[str]:
    if not counts:
        return []
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"| {name.replace('|', '/')} | {count:,} |" for name, count in ordered]
    return [f"| {title} | {unit} |", "|---|---:|", *lines, ""]


def _cost(spent: Mapping[str, Totals]) -> list[str]:
    if not spent:
        return []
    lines = ["| Stage | calls | tokens in | tokens out | cost |", "|---|---:|---:|---:|---:|"]
    for stage, total in sorted(spent.items()):
        cost = f"${total.cost_usd:.4f}" if total.unpriced_calls < total.calls else "no price known"
        lines.append(f"| {stage} | {total.calls:,} | {total.prompt_tokens:,} | {total.completion_tokens:,} | {cost} |")
    return [*lines, ""]
