"""A small dataset that a review can be held on: one document, a scripted model, no network."""

from pathlib import Path

import pytest
from tests_scripted import Scripted, weak

from dataset_builder.build import Place, Result, build
from dataset_builder.probe import Capability
from dataset_builder.progress import Quiet
from dataset_builder.review import records
from dataset_builder.review.decisions import FILE, Store, Wording
from dataset_builder.review.settle import decided
from dataset_builder.spec import Dataset

THINGS = ("blob", "token", "layer", "mirror", "index", "digest", "tag", "user")
PAGE = "# Quay server\n\n" + "\n\n".join(
    f"## {thing.title()} cache\n\nThe option `--{thing}-size` sets the size of the {thing} cache to {3 + number} "
    f"entries by default.\n\nA {thing} is a small table of uploads that the server keeps for {20 + number} days."
    for number, thing in enumerate(THINGS)
)
PLACE = Place(Path(), "quay")


def project(folder: Path, monkeypatch: pytest.MonkeyPatch, answer=weak, path: str = "answer-first",
            page: str = PAGE) -> Scripted:  # fmt: skip
    """The document in `folder`, which becomes the current one, and a model that answers by a function."""
    monkeypatch.chdir(folder)
    Path("docs").mkdir(exist_ok=True)
    Path("docs/quay.md").write_text(page)
    capable = Capability(path, None, None, False, f"{path}: scripted")
    monkeypatch.setattr("dataset_builder.ask.probe", lambda *_: capable)
    return Scripted(monkeypatch, answer)


def built(unique: int = 12, **more) -> Result:
    dataset = Dataset.model_validate({
        "sources": [{"kind": "files", "path": "docs", "licence": "MIT"}], "chunk_tokens": 100,
        "pairs": {"unique": unique, "total": 4 * unique}, "evaluation": {"recall": 3, "transfer": 0.1},
        "generator": {"model": "openai/x", "api_base": "http://127.0.0.1:9/v1", "max_concurrency": 1}, **more,
    })  # fmt: skip
    return build(dataset, PLACE, Quiet())


def the_records() -> dict[str, records.Record]:
    """Of the last build, by key."""
    return {one.key: one for one in records.read(PLACE.folder)}


def decide(record: records.Record, verdict: str, note: str = "", **changed: str) -> str:
    """Writes a decision as the review would; returns its key."""
    pair = record.found.pair
    parts = {"question": pair.question, "answer": pair.answer, "quote": pair.quote} | changed
    one = decided(record.found, verdict, Wording(**parts) if verdict == "edit" else None, note)
    Store(PLACE.folder / FILE).change(one.key, one)
    return one.key
