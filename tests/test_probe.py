"""What the probe concludes from replies of every kind; no model is named anywhere."""

import json
from dataclasses import replace

import pytest
from mock_server import mock_server

from dataset_builder import probe
from dataset_builder.engine import Engine, Outcome, Reply
from dataset_builder.ledger import Ledger
from dataset_builder.progress import Quiet
from dataset_builder.spec import Generator
from dataset_builder.transport import context_tokens

GOOD = (
    ("How often is a failed upload tried again?", "It is tried again three times by default.",
     "A failed upload is tried again three times by default."),
    ("How can log files be kept longer than 14 days?", "Raise `retention_days` in `quay.toml` and restart the service.",
     "To keep them longer, raise `retention_days` in `quay.toml` and restart the service."),
    ("How do I run the tool without a graphics card?", "Pass `--device cpu` to run without one.",
     "Pass `--device cpu` to run without one."),
    ("In which time zone are times stored?", "All times are stored in UTC.", "All times are stored in UTC."),
    ("How many documents may a project on the free plan hold?", "A project on the free plan may hold 500 documents.",
     "A project on the free plan may hold 500 documents."),
)


class Scripted:
    """Stands where the engine stands: answers each probe by a function of form and passage."""

    def context_tokens(self) -> None:
        return None

    def __init__(self, answer) -> None:
        self.generator = Generator(model="openai/anything")
        self.report = Quiet()
        self.asked: list[tuple[str, int, int]] = []
        self.answer = answer

    def run(self, requests, parse, total=None):
        for request in requests:
            system = request.messages[0][1]
            form = next(form for form, words in probe.FORMS.items() if words in system)
            assert (request.schema is not None) == (form == "schema") and request.stage == "probe"
            self.asked.append((form, request.about, request.max_tokens))
            made = self.answer(form, request)
            if made is None:
                yield Outcome(request, None, None, "refused by the endpoint")
                continue
            text, finish = made
            reply = Reply(request.key, text, finish, 100, 50, None, 2.0, request.model, request.max_tokens)
            yield Outcome(request, parse(reply), reply)


def conclude(answer) -> tuple[probe.Capability, Scripted]:
    engine = Scripted(answer)
    return probe.probe(engine.generator, engine), engine


def written(form: str, place: int, **changes) -> str:
    record = {**dict(zip(probe.FIELDS, GOOD[place], strict=True)), **changes}
    if form == "tagged":
        return "\n".join(f"{name.upper()}: {value}" for name, value in record.items())
    return json.dumps(record)


def test_a_model_that_obeys_the_schema():
    capability, engine = conclude(lambda form, request: (written(form, request.about), "stop"))
    assert (capability.path, capability.thinking, capability.tokens_per_second) == ("schema", False, 25.0)
    assert engine.asked == [("schema", 0, probe.ROOM), ("schema", 1, probe.ROOM), ("schema", 2, probe.ROOM)]
    assert capability.why == "schema: schema 3/3"


def test_one_slip_is_forgiven_after_two_more_questions():
    def answer(form, request):
        return written(form, request.about, **({"quote": "No such words."} if request.about == 1 else {})), "stop"

    capability, engine = conclude(answer)
    assert capability.path == "schema" and len(engine.asked) == 5


@pytest.mark.parametrize("works", ["json", "tagged"])
def test_the_first_form_that_works_is_taken(works):
    def answer(form, request):
        if form == "schema":
            return None
        return (written(form, request.about) if form == works else "Of course, here is a question for you."), "stop"

    capability, _ = conclude(answer)
    assert capability.path == works
    assert "schema 0/3 (refused by the endpoint)" in capability.why


@pytest.mark.parametrize("changes", [
    {"quote": "A quote that nobody ever wrote anywhere in these documents."},
    {"quote": "UTC"},
    {"question": "A failed upload is tried again three times by default."},
    {"question": "What does the passage say?"},
    {"question": "What is the capital of France?"},
    {"answer": "Yes."},
    {"answer": "Bananas are yellow fruit."},
])
def test_words_that_are_wrong_lead_to_answer_first_without_trying_other_forms(changes):
    capability, engine = conclude(lambda form, request: (written(form, request.about, **changes), "stop"))
    assert capability.path == "answer-first"
    assert {form for form, _, _ in engine.asked} == {"schema"}


def test_endless_replies_lead_to_answer_first():
    capability, engine = conclude(lambda form, request: ('{"question": "What ' + "and what " * 100, "length"))
    assert capability.path == "answer-first" and len(engine.asked) == 3


def test_nothing_of_use_in_any_form_leads_to_answer_first():
    capability, engine = conclude(lambda form, request: ("I am a helpful assistant.", "stop"))
    assert capability.path == "answer-first"
    assert {form for form, _, _ in engine.asked} == {"schema", "json", "tagged"}


def test_a_model_that_thinks_gets_room_to():
    def answer(form, request):
        if request.max_tokens == probe.ROOM:
            return "<think>Let me see, the passage says", "length"
        return f"<think>Let me see.</think>{written(form, request.about)}", "stop"

    capability, engine = conclude(answer)
    assert (capability.path, capability.thinking) == ("schema", True)
    assert [room for _, _, room in engine.asked] == [probe.ROOM] * 3 + [probe.THINKING_ROOM] * 3


def test_every_passage_has_a_good_answer_by_our_own_measure():
    reply = Reply("", "", "stop", 1, 1, None, 1.0, "m")
    for place, passage in enumerate(probe.PASSAGES):
        for form in probe.FORMS:
            assert probe.fault_in(form, replace(reply, text=written(form, place)), passage) is None


def test_the_answers_lie_in_the_ledger(tmp_path):
    with mock_server(reply="no") as server, Ledger(tmp_path / "ledger") as ledger:
        generator = Generator(model="openai/mock", api_base=server.api_base)
        for _ in range(2):
            with Engine(generator, ledger) as engine:
                assert probe.probe(generator, engine).path == "answer-first"
            assert server.stats()["calls"] == 9
        assert ledger.totals()["probe"].calls == 9


def test_context_of_a_server_that_does_not_say():
    assert context_tokens("openai/no-such-model", "http://127.0.0.1:9/v1") is None
    assert context_tokens("gpt-4o-mini", None) == 128_000
