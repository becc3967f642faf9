"""Which section says what: the facts of all chunks, looked up by section, dealt out in turns, on disk.

A corpus of a million chunks defines millions of facts; they lie in a temporary SQLite file, and what is counted over
all of them (equal answers, questions that several facts share) is counted there.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import HIGHEST_PROTOCOL, dumps, loads

from dataset_builder.facts import Fact, facts, topic
from dataset_builder.names import KINDS, Name, names
from dataset_builder.problems import BuildProblem
from dataset_builder.rows import Chunk, address, digest
from dataset_builder.runner import HERE, Runner
from dataset_builder.split import same

ORDER = (
    "definition", "option", "default", "command", "steps", "how-to", "condition", "purpose", "cell", "code",
    "statement",
)  # fmt: skip
"""Within a section: what a reader looks up first, before what is merely said."""

MOST_SHARED = 2
"""Facts that may have one template's question, told apart by their pages; what more of them share asks for nothing."""

CACHE_KIB = 32 * 1024
"""Of the SQLite file in memory."""

TABLES = """
CREATE TABLE sections (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, called TEXT NOT NULL);
CREATE TABLE facts (place INTEGER PRIMARY KEY, section INTEGER NOT NULL, rank INTEGER NOT NULL, chunk INTEGER NOT NULL,
  answer INTEGER NOT NULL UNIQUE, asked INTEGER NOT NULL, placed INTEGER NOT NULL, fact BLOB NOT NULL);
CREATE TABLE names (section INTEGER NOT NULL, kind INTEGER NOT NULL, name TEXT NOT NULL, chunk INTEGER NOT NULL,
  at INTEGER NOT NULL, PRIMARY KEY (section, kind, name)) WITHOUT ROWID;
"""
NUMBER = "(SELECT number FROM sections WHERE name = ?)"
COUNTED = """
CREATE INDEX by_section ON facts (section, rank);
CREATE TABLE everywhere AS SELECT asked AS question, COUNT(*) AS times FROM facts GROUP BY 1 HAVING times > 1;
CREATE TABLE in_place AS SELECT placed AS question, COUNT(*) AS times FROM facts GROUP BY 1 HAVING times > 1;
CREATE UNIQUE INDEX asked_everywhere ON everywhere (question);
CREATE UNIQUE INDEX asked_in_place ON in_place (question);
"""
FOUND = """
SELECT fact, chunk, everywhere.times, in_place.times FROM facts
LEFT JOIN everywhere ON everywhere.question = asked LEFT JOIN in_place ON in_place.question = placed
"""
DEALT = """
WITH turns AS MATERIALIZED (SELECT number, turn(called) AS turn FROM sections)
SELECT place FROM (SELECT place, section, ROW_NUMBER() OVER (PARTITION BY section ORDER BY rank, place) AS depth
                   FROM facts) JOIN turns ON number = section ORDER BY depth, turn, number
"""


def section_name(chunk: Chunk) -> str:
    return f"{address(chunk.origin)}: {chunk.section}"


@dataclass(frozen=True, slots=True)
class Said:
    """What one chunk says, and by which numbers its facts are compared with those of others."""

    section: str
    called: str
    facts: tuple[tuple[int, int, int, int, bytes], ...]
    """(rank, answer, asked, placed, the pickled Fact) each."""
    names: tuple[Name, ...]


def said(chunk: Chunk) -> Said:
    """The facts of one chunk, ready to be counted: a function over rows."""
    rows = []
    for fact in facts(chunk):
        keys = " ".join(fact.answer.casefold().split()), same(fact.question), same(placed(fact, chunk))
        rows.append((ORDER.index(fact.kind), *map(_number, keys), dumps(fact, HIGHEST_PROTOCOL)))
    return Said(section_name(chunk), chunk.called, tuple(rows), names(chunk))


def placed(fact: Fact, chunk: Chunk) -> str:
    """The fact's question under the title of its page, where it does not stand there already."""
    where = topic(chunk)
    if not fact.question or not where or where.casefold() in fact.question.casefold():
        return fact.question
    return f'About "{where}": {fact.question[0].lower()}{fact.question[1:]}'


def _number(text: str) -> int:
    """A text's digest as SQLite keeps it; 0 for no text."""
    return int(digest(text), 16) - (1 << 63) if text else 0


