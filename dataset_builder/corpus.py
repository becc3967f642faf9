"""What views need to know of the whole corpus: which words and names occur, and where. It lies in a temporary file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from dataset_builder.identifiers import exact_words
from dataset_builder.rows import Chunk
from dataset_builder.runner import HERE, Runner
from dataset_builder.sections import temporary_database

TABLES = """
CREATE TABLE exact (word TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE names (name TEXT, document TEXT, PRIMARY KEY (name, document)) WITHOUT ROWID;
"""


def spoken(chunk: Chunk) -> tuple[str, frozenset[str], frozenset[str]]:
    """(document id, exact words, code-marked names) of one chunk: a function over rows."""
    names = re.findall(r"(?<!`)`([^`\s]{3,40})`(?!`)", chunk.text)
    return chunk.document_id, exact_words(chunk.text), frozenset(names)


class Corpus:
    """Exact words of all chunks, and code-marked names (`` `lora_r` ``), which are the wrong values of false claims."""

    def __init__(self, chunks: Sequence[Chunk], on: Runner = HERE, folder: Path | None = None) -> None:
        self._db = temporary_database(folder)
        self._db.executescript(TABLES)
        self._db.execute("BEGIN")
        for document, words, names in on.map(spoken, chunks):
            self._db.executemany("INSERT INTO exact VALUES (?) ON CONFLICT DO NOTHING", ((word,) for word in words))
            rows = ((name, document) for name in names)
            self._db.executemany("INSERT INTO names VALUES (?, ?) ON CONFLICT DO NOTHING", rows)
        self._db.execute("COMMIT")
        self._db.execute("CREATE INDEX by_document ON names (document, name)")

    def names(self, name: str) -> bool:
        """Whether the name is marked as code anywhere."""
        return self._db.execute("SELECT 1 FROM names WHERE name = ? LIMIT 1", (name,)).fetchone() is not None

    def names_in(self, document_id: str) -> list[str]:
        """The names of one document, sorted."""
        found = self._db.execute("SELECT name FROM names WHERE document = ? ORDER BY name", (document_id,))
        return [name for (name,) in found]

    def holds(self, part: str) -> bool:
        """Whether an exact word of the corpus has this part. `part` is case-folded."""
        return part in self._words

    @cached_property
    def _words(self) -> str:
        return "\n".join(word for (word,) in self._db.execute("SELECT word FROM exact"))
