"""The ledger: keys, purchases, claims between processes, merging."""

import json
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest

from dataset_builder.ledger import Ledger, Reply, Request, Totals, in_shard
from dataset_builder.problems import BuildProblem

REQUEST = Request("openai/m", (("system", "Be brief."), ("user", "What is a card?")), None, 100, 0.3, 0, "questions")


def reply_to(request: Request, text: str = "A card.", **changes) -> Reply:
    made = Reply(request.key, text, "stop", 10, 5, 0.25, 1.5, request.model, request.max_tokens)
    return replace(made, **changes)


@pytest.mark.parametrize("change", [
    {"model": "openai/n"}, {"messages": (("user", "What is a card?"),)}, {"schema": {"type": "object"}},
    {"temperature": 0.4}, {"seed": 1}])
def test_key_changes_with_what_is_sent(change):
    assert replace(REQUEST, **change).key != REQUEST.key


@pytest.mark.parametrize("change", [{"max_tokens": 200}, {"stage": "judge"}, {"about": object()}])
def test_key_keeps_with_the_rest(change):
    assert replace(REQUEST, **change).key == REQUEST.key


def test_key_is_the_same_in_another_process():
    program = ("from dataset_builder.ledger import Request; print(Request('openai/m', (('system', 'Be brief.'), "
               "('user', 'What is a card?')), None, 100, 0.3, 0, 'questions').key)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == REQUEST.key


def test_key_ignores_the_order_of_schema_keys():
    one, other = {"type": "object", "title": "T"}, {"title": "T", "type": "object"}
    assert replace(REQUEST, schema=one).key == replace(REQUEST, schema=other).key


def test_answers_survive_reopening(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.get(REQUEST) is None
        ledger.put(REQUEST, reply_to(REQUEST))
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.get(REQUEST) == reply_to(REQUEST)


def test_the_answer_with_most_room_wins_and_both_are_counted(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.put(REQUEST, reply_to(REQUEST, "A ca", finish_reason="length"))
        more = replace(REQUEST, max_tokens=200)
        ledger.put(more, reply_to(more))
        assert ledger.get(REQUEST).text == "A card."
        assert ledger.totals() == {"questions": Totals(2, 20, 10, 0.5, 0)}
        assert ledger.spent_usd("openai/m") == 0.5
        assert ledger.spent_usd("openai/n") == 0


def test_totals_by_stage_and_calls_without_price(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.put(REQUEST, reply_to(REQUEST))
        judge = replace(REQUEST, stage="judge", seed=7)
        ledger.put(judge, reply_to(judge, cost_usd=None))
        assert ledger.totals() == {"questions": Totals(1, 10, 5, 0.25, 0), "judge": Totals(1, 10, 5, 0.0, 1)}


def test_a_claim_keeps_a_second_builder_away_until_it_is_answered(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ours, Ledger(path) as theirs:
        assert ours.claim(REQUEST) and ours.claim(REQUEST)
        assert not theirs.claim(REQUEST)
        ours.release(REQUEST)
        assert theirs.claim(REQUEST)
        ours.release(REQUEST)  # not ours to give back
        assert not ours.claim(REQUEST)
        theirs.put(REQUEST, reply_to(REQUEST))
        assert ours.claim(REQUEST) and ours.get(REQUEST)


def test_closing_gives_claims_back(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ours:
        with Ledger(path) as theirs:
            assert theirs.claim(REQUEST)
        assert ours.claim(REQUEST)


def test_a_claim_of_a_killed_process_is_taken_over(tmp_path):
    path = tmp_path / "ledger.sqlite"
    program = ("import os, sys; from dataset_builder.ledger import Ledger, Request\n"
               f"Ledger({str(path)!r}).claim(Request('openai/m', (('user', 'x'),))); os.kill(os.getpid(), 9)")
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    claims = sqlite3.connect(path)
    assert claims.execute("SELECT COUNT(*) FROM claims").fetchone() == (1,)
    claims.close()
    with Ledger(path) as ledger:
        assert ledger.claim(Request("openai/m", (("user", "x"),)))


def test_several_processes_write_at_once(tmp_path):
    path = tmp_path / "ledger.sqlite"
    program = ("import sys\nfrom dataset_builder.ledger import Ledger, Reply, Request\n"
               f"with Ledger({str(path)!r}) as ledger:\n"
               "    for number in range(200):\n"
               "        request = Request('m', (('user', f'{sys.argv[1]} {number}'),))\n"
               "        assert ledger.claim(request)\n"
               "        ledger.put(request, Reply(request.key, 'x', 'stop', 1, 1, None, 0.1, 'm'))\n")
    writers = [subprocess.Popen([sys.executable, "-c", program, str(number)]) for number in range(4)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    with Ledger(path) as ledger:
        assert ledger.totals()[""].calls == 800


def test_changes_of_others_are_seen(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ours, Ledger(tmp_path / "ledger.sqlite") as theirs:
        ours.changed_by_others()
        ours.put(REQUEST, reply_to(REQUEST))
        assert not ours.changed_by_others()
        theirs.put(replace(REQUEST, seed=3), reply_to(replace(REQUEST, seed=3)))
        assert ours.changed_by_others() and not ours.changed_by_others()


def test_merge_adds_once(tmp_path):
    other = replace(REQUEST, seed=1)
    with Ledger(tmp_path / "a.sqlite") as a, Ledger(tmp_path / "b.sqlite") as b:
        a.put(REQUEST, reply_to(REQUEST))
        b.put(other, reply_to(other))
    with Ledger(tmp_path / "a.sqlite") as a:
        assert a.merge(tmp_path / "b.sqlite") == 1
        assert a.merge(tmp_path / "b.sqlite") == 0
        assert a.get(REQUEST) and a.get(other)
        assert a.totals()["questions"].calls == 2


def test_merge_of_nothing_is_a_problem(tmp_path):
    with Ledger(tmp_path / "a.sqlite") as ledger, pytest.raises(BuildProblem, match="no such ledger"):
        ledger.merge(tmp_path / "b.sqlite")


def test_a_file_that_is_no_ledger_is_a_problem(tmp_path):
    (tmp_path / "ledger.sqlite").write_text("id,question\n" * 100)
    with pytest.raises(BuildProblem, match="cannot be used as the ledger"):
        Ledger(tmp_path / "ledger.sqlite")


def test_a_newer_ledger_is_a_problem(tmp_path):
    database = sqlite3.connect(tmp_path / "ledger.sqlite")
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(BuildProblem, match="newer"):
        Ledger(tmp_path / "ledger.sqlite")


def test_shards_share_everything_out_once():
    keys = [replace(REQUEST, seed=seed).key for seed in range(300)]
    shards = [[key for key in keys if in_shard(key, index, 3)] for index in (1, 2, 3)]
    assert sorted(key for shard in shards for key in shard) == sorted(keys)
    assert min(map(len, shards)) > 60
    with pytest.raises(ValueError, match="runs from 1"):
        in_shard(keys[0], 0, 3)


def test_texts_come_back_as_they_were(tmp_path):
    text = json.dumps({"q": "\u00e4\u4e2d\U0001f600 \\ \" '"}, ensure_ascii=False) + "\r\n\x00 end"
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.put(REQUEST, reply_to(REQUEST, text))
        assert ledger.get(REQUEST).text == text
