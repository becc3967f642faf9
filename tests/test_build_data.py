"""`recipe data` as a whole: documents in, CSV out; killed and started again; nothing asked twice; nothing to do,
nothing done."""

import csv
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests_scripted import Scripted, weak

from compiler.commands.data import command
from dataset_builder import build as building
from dataset_builder.probe import Capability

PAGE = "# Quay server\n\n" + "\n\n".join(
    f"## {thing.title()} cache\n\nThe option `--{thing}-size` sets the size of the {thing} cache to {3 + number} "
    f"entries by default.\n\n"
    f"A {thing} is a small table of uploads that the server keeps for {20 + number} days."
    for number, thing in enumerate(("blob", "token", "layer", "mirror", "index", "digest", "tag", "user"))
)
RECIPE = """\
name: quay
base_model: embedded/smollm2-135m-instruct
targets:
  cpu: {gpu: cpu, ram_budget: 8 GiB}
dataset:
  sources:
    - {kind: files, path: docs, licence: MIT}
  pairs: {unique: 12, total: 50}
  chunk_tokens: 100
  evaluation: {recall: 3, transfer: 0.1}
  generator: {model: openai/scripted, api_base: "http://127.0.0.1:9/v1", max_concurrency: 1}
"""
FOLDER = Path("generated/quay/dataset")


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "quay.md").write_text(PAGE)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    capable = Capability("answer-first", None, None, False, "answer-first: scripted")
    monkeypatch.setattr("dataset_builder.ask.probe", lambda *_: capable)
    return tmp_path


