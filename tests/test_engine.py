"""The engine against a server of our own: nothing lost, nothing bought twice, clear words when it ends."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from mock_server import mock_server

from dataset_builder.engine import ATTEMPTS, BadReply, Engine, Patience, Request, attempt_of
from dataset_builder.ledger import Ledger
from dataset_builder.problems import BuildProblem, CostCapReached, Stopped
from dataset_builder.progress import Quiet
from dataset_builder.replies import json_in
from dataset_builder.spec import Generator

# litellm makes a coroutine in one step and awaits it in another; a call that is cancelled in between warns.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine '.*completion' was never awaited:RuntimeWarning")

HASTY = Patience(silent_start_s=1, silent_s=1.5, drain_s=5)


def requests(count: int, model: str = "openai/mock", **changes):
    for number in range(count):
        messages = (("system", "You write questions."), ("user", f"Page {number}: the card has a slot. " * 8))
        yield replace(Request(model, messages, stage="questions"), **changes)


def pairs(reply):
    return json_in(reply.text)["pairs"]


def run(server, path: Path, count: int = 20, parse=pairs, model: str = "openai/mock", patience=None, changes=None,
        **settings):
    """Outcomes of a whole run, and the ledger's totals."""
    generator = Generator(model=model, api_base=server, **settings)
    with Ledger(path) as ledger, Engine(generator, ledger, patience=patience) as engine:
        outcomes = list(engine.run(requests(count, model, **(changes or {})), parse))
        return outcomes, ledger.totals().get("questions")


def test_every_request_has_its_outcome_and_is_bought_once(tmp_path):
    with mock_server(latency_s=0.02) as server:
        outcomes, totals = run(server.api_base, tmp_path / "ledger", 100)
        assert {outcome.request.key for outcome in outcomes} == {request.key for request in requests(100)}
        assert all(outcome.problem is None and outcome.value and outcome.reply for outcome in outcomes)
        again, _ = run(server.api_base, tmp_path / "ledger", 100)
        assert [outcome.value for outcome in again] == [
            {outcome.request.key: outcome.value for outcome in outcomes}[one.request.key] for one in again]
        assert totals.calls == server.stats()["calls"] == 100


def test_what_is_sent(tmp_path):
    schema = {"type": "object", "properties": {"pairs": {"type": "array"}}}
    with mock_server() as server:
        run(server.api_base, tmp_path / "ledger", 1, changes={"schema": schema, "seed": 5, "max_tokens": 77})
        (body,) = server.stats()["last_bodies"]
    assert body["model"] == "mock" and body["seed"] == 5 and body["max_tokens"] == 77
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["response_format"]["json_schema"]["schema"] == schema


def test_faults_lose_nothing_and_buy_no_good_answer_twice(tmp_path):
    faults = {"fault_rate": 0.3, "faults": "500,429,reset,500,429,cut", "retry_after_s": 0.05}
    with mock_server(latency_s=0.02, **faults) as server:
        outcomes, _ = run(server.api_base, tmp_path / "ledger", 150)
        seen = server.stats()
    assert [outcome.problem for outcome in outcomes] == [None] * 150
    assert seen["distinct"] == 150 and seen["bought_twice"] == 0
    assert all(seen["faults"].get(fault) for fault in ("500", "429", "reset", "cut"))


def test_a_hung_call_is_given_up_and_asked_again(tmp_path):
    with mock_server(fault_rate=0.3, faults="hang", hang_s=60) as server:
        outcomes, _ = run(server.api_base, tmp_path / "ledger", 10, timeout_s=1)
        assert server.stats()["faults"]["hang"] > 0
    assert [outcome.problem for outcome in outcomes] == [None] * 10


def test_an_unusable_reply_is_asked_again_with_another_seed_and_then_named(tmp_path):
    with mock_server(reply="I cannot do that.") as server:
        outcomes, _ = run(server.api_base, tmp_path / "ledger", 2)
        assert server.stats()["calls"] == 2 * ATTEMPTS
        assert len({body["seed"] for body in server.stats()["last_bodies"]}) == ATTEMPTS
        again, _ = run(server.api_base, tmp_path / "ledger", 2)
        assert server.stats()["calls"] == 2 * ATTEMPTS
    for outcome in [*outcomes, *again]:
        assert outcome.value is None and outcome.reply.text == "I cannot do that."
        assert "no JSON in the reply" in outcome.problem


