"""Duplicates: what goes, what stays, whatever the order."""

import importlib.util
import random
from pathlib import Path

from dataset_builder.duplicates import Item, duplicates

_PATH = Path(__file__).parents[1] / "benchmarks" / "duplicates.py"
_SPEC = importlib.util.spec_from_file_location("duplicates_benchmark", _PATH)
benchmark = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(benchmark)


def item(name: str, text: str, start: int = 0, end: int = 50, place: str = "doc", rank: int = 0) -> Item:
    return Item(name, text, place, start, end, rank)


def test_a_rewording_of_the_same_evidence_goes():
    one = item("a", "What is the default value of `lora_r`?")
    assert duplicates([one, item("b", "Which value does `lora_r` have by default?")]) == {"b": "a"}


def test_one_other_identifier_is_another_fact():
    one = item("a", "What is the default of `lora_r`?")
    assert duplicates([one, item("b", "What is the default of `lora_alpha`?")]) == {}


def test_one_other_number_is_another_fact():
    one = item("a", "Which driver does oneAPI 2024.1 need?")
    assert duplicates([one, item("b", "Which driver does oneAPI 2024.2 need?")]) == {}


def test_the_same_question_of_other_evidence_stays():
    one = item("a", "How do I install the driver?", 0, 50)
    assert duplicates([one, item("b", "How do I install the driver?", 60, 90)]) == {}
    assert duplicates([one, item("b", "How do I install the driver?", place="other")]) == {}


def test_the_better_rank_is_kept():
    one = item("a", "How do I install the driver?", rank=1)
    assert duplicates([one, item("b", "how can I install a driver?")]) == {"a": "b"}


def test_order_does_not_matter():
    items, _ = benchmark.sample(3000, seed=3)
    expected = duplicates(items)
    assert expected
    for seed in range(3):
        shuffled = items[:]
        random.Random(seed).shuffle(shuffled)
        assert duplicates(shuffled) == expected


def test_templated_questions_that_differ_in_one_identifier():
    items, fact_of = benchmark.sample(10_000, seed=1)
    recall, precision = benchmark.score(items, fact_of, duplicates(items))
    assert recall >= 0.95 and precision >= 0.95


def test_the_index_finds_what_comparing_all_finds(monkeypatch):
    """One large block: the prefix filter may propose less, but never miss."""
    chance = random.Random(5)
    vocabulary = [f"word{chr(97 + i)}{chr(97 + j)}" for i in range(8) for j in range(8)]
    items = [item(f"{i:04d}", " ".join(chance.sample(vocabulary, 3)) + "?") for i in range(600)]
    monkeypatch.setattr("dataset_builder.duplicates.SPELLED_NEAR", 101.0)
    with_index = duplicates(items)
    monkeypatch.setattr("dataset_builder.duplicates.SMALL_BLOCK", 10_000)
    assert with_index and with_index == duplicates(items)
