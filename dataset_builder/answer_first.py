"""Answer first: code picks a fact as the answer, a weak model only words the question, code checks the wording.

A 135M model asked for JSON pairs answers `"question": "1"`; given one sentence and two examples it often writes a
usable question. What it
writes is used only if it asks for what the sentence says, in the sentence's own words; otherwise the template's
wording is, and is counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dataset_builder import prompting
from dataset_builder.engine import Engine
from dataset_builder.evidence import answer_problem, question_problem
from dataset_builder.facts import Fact, topic
from dataset_builder.identifiers import exact_words, missing_words, words
from dataset_builder.ledger import Reply, Request
from dataset_builder.rows import Chunk, Dropped, Grounded, Pair, digest
from dataset_builder.spec import Generator

TRIES = 2
"""Of wording a fact that no template fits; with a template one try is enough."""
MAX_QUESTION_TOKENS = 48
_ASKING = frozenset(
    [
        "what", "which", "how", "when", "where", "why", "who", "whom", "does", "do", "did", "is", "are", "was",
        "were", "can", "could", "should", "would", "will", "may", "might", "has", "have", "had", "i", "my", "me",
        "you", "your", "the", "a", "an", "of", "to", "in", "on", "at", "for", "from", "by", "with", "as", "if", "it",
        "its", "this", "that", "be", "been", "being", "and", "or", "not", "than", "then", "there", "their", "they",
        "use", "used", "using", "value", "default", "purpose", "happen", "happens", "need", "needs", "mean", "means",
        "effect", "affect", "option", "setting", "command", "way", "difference", "get", "make", "one", "work",
        "works", "kind", "type", "name", "called", "many", "much", "long", "often", "call", "into", "first", "new",
        "also", "only", "about", "main", "set", "given", "supported", "possible", "best"
    ]
)
_YES_NO = re.compile(r"(?i)^(?:is|are|was|were|do|does|did|can|could|should|will|would|has|have|may|must)\b")
_WHY = re.compile(
    r"(?i)\b(?:because|since|so that|so|due to|to|avoid|for|as|in order|therefore|reason|otherwise|if|which|"
    r"allow\w*|enabl\w*|faster)\b"
)
_WHEN = re.compile(r"(?i)\b(?:when|if|after|before|once|until|during|while|on|at|each|every|since|from|as soon)\b|\d")
_WHERE = re.compile(r"(?i)\b(?:in|on|at|under|from|into|inside|within|below|beside|to)\b|/")
_HOW = re.compile(
    r"(?i)\b(?:by|with|using|via|use|run|set|through|add|install|pass|call|select|choose|click|execute|export|"
    r"import|make|can|"
    r"need|should|must|see|open|enable|disable|start|type|check|launch|download|build|create|specify|change|edit|"
    r"follow)\w*\b"
)


@dataclass(frozen=True, slots=True)
class Wording:
    """A fact with its chunk, and which try at a question this is (from 0)."""

    fact: Fact
    chunk: Chunk
    attempt: int = 0


def request(wording: Wording, generator: Generator) -> Request:
    """What the model is asked: to word one question for one sentence. The second try is warmer and has another seed."""
    fact, chunk = wording.fact, wording.chunk
    sentence = " ".join(fact.answer.split())[:400]
    subject = fact.subject if fact.subject.casefold() in fact.answer.casefold() else topic(chunk) or fact.subject
    return Request(
        model=generator.model,
        messages=prompting.messages("question", sentence=sentence, subject=subject[:80]),
        max_tokens=MAX_QUESTION_TOKENS,
        temperature=0.0 if wording.attempt == 0 else 0.5,
        seed=generator.seed + wording.attempt,
        stage="questions",
        about=wording,
    )


def word(engine: Engine, wanted: Sequence[tuple[Fact, Chunk]]) -> tuple[list[Grounded], list[Dropped]]:
    """A grounded pair for every fact for which a good question was found, in the order given, and what was dropped
    and why."""
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
        for outcome in engine.run(requests, lambda reply: first_line(reply.text), total=len(open_places)):
            about: Wording = outcome.request.about
            place = asked[about.fact, about.chunk.id]
            problem = outcome.problem or wording_problem(outcome.value, about.fact, about.chunk)
            if problem is None:
                questions[place].append(outcome.value)
            else:
                reasons[place] = f"{problem}: {outcome.value!r}" if outcome.value else problem
    return _grounded(wanted, questions, reasons)


def _grounded(
    wanted: Sequence[tuple[Fact, Chunk]],
    questions: dict[int, list[str]],
    reasons: dict[int, str],
) -> tuple[list[Grounded], list[Dropped]]:
    done: list[Grounded] = []
    dropped: list[Dropped] = []
    for place, (fact, chunk) in enumerate(wanted):
        template = fact.question if fact.question and template_problem(fact, chunk) is None else ""
        by_model = questions[place]
        if not by_model and not template:
            why = reasons.get(place) or "no question: the template's wording fails its checks"
            dropped.append(
                Dropped("questions", why, {"answer": fact.answer, "source": chunk.origin, "section": chunk.section})
            )
            continue
        # A template names its subject in full grammar; the model's wording, where it passed, is the second voice of
        # the same question.
        question = template or by_model[0]
        others = tuple(other for other in dict.fromkeys([*by_model, template]) if other and other != question)
        problem = answer_problem(question, fact.answer, grounds(chunk))
        if problem is not None:
            dropped.append(
                Dropped("evidence", problem, {"question": question, "answer": fact.answer, "source": chunk.origin})
            )
            continue
        quote = chunk.text[fact.start : fact.end]
        pair = Pair(
            digest(question, fact.answer, chunk.id),
            chunk.id,
            question,
            fact.answer,
            quote,
            fact.start,
            fact.end,
            fact.kind,
        )
        done.append(Grounded(pair, chunk, "template" if template else "model", others, fact.subject))
    return done, dropped


def grounds(chunk: Chunk) -> str:
    """What an answer may draw on: the chunk's text under its title and headings."""
    return "\n".join((chunk.title, *chunk.heading_path, chunk.text))


