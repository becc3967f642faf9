"""Source `hf`: questions and answers that exist already, from a local file or a Hugging Face dataset, mixed into the
rows.

Unlike the other kinds it gives rows, not documents: `read_rows(dataset, root, report)` is called beside
`materials.read_sources`.
"""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dataset_builder.problems import BuildProblem
from dataset_builder.rows import Row, digest
from dataset_builder.sources.common import SourceReport
from dataset_builder.strict import Field, Strict, model_validator

if TYPE_CHECKING:
    from dataset_builder.spec import Dataset

_QUESTIONS = ("instruction", "question", "prompt", "query")
_ANSWERS = ("output", "answer", "response", "completion")
_CONVERSATIONS = ("messages", "conversations", "conversation")
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
}
_MAX_FILE_BYTES = 1_000_000_000


class HfSource(Strict):
    """Existing questions and answers: a CSV, JSON or JSONL file, or a dataset of the Hugging Face hub."""

    kind: Literal["hf"]
    path: str | None = None
    """Local .csv, .jsonl or .json file, relative to the current directory."""
    name: str | None = None
    """Dataset of the hub, such as `tatsu-lab/alpaca`; needs the package `datasets` and a network."""
    revision: str | None = None
    """Commit, tag or branch of the hub dataset."""
    subset: str | None = None
    """Configuration of the hub dataset, where it has several."""
    split: str = "train"
    """Split of the hub dataset."""
    max_rows: int | None = Field(default=None, ge=1)
    """Rows taken, evenly spread over the data; omitted: all."""
    share: float | None = Field(default=None, gt=0, lt=1)
    """Instead of `max_rows`: these rows' share of the finished table, such as 0.1 of general chat."""
    licence: str | None = None
    """SPDX id of the rows."""

    @model_validator(mode="after")
    def _one_place(self) -> "HfSource":
        if (self.path is None) == (self.name is None):
            raise ValueError("an `hf` source has one place; write either `path` (a file) or `name` (on the hub)")
        if self.max_rows is not None and self.share is not None:
            raise ValueError("`max_rows` and `share` both say how many rows are taken; state one of them")
        return self


def read_rows(dataset: "Dataset", root: Path, report: SourceReport | None = None) -> list[Row]:
    """Rows of all `hf` sources of a recipe, ready for the CSV: `view` is "existing", `parent` the row itself, `quote`
    empty.

    Alpaca columns (instruction/input/output), question/answer columns and chats (messages, or ShareGPT's conversations)
    are understood. A row that is none of these is counted in `report` and left out. Raises BuildProblem where a source
    cannot be read at all.
    """
    from dataset_builder.evidence import TEMPLATE_MARK
    from dataset_builder.materials import refusal

    report = report or SourceReport()
    rows: dict[str, Row] = {}
    given = [source for source in dataset.sources if source.kind == "hf"]
    finished = 0.0
    for source in sorted(given, key=lambda one: one.share is not None):  # a share is of all others
        place = place_of(source)
        reason = refusal(source.licence, dataset.licences.allow, dataset.licences.deny)
        if reason is not None:
            report.skip(place, reason)
            continue
        limit = source.max_rows
        if source.share is not None:
            finished = finished or (dataset.pairs.rows + len(rows)) / (1 - dataset.shares())
            limit = max(1, round(source.share * finished))
        before = len(rows)
        for number, record in _spread(_records(source, Path(root)), limit):
            if limit and len(rows) - before == limit:
                break
            messages = conversation(record)
            if messages is None:
                report.skip(f"{place}#{number}", "neither Alpaca, question/answer nor chat columns")
                continue
            if any(TEMPLATE_MARK.search(message["content"]) for message in messages):
                report.skip(f"{place}#{number}", "holds a mark of chat templates, such as <|im_end|>")
                continue
            row = as_row(_scrubbed(messages, report), f"{place}#{number}", source.licence or "")
            rows.setdefault(row.id, row)
        report.say(f"hf {place}: {len(rows) - before} rows")
    return list(rows.values())


def place_of(source: HfSource) -> str:
    """Where a reader finds it; in front of `#` and a number it is the `source` of its rows."""
    return source.path or f"https://huggingface.co/datasets/{source.name}"


def shares(dataset: "Dataset") -> dict[str, float]:
    """Place of a source -> the part of the finished table that the recipe wants of it."""
    return {place_of(source): source.share for source in dataset.sources if source.kind == "hf" and source.share}


def as_row(messages: list[dict], source: str, licence: str) -> Row:
    """A chat as a row of the CSV; `instruction` is its first question, `output` its last answer."""
    text = json.dumps(messages, ensure_ascii=False)
    question = next(message["content"] for message in messages if message["role"] == "user")
    import hashlib  # it loads OpenSSL, which reading a recipe does not need

    name = digest(text)
    return Row(
        question,
        "",
        messages[-1]["content"],
        text,
        name,
        name,
        "existing",
        "",
        source,
        "",
        licence,
        hashlib.sha256(text.encode()).hexdigest(),
    )