def test_a_parser_that_changes_buys_nothing(tmp_path):
    with mock_server() as server:
        run(server.api_base, tmp_path / "ledger", 5)
        outcomes, _ = run(server.api_base, tmp_path / "ledger", 5, parse=lambda reply: len(reply.text))
        assert server.stats()["calls"] == 5
    assert all(outcome.value > 10 for outcome in outcomes)


def test_more_room_buys_only_what_was_cut(tmp_path):
    with mock_server() as server:
        run(server.api_base, tmp_path / "ledger", 3, changes={"max_tokens": 100})
    with mock_server(needs_tokens=150) as server:
        cut, _ = run(server.api_base, tmp_path / "ledger", 5, changes={"max_tokens": 100})
        assert server.stats()["calls"] == 2 * ATTEMPTS  # three are good already
        assert sorted(outcome.problem is None for outcome in cut) == [False] * 2 + [True] * 3
        whole, totals = run(server.api_base, tmp_path / "ledger", 5, changes={"max_tokens": 200})
        assert server.stats()["calls"] == 2 * ATTEMPTS + 2
    assert [outcome.problem for outcome in whole] == [None] * 5
    assert totals.calls == 3 + 2 * ATTEMPTS + 2


def test_an_answer_that_parses_is_good_whatever_its_finish_reason(tmp_path):
    with mock_server(needs_tokens=10_000) as server:
        outcomes, _ = run(server.api_base, tmp_path / "ledger", 3, parse=lambda reply: reply.text)
        assert server.stats()["calls"] == 3
    assert {outcome.reply.finish_reason for outcome in outcomes} == {"length"}
    assert all(outcome.problem is None for outcome in outcomes)


def test_equal_requests_are_bought_once_and_both_answered(tmp_path):
    with mock_server(latency_s=0.1) as server, Ledger(tmp_path / "ledger") as ledger:
        generator = Generator(model="openai/mock", api_base=server.api_base)
        twice = [replace(request, about=number) for number in (1, 2) for request in requests(1)]
        with Engine(generator, ledger) as engine:
            outcomes = list(engine.run(twice, lambda reply: reply.about))
        assert server.stats()["calls"] == 1
    assert sorted(outcome.value for outcome in outcomes) == [1, 2]


def test_requests_are_taken_as_slots_come_free(tmp_path):
    taken = 0

    def endless():
        nonlocal taken
        for request in requests(10**9):
            taken += 1
            yield request

    with mock_server() as server, Ledger(tmp_path / "ledger") as ledger:
        generator = Generator(model="openai/mock", api_base=server.api_base, max_concurrency=4)
        with Engine(generator, ledger) as engine:
            outcomes = list(islice(engine.run(endless(), pairs), 50))
    assert len(outcomes) == 50 and taken <= 50 + 6 * 4


def test_never_more_in_flight_than_allowed(tmp_path):
    with mock_server(latency_s=0.02) as server:
        run(server.api_base, tmp_path / "ledger", 60, max_concurrency=7)
        assert server.stats()["max_in_flight"] == 7


def test_a_limit_of_the_server_is_found(tmp_path):
    with mock_server(slots=4, queue_limit=2, latency_s=0.05, retry_after_s=0.05) as server:
        outcomes, _ = run(server.api_base, tmp_path / "ledger", 120)
        seen = server.stats()
    assert [outcome.problem for outcome in outcomes] == [None] * 120
    assert seen["bought_twice"] == 0
    assert seen["calls"] < 3 * 120  # a client that kept 64 in flight would be turned away thousands of times


def test_two_builders_share_a_ledger_without_buying_twice(tmp_path):
    program = (f"import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]\n"
               "from pathlib import Path\nfrom test_engine import run\n"
               f"outcomes, _ = run(sys.argv[1], Path({str(tmp_path / 'ledger')!r}), 60)\n"
               "assert [outcome.problem for outcome in outcomes] == [None] * 60, outcomes\n")
    with mock_server(slots=4, latency_s=0.1) as server:
        builders = [subprocess.Popen([sys.executable, "-c", program, server.api_base]) for _ in range(2)]
        assert [builder.wait(120) for builder in builders] == [0, 0]
        assert server.stats()["calls"] == 60


