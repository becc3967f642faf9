"""What all kinds of sources share: where they may write, what they report, and limits against hostile input."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dataset_builder.rows import Document, Dropped
from dataset_builder.runner import HERE, Runner

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
    on: Runner = HERE
    """Where files become Markdown."""

    @property
    def cache(self) -> Path:
        return self.root / ".cache" / "sources"


@dataclass(frozen=True, slots=True)
class File:
    """A file of a source, on its way to become a document."""

    origin: str
    name: str
    """By whose ending it is read."""
    data: bytes
    licence: str | None
    """As the recipe states it; goes before what the file says of itself."""
    licence_around: str | None
    """Of the folder or repository; goes after."""
    problem: str = ""
    """Why it is no document, where that shows before it is read."""
    fetched: str | None = None
    """ISO date, where it came over a network."""


def document_of(file: File) -> Document | str:
    """The file as a document, or why it cannot be one: a function over rows."""
    from dataset_builder.formats import read
    from dataset_builder.materials import document

    if file.problem:
        return file.problem
    try:
        reading = read(file.name, file.data)
    except Unreadable as error:
        return str(error)
    licence = file.licence or reading.licence or file.licence_around
    return document(file.origin, reading.title, reading.markdown, licence=licence, fetched=file.fetched)


def documents(files: Iterable[File], context: Context) -> Iterator[Document]:
    """The files that can be read, in their order; the others are in the report."""
    origins: deque[str] = deque()

    def told() -> Iterator[File]:
        for file in files:
            origins.append(file.origin)
            yield file

    for found in context.on.map(document_of, told()):
        origin = origins.popleft()
        if isinstance(found, str):
            context.report.skip(origin, found)
        else:
            yield found
