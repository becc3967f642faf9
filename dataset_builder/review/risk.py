"""Where a reader's time pays: what code knows of a pair that makes it more likely to be wrong or poor.

A pair's risk is the sum of the points of the reasons that hold for it, at most 100; the queue is read from the top.
The points order a queue and claim no probability. What they lean on: half of the faults that we found by reading
(docs/real-run.md) were thin or hanging sentences and template questions, and small models say what their quote does
not. Checks that a pair has failed are no reasons here: such a pair is not in the dataset at all.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from dataset_builder.identifiers import exact_words, words
from dataset_builder.pairs import CLAIMS
from dataset_builder.review.records import Record
from dataset_builder.wording import YES_NO, content_stems, grounds

THIN_QUOTE, FOREIGN_WORDS = 0.6, 1 / 3
"""Share of the answer's content words in its quote below which, and of the question's outside the passage from which,
a reader is told."""
SHORT_QUOTE_CHARS, SHORT_QUOTE_WORDS, LONG_ANSWER_CHARS, NEW_WORDS = 40, 6, 600, 4
_MARKS = re.compile(r"[*`|#>\[\]]+")
_HANGING = re.compile(
    r"(?i)^(?:it|this|that|these|those|they|he|she|here|there|however|also|additionally|moreover|then|therefore|"
    r"otherwise|and|but|or|so|in this case|as such|for example|for instance)\b"
)


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that holds for a pair."""

    name: str
    """As in the page's filter."""
    points: int
    text: str
    """For the reader."""


@dataclass(frozen=True, slots=True)
class Near:
    """Other pairs that a pair may repeat, by key."""

    question: Mapping[str, Record]
    """In the same passage, about an overlapping quote, with at least half of the question's content words."""
    answer: Mapping[str, Record]
    """Somewhere else, with the same answer."""


def _judge(one: Record, _: Near) -> str | None:
    return f"The judge calls it {one.judge.rstrip('.')}." if one.judge.startswith("bad") else None


def _silent(one: Record, _: Near) -> str | None:
    return "The judge gave no verdict." if one.judge == "none" else None


def _picked(one: Record, _: Near) -> str | None:
    return "The model's own quote is not in the text; code picked this one." if one.found.proof == "picked" else None


def _near_quote(one: Record, _: Near) -> str | None:
    return "The model's quote differs from the text in a few letters." if one.found.proof == "near" else None


@lru_cache(maxsize=1 << 15)
def _stems(text: str) -> frozenset[str]:
    """Content words without Markdown's marks. Kept: an answer is often its quote."""
    return frozenset(content_stems(_MARKS.sub(" ", text)))


def _thin_quote(one: Record, _: Near) -> str | None:
    said = _stems(one.found.pair.answer)
    shared = said & _stems(one.found.pair.quote)
    few = said and len(shared) < THIN_QUOTE * len(said)
    return f"{100 * len(shared) // len(said)} % of the answer's content words stand in the quote." if few else None


def _hanging(one: Record, _: Near) -> str | None:
    match = _HANGING.match(_MARKS.sub(" ", one.found.pair.answer).strip())
    return f"The answer begins as if something stood before it: “{match[0]}”." if match else None


def _thin_answer(one: Record, _: Near) -> str | None:
    pair = one.found.pair
    new = _stems(pair.answer) - _stems(pair.question)
    new |= exact_words(pair.answer) - exact_words(pair.question)
    return "The answer adds little to its question." if len(new) < NEW_WORDS else None


def _foreign(one: Record, _: Near) -> str | None:
    if not one.found.chunk.id:
        return None
    asked, text = _stems(one.found.pair.question), grounds(one.found.chunk).casefold()
    foreign = {stem for stem in asked if stem not in text}
    if not asked or len(foreign) < FOREIGN_WORDS * len(asked):
        return None
    named = [word for word in words(one.found.pair.question) if _stems(word) & foreign]
    return "Words of the question that the passage does not use: " + ", ".join(dict.fromkeys(named)) + "."


def _short_quote(one: Record, _: Near) -> str | None:
    quote = one.found.pair.quote
    short = len(quote) < SHORT_QUOTE_CHARS or len(quote.split()) < SHORT_QUOTE_WORDS
    return "The quote is short." if short else None


