"""The closed forms must not score worse than docs/accuracy.md says, and the page must be what the benchmark makes."""

import importlib
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROMISED_MEAN, PROMISED_WORST = 0.01, 0.03
ACHIEVED_MEAN = {
    "development": 0.0006, "drawn": 0.0010, "fresh": 0.0025, "fourth": 0.0007, "fifth": 0.0008, "hold-out": 0.0012,
}  # fmt: skip
"""Of docs/accuracy.md, rounded up: a change that makes the forms worse fails here long before the promise is broken."""


@pytest.fixture(scope="module")
def accuracy():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield importlib.import_module("accuracy")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_closed_forms_against_recorded_traces(accuracy):
    errors = defaultdict(list)
    for case in accuracy.traces():
        errors[case.group].append(abs(case.error))
    assert len(errors["hold-out"]) >= 80 and len(errors["fresh"]) >= 80
    for group, sizes in errors.items():
        assert max(sizes) <= PROMISED_WORST, group
        assert sum(sizes) / len(sizes) <= min(PROMISED_MEAN, ACHIEVED_MEAN[group]), group


def test_slack_shares_are_those_that_the_replays_give(accuracy):
    from replays import EXPANDABLE, by_kind, fitted, replays
    from scores import score

    from compiler.memory.slack import SLACK

    assert fitted(replays()) == SLACK
    _, mean, _, low, _ = score(by_kind()["all"])
    assert mean <= 0.035 and low >= -0.26
    # with the setting that Axolotl asks for the plan is on the safe side
    _, mean, _, low, _ = score(by_kind(EXPANDABLE)["all"])
    assert mean <= 0.055 and low >= -0.06


def test_the_slack_fits_models_that_it_was_not_fitted_on(accuracy):
    from replays import out_of_family
    from scores import score

    assert score(out_of_family())[1] <= 0.04


def test_published_rows(accuracy):
    """What docs/accuracy.md says of the tracer and the planner's overheads, rounded up."""
    from scores import score

    made = accuracy.published()
    count, _, median, low, high = score(made.allocated["all"])
    assert count >= 120 and median <= 0.0005 and -0.012 <= low <= high <= 0.010
    assert score(made.reserved["all"])[1] <= 0.025
    _, mean, _, low, _ = score(made.process["all"])
    assert mean <= 0.03 and low >= -0.10
    _, mean, _, low, _ = score(made.planned_reserved["all"])
    assert mean <= 0.05 and low >= -0.12
    assert score(made.planned_process["all"])[1] <= 0.055
    assert score(made.fused_loss["with one block more"])[3] >= -0.10


def test_the_band_is_that_of_the_readings(accuracy):
    import statistics

    from published import band, band_deviation

    from compiler.memory.overhead import OVERHEADS

    cuda = OVERHEADS["cuda"]
    assert (cuda.bias, cuda.error) == (round(statistics.mean(band()), 3), round(band_deviation(), 3))


def test_the_verdict_is_wrong_no_more_often_than_it_says(accuracy):
    from published import beyond_margin

    over, count = beyond_margin()
    assert count >= 75 and over <= 0.05 * count


def test_the_page_is_what_the_benchmark_makes(accuracy):
    assert accuracy.PAGE.read_text(encoding="utf-8") == accuracy.page()
