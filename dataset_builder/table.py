"""The CSV: UTF-8 without BOM, RFC 4180 (CRLF between records, quotes doubled), one fixed header, equal rows give
equal bytes.

`check_table` is the train-ready proof that needs no training package: it reads the file back and compares every cell
and message; with
a count of tokens it also proves that no row is longer than the sequence length.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from dataset_builder.lengths import Count, estimate_count
from dataset_builder.problems import BuildProblem
from dataset_builder.rows import Row

HEADER = tuple(field.name for field in fields(Row))


def csv_text(rows: Iterable[Row]) -> str:
    """The file's text. Line ends inside a cell are `\\n`; a NUL or a carriage return in a cell is refused, since no two
    readers agree about them."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(HEADER)
    for row in rows:
        cells = astuple(row)
        for name, cell in zip(HEADER, cells, strict=True):
            if "\x00" in cell or "\r" in cell:
                raise BuildProblem(f"row {row.id}: {name} holds a NUL or a carriage return")
        writer.writerow(cells)
    return out.getvalue()


def whole_cells() -> None:
    """Lets the csv module read cells of any length: Python's own limit of 131,072 characters is none of the format."""
    csv.field_size_limit(100_000_000)


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV written by `csv_text`. Raises BuildProblem with the line for a wrong header or number of
    cells."""
    whole_cells()
    with Path(path).open(encoding="utf-8", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        try:
            header = next(reader, [])
            if tuple(header) != HEADER:
                raise BuildProblem(f"{path}: line 1: the header is {','.join(header)!r}, expected {','.join(HEADER)!r}")
            rows = []
            for cells in reader:
                if len(cells) != len(HEADER):  # quoted cells span lines, so the reader's own counter is the line
                    raise BuildProblem(
                        f"{path}: line {reader.line_num}: {len(cells)} cells, the header has {len(HEADER)}"
                    )
                rows.append(Row(*cells))
        except (csv.Error, UnicodeDecodeError) as error:
            raise BuildProblem(f"{path}: line {reader.line_num}: {error}") from None
    return rows


@dataclass(frozen=True, slots=True)
class Proof:
    """What `check_table` found; all is well if `problems` is empty."""

    rows: int
    sha256: str
    longest_tokens: int
    problems: tuple[str, ...]


def check_table(path: Path, count: Count = estimate_count, max_tokens: int | None = None) -> Proof:
    """Reads the file back and proves that every row can be trained on.

    Each `messages` cell is a conversation that ends with the assistant and says exactly what `instruction` and `output`
    say, character by character; ids are unique; with `max_tokens`, no row is longer. `count`: messages JSON -> tokens.
    """
    path = Path(path)
    rows, problems, seen, longest = read_rows(path), [], set(), 0
    data = path.read_bytes()
    if data[:3] == b"\xef\xbb\xbf":
        problems.append("a byte order mark stands before the header")
    for number, row in enumerate(rows, 1):
        try:
            spoken = [(turn["role"], turn["content"]) for turn in json.loads(row.messages) if turn["role"] != "system"]
        except (ValueError, TypeError, KeyError):
            problems.append(f"row {number}: messages is no JSON list of role and content")
            continue
        told = [("user", row.instruction), ("assistant", row.output)]
        # rows that were taken over may have an input, or earlier turns; they too must end with the answer
        if (spoken != told or row.input) if row.view != "existing" else spoken[-1:] != told[-1:]:
            problems.append(f"row {number}: messages and instruction/output differ")
        if not row.output.strip() or not row.instruction.strip():
            problems.append(f"row {number}: empty question or answer")
        if row.id in seen:
            problems.append(f"row {number}: its id {row.id} stands twice")
        seen.add(row.id)
        size = count(row.messages)
        longest = max(longest, size)
        if max_tokens is not None and size > max_tokens:
            problems.append(f"row {number}: {size} tokens, more than {max_tokens}")
    return Proof(len(rows), hashlib.sha256(data).hexdigest(), longest, tuple(problems))
