"""Judge and people: how often they agree on the pairs that both have seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from dataset_builder.review.decisions import Decisions
from dataset_builder.review.records import Record


@dataclass(frozen=True, slots=True)
class Agreement:
    """Counts by (the judge's verdict, the person's): `good` or `bad`, and `accept`, `edit` or `reject`."""

    counts: Counter[tuple[str, str]]

    @property
    def both(self) -> int:
        """Pairs with two plain verdicts; an edit says neither good nor bad of what it mended."""
        return sum(count for (_, verdict), count in self.counts.items() if verdict != "edit")

    @property
    def agreed(self) -> int:
        return self.counts["good", "accept"] + self.counts["bad", "reject"]

    def sentences(self) -> list[str]:
        """For the card; none where no pair has two verdicts."""
        if not self.counts:
            return []
        edits = sum(count for (_, verdict), count in self.counts.items() if verdict == "edit")
        parts = [f"judge good, rejected by people: {self.counts['good', 'reject']:,}",
                 f"judge bad, accepted by people: {self.counts['bad', 'accept']:,}"]  # fmt: skip
        parts += [f"edited: {edits:,}"] if edits else []
        return [f"Judge and people agree on {self.agreed:,} of {self.both:,} pairs that both have seen ("
                f"{'; '.join(parts)})."]  # fmt: skip


def agreement(records: Iterable[Record], decisions: Decisions) -> Agreement:
    """Over all records on which a person decided and the judge gave a verdict."""
    found: Counter[tuple[str, str]] = Counter()
    for one in records:
        verdict = one.judge.split(":")[0]
        if verdict in ("good", "bad") and one.key in decisions and one.part != "retired":
            found[verdict, decisions[one.key].verdict] += 1
    return Agreement(found)
