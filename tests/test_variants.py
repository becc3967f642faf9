"""Variants: views that keep the fact, held-out wordings, exact totals, and honest "not in the documentation" rows."""

import json
import re
from collections import Counter
from dataclasses import replace

import pytest

from dataset_builder import variants, views
from dataset_builder.chunks import chunk
from dataset_builder.facts import facts
from dataset_builder.materials import document
from dataset_builder.rows import Grounded, Pair, digest
from dataset_builder.split import Split, check, same

PAGE = "# Quay server\n\n" + "\n\n".join(
    f"## Part {chr(65 + number)}\n\nThe option `--flag-{chr(97 + number)}` sets the size of the {thing} cache to "
    f"{3 + number} entries "
    f"by default.\n\nA {thing} is a small table of uploads that the server keeps for {20 + number} days."
    for number, thing in enumerate(("blob", "token", "layer", "mirror", "index", "digest"))
)
CHUNKS = chunk(document("quay.md", "Quay server", PAGE), 120)


def grounded() -> list[Grounded]:
    found = []
    for one in CHUNKS:
        for fact in facts(one):
            if fact.question:
                quote = one.text[fact.start : fact.end]
                name = digest(fact.question, fact.answer, one.id)
                pair = Pair(name, one.id, fact.question, fact.answer, quote, fact.start, fact.end, fact.kind)
                found.append(Grounded(pair, one, "template", (), fact.subject))
    return found


PAIRS = tuple(grounded())
KNOWN = views.corpus(CHUNKS)


def made(total: int, absent: float = 0.0, recall: int = 0, by_model=None) -> variants.Rows:
    chosen = frozenset(one.pair.id for one in PAIRS[:recall])
    wordings = variants.Wordings(PAIRS, KNOWN)
    for one in PAIRS:
        wordings.of(one, (by_model or {}).get(one.pair.id, ()))
    return variants.rows(Split(PAIRS, (), chosen), KNOWN, total, absent, None, wordings)


def test_there_is_something_to_vary():
    assert len(PAIRS) >= 12


def test_the_total_is_exact_and_every_fact_has_its_share():
    found = made(4 * len(PAIRS))
    assert len(found.train) == 4 * len(PAIRS) and found.missing == 0
    assert set(Counter(row.parent for row in found.train).values()) == {4}


def test_the_first_row_of_a_fact_is_the_pair_itself():
    found = made(4 * len(PAIRS))
    assert {row.id for row in found.train if row.view == "direct"} == {one.pair.id for one in PAIRS}


def test_a_fact_is_seen_from_at_least_three_sides():
    by_parent: dict[str, set[str]] = {}
    for row in made(4 * len(PAIRS)).train:
        by_parent.setdefault(row.parent, set()).add(row.view)
    assert all(len(sides) >= 3 for sides in by_parent.values())


def test_what_cannot_be_reached_is_counted():
    found = made(10_000)
    assert found.missing == 10_000 - len(found.train) > 0


def test_held_out_wordings_are_never_trained():
    found = made(6 * len(PAIRS), recall=6)
    assert len(found.recall) == 6
    check(found.train, found.recall, ())
    assert not {same(row.instruction) for row in found.recall} & {same(row.instruction) for row in found.train}


def test_every_answer_keeps_the_figures_of_its_fact():
    answers = {one.pair.id: one.pair.answer for one in PAIRS}
    for row in made(6 * len(PAIRS)).train:
        if row.view not in {"reversed", "not-in-docs"}:
            assert set(re.findall(r"\d+", answers[row.parent])) <= set(re.findall(r"\d+", row.output))


def test_false_statements_are_false_and_corrected():
    answers = {one.pair.id: one.pair.answer for one in PAIRS}
    rows = [row for row in made(8 * len(PAIRS)).train if row.view == "true-false"]
    verdicts = Counter(row.output.split(".")[0] for row in rows)
    assert set(verdicts) == {"True", "False"}
    for row in rows:
        claim = row.instruction.removeprefix("True or false? ")
        assert (claim == answers[row.parent]) == row.output.startswith("True.")
        assert row.output.endswith(answers[row.parent])


def test_questions_about_absent_names_say_so():
    found = made(5 * len(PAIRS), absent=0.1)
    absent = [row for row in found.train if row.view == "not-in-docs"]
    assert len(absent) == round(0.1 * 5 * len(PAIRS))
    for row in absent:
        name = re.search(r"`([^`]+)`", row.instruction)[1]
        assert name not in PAGE and f"does not mention `{name}`" in row.output
        assert re.search(r"It does describe `([^`]+)`", row.output)[1] in PAGE


def test_absent_names_keep_their_share_where_rows_run_out():
    found = made(10_000, absent=0.1)
    absent = [row for row in found.train if row.view == "not-in-docs"]
    assert 0 < len(absent) <= round(0.1 * len(found.train)) < 1000


def test_equal_input_gives_equal_rows_whatever_the_order():
    parts = Split(PAIRS, (), frozenset())
    again = Split(tuple(reversed(PAIRS)), (), frozenset())
    one = variants.rows(parts, KNOWN, 50, 0.05, None)
    other = variants.rows(again, KNOWN, 50, 0.05, None)
    assert sorted(row.id for row in one.train) == sorted(row.id for row in other.train)


def test_a_system_prompt_stands_in_front():
    messages = json.loads(variants.chat("Q?", "A.", "You know Quay."))
    assert [turn["role"] for turn in messages] == ["system", "user", "assistant"]