def conversation(record: dict) -> list[dict] | None:
    """A record as chat messages that end with an answer; None where it cannot be one."""
    for key in _CONVERSATIONS:
        turns = record.get(key)
        if isinstance(turns, str):
            try:
                turns = json.loads(turns)
            except ValueError:
                continue
        if isinstance(turns, list) and turns:
            return _chat(turns)
    question = next((str(record[key]).strip() for key in _QUESTIONS if record.get(key)), "")
    answer = next((str(record[key]).strip() for key in _ANSWERS if record.get(key)), "")
    if not question or not answer:
        return None
    context = str(record.get("input") or record.get("context") or "").strip()
    system = str(record.get("system") or "").strip()
    asked = {"role": "user", "content": f"{question}\n\n{context}" if context else question}
    return [
        *([{"role": "system", "content": system}] if system else []),
        asked,
        {"role": "assistant", "content": answer},
    ]


def _chat(turns: list) -> list[dict] | None:
    messages = []
    for turn in turns:
        if not isinstance(turn, dict):
            return None
        role = _ROLES.get(str(turn.get("role") or turn.get("from") or "").lower())
        content = turn.get("content") if turn.get("content") is not None else turn.get("value")
        if role is None or not isinstance(content, str) or not content.strip():
            return None
        messages.append({"role": role, "content": content})
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    return messages if any(message["role"] == "user" for message in messages) else None


def _scrubbed(messages: list[dict], report: SourceReport) -> list[dict]:
    from dataset_builder.scrub import scrub

    clean = []
    for message in messages:
        # one kind of line end, as everywhere in the table, and nothing that UTF-8 or CSV cannot hold
        whole = re.sub("[\x00\ud800-\udfff]", "", re.sub(r"\r\n?", "\n", message["content"]))
        text, found = scrub(whole)
        clean.append({**message, "content": text})
        for kind, times in found.items():
            report.counts[f"scrubbed: {kind}"] += times
    return clean


def _spread(records: list[dict], limit: int | None) -> Iterator[tuple[int, dict]]:
    """(row number from 1, record): `limit` of them at equal steps, then the others, for those that are no rows."""
    step = max(1.0, len(records) / limit) if limit else 1.0
    first = dict.fromkeys(int(place * step) for place in range(min(len(records), limit or len(records))))
    for number in (*first, *(number for number in range(len(records)) if number not in first)):
        yield number + 1, records[number]


def _records(source: HfSource, root: Path) -> list[dict]:
    import csv

    if source.name is not None:
        return _hub(source)
    path = root / (source.path or "")
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise BuildProblem(
                f"dataset.sources: {source.path} is larger than {_MAX_FILE_BYTES:,} bytes\n"
                "  fix: cut it, or give its hub name"
            )
        data = path.read_bytes()
    except OSError as error:
        raise BuildProblem(
            f"dataset.sources: {source.path}: {error.strerror}\n  fix: paths are relative to the folder you start "
            "`recipe` in"
        ) from None
    try:
        text = data.decode("utf-8-sig")
        if path.suffix.lower() == ".csv":
            from dataset_builder.table import whole_cells

            whole_cells()
            return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            records = [_json_line(line, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        else:
            records = json.loads(text)
            records = records.get("data", []) if isinstance(records, dict) else records
    except (ValueError, csv.Error, RecursionError) as error:
        raise BuildProblem(
            f"dataset.sources: {source.path}: {error}\n  fix: it should be UTF-8 CSV, JSON or JSONL"
        ) from None
    if not isinstance(records, list):
        raise BuildProblem(
            f"dataset.sources: {source.path} is not a list of records\n  fix: write one JSON object a line (JSONL)"
        )
    return [record if isinstance(record, dict) else {} for record in records]


def _json_line(line: str, number: int) -> dict:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number} is not JSON: {error}") from None


def _hub(source: HfSource) -> list[dict]:
    try:
        from datasets import load_dataset
    except ImportError:
        raise BuildProblem(
            f"dataset.sources: {source.name} needs the package `datasets`\n"
            "  fix: pip install datasets, or download the data "
            "and give its `path`"
        ) from None
    try:
        return [
            dict(record)
            for record in load_dataset(source.name, source.subset, split=source.split, revision=source.revision)
        ]
    except Exception as error:  # datasets raises dozens of kinds for a name, a network or a file at fault
        told = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise BuildProblem(
            f"dataset.sources: {source.name}: {told}\n  fix: check name, split and network, or give a local `path`"
        ) from None
