"""The train-ready proof: Axolotl's own loader over a table, and what a broken row looks like."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from axolotl_project import PINNED, build, call, conversations, make_project
from click.testing import CliRunner

from compiler.case import built_dataset
from compiler.cli import main
from compiler.proof import IGNORED, NEXT_TURN, _proof, learnt, prove, report

END, NEWLINE = 9, 8
WORDS = {1: "What", 2: "?", 3: "A", 4: " thing", NEWLINE: "\n", END: "<end>"}


def decode(ids):
    return "".join(WORDS[one] for one in ids)


def test_a_good_row_learns_its_answer_and_the_end():
    row = learnt([1, 2, END, 3, 4, END, NEWLINE], [IGNORED] * 3 + [3, 4, END, NEWLINE], {END}, decode)
    assert (row.tokens, row.learnt_tokens, row.answer, row.ended, row.whole) == (7, 4, "A thing", True, True)


@pytest.mark.parametrize("behind", [IGNORED, NEWLINE])
def test_a_conversation_learns_each_of_its_answers(behind):
    tokens = [1, 3, END, NEWLINE, 2, 4, END, NEWLINE]
    row = learnt(tokens, [IGNORED, 3, END, behind, IGNORED, 4, END, behind], {END}, decode)
    assert (row.answer.split(NEXT_TURN), row.ended, row.whole) == ([decode([3]), decode([4])], True, True)


@pytest.mark.parametrize(
    ("labels", "ended", "whole"),
    [
        ([IGNORED] * 3 + [3, 4, IGNORED, IGNORED], False, True),  # the end of turn is masked: it never stops
        ([IGNORED, IGNORED, END, 3, 4, END, IGNORED], False, True),  # the user's end of turn is learnt, too
        ([IGNORED] * 3 + [3, IGNORED, END, IGNORED], True, False),  # a hole in the answer
        ([IGNORED] * 3 + [4, 3, END, IGNORED], True, False),  # not what stands in the input
        ([IGNORED] * 7, False, False),
    ],
)
def test_a_bad_row_is_seen(labels, ended, whole):
    row = learnt([1, 2, END, 3, 4, END, NEWLINE], labels, {END}, decode)
    assert (row.ended, row.whole) == (ended, whole)


def test_dropped_and_changed_rows_are_named():
    good = learnt([1, 2, 3, 4, END], [IGNORED, IGNORED, 3, 4, END], {END}, decode)
    assert _proof(["train.csv"], Counter(["A thing"]), [good], 128).holds
    proof = _proof(["train.csv"], Counter({"A thing": 2, "A\r\nthing": 1}), [good, good], 128)
    assert not proof.holds
    assert proof.dropped == 1
    assert proof.changed == ("A\r\nthing",)
    text = "\n".join(report(proof))
    assert "1 dropped" in text
    assert '"A\\r\\nthing"' in text
    assert text.endswith("NOT train-ready")


def test_rows_that_the_plan_announced_as_too_long_are_said_and_no_fault():
    good = learnt([1, 2, 3, 4, END], [IGNORED, IGNORED, 3, 4, END], {END}, decode)
    answers = Counter({"A thing": 98, "A long thing": 2})
    long = [(True, replace(good, answer="A long thing", tokens=130 + more)) for more in (0, 70)]
    told = _proof(["train.csv"], answers, [good] * 98, 128, long, announced=2)
    text = "\n".join(report(told))
    assert told.holds and text.endswith("\ntrain-ready") and "not so:" not in text
    assert "2 training rows of 130 to 200 tokens; the plan announced 2 at the most" in text
    assert "98 of 98 answers are learnt" in text
    more = _proof(["train.csv"], answers, [good] * 98, 128, long, announced=1)
    assert not more.holds and "MORE than announced: the plan announced 1 at the most" in "\n".join(report(more))
    other = _proof(["train.csv"], answers, [good] * 97, 128, long, announced=9)
    assert not other.holds and "1 rows for another reason than their length" in "\n".join(report(other))
    held_out = _proof(["train.csv"], answers, [good] * 98, 128, [(False, row) for _, row in long])
    assert held_out.holds and "2 held-out rows: only `recipe eval` asks them" in "\n".join(report(held_out))


def test_missing_pieces_are_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/notes.md").write_text("# Notes\n")
    (tmp_path / "r.yaml").write_text(
        "name: r\nbase_model: Qwen/Qwen2.5-0.5B-Instruct\ntargets: {cpu: {gpu: cpu, ram_budget: 8 GiB}}\n"
    )
    done = CliRunner().invoke(main, ["proof", "r.yaml"])
    assert done.exit_code == 1
    assert "generated/r/cpu/axolotl.yaml does not exist" in done.output
    assert "recipe build" in done.output
    assert CliRunner().invoke(main, ["proof", "r.yaml", "--target", "x"]).exit_code == 1


@pytest.mark.e2e
@pytest.mark.timeout(400)
def test_axolotl_learns_every_answer_to_the_letter(tmp_path, monkeypatch):
    """Quotes, commas, line ends and a code fence; the recall table holds the first two rows once more."""
    project = make_project(tmp_path / "project", "proof", "method: lora\n" + PINNED, "{gpu: cpu, ram_budget: 8 GiB}")
    build(project)
    done = call(project, "recipe", "proof", "recipes/proof.yaml")
    assert done.returncode == 0, done.stdout
    rows = len(conversations()) + 2
    assert f"{rows} in the tables, {rows} after Axolotl, 0 dropped" in done.stdout
    assert f"{rows} of {rows} answers are learnt as the table has them" in done.stdout
    assert done.stdout.rstrip().endswith("train-ready")
    monkeypatch.chdir(project)
    config = project / "generated/proof/cpu/axolotl.yaml"
    shorter = int(done.stdout.partition("tokens ")[2].split()[0]) + 1
    config.write_text(config.read_text().replace("sequence_len: 128", f"sequence_len: {shorter}"))
    proof = prove(config, replace(built_dataset("proof"), length_histogram=((shorter, 5), (128, 3))))
    assert 0 < proof.prepared < proof.rows, "Axolotl drops longer rows and ends with status 0"
    assert proof.dropped == len(proof.long) + proof.long_held_out and not proof.changed and proof.announced == 3
    assert 0 < len(proof.long) < len(conversations()) and proof.lengths[-1] <= shorter < proof.long[0]
    assert replace(proof, announced=len(proof.long)).holds
    assert not replace(proof, announced=len(proof.long) - 1).holds