@pytest.mark.parametrize(
    ("view", "why"),
    [
        (("reworded", "What does `--flag-a` set?", "`--flag-a` sets the blob cache to 4 entries by default."), "4"),
        (("reworded", "What sets the blob cache?", "It is set to 3 entries by default."), "lost what the parent asks"),
        (("reworded", "What does `--flag-a` set?", "`--flag-a` sets the size of the blob cache."), "lost a figure"),
        (("reworded", "What does `--flag-a` set in Docker 27?", "`--flag-a` sets 3 entries."), "does not: 27"),
        (("reworded", "What does `--flag-a` set?", " "), "empty"),
    ],
)
def test_drift_is_dropped_with_its_reason(view, why):
    parent = next(one for one in PAIRS if "`--flag-a`" in one.pair.question)
    assert why in (variants.drift(parent, view) or "").lower()


def test_a_row_that_two_pairs_would_make_costs_none_of_the_total():
    first, second = PAIRS[0], PAIRS[1]
    same_view = ("reworded", first.pair.question, first.pair.answer)
    parts = Split((first, replace(second, pair=replace(second.pair, question=same_view[1], answer=same_view[2]))), (),
                  frozenset())  # fmt: skip
    found = variants.rows(parts, KNOWN, 4, 0.0, None)
    assert (len(found.train), found.missing) == (4, 0)


def test_a_view_that_a_model_writes_under_two_names_costs_none_of_the_total():
    parent = next(one for one in PAIRS if "`--flag-a`" in one.pair.question)
    twice = [(name, "What now, `--flag-a`?", "Yes: `--flag-a` sets it, 3 entries.") for name in ("symptom", "how-to")]
    found = made(4 * len(PAIRS), by_model={parent.pair.id: twice})
    assert len(found.train) == 4 * len(PAIRS) and found.missing == 0
    assert sum(row.instruction == twice[0][1] for row in found.train) == 1


def test_views_of_a_model_come_first_and_are_checked():
    parent = next(one for one in PAIRS if "`--flag-a`" in one.pair.question)
    good = ("symptom", "My blob cache is too small. What now, `--flag-a`?", "Yes: `--flag-a` sets it, 3 entries.")
    bad = ("novice", "What about `--flag-a`?", "`--flag-a` sets 77 entries.")
    baked = ("how-to", "How do I bake with `--flag-a`?", "Mix flour, 3 eggs and sugar, and bake them slowly.")
    denied = ("how-to", "How do I set it by `--flag-a`?", "`--flag-a` does not set the blob cache to 3 entries.")
    found = made(2 * len(PAIRS), by_model={parent.pair.id: [good, bad, baked, denied]})
    assert good[1] in {row.instruction for row in found.train}
    reasons = " ".join(one.reason for one in found.dropped)
    assert "77" in reasons and "not about its quote" in reasons and "denies" in reasons


def test_a_pair_without_a_wording_to_spare_is_replaced(monkeypatch):
    bare, question = PAIRS[0].pair.id, PAIRS[0].pair.question
    real = variants._spare
    monkeypatch.setattr(variants, "_spare", lambda found: None if found[0][1] == question else real(found))
    parts = Split(PAIRS, (), frozenset([bare]), tuple(one.pair.id for one in PAIRS[1:]))
    (held,) = variants.rows(parts, KNOWN, 40, 0.0, None).recall
    assert held.parent == PAIRS[1].pair.id


OPTIONS = chunk(
    document(
        "opts.md",
        "Options",
        "# Quay server\n\n## Options\n\n- `--ttl`: sets how long a blob is kept, 20 days by default.\n"
        "- `--grace`: sets how long a deleted blob stays readable, 3 hours by default.\n"
        "- `--limit`: sets how many blobs a project may hold.\n",
    ),
    400,
)


def options() -> list[Grounded]:
    return [
        Grounded(
            Pair(digest(fact.question, fact.answer, one.id), one.id, fact.question, fact.answer,
                 one.text[fact.start : fact.end], fact.start, fact.end, fact.kind), one, "template", (), fact.subject)
        for one in OPTIONS for fact in facts(one) if fact.question
    ]  # fmt: skip


def test_neighbours_are_compared_once_with_both_sentences():
    pairs = tuple(options())
    assert len(pairs) == 3
    for order in (pairs, pairs[::-1]):
        found = variants.rows(Split(order, (), frozenset()), views.corpus(OPTIONS), 60, 0.0, None)
        compared = sorted(row.instruction for row in found.train if row.view == "comparison")
        assert compared == ["How do `--grace` and `--limit` differ?", "How do `--ttl` and `--grace` differ?"]
        answer = next(row.output for row in found.train if row.instruction == compared[1])
        assert answer == (
            "`--ttl` sets how long a blob is kept, 20 days by default. "
            "`--grace` sets how long a deleted blob stays readable, 3 hours by default."
        )


def test_a_comparison_of_other_figures_drifts():
    one, other, _ = options()
    good = ("comparison", "How do `--ttl` and `--grace` differ?", f"{one.pair.answer} {other.pair.answer}")
    assert variants.drift(one, good, other) is None
    assert "does not: 4" in variants.drift(one, (*good[:2], good[2].replace("3 hours", "4 hours")), other)
    assert "lost a figure" in variants.drift(one, (*good[:2], other.pair.answer), other)


def test_a_beginner_is_told_where_it_stands():
    rows = [row for row in made(10 * len(PAIRS)).train if row.view == "novice"]
    assert rows
    answers = {one.pair.id: one.pair.answer for one in PAIRS}
    for row in rows:
        heading = row.section.split(" > ")[-1]
        assert row.output == f'{answers[row.parent]} The documentation says so under "{heading}".'
