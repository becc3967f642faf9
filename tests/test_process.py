"""The calls in a process of their own: the same outcomes, and nothing lost or left behind when either side dies."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import requests as http
from mock_server import mock_server
from test_engine import HASTY, pairs, requests

from dataset_builder.engine import Engine, Request
from dataset_builder.jobs import Ended
from dataset_builder.ledger import Ledger
from dataset_builder.problems import BuildProblem, CostCapReached
from dataset_builder.process import CallsProcess
from dataset_builder.progress import Quiet
from dataset_builder.spec import Generator
from dataset_builder.wire import CallsFailed, portable

pytestmark = pytest.mark.filterwarnings("ignore:coroutine '.*completion' was never awaited:RuntimeWarning")


@pytest.fixture(scope="module")
def process():
    """One for all tests that leave it alive: it takes seconds to start."""
    with CallsProcess() as one:
        yield one


@contextmanager
def engine_of(process, api_base, path: Path, report=None, model="openai/mock", **settings):
    generator = Generator(model=model, api_base=api_base, **settings)
    with Ledger(path) as ledger, Engine(generator, ledger, report, HASTY, process=process) as engine:
        yield engine


def test_outcomes_are_those_of_a_thread(process, tmp_path):
    report = Quiet()
    with mock_server(slots=8, latency_s=0.05) as server:
        for name, where in (("far", process), ("near", None)):
            with engine_of(where, server.api_base, tmp_path / name, report, max_concurrency=8) as engine:
                every = [replace(one, about=number) for number, one in enumerate(requests(60))]
                engine.foresee(every[10:])
                outcomes = [*engine.run(every[:10], pairs), *engine.run([*every[10:], every[0]], pairs, total=51)]
                assert sorted(one.request.about for one in outcomes) == sorted([*range(60), 0])
                assert [one.problem for one in outcomes] == [None] * 61
                assert engine.api_base == server.api_base and engine.standing().spent_usd is None
        seen = server.stats()
    assert seen["calls"] == 120 and seen["max_in_flight"] == 8
    assert report.said == 2 * ["no price is known for openai/mock: costs are not counted"]
    assert report.last.done == report.last.total == 51 and report.last.in_flight == 0


def test_what_ends_a_run_there_ends_it_here_in_the_same_words(process, tmp_path):
    with (pytest.raises(BuildProblem, match=r"at http://127\.0\.0\.1:9/v1 does not answer: no connection"),
          engine_of(process, "http://127.0.0.1:9/v1", tmp_path / "dead") as engine):  # fmt: skip
        list(engine.run(requests(3), pairs))
    with (pytest.raises(BuildProblem, match="FRT_NO_SUCH_KEY is not set"),
          engine_of(process, None, tmp_path / "key", api_key_env="FRT_NO_SUCH_KEY") as engine):  # fmt: skip
        list(engine.run(requests(3), pairs))
    capped = {"model": "gpt-4o-mini", "max_cost_usd": 0.004}
    with (mock_server(latency_s=0.02) as server, pytest.raises(CostCapReached, match="max_cost_usd"),
          engine_of(process, server.api_base, tmp_path / "cap", **capped) as engine):  # fmt: skip
        list(engine.run(requests(200, "gpt-4o-mini"), pairs))
    with (mock_server(status=400, message="too long") as server,
          engine_of(process, server.api_base, tmp_path / "refused") as engine):  # fmt: skip
        (outcome,) = engine.run(requests(1), pairs)
    assert outcome.problem == "refused by the endpoint: too long"


@pytest.mark.e2e
def test_the_embedded_model_answers_there_and_its_server_goes_with_the_process(embedded_gguf, tmp_path):
    request = Request("embedded", (("user", "Name one colour."),), max_tokens=4, stage="questions")
    with CallsProcess() as own, Ledger(tmp_path / "ledger") as ledger:
        with Engine(Generator(model="embedded"), ledger, process=own, cache_dir=embedded_gguf.parent.parent) as engine:
            (outcome,) = engine.run([request], lambda reply: reply.text)
            address = engine.api_base
        number = own.pid
        assert outcome.value and outcome.reply.completion_tokens <= 4 and ledger.get(request).text == outcome.value
    assert not Path(f"/proc/{number}").exists()
    with pytest.raises(http.ConnectionError):
        http.get(f"{address}/models", timeout=5)


def test_a_ledger_that_cannot_be_written_ends_the_run(process, tmp_path):
    with mock_server() as server, engine_of(process, server.api_base, tmp_path / "ledger") as engine:
        book = sqlite3.connect(tmp_path / "ledger")
        book.execute("CREATE TRIGGER full BEFORE INSERT ON answers BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        book.close()
        with pytest.raises(BuildProblem, match="ledger cannot be written: disk full"):
            list(engine.run(requests(3), pairs))


def test_a_bug_is_told_with_its_traceback(tmp_path, monkeypatch):
    """In whatever part of the calls it is, and also where nobody waited for the request."""

    def broken(*_):
        raise ZeroDivisionError("of ours")

    for method in ("put", "claim"):
        with mock_server() as server, engine_of(None, server.api_base, tmp_path / method) as engine:
            with monkeypatch.context() as patched:
                patched.setattr(Ledger, method, broken)
                engine.foresee(requests(1))
                time.sleep(0.5)
            with pytest.raises(ZeroDivisionError):
                list(engine.run(requests(2), pairs))
    try:
        broken()
    except ZeroDivisionError as bug:
        told = portable(Ended("", end=bug)).end
    assert isinstance(told, CallsFailed) and "in broken" in str(told) and "of ours" in str(told)


BUILDER = f"""
import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]
from pathlib import Path
from test_process import CallsProcess, engine_of, pairs, requests
from dataset_builder.problems import BuildProblem
try:
    with CallsProcess() as process, engine_of(process, sys.argv[1], Path(sys.argv[2]), max_concurrency=4) as engine:
        process.begin()
        print(process.pid, flush=True)
        for outcome in engine.run(requests(120), pairs):
            assert not outcome.problem, outcome
