"""Answer first: code picks a fact as the answer, a weak model only words the question, code checks the wording.

A 135M model asked for JSON pairs answers `"question": "1"`; given one sentence and two examples it often writes a
usable question. What it
writes is used only if it asks for what the sentence says, in the sentence's own words; otherwise the template's
wording is, and is counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from dataset_builder import prompting
from dataset_builder.engine import Engine
from dataset_builder.evidence import answer_problem
from dataset_builder.facts import Fact, topic
from dataset_builder.fluent import fluent_problem, placed
from dataset_builder.ledger import Reply, Request
from dataset_builder.rows import Chunk, Dropped, Grounded, Pair, digest
from dataset_builder.runner import HERE, Runner
from dataset_builder.spec import Generator
from dataset_builder.wording import grounds, template_problem, wording_problem

TRIES = 2
"""Of wording a fact that no template fits; with a template one try is enough."""
MAX_QUESTION_TOKENS = 48


TELL_EVERY = 32
"""Answers after which what follows is foreseen anew."""
Then = Callable[[int, int], Sequence[tuple[Fact, Chunk]]]


@dataclass(frozen=True, slots=True)
class Wording:
    """A fact with its chunk, and which try at a question this is (from 0)."""

    fact: Fact
    chunk: Chunk
    attempt: int = 0


def request(wording: Wording, generator: Generator) -> Request:
    """What the model is asked: to word one question for one sentence. The second try is reminded of what most
    first ones fail by, is warmer and has another seed."""
    fact, chunk = wording.fact, wording.chunk
    sentence = " ".join(fact.answer.split())[:400]
    subject = fact.subject if fact.subject.casefold() in fact.answer.casefold() else topic(chunk) or fact.subject
    again = " Use the words of the sentence." if wording.attempt else ""
    return Request(
        model=generator.model,
        messages=prompting.messages("question", sentence=sentence, subject=subject[:80], again=again),
        max_tokens=MAX_QUESTION_TOKENS,
        temperature=0.0 if wording.attempt == 0 else 0.5,
        seed=generator.seed + wording.attempt,
        stage="questions",
        about=wording,
    )


def word(
    engine: Engine, wanted: Sequence[tuple[Fact, Chunk]], by_model: bool = False, then: Then | None = None,
    on: Runner = HERE,
) -> tuple[list[Grounded], list[Dropped]]:  # fmt: skip
    """A grounded pair for every fact for which a good question was found, in the order given, and what was dropped
    and why. `by_model`: the model words well; it is held to `fluent`, and where both wordings pass, its own is the
    question and the template's the second voice. `then`: given how many facts have a question after how many answers,
    what will be worded after these."""
    questions: dict[int, list[str]] = {place: [] for place in range(len(wanted))}
    reasons: dict[int, str] = {}
    for attempt in range(TRIES):
        open_places = [
            place
            for place, (fact, _) in enumerate(wanted)
            if not questions[place] and (attempt == 0 or not fact.question)
        ]
        asked = {(wanted[place][0], wanted[place][1].id): place for place in open_places}
        requests = (request(Wording(*wanted[place], attempt), engine.generator) for place in open_places)
        worded = 0
        run = engine.run(requests, lambda reply: first_line(reply.text), total=len(open_places))
        replies = ((one.request.about, one.value or "", one.problem) for one in run)
        for answers, (about, question, problem) in enumerate(on.map(partial(heard, by_model=by_model), replies), 1):
            place = asked[about.fact, about.chunk.id]
            if problem is None:
                questions[place].append(question)
            else:
                reasons[place] = f"{problem}: {question!r}" if question else problem
            fact, chunk = wanted[place]
            worded += bool(questions[place] or fact.question)
            if problem is not None and not fact.question and attempt + 1 < TRIES:
                engine.foresee([request(Wording(fact, chunk, attempt + 1), engine.generator)])
            if then is not None and attempt == 0 and answers % TELL_EVERY == 0:
                coming = then(worded, answers)
                engine.foresee([request(Wording(*one), engine.generator) for one in coming])
    rows = ((*wanted[place], tuple(questions[place]), reasons.get(place, ""), by_model) for place in range(len(wanted)))
    made = list(on.map(grounded, rows))
    return [one for one in made if isinstance(one, Grounded)], [one for one in made if isinstance(one, Dropped)]


def heard(reply: tuple[Wording, str, str | None], by_model: bool) -> tuple[Wording, str, str | None]:
    """(wording, question, why it cannot be used) of one reply: a function over rows."""
    wording, question, problem = reply
    judged = fluent_problem if by_model else wording_problem
    problem = problem or judged(question, wording.fact, wording.chunk)
    return wording, placed(question, wording.chunk) if by_model and problem is None else question, problem


def grounded(row: tuple[Fact, Chunk, tuple[str, ...], str, bool]) -> Grounded | Dropped:
    """The pair of one fact out of (fact, chunk, the model's questions, why there is none, whether those go first), or
    why there is none: a function over rows."""
    fact, chunk, by_model, reason, prefer_model = row
    template = fact.question if fact.question and template_problem(fact, chunk) is None else ""
    where = {"source": chunk.origin, "section": chunk.section}
    if not by_model and not template:
        why = reason or "no question: the template's wording fails its checks"
        return Dropped("questions", why, {"answer": fact.answer, **where})
    # A template names its subject in full grammar, which a very small model's wording that passed may still not.
    question = by_model[0] if by_model and (prefer_model or not template) else template
    others = tuple(other for other in dict.fromkeys([*by_model, template]) if other and other != question)
    problem = answer_problem(question, fact.answer, grounds(chunk))
    if problem is not None:
        return Dropped("evidence", problem, {"question": question, "answer": fact.answer, **where})
    pair = Pair(
        id=digest(question, fact.answer, chunk.id),
        chunk_id=chunk.id,
        question=question,
        answer=fact.answer,
        quote=chunk.text[fact.start : fact.end],
        quote_start=fact.start,
        quote_end=fact.end,
        kind=fact.kind,
    )
    return Grounded(pair, chunk, "template" if question == template else "model", others, fact.subject, "own")


def first_line(text: str) -> str:
    """The question in a reply: its first line, up to its first question mark, without a label before it."""
    from dataset_builder.replies import without_thoughts

    line = next((line.strip() for line in without_thoughts(text).splitlines() if line.strip()), "")
    line = re.sub(r"^(?:\*\*)?(?:Question|Q)\s*\d*\s*[:.]\s*(?:\*\*)?\s*", "", line).strip('"* ')
    return line[: line.index("?") + 1] if "?" in line else line


def parse_text(reply: Reply) -> str:
    """The question in a reply, for an estimate's sample."""
    return first_line(reply.text)
