"""What all kinds of sources share: where they may write, what they report, and limits against hostile input."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dataset_builder.rows import Dropped

MAX_DOCUMENT_BYTES = 20_000_000
"""A larger file or page is skipped: documentation of this size is a data dump."""


class Unreadable(Exception):
    """A document cannot become Markdown; the text says why. It is skipped and counted, never fatal."""


@dataclass
class SourceReport:
    """What happened while sources were read; mutable, one for a whole run. `progress` is called with one line at a
    time."""

    progress: Callable[[str], None] | None = None
    dropped: list[Dropped] = field(default_factory=list)
    """Documents left out, each with its reason: lines of dropped.jsonl."""
    counts: Counter = field(default_factory=Counter)
    """`documents`, `fetched`, `unchanged`, `bytes`, `skipped`, `scrubbed: <kind>`."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the dataset card."""

    def say(self, text: str) -> None:
        if self.progress is not None:
            self.progress(text)

    def skip(self, origin: str, reason: str) -> None:
        self.counts["skipped"] += 1
        self.dropped.append(Dropped("sources", reason, {"origin": origin}))

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            self.say(text)


@dataclass(frozen=True)
class Context:
    """Where a source reads and keeps things."""

    root: Path
    """The project root: relative paths of a recipe start here."""
    report: SourceReport
    offline: bool = False
    """Use only what is already in `.cache/` and on disk."""

    @property
    def cache(self) -> Path:
        return self.root / ".cache" / "sources"
