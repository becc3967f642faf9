"""Pairs from a model that can write them: per chunk a few questions with answers and quotes, each then checked by code.

The document is data: delimited in the prompt, and whatever it makes the model say is held against the document's own
text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from dataset_builder import prompting, sentences
from dataset_builder.blocks import blocks_of
from dataset_builder.evidence import (
    TEMPLATE_MARK,
    answer_problem,
    denial_problem,
    is_exact,
    locate,
    points_outside,
    project,
    question_problem,
    rambling,
)
from dataset_builder.facts import Fact, set_in, topic
from dataset_builder.identifiers import exact_words, missing_words, words
from dataset_builder.ledger import Reply, Request
from dataset_builder.replies import BadReply, json_in, tagged_lines, visible
from dataset_builder.rows import Chunk, Dropped, Grounded, Pair, digest
from dataset_builder.spec import Generator
from dataset_builder.views import View
from dataset_builder.wording import content_stems, grounds

KINDS = ("direct", "how-to", "why", "default", "requirement", "comparison", "troubleshooting")
MODEL_VIEWS = ("reworded", "reversed", "how-to", "symptom", "terse", "novice")
QUOTED, CLOSE = 0.3, 0.5
"""Least shares of an answer's content words that stand in its quote, and in it or next to it. Below, small models say
what their quote does not."""
PROVEN = 0.7
"""Least share of an answer's content words in evidence that code picks, where the model's quote is none."""
CLAIMS = re.compile(r"\b(?:all\b|every\b|always|never|only|none\b|default|recommend)")
"""Beginnings of words that say much: where an answer has one, its quote or its question has it, too."""
_RELATIVE_LINK = re.compile(r"(?<!!)\[([^\]\n`]+)\]\((?![a-z]+:)[^)\s]*\)")
"""`[Tips](#tips)`: a link that leads nowhere from a row."""
ASKED_OF_PARENT = 0.25
"""Least share of a view's content words that stand in its parent or the chunk: a beginner has words of his own."""
NUMBERS = {"three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
           "twelve": "12", "twenty": "20", "thirty": "30", "fifty": "50", "hundred": "100", "thousand": "1000",
           "million": "1000000"}  # fmt: skip
"""Figures in words: they, too, must stand by the quote, in words or in digits; "two" often only counts what is said."""
NEAR_CHARS = 300
"""What counts as next to a quote."""
TOKENS_A_PAIR = 160
"""Chunks are asked for about one pair per so many tokens: a fact in every two or three sentences."""
MOST_PAIRS = 6
"""Of one reply: longer lists repeat themselves and are cut off."""


def _schema(fields: dict[str, dict], required: Sequence[str]) -> dict:
    item = {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}
    return {"type": "object", "properties": {"pairs": {"type": "array", "items": item}}, "required": ["pairs"],
            "additionalProperties": False}  # fmt: skip


