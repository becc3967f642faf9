"""Where each pair's quote stands: character offsets and lines, for `evidence.jsonl` beside the tables.

Offsets and lines are those of the document's Markdown as it lies in `raw-materials/`, whose sha256 stands beside them.
A file of the project (`kind: files`) also gets `path#L10-L14` where its own text holds the quote once: a converted file
(reStructuredText, a notebook) has other lines than its Markdown, and then nothing is claimed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from dataset_builder.rows import Document, Grounded


def evidence_text(pairs: Sequence[Grounded], documents: Iterable[Document], root: Path) -> str:
    """One JSON line a pair, in the order given. `root`: the project root, which paths of `files` sources start from.

    Raises ValueError where a document does not hold a quote at its offsets: that is a fault of ours, and no evidence.
    """
    wanted = {one.chunk.document_id for one in pairs}
    by_id = {one.id: one for one in documents if one.id in wanted}
    originals: dict[str, str | None] = {}
    lines = []
    for one in pairs:
        pair, chunk, document = one.pair, one.chunk, by_id[one.chunk.document_id]
        start, end = chunk.start + pair.quote_start, chunk.start + pair.quote_end
        if document.markdown[start:end] != pair.quote:
            raise ValueError(f"pair {pair.id}: {document.origin} does not hold its quote at {start}:{end}")
        if document.origin not in originals:
            originals[document.origin] = _original(root, document.origin)
        record = {
            "id": pair.id,
            "document": document.origin,
            "sha256": document.sha256,
            "start": start,
            "end": end,
            "lines": _lines(document.markdown, start, end),
            "where": _where(document.origin, chunk.anchor, originals[document.origin], pair.quote),
            "quote": pair.quote,
        }
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    return "".join(lines)


def _lines(text: str, start: int, end: int) -> list[int]:
    """First and last line of text[start:end], from 1."""
    first = text.count("\n", 0, start) + 1
    return [first, first + text.count("\n", start, max(start, end - 1))]


def _original(root: Path, origin: str) -> str | None:
    """The text of a file of the project as it lies there; None for a URL, a repository or what is no text."""
    if "://" in origin:
        return None
    try:
        return (root / origin).read_text(encoding="utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError, ValueError):
        return None


def _where(origin: str, anchor: str, original: str | None, quote: str) -> str:
    if original is not None and original.count(quote) == 1:
        start = original.index(quote)
        first, last = _lines(original, start, start + len(quote))
        return f"{origin}#L{first}" + (f"-L{last}" if last > first else "")
    return f"{origin}#{anchor}" if anchor else origin