except BuildProblem as problem:
    print(problem, file=sys.stderr)
    sys.exit(1)
"""


@contextmanager
def builder(server, path: Path, until: int):
    """A builder that has so many answers, and the number of its child."""
    command = [sys.executable, "-c", BUILDER, server.api_base, str(path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0)
    try:
        number = int(child.stdout.readline())
        while server.stats()["ok"] < until:
            time.sleep(0.02)
        yield child, number
    finally:
        child.kill()
        child.communicate()


def ends(number: int) -> None:
    deadline = time.monotonic() + 30
    while Path(f"/proc/{number}/stat").exists():
        if Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return  # its parent is gone and nobody has collected it yet
        assert time.monotonic() < deadline, "the process outlives its builder"
        time.sleep(0.05)


def test_a_killed_builder_loses_nothing_and_leaves_nobody_behind(tmp_path):
    with mock_server(slots=4, latency_s=0.1) as server:
        with builder(server, tmp_path / "ledger", 0) as (first, number):
            os.kill(first.pid, signal.SIGKILL)  # while litellm is being loaded
            ends(number)
        with builder(server, tmp_path / "ledger", 40) as (first, number):
            os.killpg(first.pid, signal.SIGKILL)  # as those who end a whole job do
            with engine_of(None, server.api_base, tmp_path / "ledger", max_concurrency=4) as engine:
                # the dead builder's process may still hold what it is buying
                assert [one.problem for one in engine.run(requests(120), pairs)] == [None] * 120
            ends(number)
        seen = server.stats()
    assert seen["calls"] == seen["distinct"] == 120


def test_ctrl_c_in_a_terminal_is_for_the_builder_to_decide(tmp_path):
    with mock_server(latency_s=0.05) as server:
        with builder(server, tmp_path / "ledger", 40) as (first, number):
            os.killpg(first.pid, signal.SIGINT)
            _, said = first.communicate(timeout=60)
            assert first.returncode == 1 and said.rstrip().endswith("the same command goes on from here.")
            assert "Traceback" not in said
            ends(number)
        with Ledger(tmp_path / "ledger") as ledger:
            assert ledger.totals()["questions"].calls == server.stats()["ok"] < 120


def test_a_killed_process_is_told_and_everything_is_kept(tmp_path):
    with mock_server(latency_s=0.05) as server:
        with builder(server, tmp_path / "ledger", 40) as (first, number):
            os.kill(number, signal.SIGKILL)
            _, said = first.communicate(timeout=60)
            assert first.returncode == 1 and "killed by signal 9" in said and "run the same command again" in said
            assert "Traceback" not in said
        with Ledger(tmp_path / "ledger") as ledger:
            assert ledger.totals()["questions"].calls >= 36
