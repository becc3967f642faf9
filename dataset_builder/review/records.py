"""What a build leaves for a reader: `pairs.jsonl`, every unique pair with what code knows of it, and
`passages.jsonl`, the chunks they stand in.

Beside the pairs of the dataset stand those that people rejected and those that the judge calls bad, so that either can
be taken back, and the decisions that retired, so that their readers learn why.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dataset_builder.problems import BuildProblem
from dataset_builder.review.decisions import Decision, Wording
from dataset_builder.review.settle import Settled
from dataset_builder.rows import Chunk, Grounded, Pair

PAIRS, PASSAGES = "pairs.jsonl", "passages.jsonl"
PARTS = ("train", "transfer", "rejected", "refused", "retired")
"""`refused`: by the judge; `rejected`: by people; `retired`: a decision whose quote is gone."""


@dataclass(frozen=True, slots=True)
class Record:
    """One pair as the last build left it."""

    key: str
    """What decisions about it are kept under."""
    part: str
    """One of PARTS."""
    found: Grounded
    """As it is now, edited or not; without a passage where the part is `retired`."""
    original: Wording | None = None
    """What it said before its edit."""
    judge: str = ""
    """What the judge said: `good`, `none`, `bad: why`; "" where none ran."""
    why: str = ""
    """Why the decision about it retired."""


def records(pairs: Iterable[Grounded], held_out: Collection[str], review: Settled, refused: Iterable[Grounded],
            judged: Mapping[str, str]) -> Iterator[Record]:  # fmt: skip
    """All records of a build, each key once. `held_out`: ids of the pairs that are not trained."""
    edits = {one.pair.id: name for name, one in review.kept.items() if review.decisions[name].edited}
    seen: set[str] = set()
    listed = [("transfer" if one.pair.id in held_out else "train", one) for one in pairs]
    listed += [("rejected", one) for one in review.rejected.values()] + [("refused", one) for one in refused]
    for part, one in listed:
        name = edits.get(one.pair.id) or review.name_of(one)
        if name in seen:
            continue
        seen.add(name)
        before = review.decisions[name] if one.pair.id in edits else None
        original = Wording(before.question, before.answer, before.quote) if before else None
        yield Record(name, part, one, original, judged.get(before.id if before else one.pair.id, ""))
    for name, why in sorted(review.retired.items()):
        if name not in seen:
            yield Record(name, "retired", _without_passage(review.decisions[name]), why=why)


def _without_passage(one: Decision) -> Grounded:
    chunk = Chunk("", "", one.document, "", (one.section,), "", "", 0, 0, 0)
    pair = Pair(one.id, "", one.question, one.answer, one.quote, 0, 0, one.kind)
    return Grounded(pair, chunk, one.worded_by, one.wordings, one.subject, one.proof)


def texts(found: Iterable[Record]) -> dict[str, str]:
    """The two files, by name."""
    lines, passages = [], {}
    for one in found:
        pair, chunk = one.found.pair, one.found.chunk
        if chunk.id:
            passages[chunk.id] = _passage(chunk)
        lines.append({
            "id": pair.id, "key": one.key, "part": one.part, "question": pair.question, "answer": pair.answer,
            "quote": pair.quote, "start": pair.quote_start, "end": pair.quote_end, "passage": chunk.id,
            "document": chunk.origin, "section": chunk.section, "kind": pair.kind, "worded_by": one.found.worded_by,
            "wordings": one.found.wordings, "subject": one.found.subject, "proof": one.found.proof,
            "judge": one.judge, "why": one.why,
            "original": [one.original.question, one.original.answer, one.original.quote] if one.original else None,
        })  # fmt: skip
    return {PAIRS: _jsonl(lines), PASSAGES: _jsonl(passages.values())}


def _passage(chunk: Chunk) -> dict:
    return {"id": chunk.id, "document": chunk.origin, "document_id": chunk.document_id, "title": chunk.title,
            "headings": chunk.heading_path, "anchor": chunk.anchor, "start": chunk.start, "tokens": chunk.tokens,
            "licence": chunk.licence, "sha256": chunk.sha256, "text": chunk.text}  # fmt: skip


def _jsonl(values: Iterable[Mapping]) -> str:
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in values)


def read(folder: Path) -> list[Record]:
    """The records of the last build, in its order. Raises BuildProblem where the files are not what a build writes."""
    try:
        chunks = {one["id"]: _chunk(one) for one in _lines(folder / PASSAGES)}
        return [_record(one, chunks) for one in _lines(folder / PAIRS)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"{PAIRS} or {PASSAGES} cannot be read: {error}"
        raise BuildProblem(f"{folder}: {why}\n  fix: run `recipe data` again") from None


def _lines(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8", newline="\n") as stream:
        yield from map(json.loads, stream)


def _chunk(one: dict) -> Chunk:
    return Chunk(one["id"], one["document_id"], one["document"], one["title"], tuple(one["headings"]), one["anchor"],
                 one["text"], one["start"], one["start"] + len(one["text"]), one["tokens"], one["licence"],
                 one["sha256"])  # fmt: skip


def _record(one: dict, chunks: Mapping[str, Chunk]) -> Record:
    bare = Chunk("", "", one["document"], "", (one["section"],), "", "", 0, 0, 0)
    pair = Pair(one["id"], one["passage"], one["question"], one["answer"], one["quote"], one["start"], one["end"],
                one["kind"])  # fmt: skip
    found = Grounded(pair, chunks[one["passage"]] if one["passage"] else bare, one["worded_by"],
                     tuple(one["wordings"]), one["subject"], one["proof"])  # fmt: skip
    original = Wording(*one["original"]) if one["original"] else None
    return Record(one["key"], one["part"], found, original, one["judge"], one["why"])
