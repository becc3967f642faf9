"""Every answer ever paid for, keyed by the request itself: nothing is bought twice, whatever happens in between.

One SQLite file in write-ahead mode. A row is a purchase; it is committed before anybody looks into the reply, so that a
crash, a parser that changes or a threshold that moves never costs a second call. Several processes of one machine may
share a ledger; ledgers of several machines are merged.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from dataset_builder.problems import BuildProblem

VERSION = 1
BUSY_SECONDS = 60
AT_ONCE = 500
"""Keys in one look; SQLite allows at least 999 values in a statement."""


@dataclass(frozen=True)
class Request:
    """One question to a model. Equal content, equal key, on any machine."""

    model: str
    messages: tuple[tuple[str, str], ...]
    """(role, content) in order."""
    schema: dict | None = None
    """JSON Schema of the reply; None: free text."""
    max_tokens: int = 1024
    temperature: float = 0.3
    seed: int = 0
    stage: str = ""
    """For the accounts only."""
    about: object = field(default=None, compare=False, repr=False)
    """The caller's own object (a chunk, a pair), handed on with the reply; no part of the request."""

    @cached_property
    def key(self) -> str:
        """sha256 of what is sent, except `max_tokens` (more room changes only answers that were cut) and `stage`."""
        sent = [self.model, self.messages, self.schema, float(self.temperature), self.seed]
        return hashlib.sha256(json.dumps(sent, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, as it came."""

    key: str
    text: str
    finish_reason: str
    """`stop`, `length` (cut at max_tokens) or what else the provider says."""
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    """None: no price is known."""
    seconds: float
    model: str
    max_tokens: int = 0
    """What was allowed when it was bought."""
    about: object = field(default=None, compare=False, repr=False)
    """Of the request; not stored."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What one stage has bought."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    """Of the calls whose price is known."""
    unpriced_calls: int = 0


TABLES = """
CREATE TABLE IF NOT EXISTS answers (
  key TEXT NOT NULL, max_tokens INTEGER NOT NULL, bought_at REAL NOT NULL, stage TEXT NOT NULL, model TEXT NOT NULL,
  finish_reason TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost_usd REAL,
  seconds REAL NOT NULL, text TEXT NOT NULL, UNIQUE (key, max_tokens, bought_at));
CREATE INDEX IF NOT EXISTS accounts ON answers (model, stage, cost_usd, prompt_tokens, completion_tokens);
CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, born TEXT NOT NULL,
  run TEXT NOT NULL);
"""
COLUMNS = ("key, max_tokens, bought_at, stage, model, finish_reason, prompt_tokens, completion_tokens, cost_usd, "
           "seconds, text")


class Ledger:
    """The answers in one file. Safe to use from several threads and several processes of one machine.

    Raises BuildProblem where the file is not a ledger, is of a newer version or cannot be written.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        self._me = (socket.gethostname(), os.getpid(), _born(os.getpid()), f"{id(self):x}-{time.monotonic_ns():x}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            # In WAL mode NORMAL loses nothing when the process dies, at worst the last rows when the power fails.
            self._db.execute("PRAGMA synchronous=NORMAL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise BuildProblem(f"{self.path}: written by a newer finetune-recipes (version {version}); update it.")
            self._version_seen = self._db.execute("PRAGMA data_version").fetchone()[0]
            self._db.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version={VERSION}; COMMIT;")
        except (sqlite3.Error, OSError) as wrong:
            raise BuildProblem(
                f"{self.path}: cannot be used as the ledger of answers: {wrong}.\n"
                "Move the file away to start afresh (its answers would be bought again), or restore a copy."
            ) from None

    def get(self, request: Request) -> Reply | None:
        """The answer with the most room, or None where it was never bought."""
        return self._find(request.key)

    def _find(self, key: str) -> Reply | None:
        with self._lock:
            row = self._db.execute(
                "SELECT key, text, finish_reason, prompt_tokens, completion_tokens, cost_usd, seconds, model, "
                "max_tokens FROM answers WHERE key = ? ORDER BY max_tokens DESC, bought_at LIMIT 1", (key,)).fetchone()
        return Reply(*row) if row else None

    def unanswered(self, requests: Iterable[Request]) -> list[Request]:
        """Those that were never bought, in their order; one look for many."""
        found = {request.key: request for request in requests}
        keys = list(found)
        for start in range(0, len(keys), AT_ONCE):
            some = keys[start : start + AT_ONCE]
            with self._lock:
                rows = self._db.execute(f"SELECT key FROM answers WHERE key IN ({','.join('?' * len(some))})", some)
                for (key,) in rows.fetchall():
                    found.pop(key, None)
        return list(found.values())

    def put(self, request: Request, reply: Reply) -> None:
        """Commits a purchase and gives the claim back, in one transaction."""
        row = (reply.key, request.max_tokens, time.time(), request.stage, reply.model, reply.finish_reason,
               reply.prompt_tokens, reply.completion_tokens, reply.cost_usd, reply.seconds, reply.text)
        with self._lock, self._transaction():
            self._db.execute(f"INSERT INTO answers ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?)", row)
            self._db.execute("DELETE FROM claims WHERE key = ?", (reply.key,))

    def claim(self, request: Request) -> bool:
        """Whether this builder may buy the answer: False while another living process is buying it.

        A claim of a process that died is taken over at once.
        """
        with self._lock, self._transaction():
            row = self._db.execute("SELECT host, pid, born, run FROM claims WHERE key = ?", (request.key,)).fetchone()
            if row and row != self._me and _alive(row[0], row[1], row[2]):
                return False
            self._db.execute("INSERT OR REPLACE INTO claims VALUES (?,?,?,?,?)", (request.key, *self._me))
        return True

    def release(self, request: Request) -> None:
        """Gives a claim back without an answer."""
        with self._lock:
            self._db.execute("DELETE FROM claims WHERE key = ? AND run = ?", (request.key, self._me[3]))

    def totals(self) -> dict[str, Totals]:
        """What each stage has bought since the ledger was begun."""
        query = ("SELECT stage, COUNT(*), SUM(prompt_tokens), SUM(completion_tokens), TOTAL(cost_usd), "
                 "SUM(cost_usd IS NULL) FROM answers GROUP BY stage")
        with self._lock:
            return {stage: Totals(*figures) for stage, *figures in self._db.execute(query)}

    def spent_usd(self, model: str) -> float:
        """Cost of every priced call to `model`."""
        with self._lock:
            return self._db.execute("SELECT TOTAL(cost_usd) FROM answers WHERE model = ?", (model,)).fetchone()[0]

    def changed_by_others(self) -> bool:
        """Whether another process has written since this was last asked; cheap."""
        with self._lock:
            version = self._db.execute("PRAGMA data_version").fetchone()[0]
            changed, self._version_seen = version != self._version_seen, version
        return changed

    def merge(self, other: Path | str) -> int:
        """Takes over the answers of another machine's ledger; merging twice adds nothing. Returns the answers added."""
        if not Path(other).is_file():
            raise BuildProblem(f"{other}: no such ledger")
        if self.path.samefile(other):
            raise BuildProblem(f"{other}: this is the ledger of the build itself; name a copy from another machine")
        Ledger(other).close()  # says what is wrong with it, and finishes its write-ahead log
        with self._lock:
            self._db.execute("ATTACH ? AS other", (str(other),))
            try:
                query = f"INSERT OR IGNORE INTO answers ({COLUMNS}) SELECT {COLUMNS} FROM other.answers"
                return self._db.execute(query).rowcount
            except sqlite3.Error as wrong:
                raise BuildProblem(f"{self.path}: {other} cannot be added to it: {wrong}; nothing was") from None
            finally:
                self._db.execute("DETACH other")

    def close(self) -> None:
        """Gives back this builder's claims and closes the file."""
        with self._lock:
            self._db.execute("DELETE FROM claims WHERE run = ?", (self._me[3],))
            self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)


class _Transaction:
    """BEGIN IMMEDIATE ... COMMIT; takes the write lock at once, so that two processes never deadlock upgrading."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._db.execute("ROLLBACK" if kind else "COMMIT")


def _born(pid: int) -> str:
    """When the process was started, in the kernel's ticks: tells a process from a later one with the same number.

    Empty where there is no /proc.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _alive(host: str, pid: int, born: str) -> bool:
    if host != socket.gethostname():
        return False  # one ledger serves one machine; a claim from elsewhere came with a copied file
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _born(pid) == born


def in_shard(key: str, index: int, count: int) -> bool:
    """Whether the item with this hexadecimal content hash belongs to shard `index` (1-based) of `count`.

    >>> [in_shard("00ff", index, 3) for index in (1, 2, 3)]
    [True, False, False]
    """
    if not 1 <= index <= count:
        raise ValueError(f"shard {index}/{count}: the first number runs from 1 to the second")
    return int(key[:16], 16) % count == index - 1
