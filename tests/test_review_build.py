"""What people decide about pairs is kept through later builds, asks for nothing twice and is accounted for."""

import csv
import json
from pathlib import Path

import pytest
from reviewed import PAGE, PLACE, built, decide, project, the_records
from test_refresh import strong
from tests_scripted import weak

from dataset_builder.problems import BuildProblem
from dataset_builder.review.decisions import FILE, Store, load, text_of
from dataset_builder.split import same

TABLES = ("train.csv", "eval_recall.csv", "eval_transfer.csv")


def rows(name: str = "train.csv") -> list[dict]:
    with (PLACE.folder / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def tables() -> dict[str, bytes]:
    return {name: (PLACE.folder / name).read_bytes() for name in TABLES}


def card() -> str:
    return (PLACE.folder / "card.md").read_text()


@pytest.mark.parametrize("path", ["answer-first", "schema"])
@pytest.mark.parametrize("read", [1, 7, 12])
def test_what_is_accepted_changes_no_row_and_asks_nothing(tmp_path, monkeypatch, path, read):
    scripted = project(tmp_path, monkeypatch, strong if path == "schema" else weak, path)
    built()
    before, asked = tables(), len(scripted.asked)
    for record in list(the_records().values())[-read:]:
        decide(record, "accept")
    assert built().stage == "write", "decisions take part in staleness"
    assert tables() == before and len(scripted.asked) == asked
    assert f"Reviewed by people: {read} accepted, 0 edited, 0 rejected." in card()
    assert built().stage == "unchanged"


@pytest.mark.parametrize("path", ["answer-first", "schema"])
def test_a_rejected_pair_stays_out_with_its_variants_and_another_takes_its_place(tmp_path, monkeypatch, path):
    project(tmp_path, monkeypatch, strong if path == "schema" else weak, path)
    built()
    first = the_records()
    (gone, *_) = [one for one in first.values() if one.part == "train"]
    decide(gone, "reject", "says nothing")
    built()
    assert len([one for one in the_records().values() if one.part in ("train", "transfer")]) == 12
    questions = {row["instruction"] for name in TABLES for row in rows(name)}
    assert gone.found.pair.question not in questions
    assert not any(row["parent"] == gone.found.pair.id for name in TABLES for row in rows(name))
    assert the_records()[gone.key].part == "rejected"
    lines = (PLACE.folder / "dropped.jsonl").read_text().splitlines()
    (line,) = [one for one in map(json.loads, lines) if one["stage"] == "review"]
    assert line["reason"] == "rejected in review: says nothing"
    assert line["item"]["question"] == gone.found.pair.question
    assert "0 accepted, 0 edited, 1 rejected" in card() and "| review: rejected in review | 1 |" in card()
    kept = {name for name, one in the_records().items() if one.part in ("train", "transfer")}
    assert kept >= set(first) - {gone.key}, "the others are as they were"


def test_an_edited_pair_keeps_its_edit_and_its_rows_are_remade_from_it(tmp_path, monkeypatch):
    project(tmp_path, monkeypatch)
    built()
    first = next(one for one in the_records().values() if one.part == "train" and "-size`" in one.found.pair.answer)
    old = first.found.pair
    new = old.answer.replace("sets the size", "decides about the size")
    name = decide(first, "edit", answer=new)
    built()
    assert "0 accepted, 1 edited, 0 rejected" in card()
    now = the_records()[name]
    assert (now.found.pair.answer, now.original.answer, now.found.worded_by) == (new, old.answer, "person")
    mine = [row for name in TABLES for row in rows(name) if row["parent"] == now.found.pair.id]
    assert len(mine) >= 2 and any("decides about the size" in row["output"] for row in mine)
    assert not any(old.answer in row["output"] for name in TABLES for row in rows(name))
    before = tables()
    Store(PLACE.folder / FILE).change(name, None)
    built()
    assert old.answer in {row["output"] for row in rows()}
    decide(the_records()[name], "edit", answer=new)
    built()
    assert tables() == before, "equal decisions, equal bytes"


def test_a_decision_retires_with_its_quote_is_said_and_comes_back(tmp_path, monkeypatch):
    project(tmp_path, monkeypatch)
    built(16)
    records = the_records().values()
    one, other = (next(r for r in records if f"A {thing} is" in r.found.pair.answer) for thing in ("blob", "token"))
    decide(one, "accept")
    name = decide(other, "reject")
    Path("docs/quay.md").write_text(PAGE.replace("A blob is a small table", "A blob is one large table"))
    result = built(16)
    said = "Decisions of the review that no longer hold: 1 because their quote is no longer in the documents."
    assert said in result.changes[-1] and said in card() and "0 accepted, 0 edited, 1 rejected" in card()
    assert the_records()[one.key].part == "retired" and the_records()[name].part == "rejected"
    Path("docs/quay.md").write_text(PAGE)
    assert not [line for line in built(16).changes if "no longer hold" in line]
    assert the_records()[one.key].part == "train"


@pytest.mark.parametrize("verdict", ["accept", "edit", "reject"])
def test_a_decision_follows_a_document_that_is_renamed(tmp_path, monkeypatch, verdict):
    project(tmp_path, monkeypatch, strong, "schema")
    built(16)
    one = next(r for r in the_records().values() if r.part == "train" and "A blob is" in r.found.pair.answer)
    answer = one.found.pair.answer.replace("A blob is a small", "A blob means a small")
    name = decide(one, verdict, **({"answer": answer} if verdict == "edit" else {}))
    built(16)
    before, records = Path(PLACE.folder, FILE).read_bytes(), the_records()
    Path("docs/quay.md").rename("docs/harbour.md")
    said = "Decisions of the review that followed their text to another document: 1."
    assert said in built(16).changes and said in card()
    now = the_records()
    assert now[name].part == records[name].part and now[name].found.chunk.origin == "docs/harbour.md"
    told = [sorted((r.found.pair.question, r.found.pair.answer, r.part) for r in some.values() if r.part != "transfer")
            for some in (records, now)]  # fmt: skip
    assert sum(one in told[1] for one in told[0]) >= len(told[0]) - 2, "the cut of the transfer set goes by pair"
    assert Path(PLACE.folder, FILE).read_bytes() == before


def test_decisions_outlive_the_text_around_their_quote_and_the_model(tmp_path, monkeypatch):
    """The page changes, so its chunks have other ids, and the model words every question otherwise."""
    project(tmp_path, monkeypatch)
    built()
    ours = [one for one in the_records().values() if one.part == "train"]
    decide(ours[0], "accept")
    decide(ours[1], "reject")
    edited = ours[2].found.pair.question.removesuffix("?") + " in practice?"
    name = decide(ours[2], "edit", question=edited)
    Path(".cache/ledgers/quay.sqlite").unlink()

    def other(request):
        return weak(request).replace("What about", "What is said about") if request.stage == "questions" else "1"

    page = PAGE.replace("by default.", "by default. This may change.").replace("days.", "days. This may change.")
    project(tmp_path, monkeypatch, other, page=page)
    built()
    now = the_records()
    assert now[ours[0].key].part in ("train", "transfer") and now[name].found.pair.question == edited
    assert now[ours[1].key].part == "rejected"
    assert ours[1].found.pair.question not in {row["instruction"] for name in TABLES for row in rows(name)}


def test_a_pair_that_the_judge_refused_comes_back_when_a_reader_accepts_it(tmp_path, monkeypatch):
    from dataset_builder import judge

    def answer(request):
        if request.stage != "judge":
            return weak(request)
        return "BAD\nNobody asks that." if "token" in request.messages[-1][1].split("Question: ")[-1] else "GOOD"

    project(tmp_path, monkeypatch, answer)
    monkeypatch.setattr(judge, "trial", lambda *_: judge.Trial(15, 15, 0, 15))
    bench = {"judge": {"model": "openai/judge", "api_base": "http://127.0.0.1:9/v1"}}
    built(12, **bench)
    refused = next(one for one in the_records().values() if one.part == "refused")
    assert refused.judge == "bad: Nobody asks that."
    decide(refused, "accept")
    built(12, **bench)
    assert the_records()[refused.key].part in ("train", "transfer")
    assert "Judge and people agree on 0 of 1 pairs" in card() and "judge bad, accepted by people: 1)" in card()
    questions = {same(one.found.pair.question) for one in the_records().values() if one.part in ("train", "transfer")}
    assert len(questions) == 12


def test_more_kept_pairs_than_asked_for_are_said_and_nothing_else_is_taken(tmp_path, monkeypatch):
    project(tmp_path, monkeypatch)
    built(12)
    ours = {decide(record, "accept") for record in the_records().values()}
    built(10)
    assert {one.key for one in the_records().values() if one.part in ("train", "transfer")} < ours
    assert "2 pairs that people keep are more than dataset.pairs.unique" in card()


def test_what_repeats_a_rejected_pair_does_not_come_in_its_place(tmp_path, monkeypatch):
    """The model finds other words for the same question about the same quote."""

    def reworded(request):
        text = strong(request)
        return text.replace("hat is a ", "hat exactly is a ") if request.stage == "pairs" else text

    project(tmp_path, monkeypatch, strong, "schema")
    built(16)
    gone = next(one for one in the_records().values() if "what is a blob" in one.found.pair.question)
    decide(gone, "reject")
    Path(".cache/ledgers/quay.sqlite").unlink()
    project(tmp_path, monkeypatch, reworded, "schema")
    built(16)
    questions = {one.found.pair.question for one in the_records().values() if one.part in ("train", "transfer")}
    assert any("what exactly is a token" in question for question in questions)
    assert not any("exactly is a blob" in question for question in questions)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("<<<<<<< HEAD", "review.jsonl:1: no decision"),
        ('{"verdict": "maybe", "id": "a", "document": "d", "section": "s", "question": "q", "answer": "a", '
         '"quote": "q"}', "verdict 'maybe'"),
        ('{"verdict": "edit", "id": "a", "document": "d", "section": "s", "question": "q", "answer": "a", '
         '"quote": "q"}', "goes with `edited`"),
        ('{"verdict": "accept"}', "missing"),
        ('{"verdicts": 1}', "unknown field 'verdicts'"),
        ("[]", "no decision"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_decision_stops_the_build_and_is_named(tmp_path, monkeypatch, line, why):
    project(tmp_path, monkeypatch)
    PLACE.folder.mkdir(parents=True)
    (PLACE.folder / FILE).write_text(line + "\n")
    with pytest.raises(BuildProblem, match=r"(?s)review\.jsonl:1: .*") as caught:
        built()
    assert why in str(caught.value)


def test_the_file_is_sorted_and_reads_back_whatever_the_texts_hold(tmp_path, monkeypatch):
    project(tmp_path, monkeypatch)
    built()
    found = list(the_records().values())
    names = [decide(found[place], "reject", "two\u2028lines, \u202e and \\n\n") for place in (3, 1, 2)]
    text = (PLACE.folder / FILE).read_text(encoding="utf-8")
    again = load(PLACE.folder / FILE)
    assert sorted(again) == sorted(names) and text_of(again) == text
    assert [json.loads(line)["id"] for line in text.split("\n")[:-1]] == [
        one.id for one in sorted(again.values(), key=lambda one: one.key)
    ]
