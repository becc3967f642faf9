"""The split: whole families on one side, the same for any order, and a check that cannot be fooled."""

import random

import pytest

from dataset_builder.problems import BuildProblem
from dataset_builder.rows import Chunk, Grounded, Pair
from dataset_builder.split import check, section_of, split
from dataset_builder.variants import row


def grounded(number: int, section: str, quote: str | None = None, question: str | None = None) -> Grounded:
    chunk = Chunk(f"c{section}", "d", "doc.md", "Doc", ("Doc", section), section.lower(), "text", 0, 4, 1)
    question = question or f"What does `option_{number}` do?"
    quote = quote or f"`option_{number}` sets the size {number} of it."
    return Grounded(Pair(f"{number:04x}", chunk.id, question, f"It sets {number}.", quote, 0, 4), chunk)


PAIRS = [grounded(number, f"Section {number // 4}") for number in range(80)]


def test_sections_are_held_out_whole():
    parts = split(PAIRS, 8, 0.1, 0)
    held, trained = {section_of(one) for one in parts.transfer}, {section_of(one) for one in parts.train}
    assert len(held) == 2 and not held & trained
    assert len(parts.train) + len(parts.transfer) == len(PAIRS)
    assert len(parts.recall) == 8 and parts.recall <= {one.pair.id for one in parts.train}


def test_order_does_not_matter_and_the_seed_does():
    shuffled = PAIRS[:]
    random.Random(1).shuffle(shuffled)
    assert split(shuffled, 8, 0.1, 0) == split(PAIRS, 8, 0.1, 0)
    assert split(PAIRS, 8, 0.1, 1) != split(PAIRS, 8, 0.1, 0)


def test_sections_that_share_a_quote_are_one_family():
    """A README repeats a sentence of the guide: never one of them trained and the other held out."""
    twins = [grounded(900 + i, f"Twin {i}", quote="The same sentence stands in both.") for i in range(2)]
    for seed in range(40):
        parts = split([*PAIRS, *twins], 0, 0.3, seed)
        sides = {one.pair.id in {held.pair.id for held in parts.transfer} for one in twins}
        assert len(sides) == 1


def test_nothing_is_held_out_where_nothing_is_asked_for():
    assert split(PAIRS, 0, 0.0, 0).transfer == ()


def direct(one: Grounded):
    return row(one, ("direct", one.pair.question, one.pair.answer), None)


def test_the_check_passes_a_clean_split():
    parts = split(PAIRS, 0, 0.1, 0)
    check([direct(one) for one in parts.train], [], [direct(one) for one in parts.transfer])


@pytest.mark.parametrize("wording", ["What does `option_1` do?", "what does option_1 do"])
def test_a_held_out_wording_that_is_trained_is_found(wording):
    train = [direct(PAIRS[1])]
    held = row(PAIRS[1], ("reworded", wording, PAIRS[1].pair.answer), None)
    with pytest.raises(BuildProblem, match="trained as well"):
        check(train, [held], [])


def test_a_recall_question_about_an_untrained_fact_is_found():
    with pytest.raises(BuildProblem, match="not trained at all"):
        check([direct(PAIRS[1])], [direct(PAIRS[2])], [])


def test_a_transfer_question_of_a_trained_section_or_quote_is_found():
    with pytest.raises(BuildProblem, match="section or its quote"):
        check([direct(PAIRS[0])], [], [direct(PAIRS[1])])
    twin = grounded(7, "Elsewhere", quote=PAIRS[0].pair.quote)
    with pytest.raises(BuildProblem, match="section or its quote"):
        check([direct(PAIRS[0])], [], [direct(twin)])