BUILDER = f"""
import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]
from pathlib import Path
from test_engine import Engine, Generator, Ledger, pairs, requests
from dataset_builder.problems import BuildProblem
from dataset_builder.progress import Plain
generator = Generator(model="openai/mock", api_base=sys.argv[1], max_concurrency=4)
try:
    with Ledger(Path(sys.argv[2])) as ledger, Engine(generator, ledger, Plain()) as engine:
        for outcome in engine.run(requests(200), pairs):
            assert not outcome.problem, outcome
except BuildProblem as problem:
    print(problem, file=sys.stderr)
    sys.exit(1)
"""


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_goes_on_without_buying_again(tmp_path, kind):
    with mock_server(latency_s=0.05) as server:
        command = [sys.executable, "-c", BUILDER, server.api_base, str(tmp_path / "ledger")]
        first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while server.stats()["ok"] < 60:
            time.sleep(0.02)
        first.send_signal(kind)
        _, said = first.communicate(timeout=60)
        bought = server.stats()["ok"]
        assert bought < 200
        if kind == signal.SIGKILL:
            assert first.returncode == -signal.SIGKILL
        else:
            assert first.returncode == 1
            assert said.rstrip().endswith("the same command goes on from here.") and "Traceback" not in said
        assert subprocess.run(command, stderr=subprocess.DEVNULL, timeout=60, check=False).returncode == 0
        seen = server.stats()
    assert seen["distinct"] == 200
    # SIGKILL may lose what was in flight; a polite stop waits for it.
    assert seen["bought_twice"] <= (4 if kind == signal.SIGKILL else 0)


def test_stop_in_the_middle_of_a_loop(tmp_path):
    with mock_server(latency_s=0.02) as server, Ledger(tmp_path / "ledger") as ledger:
        report = Quiet()
        generator = Generator(model="openai/mock", api_base=server.api_base)
        before = signal.getsignal(signal.SIGINT)
        with Engine(generator, ledger, report, HASTY) as engine, pytest.raises(Stopped):
            for number, _ in enumerate(engine.run(requests(500), pairs)):
                if number == 10:
                    os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is before
        assert ledger.totals()["questions"].calls == server.stats()["ok"]


def test_a_dead_endpoint_ends_the_run_in_plain_words(tmp_path):
    with pytest.raises(BuildProblem, match=r"openai/mock at http://127.0.0.1:9/v1 does not answer: no connection"):
        run("http://127.0.0.1:9/v1", tmp_path / "ledger", patience=HASTY)


def test_a_server_that_dies_half_way_keeps_what_was_paid(tmp_path):
    with mock_server(latency_s=0.02) as server, Ledger(tmp_path / "ledger") as ledger:
        generator = Generator(model="openai/mock", api_base=server.api_base, max_concurrency=4)
        with Engine(generator, ledger, patience=HASTY) as engine:
            outcomes = engine.run(requests(10**6), pairs)
            kept = list(islice(outcomes, 30))
            assert len(kept) == 30
            server.kill()
            with pytest.raises(BuildProblem, match="does not answer"):
                for _ in outcomes:
                    pass
        assert ledger.totals()["questions"].calls >= 30


@pytest.mark.parametrize(("status", "message"), [(401, "bad key"), (403, "not yours"), (404, "no such model")])
def test_a_refused_key_or_model_ends_the_run_at_once(tmp_path, status, message):
    with mock_server(status=status, message=message) as server:
        with pytest.raises(BuildProblem, match=f"refuses to answer: {message}"):
            run(server.api_base, tmp_path / "ledger", max_concurrency=2)
        assert server.stats()["calls"] <= 4


def test_a_refused_request_is_a_problem_of_its_own(tmp_path):
    with mock_server(refuse_schema=1) as server, Ledger(tmp_path / "ledger") as ledger:
        generator = Generator(model="openai/mock", api_base=server.api_base)
        with Engine(generator, ledger) as engine:
            some = [*requests(2), *requests(2, schema={"type": "object"})]
            problems = [outcome.problem for outcome in engine.run(some, pairs)]
    refused = "refused by the endpoint: response_format is not supported"
    assert sorted(map(str, problems)) == ["None", "None", refused, refused]


def test_a_server_that_refuses_everything_ends_the_run(tmp_path):
    with mock_server(status=400, message="no") as server:
        with pytest.raises(BuildProblem, match="refuses every request: no"):
            run(server.api_base, tmp_path / "ledger", 500, max_concurrency=4)
        # 4 are in flight when the last refusal counts, and each of their slots may have been refilled once by then.
        assert server.stats()["calls"] <= Patience().refusals + 2 * 4