def _template(one: Record, _: Near) -> str | None:
    return "A template worded the question, no model." if one.found.worded_by == "template" else None


def _worded(one: Record, _: Near) -> str | None:
    weak = one.found.proof == "own" and one.found.worded_by == "model"
    return "The model only worded the question; code picked the sentence." if weak else None


def _near_question(one: Record, near: Near) -> str | None:
    other = near.question.get(one.key)
    return f"Asks nearly what another pair asks: “{other.found.pair.question}”" if other else None


def _same_answer(one: Record, near: Near) -> str | None:
    other = near.answer.get(one.key)
    return f"Another pair has the same answer: “{other.found.pair.question}”" if other else None


def _figures(one: Record, _: Near) -> str | None:
    found = sorted(word for word in exact_words(one.found.pair.answer) if re.search(r"\d", word))
    return f"Figures to compare: {', '.join(found[:6])}{' …' if len(found) > 6 else ''}" if found else None


def _code(one: Record, _: Near) -> str | None:
    return "The answer holds a code block." if "```" in one.found.pair.answer else None


def _claims(one: Record, _: Near) -> str | None:
    found = sorted(set(CLAIMS.findall(one.found.pair.answer.casefold())))
    return f"The answer claims much: {', '.join(found)}." if found else None


def _yes_no(one: Record, _: Near) -> str | None:
    return "The question can be answered by yes or no." if YES_NO.match(one.found.pair.question) else None


def _long(one: Record, _: Near) -> str | None:
    return "The answer is long." if len(one.found.pair.answer) > LONG_ANSWER_CHARS else None


REASONS: tuple[tuple[str, int, Callable[[Record, Near], str | None]], ...] = (
    ("judge: bad", 50, _judge), ("judge: silent", 15, _silent),
    ("quote picked by code", 30, _picked), ("quote not exact", 20, _near_quote),
    ("quote covers little", 25, _thin_quote), ("quote short", 10, _short_quote),
    ("answer hangs", 20, _hanging), ("answer thin", 15, _thin_answer), ("answer long", 5, _long),
    ("words from elsewhere", 15, _foreign), ("yes or no", 5, _yes_no),
    ("template question", 10, _template), ("wording only", 10, _worded),
    ("near another pair", 15, _near_question), ("same answer", 15, _same_answer),
    ("figures", 10, _figures), ("code", 10, _code), ("claims", 10, _claims),
)  # fmt: skip
"""Name, points, and the sentence for the reader where it holds."""


def reasons(one: Record, near: Near) -> tuple[Reason, ...]:
    """Why a pair should be read soon, weightiest first."""
    found = [Reason(name, points, text) for name, points, holds in REASONS if (text := holds(one, near))]
    return tuple(sorted(found, key=lambda reason: -reason.points))


def risk(found: Sequence[Reason]) -> int:
    """0 to 100."""
    return min(100, sum(reason.points for reason in found))


def near(records: Sequence[Record]) -> Near:
    """Neighbours of all records; only pairs of one passage, or with one answer, ever meet."""
    passages: dict[str, list[Record]] = defaultdict(list)
    answers: dict[str, list[Record]] = defaultdict(list)
    for one in records:
        passages[one.found.chunk.id or one.key].append(one)
        answers[" ".join(one.found.pair.answer.casefold().split())].append(one)
    asked = {one.key: _stems(one.found.pair.question) for one in records}
    question: dict[str, Record] = {}
    for mine in passages.values():
        for place, one in enumerate(mine):
            for other in mine[:place]:
                if _overlap(one, other) and _alike(asked[one.key], asked[other.key]):
                    question.setdefault(one.key, other)
                    question.setdefault(other.key, one)
    same = {one.key: mine[0] if mine[0] is not one else mine[1] for mine in answers.values() if len(mine) > 1
            for one in mine}  # fmt: skip
    return Near(question, {key: other for key, other in same.items() if question.get(key) is not other})


def _overlap(one: Record, other: Record) -> bool:
    return (one.found.pair.quote_start < other.found.pair.quote_end
            and other.found.pair.quote_start < one.found.pair.quote_end)  # fmt: skip


def _alike(one: frozenset[str], other: frozenset[str]) -> bool:
    shared = len(one & other)
    return shared > 0 and 2 * shared >= len(one | other)
