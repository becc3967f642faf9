"""Prices, the cap and the estimate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mock_server import mock_server

from dataset_builder.engine import Engine
from dataset_builder.ledger import Ledger, Reply, Request
from dataset_builder.money import Budget, Price, estimate, price_of, sentences
from dataset_builder.progress import Quiet
from dataset_builder.spec import Generator

PRICE = Price(1e-6, 4e-6)
REQUEST = Request("m", (("user", "word " * 200),), max_tokens=500, stage="questions")


def reply(prompt_tokens: int, completion_tokens: int) -> Reply:
    return Reply(REQUEST.key, "x", "stop", prompt_tokens, completion_tokens, None, 1.0, "m", 500)


def test_prices_known_free_and_unknown():
    assert price_of("gpt-4o-mini") == Price(1.5e-07, 6e-07)
    assert price_of("ollama/anything") == Price(0.0, 0.0)
    assert price_of("openai/no-such-model") is None
    assert price_of("nonsense/at all") is None


def test_a_reservation_counts_until_it_is_settled():
    budget = Budget(PRICE, cap_usd=0.006)
    first, second = budget.reserve(REQUEST), budget.reserve(REQUEST)
    assert first == second == pytest.approx((500 + 8) * 1e-6 + 500 * 4e-6)
    assert budget.reserve(REQUEST) is None
    assert budget.settle(first, REQUEST, reply(210, 100)) == pytest.approx(210e-6 + 400e-6)
    assert budget.reserve(REQUEST) is not None
    assert budget.settle(second) is None
    assert budget.spent_usd == pytest.approx(610e-6)


def test_the_guess_of_prompt_tokens_follows_what_was_counted():
    budget = Budget(PRICE, None)
    before = budget.prompt_tokens(REQUEST)
    budget.settle(0.0, REQUEST, reply(200, 10))
    assert 200 <= budget.prompt_tokens(REQUEST) < before
    budget.settle(0.0, REQUEST, reply(700, 10))
    assert budget.prompt_tokens(REQUEST) >= 700


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), max_size=60), st.floats(0, 0.05))
def test_the_cap_is_never_passed_when_replies_keep_their_bounds(replies, cap):
    budget = Budget(PRICE, cap)
    for prompt_tokens, completion_tokens in replies:
        reserved = budget.reserve(REQUEST)
        if reserved is not None:
            bounded = min(prompt_tokens, budget.prompt_tokens(REQUEST))
            budget.settle(reserved, REQUEST, reply(bounded, completion_tokens))
        assert budget.spent_usd + budget.reserved_usd <= cap


def test_without_price_or_cap_everything_goes():
    assert Budget(None, 0.0).reserve(REQUEST) == 0.0
    assert Budget(PRICE, None).reserve(REQUEST) > 0
    assert Budget(PRICE, 0.0).reserve(REQUEST) is None


def asked(stage: str, count: int):
    for number in range(count):
        yield Request("gpt-4o-mini", (("user", f"{stage} {number}: " + "the card has a slot. " * (20 + number)),),
                      max_tokens=300, stage=stage)


def test_the_estimate_comes_from_real_calls_that_are_kept(tmp_path):
    report = Quiet()
    planned = {"questions": 400, "variants": 1200, "judge": 50}
    with mock_server(latency_s=0.02) as server, Ledger(tmp_path / "ledger") as ledger:
        generator = Generator(model="gpt-4o-mini", api_base=server.api_base, max_concurrency=8)
        with Engine(generator, ledger, report) as engine:
            made = estimate(engine, [*asked("questions", 8), *asked("variants", 4)], planned)
        totals = ledger.totals()
        assert server.stats()["calls"] == 12
    assert [(one.stage, one.planned_calls, one.sampled_calls) for one in made] == [
        ("questions", 400, 8), ("variants", 1200, 4)]
    for one in made:
        mean = totals[one.stage].prompt_tokens / one.sampled_calls * one.planned_calls
        assert one.prompt_tokens.low < mean < one.prompt_tokens.high
        cost = totals[one.stage].cost_usd / one.sampled_calls * one.planned_calls
        assert one.cost_usd.low < cost < one.cost_usd.high
    assert report.said == ["estimate: no answer for stage judge, so no figure for its 50 calls"]
    assert len(sentences(made)) == 2 and "$" in sentences(made)[0]


def test_the_estimate_without_a_price_says_so(tmp_path):
    with mock_server() as server, Ledger(tmp_path / "ledger") as ledger:
        generator = Generator(model="openai/mock", api_base=server.api_base)
        request = Request("openai/mock", (("user", "x"),), stage="questions")
        with Engine(generator, ledger) as engine:
            (made,) = estimate(engine, [request], {"questions": 10})
    assert made.cost_usd is None and "cost unknown" in sentences([made])[0]