def test_a_model_without_provider_is_told(tmp_path):
    with pytest.raises(BuildProblem, match="litellm needs the provider before the model's name"):
        run(None, tmp_path / "ledger", model="nonsense")


def test_a_missing_key_variable_is_told(tmp_path):
    with pytest.raises(BuildProblem, match="FRT_NO_SUCH_KEY is not set"):
        run("http://127.0.0.1:9/v1", tmp_path / "ledger", api_key_env="FRT_NO_SUCH_KEY")


def test_the_cap_refuses_the_next_call_and_holds_over_restarts(tmp_path):
    with mock_server(latency_s=0.02) as server:
        for _ in range(2):
            with pytest.raises(CostCapReached, match="max_cost_usd"):
                run(server.api_base, tmp_path / "ledger", 200, model="gpt-4o-mini", max_cost_usd=0.004)
        with Ledger(tmp_path / "ledger") as ledger:
            totals = ledger.totals()["questions"]
        assert 0.002 < totals.cost_usd <= 0.004
        assert server.stats()["calls"] == totals.calls < 200


def test_answers_of_the_ledger_need_no_endpoint(tmp_path):
    with mock_server() as server:
        run(server.api_base, tmp_path / "ledger", 5)
    outcomes, _ = run("http://127.0.0.1:9/v1", tmp_path / "ledger", 5)
    assert [outcome.problem for outcome in outcomes] == [None] * 5


def test_a_bug_in_the_parser_is_not_swallowed(tmp_path):
    def broken(reply):
        raise ZeroDivisionError

    with mock_server() as server, pytest.raises(ZeroDivisionError):
        run(server.api_base, tmp_path / "ledger", 5, parse=broken)


def test_a_bad_reply_may_say_why(tmp_path):
    def picky(reply):
        raise BadReply("the quote is not in the text")

    with mock_server() as server:
        outcomes, _ = run(server.api_base, tmp_path / "ledger", 1, parse=picky)
    assert outcomes[0].problem == f"{ATTEMPTS} replies could not be used; the last one: the quote is not in the text"


def test_progress_is_reported(tmp_path):
    report = Quiet()
    with (mock_server() as server, Ledger(tmp_path / "ledger") as ledger,
          Engine(Generator(model="openai/mock", api_base=server.api_base), ledger, report) as engine):
        list(engine.run(requests(7), pairs, total=7))
    assert (report.last.stage, report.last.done, report.last.total, report.last.problems) == ("questions", 7, 7, 0)
    assert report.said == ["no price is known for openai/mock: costs are not counted"]


def test_attempts_differ_in_seed_and_are_not_cold():
    request = Request("m", (("user", "x"),), temperature=0.0, seed=3)
    assert attempt_of(request, 0) is request
    keys = {attempt_of(request, number).key for number in range(ATTEMPTS)}
    assert len(keys) == ATTEMPTS and attempt_of(request, 1).temperature > 0


def test_importing_the_engine_loads_nothing_heavy():
    program = "import sys, dataset_builder.engine; print(json.dumps([m for m in ('litellm', 'rich', 'requests') " \
              "if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", "import json\n" + program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_names_of_openais_client_that_are_imported_late_are_all_there():
    from dataset_builder.loading import litellm

    litellm()
    import openai.resources
    import openai.types.beta.threads
    import openai.types.responses

    for package in (openai.types, openai.types.responses, openai.types.beta.threads, openai.resources):
        names = [name for name in dir(package) if not name.startswith("_")]
        assert len(names) > 10 and all(getattr(package, name) is not None for name in names)
    assert openai.types.responses.Response.__module__ == "openai.types.responses.response"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        openai.types.Nothing  # noqa: B018
    with pytest.raises(ImportError):
        from openai.types import nothing  # noqa: F401


