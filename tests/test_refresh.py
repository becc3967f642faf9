"""Documents change: only what is new is asked, what is gone retires, and the card says so."""

import csv
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from tests_scripted import Scripted, pairs_json, weak

from dataset_builder import pairs
from dataset_builder.build import Place, build
from dataset_builder.chunks import chunk
from dataset_builder.facts import facts
from dataset_builder.materials import document
from dataset_builder.probe import Capability
from dataset_builder.rows import address
from dataset_builder.spec import Dataset, Generator

THINGS = ("blob", "token", "layer", "mirror", "index", "digest", "tag", "user")
PAGES = {
    f"{thing}.md": f"# The {thing} cache\n\nThe option `--{thing}-size` sets the size of the {thing} cache to {3 + n} "
    f"entries by default.\n\nA {thing} is a small table of uploads that the server keeps for {20 + n} days.\n"
    for n, thing in enumerate(THINGS)
}
WHO = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
FOLDER = Path("generated/quay/dataset")


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *WHO, "-C", str(folder), *arguments], check=True, capture_output=True)


def commit(folder: Path, **pages: str) -> None:
    """A new commit with these pages in `docs/` (None: removed), and with something that no source reads."""
    for name, text in pages.items():
        (folder / "docs" / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", "more")


@pytest.fixture
def upstream(tmp_path, monkeypatch):
    folder = tmp_path / "upstream" / "team" / "quay"
    (folder / "docs").mkdir(parents=True)
    git(folder.parent, "init", "-q", "-b", "trunk", "quay")
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{tmp_path}/upstream/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://git.example.org/")
    commit(folder, **PAGES)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return folder


def strong(request) -> str:
    """Pairs out of the document in the prompt; views that only reword."""
    text = request.messages[-1][1]
    if request.stage == "variants":
        question, answer = re.search(r"Question: (.*)\nAnswer: (.*)\n", text).groups()
        return pairs_json({"view": "reworded", "question": f"Please tell me: {question}", "answer": answer})
    body = text.split("<document>\n")[1].split("\n</document>")[0]
    (one,) = chunk(document("x.md", "X", body), 400)
    found = [fact for fact in facts(one) if fact.question]
    return pairs_json(*({"question": fact.question, "answer": fact.answer, "quote": one.text[fact.start : fact.end],
                         "kind": "direct"} for fact in found))  # fmt: skip


def built(unique: int = 9):
    dataset = Dataset.model_validate({
        "sources": [{"kind": "repo", "url": "https://git.example.org/team/quay", "ref": "trunk"}],
        "pairs": {"unique": unique, "total": 2 * unique}, "chunk_tokens": 200,
        "generator": {"model": "openai/x", "api_base": "http://127.0.0.1:9/v1"},
    })  # fmt: skip
    return build(dataset, Place(Path(), "quay"))


def sources() -> set[str]:
    with (FOLDER / "train.csv").open(newline="", encoding="utf-8") as stream:
        return {row["source"] for row in csv.DictReader(stream)}


@pytest.fixture(params=["answer-first", "schema"])
def scripted(request, monkeypatch):
    capable = Capability(request.param, None, None, False, "scripted")
    monkeypatch.setattr("dataset_builder.ask.probe", lambda *_: capable)
    return Scripted(monkeypatch, weak if request.param == "answer-first" else strong)


def test_a_new_commit_with_the_same_text_asks_nothing(upstream, scripted):
    built()
    bought, before = len(scripted.asked), sources()
    commit(upstream)
    result = built()
    assert bought and len(scripted.asked) == bought
    assert before.isdisjoint(sources()) and {address(one) for one in before} == {address(one) for one in sources()}
    (line,) = result.changes
    unchanged = "documents 0 added, 0 changed, 0 removed; unique pairs 9 kept, 0 new, 0 retired."
    assert line == f"Since the last build: {unchanged}"
    assert line in (FOLDER / "card.md").read_text()


def test_a_changed_page_asks_about_itself_and_its_old_pairs_retire(upstream, scripted):
    built(16)
    first = {one.key for one in scripted.asked}
    bought = len(scripted.asked)
    commit(upstream, **{"blob.md": PAGES["blob.md"].replace("a small table", "a large list")})
    result = built(16)
    new = scripted.asked[bought:]
    assert new and not {one.key for one in new} & first
    assert all("blob" in one.messages[-1][1] for one in new)
    assert "documents 0 added, 1 changed, 0 removed" in result.changes[0] and "1 because" in result.changes[0]
    assert result.changes[1] == "Changed: https://git.example.org/team/quay:docs/blob.md."
    assert "a small table of uploads that the server keeps for 20 days" not in (FOLDER / "train.csv").read_text()


def test_pages_that_come_and_go_are_named(upstream, scripted):
    built(16)
    (upstream / "docs" / "user.md").unlink()
    commit(upstream, **{"job.md": PAGES["user.md"].replace("user", "job")})
    result = built(16)
    assert "documents 1 added, 0 changed, 1 removed" in result.changes[0]
    assert "unique pairs 14 kept, 2 new, 2 retired (2 because their quote is no longer there)" in result.changes[0]
    assert [line.split(":")[0] for line in result.changes[1:]] == ["Added", "Removed"]


def test_a_renamed_page_keeps_its_pairs_and_asks_nothing(upstream, scripted):
    """Fewer pairs than the pages hold: who is asked must not depend on where a page lies."""
    built(9)
    bought = len(scripted.asked)
    (upstream / "docs" / "more").mkdir()
    for thing in ("blob", "token", "layer"):
        (upstream / "docs" / f"{thing}.md").rename(upstream / "docs" / "more" / f"a-{thing}.md")
    commit(upstream)
    changes = built(9).changes
    assert len(scripted.asked) == bought
    moved = re.search(r"unique pairs 9 kept \((\d) of them moved with their text\), 0 new, 0 retired\.$", changes[0])
    assert moved and int(moved[1]) and "documents 0 added, 0 changed, 0 removed, 3 moved;" in changes[0]
    where = "https://git.example.org/team/quay:docs/"
    names = ", ".join(f"{where}{thing}.md to {where}more/a-{thing}.md" for thing in ("blob", "layer", "token"))
    assert changes[1:] == (f"Moved: {names}.",)


def test_a_first_build_and_a_repeated_one_tell_of_no_change_that_was_not(upstream, scripted):
    assert built().changes == () and json.loads((FOLDER / "dataset.lock.json").read_text())["changes"] == []
    commit(upstream, **{"job.md": PAGES["user.md"].replace("user", "job")})
    said = built().changes
    before = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    (FOLDER / "train.csv").write_text("damaged")
    assert built().changes == said
    assert before == {path.name: path.read_bytes() for path in FOLDER.iterdir()}


def test_no_prompt_holds_where_a_document_lies(upstream, scripted):
    built()
    commit_id = subprocess.run(["git", "-C", str(upstream), "rev-parse", "HEAD"], check=True, capture_output=True)
    for one in scripted.asked:
        for _, text in one.messages:
            assert commit_id.stdout.decode()[:12] not in text and "git.example.org" not in text


def test_chunks_and_requests_do_not_change_with_the_commit():
    origins = [f"https://host/o/r@{digit * 40}:docs/a.md" for digit in "ab"]
    one, other = (chunk(document(origin, "A", PAGES["blob.md"]), 200)[0] for origin in origins)
    assert one.id == other.id and one.origin != other.origin
    generator = Generator(model="m")
    keys = {pairs.pairs_request(pairs.Plan(each, 2), generator, "schema").key for each in (one, other)}
    assert len(keys) == 1