def run(*arguments: str):
    done = CliRunner().invoke(command, ["recipe.yaml", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def rows(name: str) -> list[dict]:
    with (FOLDER / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_documents_become_a_table(project, monkeypatch):
    Scripted(monkeypatch, weak)
    done = run()
    assert done.exit_code == 0, done.output
    assert "50 rows" in done.output and "12 unique pairs" in done.output
    train, recall, transfer = rows("train.csv"), rows("eval_recall.csv"), rows("eval_transfer.csv")
    assert len(train) == 50 and len(recall) == 3 and transfer
    assert {row["source"].split("#")[0] for row in train} == {"docs/quay.md"}
    assert {row["licence"] for row in train} == {"MIT"}
    assert all(row["quote"] in PAGE for row in [*train, *recall, *transfer])
    held = {row["section"] for row in transfer}
    assert not held & {row["section"] for row in train}


def test_the_lock_says_what_was_written(project, monkeypatch):
    Scripted(monkeypatch, weak)
    run()
    lock = json.loads((FOLDER / "dataset.lock.json").read_text())
    assert lock["rows"] == 50 and lock["eval_rows"] == 3 and lock["train_path"] == "generated/quay/dataset/train.csv"
    assert lock["train_sha256"] == hashlib.sha256((FOLDER / "train.csv").read_bytes()).hexdigest()
    assert sum(count for _, count in lock["length_histogram"]) == 50
    assert lock["max_tokens"] >= lock["p99_tokens"] >= lock["mean_tokens"] > 0


def test_the_plan_reads_the_lock(project, monkeypatch):
    from compiler.case import find_dataset
    from compiler.check import load_recipe

    Scripted(monkeypatch, weak)
    run()
    known = find_dataset(load_recipe("recipe.yaml"))
    assert known.measured and known.rows == 50 and known.eval_rows == 3


def test_the_card_tells_all(project, monkeypatch):
    Scripted(monkeypatch, weak)
    run()
    card = (FOLDER / "card.md").read_text()
    parts = ("12 unique pairs, 50 training rows", "| MIT | 50 |", "by a template", "| docs/quay.md | 12 |")
    for part in (*parts, "not-in-docs", "answer-first"):
        assert part in card, part
    assert "sections have at least one pair" in (FOLDER / "coverage.md").read_text()


def test_a_second_run_does_nothing_and_says_so(project, monkeypatch):
    scripted = Scripted(monkeypatch, weak)
    run()
    asked = len(scripted.asked)
    before = {path.name: path.stat().st_mtime_ns for path in FOLDER.iterdir()}
    done = run()
    assert done.exit_code == 0 and "up to date" in done.output
    assert len(scripted.asked) == asked
    assert before == {path.name: path.stat().st_mtime_ns for path in FOLDER.iterdir()}


def test_lost_results_come_back_without_asking_and_byte_for_byte(project, monkeypatch):
    scripted = Scripted(monkeypatch, weak)
    run()
    before = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    asked = len(scripted.asked)
    (FOLDER / "train.csv").write_text("damaged")
    run()
    assert len(scripted.asked) == asked
    assert before == {path.name: path.read_bytes() for path in FOLDER.iterdir()}


def test_a_changed_document_asks_only_for_what_is_new(project, monkeypatch):
    scripted = Scripted(monkeypatch, weak)
    run()
    first = {request.key for request in scripted.asked}
    (project / "docs" / "quay.md").write_text(PAGE.replace("A blob is a small table", "A blob is a large table"))
    run()
    again = [request for request in scripted.asked[len(first) :] if request.key in first]
    assert not again
    assert not any("A blob is a small table" in row["quote"] for row in rows("train.csv"))


def test_litellm_is_loaded_beside_reading_but_only_where_there_is_something_to_ask(project, monkeypatch):
    events: list[str] = []
    real = building.read
    monkeypatch.setattr("dataset_builder.loading.warm", lambda: events.append("load"))
    monkeypatch.setattr(building, "read", lambda *a: (events.append("read"), real(*a))[1])
    Scripted(monkeypatch, weak)
    run("--until", "chunk")
    assert events == ["read"]
    run()
    assert events == ["read", "load", "read"]
    run()
    assert events == ["read", "load", "read", "read"]
    (project / "recipe.yaml").write_text(RECIPE.replace("total: 50", "total: 51"))
    run()
    assert events[4:] == ["load", "read"]


def test_until_stops_and_writes_nothing(project, monkeypatch):
    Scripted(monkeypatch, weak)
    for stage in building.STAGES[:-1]:
        done = run("--until", stage)
        assert done.exit_code == 0 and f"Stopped after: {stage}" in done.output
    assert not FOLDER.exists()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "x", "1/0", "1"])
def test_a_wrong_shard_is_wrong_usage(project, shard):
    assert run("--shard", shard).exit_code == 2


def test_a_target_out_of_reach_ends_with_what_is_missing(project, monkeypatch):
    recipe = RECIPE.replace("unique: 12", "unique: 500").replace("total: 50", "total: 5000")
    (project / "recipe.yaml").write_text(recipe)
    Scripted(monkeypatch, weak)
    done = run()
    assert done.exit_code == 0
    assert "of 500 unique pairs" in done.output and "of 5,000 rows" in done.output
    assert "Short of the target" in (FOLDER / "card.md").read_text()


def test_fewer_held_out_questions_than_asked_for_are_said(project, monkeypatch):
    (project / "recipe.yaml").write_text(RECIPE.replace("recall: 3", "recall: 12"))
    Scripted(monkeypatch, weak)
    done = run()
    found = len(rows("eval_recall.csv"))
    assert 3 < found < 12 and f"{found} of 12 recall questions, {12 - found} missing" in done.output
    assert f"{found} of 12 recall questions" in (FOLDER / "card.md").read_text()


def test_sections_too_few_to_hold_one_out_are_said(project, monkeypatch):
    (project / "docs" / "quay.md").write_text("\n".join(PAGE.splitlines()[:9]))
    (project / "recipe.yaml").write_text(RECIPE.replace("unique: 12", "unique: 2").replace("recall: 3", "recall: 1"))
    Scripted(monkeypatch, weak)
    assert "no transfer questions" in run().output


def test_documents_without_text_are_a_clear_problem(project):
    (project / "docs" / "quay.md").write_text("\n")
    done = run()
    assert done.exit_code == 1


def test_a_leak_between_training_and_evaluation_fails_the_build(project, monkeypatch):
    from dataset_builder import split

    def leaking(pairs, *_):
        return split.Split(tuple(pairs), tuple(pairs[:1]), frozenset())

    Scripted(monkeypatch, weak)
    monkeypatch.setattr("dataset_builder.split.split", leaking)
    done = run()
    assert done.exit_code == 1 and "eval_transfer" in done.output
    assert not FOLDER.exists()


def test_an_estimate_makes_a_dozen_calls_that_the_build_then_has(project, monkeypatch):
    capable = Capability("answer-first", None, None, False, "scripted")
    monkeypatch.setattr("dataset_builder.estimate.probe", lambda *_: capable)
    scripted = Scripted(monkeypatch, weak)
    done = run("--estimate")
    assert done.exit_code == 0 and "questions: 15 calls" in done.output and "from 12 real calls" in done.output
    sampled = {request.key for request in scripted.asked}
    assert len(scripted.asked) == 12 and not FOLDER.exists()
    run()
    assert len([request for request in scripted.asked if request.key in sampled]) == 12


def test_an_estimate_counts_the_judge(project, monkeypatch):
    capable = Capability("answer-first", None, None, False, "scripted")
    monkeypatch.setattr("dataset_builder.estimate.probe", lambda *_: capable)
    Scripted(monkeypatch, lambda request: "GOOD" if request.stage == "judge" else weak(request))
    (project / "recipe.yaml").write_text(RECIPE + '  judge: {model: openai/judge, api_base: "http://127.0.0.1:9/v1"}\n')
    done = run("--estimate")
    assert done.exit_code == 0 and "judge: 4" in done.output and "from 12 real calls" in done.output


def test_existing_rows_join_the_training_rows(project, monkeypatch):
    records = [{"instruction": f"Say {number}.", "input": "", "output": f"It is {number}."} for number in range(5)]
    records.append({"song": "La"})
    (project / "chat.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    recipe = RECIPE.replace("  pairs:", "    - {kind: hf, path: chat.jsonl, licence: MIT}\n  pairs:")
    (project / "recipe.yaml").write_text(recipe)
    Scripted(monkeypatch, weak)
    done = run()
    assert done.exit_code == 0, done.output
    train = rows("train.csv")
    assert len(train) == 55 and sum(row["view"] == "existing" for row in train) == 5
    assert "neither Alpaca" in (FOLDER / "dropped.jsonl").read_text()
    assert "up to date" in run().output


def test_a_share_is_of_the_rows_that_there_are(project, monkeypatch):
    """Fewer rows than asked for, a source of all its rows beside it, and one that cannot give its share."""
    for name, count in (("chat", 300), ("all", 7), ("few", 3)):
        lines = (json.dumps({"question": f"{name} {number}?", "answer": f"Yes, {number}."}) for number in range(count))
        (project / f"{name}.jsonl").write_text("\n".join(lines))
    kinds = "".join(f"    - {{kind: hf, path: {name}.jsonl, licence: MIT{share}}}\n"
                    for name, share in (("chat", ", share: 0.2"), ("all", ""), ("few", ", share: 0.1")))  # fmt: skip
    recipe = RECIPE.replace("  pairs:", f"{kinds}  pairs:").replace("total: 50", "total: 400")
    (project / "recipe.yaml").write_text(recipe)
    Scripted(monkeypatch, weak)
    done = run()
    counts = Counter(row["source"].rpartition("#")[0] if row["view"] == "existing" else "" for row in rows("train.csv"))
    others = counts[""] + 7
    assert done.exit_code == 0 and 50 < counts[""] < 400, done.output
    assert counts["all.jsonl"] == 7 and counts["chat.jsonl"] == round(0.2 * others / 0.7) and counts["few.jsonl"] == 3
    missing = round(0.1 * others / 0.7)
    assert f"3 of {missing} rows of few.jsonl, {missing - 3} missing" in done.output
    assert f"{sum(counts.values()) - counts['']} existing rows" in done.output
    assert "taken as they are: 7 of all.jsonl (" in (FOLDER / "card.md").read_text()
    assert "up to date" in run().output


KILLED = """
import sys, os, signal
sys.path.insert(0, {tests!r})
import pytest
from tests_scripted import Scripted, weak
from dataset_builder.probe import Capability
monkeypatch = pytest.MonkeyPatch()
monkeypatch.setattr("dataset_builder.ask.probe", lambda *_: Capability("answer-first", None, None, False, "s"))
count = 0
def answer(request):
    global count
    count += 1
    with open("asked.txt", "a") as log:
        log.write(request.key + "\\n")
    if count == {limit}:
        os.kill(os.getpid(), signal.SIGKILL)
    return weak(request)
Scripted(monkeypatch, answer)
from compiler.commands.data import command
command(["recipe.yaml"], standalone_mode=False)
"""


def test_sigkill_loses_at_most_what_was_in_flight(project):
    """Killed at its fifth answer, then run to the end: only what had not been answered is asked again."""
    text = KILLED.format(tests=str(Path(__file__).parent), limit=5)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    first = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=120)
    assert first.returncode == -signal.SIGKILL
    assert not (FOLDER / "dataset.lock.json").exists()
    with sqlite3.connect(".cache/ledgers/quay.sqlite") as ledger:
        answered = {key for (key,) in ledger.execute("SELECT key FROM answers")}
    ledger.close()
    asked = len(Path("asked.txt").read_text().split())
    text = KILLED.format(tests=str(Path(__file__).parent), limit=-1)
    second = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=120)
    assert second.returncode == 0, second.stderr
    after = Path("asked.txt").read_text().split()[asked:]
    assert len(rows("train.csv")) == 50
    assert len(answered) >= 3 and answered.isdisjoint(after)


def test_modules_that_decide_no_row_exist():
    """A name that is gone would let a new module of that name slip out of the digest unseen."""
    from dataset_builder import build as module

    there = {path.stem for path in Path(module.__file__).parent.glob("*.py")}
    assert there >= module.NO_ROW_MODULES
    assert {"build", "views", "fluent", "evidence"} <= there - module.NO_ROW_MODULES
