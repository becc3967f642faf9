"""A list whose rows lie in a temporary file, so that a million documents or chunks do not lie in memory.

    chunks = Shelf(folder=Path(".cache"))
    chunks.append(one); chunks[7]; for one in chunks: ...

Only the places of the rows are kept, 8 bytes each. The file has no name: it is gone with the process, however
that ends.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import threading
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar, overload

from dataset_builder.problems import BuildProblem

T = TypeVar("T")

WRITE_BYTES = 1 << 20
"""Rows are written in pieces of this size."""


class Shelf(Sequence[T], Generic[T]):
    """Append-only; rows come back as equal copies. Any thread may read.

    `folder`: where the file shall lie; `/tmp` lies in memory on many machines. There is none before the first MiB.
    Raises BuildProblem where the disk is full.
    """

    def __init__(self, rows: Iterable[T] = (), folder: Path | None = None) -> None:
        self._folder = folder
        self._handle = -1
        self._ends = array("Q")
        """Where each row ends in the file."""
        self._unwritten = bytearray()
        self._written = 0
        self._lock = threading.Lock()
        self.extend(rows)

    def append(self, row: T) -> None:
        data = pickle.dumps(row, pickle.HIGHEST_PROTOCOL)
        with self._lock:
            self._unwritten += data
            self._ends.append(self._written + len(self._unwritten))
            if len(self._unwritten) >= WRITE_BYTES:
                self._write()

    def extend(self, rows: Iterable[T]) -> None:
        for row in rows:
            self.append(row)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> list[T]: ...
    def __getitem__(self, place):
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        place = range(len(self))[place]  # negative places, and the IndexError
        start, end = self._ends[place - 1] if place else 0, self._ends[place]
        with self._lock:
            kept = bytes(self._unwritten[start - self._written : end - self._written]) if end > self._written else None
        data = os.pread(self._handle, end - start, start) if kept is None else kept
        return pickle.loads(data)  # our own bytes, out of a file that no other process can open

    def __iter__(self) -> Iterator[T]:
        return (self[place] for place in range(len(self)))

    def _write(self) -> None:
        try:
            if self._handle < 0:
                self._handle = _nameless_file(self._folder)
                weakref.finalize(self, os.close, self._handle)
            data = memoryview(bytes(self._unwritten))
            while data:
                written = os.pwrite(self._handle, data, self._written)
                self._written += written
                data = data[written:]
        except OSError as error:
            where = self._folder or tempfile.gettempdir()
            raise BuildProblem(
                f"{where}: documents cannot be kept there while the dataset is built: {error.strerror or error}\n"
                "  fix: check space and permissions"
            ) from error
        self._unwritten.clear()


class Rearranged(Sequence[T], Generic[T]):
    """The rows of another sequence in another order; a slice is one, too."""

    def __init__(self, rows: Sequence[T], places: array[int]) -> None:
        self._rows, self._places = rows, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Rearranged[T]: ...
    def __getitem__(self, place):
        if isinstance(place, slice):
            return Rearranged(self._rows, self._places[place])
        return self._rows[self._places[place]]


class Peekable(Generic[T]):
    """Rows that are taken a few at a time, of which those to come can be looked at."""

    def __init__(self, rows: Iterable[T]) -> None:
        self._rows = iter(rows)
        self._seen: list[T] = []

    def take(self, count: int) -> list[T]:
        """The next `count` rows, or as many as there are."""
        taken = self.peek(count)
        del self._seen[:count]
        return taken

    def peek(self, count: int) -> list[T]:
        """The same, which stay to be taken."""
        self._seen += islice(self._rows, max(0, count - len(self._seen)))
        return self._seen[:count]


def _nameless_file(folder: Path | None) -> int:
    """Descriptor of a new file that nobody else can open."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix=".shelf-")
    os.unlink(name)
    return handle