def first_line(text: str) -> str:
    """The question in a reply: its first line, up to its first question mark, without a label before it."""
    from dataset_builder.replies import without_thoughts

    line = next((line.strip() for line in without_thoughts(text).splitlines() if line.strip()), "")
    line = re.sub(r"^(?:\*\*)?(?:Question|Q)\s*\d*\s*[:.]\s*(?:\*\*)?\s*", "", line).strip('"* ')
    return line[: line.index("?") + 1] if "?" in line else line


def template_problem(fact: Fact, chunk: Chunk) -> str | None:
    """What is wrong with the template's own wording, or None."""
    return question_problem(fact.question) or (
        "question names what the source does not" if missing_words(fact.question, grounds(chunk)) else None
    )


def wording_problem(question: str, fact: Fact, chunk: Chunk) -> str | None:
    """Why a model's wording does not ask for this fact, or None."""
    problem = question_problem(question)
    if problem is not None:
        return problem
    if _YES_NO.match(question):
        return "a yes/no question"
    source = grounds(chunk)
    if missing_words(question, source):
        return "question names what the source does not"
    low = question.casefold()
    asked = [stem(word) for word in words(question) if word not in _ASKING]
    told = {stem(word) for word in words(fact.answer + " " + fact.subject + " " + topic(chunk))}
    foreign = [word for word in asked if word not in told]
    if foreign:
        return "question speaks of what the sentence does not say"
    names = exact_words(fact.subject) or exact_words(fact.answer)
    if names and not names & exact_words(question):
        return "question does not name its subject"
    if not names and len(set(asked)) < 2:
        return "question does not name its subject"
    if len(asked) != len(set(asked)) or re.search(r"\b(\w{3,})\s+(?:and|between|or)\s+\1\b", low):
        return "question repeats itself"
    if re.search(r"\b(?:is|does) (?:the |all )?(?:[a-z]+ )?(?!this)[a-z]+[^su]s (?:for|of|in|to|do|have)\b", low):
        return "question is not grammatical"
    if "difference" in low and not re.search(r"(?i)\b(?:than|differ\w*|while|whereas|unlike|instead)\b", fact.answer):
        return "question asks for a comparison the sentence does not make"
    if len({stem(word) for word in words(fact.answer)} - set(asked)) < 4 or _copied(question, fact.answer) > 9:
        return "question gives the answer away"
    return _unasked(low, fact.answer)


def _unasked(low: str, answer: str) -> str | None:
    """Whether the sentence holds the kind of thing that the question word asks for."""
    checks: Iterable[tuple[str, re.Pattern[str], str]] = (
        (r"\bwhy\b", _WHY, "a reason"),
        (r"^when\b", _WHEN, "a time"),
        (r"\bwhere\b", _WHERE, "a place"),
        (
            r"\bhow (?:many|much|long|often|large|big)\b",
            re.compile(r"\d|\b(?:one|two|three|four|five|twice|once|each|every)\b"),
            "a number",
        ),
        (r"^how (?!many|much|long|often|large|big)", _HOW, "a way"),
        (r"\bwho(?:m|se)?\b", re.compile(r"(?!)"), "a person"),
        (r"\bversion\b", re.compile(r"\d"), "a version"),
    )
    for asks, holds, what in checks:
        if re.search(asks, low) and not holds.search(answer):
            return f"question asks for {what} that the sentence does not give"
    return None


def _copied(question: str, answer: str) -> int:
    """Longest run of words that question and answer share."""
    from difflib import SequenceMatcher

    one, other = words(question), words(answer)
    return SequenceMatcher(None, one, other, autojunk=False).find_longest_match().size


def stem(word: str) -> str:
    """A word without its endings, so that "installs" meets "install"."""
    for ending in ("ing", "ies", "ed", "es", "s", "ly"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)].rstrip("ei")
    return word.rstrip("ey") if len(word) > 3 else word


def content_stems(text: str) -> set[str]:
    """Stems of the words that carry meaning."""
    return {stem(word) for word in words(text) if word not in _ASKING and len(word) > 2}


def parse_text(reply: Reply) -> str:
    """The question in a reply, for an estimate's sample."""
    return first_line(reply.text)