_TEXT = {"type": "string"}
PAIRS_SCHEMA = _schema(
    {"question": _TEXT, "answer": _TEXT, "quote": _TEXT, "kind": {"type": "string", "enum": list(KINDS)}},
    ("question", "answer", "quote", "kind"),
)
VIEWS_SCHEMA = _schema(
    {"view": {"type": "string", "enum": list(MODEL_VIEWS)}, "question": _TEXT, "answer": _TEXT},
    ("view", "question", "answer"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """One request for pairs: which chunk, how many, about what, and the how-manieth time (from 0)."""

    chunk: Chunk
    count: int
    wanted: tuple[str, ...] = ()
    """Names that no pair asks about yet."""
    turn: int = 0


def wanted_pairs(chunk: Chunk) -> int:
    return max(1, min(MOST_PAIRS, round(chunk.tokens / TOKENS_A_PAIR)))


def pairs_request(plan: Plan, generator: Generator, path: str) -> Request:
    """What the model is asked for one chunk; a later turn names what is still missing and has another seed."""
    wanted = f" Ask about: {', '.join(plan.wanted)}." if plan.wanted else ""
    messages = prompting.messages(
        "pairs", document=prompting.as_data(plan.chunk.text), section=plan.chunk.section, count=str(plan.count),
        wanted=wanted,
    )  # fmt: skip
    return Request(
        model=generator.model, messages=messages, schema=PAIRS_SCHEMA if path == "schema" else None,
        max_tokens=generator.max_tokens, temperature=generator.temperature, seed=generator.seed + plan.turn,
        stage="pairs", about=plan,
    )  # fmt: skip


def parse_pairs(reply: Reply) -> list[dict[str, str]]:
    """The pairs in a reply, whole ones only; an empty list is an answer, too: there is nothing to ask. Raises BadReply
    where the reply holds something else than pairs."""
    try:
        value = json_in(reply.text, truncated=reply.finish_reason == "length")
    except BadReply:
        found = tagged_lines(reply.text, ["Question", "Answer", "Quote"])
        if not found:
            raise
        return [{key.lower(): text for key, text in one.items()} for one in found]
    found = value.get("pairs") if isinstance(value, dict) else value
    if found == []:
        return []
    found = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    whole = [visible(one) for one in found if all(isinstance(one.get(key), str) for key in ("question", "answer"))]
    if not whole:
        raise BadReply("no pair with question and answer in the reply")
    return whole


def verify(candidate: dict[str, str], chunk: Chunk) -> Grounded | Dropped:
    """A candidate as a grounded pair, or why it is none."""
    asked, answer = candidate["question"].strip(), _tidy(candidate["answer"])
    question = _in_its_setting(asked, chunk)
    quote = candidate.get("quote") if isinstance(candidate.get("quote"), str) else ""
    place = locate(quote, chunk.text) if quote else None
    proof = "near" if place and not is_exact(quote, chunk.text[slice(*place)]) else "exact"
    if place is None and quote.strip():
        place, proof = best_evidence(answer, chunk), "picked"
    problem = question_problem(asked) or question_problem(question)
    if problem is None and place is None:
        problem = "quote is not in the source" if quote.strip() else "no quote"
    problem = problem or answer_problem(question, answer, grounds(chunk)) or unproven(question, answer, chunk, place)
    if problem is not None or place is None:
        item = {
            "question": question,
            "answer": answer,
            "quote": quote,
            "source": chunk.origin,
            "section": chunk.section,
        }
        return Dropped("evidence", problem or "no quote", item)
    kind = candidate.get("kind") if candidate.get("kind") in KINDS else "direct"
    start, end = place
    name = digest(question, answer, chunk.id)
    return Grounded(Pair(name, chunk.id, question, answer, chunk.text[start:end], start, end, kind), chunk, proof=proof)


def by_person(question: str, answer: str, quote: str, chunk: Chunk) -> Grounded | str:
    """What a person wrote, held to the checks of `verify` word for word, or why it is refused: nothing is put in front
    of the question, and no other quote is looked for."""
    question, answer = question.strip(), _tidy(answer)
    if problem := unreadable(f"{question}\n{answer}"):
        return problem
    start = chunk.text.find(quote.strip()) if quote.strip() else -1
    place = (start, start + len(quote.strip())) if start >= 0 else locate(quote, chunk.text)
    problem = question_problem(question)
    if problem is None and place is None:
        problem = "quote is not in the source" if quote.strip() else "no quote"
    problem = problem or answer_problem(question, answer, grounds(chunk)) or unproven(question, answer, chunk, place)
    if problem is not None or place is None:
        return problem or "no quote"
    start, end = place
    pair = Pair(digest(question, answer, chunk.id), chunk.id, question, answer, chunk.text[start:end], start, end)
    return Grounded(pair, chunk, "person", proof="exact")


def unreadable(text: str) -> str | None:
    """Why a text can stand in no table, or None."""
    bad = next((char for char in text if unicodedata.category(char) in {"Cc", "Cs"} and char not in "\n\t"), None)
    return f"holds a character that no table may hold: U+{ord(bad):04X}" if bad else None


def _in_its_setting(question: str, chunk: Chunk) -> str:
    """The question with the page's title in front where it names nothing exact: "the build options" of what?"""
    if not re.match(r"(?:What|How|Which|Why|When|Where|Who|Is|Are|Does|Do|Can|Should|Will)\b", question):
        return question
    return set_in(question, topic(chunk))


def best_evidence(answer: str, chunk: Chunk) -> tuple[int, int] | None:
    """Where the chunk says nearly all of an answer: its best sentence, table row or item; None where none does.

    Small models often answer well and then write "quote from the document", or quote themselves.
    """
    said = content_stems(project(answer)[0])
    figures = exact_words(answer)
    found: list[tuple[float, int, int]] = []
    for block in blocks_of(chunk.text):
        spans = [(block.start, block.end)]
        if block.type in {"paragraph", "item"}:
            spans = sentences.split(chunk.text, block.start, block.end)
        for start, end in spans if block.type not in {"heading", "fence", "ordered"} else ():
            plain = project(chunk.text[start:end])[0]
            share = len(said & content_stems(plain)) / max(1, len(said))
            if share >= PROVEN and not figures - exact_words(plain) and locate(chunk.text[start:end], chunk.text):
                found.append((-share, start, end))
    return min(found)[1:] if found else None


def _tidy(answer: str) -> str:
    text = answer.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "").strip()
    text = _RELATIVE_LINK.sub(r"\1", text)
    return text if text.endswith((".", "!", "?", "`", ":", ")")) or "\n" in text else text + "."


def unproven(question: str, answer: str, chunk: Chunk, place: tuple[int, int] | None, parent: str = "") -> str | None:
    """Whether the quote has too little to do with the answer: words that it shares, what it denies, and where its
    figures stand. `parent`: what was proven before and may be said again."""
    if place is None:
        return None
    said, text = content_stems(project(answer)[0]), chunk.text
    around = text[max(0, place[0] - NEAR_CHARS) : place[1] + NEAR_CHARS]
    near = project(around)[0] + "\n" + parent
    quoted = project(text[place[0] : place[1]])[0]
    evidence = f"{quoted}\n{parent}" if parent else quoted
    # the proof must share words with the answer; what else the answer says stands close by
    shared, close = len(said & content_stems(evidence)), len(said & content_stems(near))
    if said and (shared < QUOTED * len(said) or close < CLOSE * len(said)):
        return "answer is not about its quote"
    claimed = set(CLAIMS.findall(answer.casefold())) - set(CLAIMS.findall(f"{evidence}\n{question}".casefold()))
    if claimed:
        return "answer claims more than its quote: " + ", ".join(sorted(claimed))
    if problem := denial_problem(project(answer)[0], quoted, question, parent):
        return problem
    figures = {word for word in exact_words(answer) - exact_words(question) if re.search(r"\d", word)}
    # `around` as it is written, too: an answer may keep a link, whose address `project` leaves out
    known = "\n".join((near, around, question, chunk.title, *chunk.heading_path))
    if lost := sorted(figures & set(missing_words(answer, known))):
        return "answer gives a figure that does not stand by its quote: " + ", ".join(lost[:3])
    counts = {word for word in words(answer) if word in NUMBERS} - set(words(known))
    if counts := sorted(word for word in counts if NUMBERS[word] not in exact_words(known)):
        return "answer gives a figure that does not stand by its quote: " + ", ".join(counts[:3])
    return None


def view_problem(one: Grounded, view: View) -> str | None:
    """Why a view that a model wrote is not held by its parent and the text around its quote, or None."""
    _, question, answer = view
    if points_outside(question):
        return "question points at a text the reader does not have"
    if TEMPLATE_MARK.search(f"{question}\n{answer}"):
        return "holds a mark of chat templates"
    if problem := rambling(project(answer)[0]):
        return problem
    parent = project(f"{one.pair.question}\n{one.pair.answer}")[0]
    known = content_stems(f"{parent}\n{grounds(one.chunk)}")
    asked = content_stems(question)
    if asked and len(asked & known) < ASKED_OF_PARENT * len(asked):
        return "question asks for something else than its parent"
    return unproven(question, answer, one.chunk, (one.pair.quote_start, one.pair.quote_end), parent)


def views_request(grounded: Grounded, names: Sequence[str], generator: Generator, path: str) -> Request:
    """What the model is asked to vary one pair."""
    pair = grounded.pair
    messages = prompting.messages(
        "views", question=pair.question, answer=pair.answer, quote=prompting.as_data(pair.quote), views=", ".join(names)
    )
    return Request(
        model=generator.model, messages=messages, schema=VIEWS_SCHEMA if path == "schema" else None,
        max_tokens=generator.max_tokens, temperature=max(0.5, generator.temperature), seed=generator.seed,
        stage="variants", about=grounded,
    )  # fmt: skip


def parse_views(reply: Reply) -> list[View]:
    """The views in a reply that are named and whole. Raises BadReply where there is none."""
    found = [
        (str(one.get("view", "")).strip().casefold(), one["question"].strip(), _tidy(one["answer"]))
        for one in parse_pairs(reply)
    ]
    known = [view for view in found if view[0] in MODEL_VIEWS]
    if not known:
        raise BadReply("no view of the asked names in the reply")
    return known


def uncovered(facts: Sequence[tuple[Fact, Chunk]], pairs: Sequence[Grounded], chunk: Chunk) -> tuple[str, ...]:
    """Names of this chunk's facts that no pair mentions, a few at most."""
    said = " ".join(f"{one.pair.question} {one.pair.answer}" for one in pairs).casefold()
    names = (fact.subject for fact, of in facts if of.id == chunk.id and fact.subject.casefold() not in said)
    return tuple(dict.fromkeys(names))[:4]