def test_what_is_foreseen_fills_the_slots_and_is_bought_once(tmp_path):
    with mock_server(slots=8, latency_s=0.1) as server:
        generator = Generator(model="openai/mock", api_base=server.api_base, max_concurrency=8)
        with Ledger(tmp_path / "ledger") as ledger, Engine(generator, ledger) as engine:
            every = list(requests(60))
            engine.foresee(every[4:])
            first = list(engine.run(every[:4], pairs))
            later = list(engine.run(every[4:], pairs))  # some are answered, some on their way, some not sent
            engine.foresee(every)
        seen = server.stats()
    assert [one.problem for one in (*first, *later)] == [None] * 60
    assert seen["calls"] == seen["distinct"] == 60 and seen["max_in_flight"] == 8


def test_what_is_called_off_stays_unsent_and_what_is_nearly_done_is_not_bought_again(tmp_path):
    with mock_server(slots=4, latency_s=0.3) as server:
        generator = Generator(model="openai/mock", api_base=server.api_base, max_concurrency=4)
        with Ledger(tmp_path / "ledger") as ledger, Engine(generator, ledger) as engine:
            every = list(requests(40))
            engine.foresee(every)
            while server.stats()["calls"] < 4:
                time.sleep(0.01)
            engine.call_off()
            outcomes = list(engine.run(every[:6], pairs))
        seen = server.stats()
    assert [one.problem for one in outcomes] == [None] * 6
    assert seen["bought_twice"] == 0 and seen["calls"] < 20


def test_calls_that_were_called_off_do_not_keep_a_slow_server_busy(monkeypatch, tmp_path):
    monkeypatch.setattr("dataset_builder.calls.MOMENT_SECONDS", 0.2)
    with mock_server(slots=2, latency_s=0.6, sigma=0) as server:
        generator = Generator(model="openai/mock", api_base=server.api_base, max_concurrency=16)
        with Ledger(tmp_path / "ledger") as ledger, Engine(generator, ledger) as engine:
            every = list(requests(40))
            engine.foresee(every[:30])
            while server.stats()["calls"] < 16:
                time.sleep(0.01)
            engine.call_off()
            outcomes = list(engine.run([*every[:2], *every[30:34]], pairs))
        seen = server.stats()
    assert [one.problem for one in outcomes] == [None] * 6
    assert seen["bought_twice"] == 0 and seen["ok"] <= 6 + 2  # of the other 14, those that had a slot at most


def test_a_refused_foreseen_request_is_no_outcome_until_it_is_asked(tmp_path):
    with mock_server(status=400, message="too long") as server:
        generator = Generator(model="openai/mock", api_base=server.api_base)
        with Ledger(tmp_path / "ledger") as ledger, Engine(generator, ledger) as engine:
            engine.foresee(requests(3))
            (outcome,) = engine.run(requests(1), pairs)
    assert "too long" in outcome.problem


def test_a_second_model_and_an_end_in_the_middle_leave_no_task_behind(tmp_path, caplog):
    """A judge beside a generator; calls that were foreseen are cut. Python tells of a lost task when it collects it."""
    with mock_server(slots=4, latency_s=0.05) as server, Ledger(tmp_path / "ledger") as ledger:
        some = list(requests(40))
        others = [replace(one, model="openai/other") for one in some]
        one, other = (Generator(model=name, api_base=server.api_base) for name in ("openai/mock", "openai/other"))
        with Engine(one, ledger, None, HASTY) as generator, Engine(other, ledger, None, HASTY) as judge:
            for part in (slice(0, 4), slice(4, 8)):
                assert len([*generator.run(some[part], pairs), *judge.run(others[part], pairs)]) == 8
            generator.foresee(some)
            while server.stats()["calls"] < 20:
                time.sleep(0.01)
            generator.close(drain=False)
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


def test_refusals_of_what_was_foreseen_do_not_end_a_run(tmp_path):
    """A form that the endpoint refuses is tried on as many chunks as there are slots, beside the probe."""
    with mock_server(refuse_schema=1, latency_s=0.05) as server:
        generator = Generator(model="openai/mock", api_base=server.api_base, max_concurrency=32)
        with Ledger(tmp_path / "ledger") as ledger, Engine(generator, ledger) as engine:
            engine.foresee(requests(40, schema={"type": "object"}))
            deadline = time.monotonic() + 20
            while (server.stats()["calls"] < 32 or engine.standing().in_flight) and time.monotonic() < deadline:
                time.sleep(0.01)
            refused = list(engine.run(requests(1, schema={"type": "object"}), pairs))
            answered = list(engine.run(requests(20), pairs))
    assert "not supported" in refused[0].problem
    assert [one.problem for one in answered] == [None] * 20