class Sections(Mapping[str, Sequence[tuple[Fact, Chunk]]]):
    """Section -> its facts, best kinds first, in the order in which the sections were met. Those without any are there
    too; a repeated sentence counts once: READMEs repeat each other, and the first place keeps the fact.

    A template's question that several facts share ("What does the library provide?") asks for none of them: each is
    set under its page's title if they are few and that tells them apart, else left for a model to word.
    """

    def __init__(self, chunks: Sequence[Chunk], on: Runner = HERE, folder: Path | None = None) -> None:
        self._chunks = chunks
        self._db = temporary_database(folder)
        self._db.executescript(TABLES)
        self._db.execute("BEGIN")
        for number, one in enumerate(on.map(said, chunks)):
            self._db.execute(
                "INSERT INTO sections (name, called) VALUES (?, ?) ON CONFLICT DO NOTHING", (one.section, one.called)
            )
            self._db.executemany(
                f"INSERT INTO facts (section, rank, answer, asked, placed, fact, chunk) "
                f"VALUES ({NUMBER}, ?, ?, ?, ?, ?, ?) ON CONFLICT (answer) DO NOTHING",
                ((one.section, *row, number) for row in one.facts),
            )
            self._db.executemany(
                f"INSERT INTO names VALUES ({NUMBER}, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                ((one.section, KINDS.index(name.kind), name.text, number, at) for at, name in enumerate(one.names)),
            )
        self._db.execute("COMMIT")
        self._db.executescript(COUNTED)
        self.facts: int = self._one("SELECT COUNT(*) FROM facts")
        """How many there are in all sections."""
        self._sections: int = self._one("SELECT COUNT(*) FROM sections")

    def __len__(self) -> int:
        return self._sections

    def __iter__(self) -> Iterator[str]:
        return (name for (name,) in self._db.execute("SELECT name FROM sections ORDER BY number"))

    def __getitem__(self, name: str) -> list[tuple[Fact, Chunk]]:
        number = self._db.execute("SELECT number FROM sections WHERE name = ?", (name,)).fetchone()
        if number is None:
            raise KeyError(name)
        return list(self._found("WHERE section = ? ORDER BY rank, place", *number))

    def of(self, chunk: Chunk) -> list[tuple[Fact, Chunk]]:
        """The facts of one chunk."""
        return [one for one in self[section_name(chunk)] if one[1].id == chunk.id]

    def all(self) -> Iterator[tuple[Fact, Chunk]]:
        """The facts of section after section."""
        return self._found("ORDER BY section, rank, place")

    def dealt(self, seed: int) -> Iterator[tuple[Fact, Chunk]]:
        """All facts, one of every section before a second of any; sections in an order that the seed decides."""
        self._db.create_function("turn", 1, lambda called: digest(str(seed), called), deterministic=True)
        for (place,) in self._db.execute(DEALT):
            yield from self._found("WHERE place = ?", place)

    def sizes(self) -> Iterator[tuple[str, int]]:
        """(section, number of its facts), sorted by name."""
        return self._db.execute(
            "SELECT name, (SELECT COUNT(*) FROM facts WHERE section = number) FROM sections ORDER BY name"
        )

    def kinds(self) -> Counter[str]:
        """How many facts of each kind there are."""
        return Counter({ORDER[rank]: count for rank, count in self._db.execute(
            "SELECT rank, COUNT(*) FROM facts GROUP BY rank")})  # fmt: skip

    def names(self) -> Iterator[tuple[str, Name, str]]:
        """(section, name, document id) of what the chunks name, once a section, sorted by section and then by place."""
        for section, kind, name, chunk in self._db.execute(
            "SELECT sections.name, kind, names.name, chunk FROM names JOIN sections ON number = section "
            "ORDER BY sections.name, chunk, at"
        ):
            yield section, Name(KINDS[kind], name), self._chunks[chunk].document_id

    def _one(self, query: str) -> int:
        return self._db.execute(query).fetchone()[0]

    def _found(self, which: str, *values: object) -> Iterator[tuple[Fact, Chunk]]:
        for packed, chunk, everywhere, in_place in self._db.execute(f"{FOUND} {which}", values):
            yield _settled(loads(packed), self._chunks[chunk], everywhere or 1, in_place or 1)  # our own bytes


def _settled(fact: Fact, chunk: Chunk, everywhere: int, in_place: int) -> tuple[Fact, Chunk]:
    """The fact with the question that is its own; without one where a template cannot tell it from others."""
    if not fact.question or everywhere == 1:
        return fact, chunk
    tells = in_place == 1 and everywhere <= MOST_SHARED
    return replace(fact, question=placed(fact, chunk) if tells else ""), chunk


def temporary_database(folder: Path | None) -> sqlite3.Connection:
    """An SQLite file that has no name once it is open, so that it is gone with the process."""
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=".sections-")
    except OSError as error:
        raise BuildProblem(
            f"{error.filename or folder}: {error.strerror}\n  fix: check space and permissions of {folder}"
        ) from error
    os.close(handle)
    database = sqlite3.connect(name, isolation_level=None, check_same_thread=False)
    for setting in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", f"cache_size=-{CACHE_KIB}"):
        database.execute(f"PRAGMA {setting}")
    database.execute("CREATE TABLE begun (at REAL)")  # opens the file
    with suppress(OSError):  # a system that keeps the names of open files
        os.unlink(name)
    return database
