"""The rows that travel through the dataset builder: Document -> Chunk -> Pair -> Row.

Ids are content hashes, each row names what it came from, and a stage is a function over rows that knows no disk.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


def digest(*texts: str) -> str:
    """Content hash of some texts, 16 hex digits; each text's length counts, so ("ab", "c") differs from ("a", "bc")."""
    import hashlib  # it loads OpenSSL, which reading a recipe does not need

    hasher = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")  # a file name that is no UTF-8 holds lone surrogates
        hasher.update(len(data).to_bytes(8, "big"))
        hasher.update(data)
    return hasher.hexdigest()[:16]


def address(origin: str) -> str:
    """An origin without its commit: where a document lies, whatever its version.

    >>> address("https://github.com/o/r@0123456789012345678901234567890123456789:docs/a.md")
    'https://github.com/o/r:docs/a.md'
    """
    return re.sub(r"@[0-9a-f]{40,64}:", ":", origin)


@dataclass(frozen=True, slots=True)
class Document:
    """One page of documentation as Markdown, as it lies in `raw-materials/`."""

    id: str
    """digest(origin)."""
    origin: str
    """Where a reader finds it: a URL, `https://host/owner/repo@<commit>:path`, or a path from the project root."""
    title: str
    markdown: str
    """Body without front matter; `\\n` line ends."""
    sha256: str
    """Of `markdown`."""
    licence: str | None = None
    """SPDX id where known."""
    fetched: str | None = None
    """ISO date on which this text was first read from there."""
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of whole Markdown blocks of one section."""

    id: str
    """digest(document address, heading path, text): the same in every commit that leaves the text as it was."""
    document_id: str
    origin: str
    title: str
    heading_path: tuple[str, ...]
    anchor: str
    """Slug of the last heading, so that origin + "#" + anchor leads there."""
    text: str
    """Exactly document.markdown[start:end]."""
    start: int
    end: int
    tokens: int
    """Estimate (characters / 4) unless a tokenizer was given."""
    licence: str | None = None
    sha256: str = ""
    """Of the whole document."""

    @property
    def section(self) -> str:
        """What the CSV prints: `Title > Heading > Subheading`."""
        return " > ".join(self.heading_path or (self.title,))

    @property
    def called(self) -> str:
        """Its page's title and its section: the same wherever the document lies. What is drawn by it stays drawn when
        documents are renamed or moved."""
        return f"{self.title}\n{self.section}"


@dataclass(frozen=True, slots=True)
class Pair:
    """A unique question and answer with its evidence."""

    id: str
    """digest(question, answer, chunk id)."""
    chunk_id: str
    question: str
    answer: str
    quote: str
    """chunk.text[quote_start:quote_end], verbatim."""
    quote_start: int
    quote_end: int
    kind: str = "direct"
    """What is asked for: direct, how-to, why, default, comparison, troubleshooting ..."""


@dataclass(frozen=True, slots=True)
class Grounded:
    """A pair that passed every check, with the chunk it came from."""

    pair: Pair
    chunk: Chunk
    worded_by: str = "model"
    """Who worded the question: `model`, `template`, `person`."""
    wordings: tuple[str, ...] = ()
    """Further checked wordings of the same question."""
    subject: str = ""
    """What the pair is about, where code found it in the document."""
    proof: str = ""
    """How the quote was found: `exact` as the model gave it, `near` to it, `picked` by code in its place, `own`: the
    answer is the document's own sentence; "" where that is not known."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the CSV; the field order is the header."""

    instruction: str
    input: str
    output: str
    messages: str
    """JSON list of {role, content}."""
    id: str
    parent: str
    """Id of the unique pair; its own id for the pair's first row."""
    view: str
    quote: str
    source: str
    section: str
    licence: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """A candidate that did not become a row, and why: one line of dropped.jsonl."""

    stage: str
    reason: str
    item: dict
