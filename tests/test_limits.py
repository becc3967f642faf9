"""Concurrency and pauses, on a clock of our own."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_builder.limits import (
    FAULT,
    OVERLOAD,
    Limiter,
    backoff_seconds,
    rate_limits,
    retry_after_seconds,
    seconds_in,
)


def fill(limiter: Limiter, now: float = 0.0) -> int:
    while limiter.wait_seconds(now) == 0:
        limiter.sent()
    return limiter.in_flight


def test_starts_at_the_ceiling_and_never_passes_it():
    limiter = Limiter(8, 300)
    assert fill(limiter) == 8
    assert limiter.wait_seconds(0) is None
    for now in range(100):
        limiter.answered(now, now - 1, 1.0)
        assert fill(limiter, now) == 8


def test_single_faults_leave_the_limit_alone():
    limiter = Limiter(64, 300)
    fill(limiter)
    for number in range(1000):
        if number % 20 == 0:
            limiter.failed(number, number, FAULT)
        else:
            limiter.answered(number, number, 1.0)
        fill(limiter, number)
    assert limiter.limit == 64


def served(capacity: int, ceiling: int, rounds: int) -> list[int]:
    """Limits after each round against a server that answers 429 to all beyond `capacity`."""
    limiter, limits, now = Limiter(ceiling, 300), [], 0.0
    for _ in range(rounds):
        now += 1
        sent = fill(limiter, now)
        for _ in range(sent - capacity):
            limiter.failed(now + 0.01, now, OVERLOAD)
        for _ in range(min(sent, capacity)):
            limiter.answered(now + 1, now, 1.0)
        limits.append(limiter.limit)
    return limits


@pytest.mark.parametrize("capacity", [1, 5, 20])
def test_finds_the_capacity_of_a_server_that_says_too_many(capacity):
    limits = served(capacity, 64, 200)
    settled = limits[50:]
    assert min(settled) >= max(1, capacity * 0.5)
    assert max(settled) <= capacity + 5 + 0.15 * capacity


@given(st.lists(st.sampled_from(["ok", FAULT, OVERLOAD]), max_size=200))
def test_at_least_one_and_at_most_the_ceiling(outcomes):
    limiter = Limiter(16, 300)
    for now, outcome in enumerate(outcomes):
        limiter.sent()
        if outcome == "ok":
            limiter.answered(now, now, 1.0)
        else:
            limiter.failed(now, now, outcome, 0.5)
        assert 1 <= limiter.limit <= 16
        assert limiter.in_flight == 0


def test_a_slow_server_gets_only_what_it_serves_well_within_the_time_out():
    """Two slots of 10 s each behind a queue: 64 in flight would wait 320 s."""
    limiter, now = Limiter(64, 300), 0.0
    queue = [now] * fill(limiter, now)
    for _ in range(60):
        now += 5
        sent_at = queue.pop(0)
        limiter.answered(now, sent_at, now - sent_at)
        before = limiter.in_flight
        queue += [now] * (fill(limiter, now) - before)
    assert limiter.in_flight * 5 < 300 / 2


def test_a_flood_of_429_pauses_as_told():
    limiter = Limiter(8, 300)
    fill(limiter)
    for _ in range(8):
        limiter.failed(10.0, 10.0, OVERLOAD, retry_after=7.0)
    assert limiter.wait_seconds(10.0) == pytest.approx(7.0)
    assert limiter.wait_seconds(17.0) == 0


def test_requests_per_minute_from_headers():
    limiter = Limiter(64, 300)
    headers = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "2",
               "x-ratelimit-reset-requests": "58s"}
    limiter.headers(0.0, headers)
    for _ in range(2):
        assert limiter.wait_seconds(0.0) == 0
        limiter.sent()
    assert limiter.wait_seconds(0.0) == pytest.approx(1.0)
    assert limiter.wait_seconds(1.0) == 0


def test_tokens_per_minute_from_headers():
    limiter = Limiter(64, 300)
    headers = {"llm_provider-anthropic-ratelimit-tokens-limit": "6000",
               "llm_provider-anthropic-ratelimit-tokens-remaining": "1000",
               "llm_provider-anthropic-ratelimit-tokens-reset": "2026-11-22T00:00:00Z"}
    limiter.headers(0.0, headers)
    assert limiter.wait_seconds(0.0, tokens=900) == 0
    limiter.sent(tokens=900)
    assert limiter.wait_seconds(0.0, tokens=900) == pytest.approx(800 / (5000 / 60))


def test_headers_that_make_no_sense_are_left_out():
    assert rate_limits({"x-ratelimit-limit-requests": "many", "x-ratelimit-remaining-requests": "1"}) == {}
    assert rate_limits({"x-ratelimit-limit-requests": "5", "x-ratelimit-remaining-requests": "9"}) == {}


def test_patience_follows_the_usual_latency():
    limiter = Limiter(64, 300)
    assert limiter.patience_seconds() == 300
    for now in range(60):
        limiter.sent()
        limiter.answered(now, now, 5.0, "pairs")
    assert limiter.patience_seconds(stage="views") == pytest.approx(15.0)
    assert limiter.patience_seconds(tries=2, stage="views") == pytest.approx(30.0)
    assert limiter.patience_seconds(tries=9, stage="views") == 300


def test_patience_is_shorter_where_the_stage_is_known_and_shortest_while_all_wait_for_the_slowest():
    limiter = Limiter(64, 300)
    for now in range(60):
        limiter.sent()
        limiter.answered(now, now, 5.0, "pairs")
        limiter.sent()
        limiter.answered(now, now, 0.1, "judge")
    for _ in range(40):
        limiter.sent()
    assert limiter.patience_seconds(stage="pairs") == pytest.approx(12.5)
    assert limiter.patience_seconds(stage="judge") == 6.0
    for now in range(20):
        limiter.answered(now, now, 5.0, "pairs")
    assert limiter.patience_seconds(stage="pairs") == pytest.approx(8.0)
    assert limiter.patience_seconds(stage="judge") == 3.0
    assert limiter.patience_seconds(tries=2, stage="pairs") == pytest.approx(16.0)
    assert limiter.patience_seconds(stage="views") == pytest.approx(15.0)  # none of them is known yet


def test_retry_after_as_number_date_and_milliseconds():
    assert retry_after_seconds({"Retry-After": "3"}, 0) == 3
    assert retry_after_seconds({"retry-after-ms": "250"}, 0) == 0.25
    assert retry_after_seconds({"Retry-After": "Thu, 01 Jan 1970 00:00:10 GMT"}, 4.0) == 6.0
    assert retry_after_seconds({"Retry-After": "soon"}, 0) is None
    assert retry_after_seconds({}, 0) is None
    assert seconds_in("1m30s") == 90


@given(st.integers(1, 60), st.none() | st.floats(0, 100), st.integers(0, 9))
def test_backoff_grows_is_bounded_and_heeds_the_server(tries, told, seed):
    seconds = backoff_seconds(tries, told, random.Random(seed))
    base = told if told is not None else min(30.0, 0.5 * 2 ** (tries - 1))
    assert base <= seconds <= 1.5 * base
