"""Whether a wording asks for a fact: the checks that a weak model's question must pass, all by code."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dataset_builder.evidence import question_problem
from dataset_builder.facts import Fact, topic
from dataset_builder.identifiers import exact_words, missing_words, words
from dataset_builder.rows import Chunk

_ASKING_WORDS = """
    what which how when where why who whom does do did is are was were can could should would will may might has
    have had i my me you your the a an of to in on at for from by with as if it its this that be been being and or
    not than then there their they use used using value default purpose happen happens need needs mean means
    effect affect option setting command way difference get make one work works kind type name called many much
    long often call into first new also only about main set given supported possible best
"""
ASKING = frozenset(_ASKING_WORDS.split())
YES_NO = re.compile(r"(?i)^(?:is|are|was|were|do|does|did|can|could|should|will|would|has|have|may|must)\b")
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


def grounds(chunk: Chunk) -> str:
    """What an answer may draw on: the chunk's text under its title and headings."""
    return "\n".join((chunk.title, *chunk.heading_path, chunk.text))


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
    if YES_NO.match(question):
        return "a yes/no question"
    source = grounds(chunk)
    if missing_words(question, source):
        return "question names what the source does not"
    low = question.casefold()
    asked = [stem(word) for word in words(question) if word not in ASKING]
    told = {stem(word) for word in words(fact.answer + " " + fact.subject + " " + topic(chunk))}
    foreign = [word for word in asked if word not in told]
    if foreign:
        return "question speaks of what the sentence does not say"
    names = exact_words(fact.subject) or exact_words(fact.answer)
    if names and not names & exact_words(question):
        return "question does not name its subject"
    if not names and len(set(asked)) < 2:
        return "question does not name its subject"
    if problem := _beside_the_subject(question, fact, set(asked)):
        return problem
    if len(asked) != len(set(asked)) or re.search(r"\b(\w{3,})\s+(?:and|between|or)\s+\1\b", low):
        return "question repeats itself"
    if re.search(r"\b(?:is|does) (?:the |all )?(?:[a-z]+ )?(?!this)[a-z]+[^su]s (?:for|of|in|to|do|have)\b", low):
        return "question is not grammatical"
    if re.search(
        r"\bwhat (?:is|are) .* and what (?:is|are)\b|\bstatus of\b|\ba (?:[A-Z]{2,}|\d+ [KMGT]i?B)\b", question
    ):
        return "question is not one, or asks for nothing"
    if "difference" in low and not re.search(r"(?i)\b(?:than|differ\w*|while|whereas|unlike|instead)\b", fact.answer):
        return "question asks for a comparison the sentence does not make"
    if len({stem(word) for word in words(fact.answer)} - set(asked)) < 4 or copied(question, fact.answer) > 9:
        return "question gives the answer away"
    return unasked(low, fact.answer)


def _beside_the_subject(question: str, fact: Fact, asked: set[str]) -> str | None:
    """Whether the question is about something that the sentence only mentions.

    A sentence says something of what it begins with. "What is X?" asks for a definition of X, so X must stand there;
    any question must share a word with the beginning, and the names that code marks there.
    """
    begin = " ".join(fact.answer.split()[:6])
    named = set(re.findall(r"`([^`]+)`", fact.subject)) if fact.answer.startswith(fact.subject) else set()
    if any(name not in question for name in named):
        return "question does not name its subject"
    about = {stem(word) for word in words(begin)}
    if not asked & about:
        return "question is about something the sentence only mentions"
    if (
        re.match(r"(?i)what (?:is|are|was) ", question)
        and asked - about
        and not re.search(r"(?i)\b(?:purpose|used|for)\b", question)
    ):
        return "question is about something the sentence only mentions"
    return None


def unasked(low: str, answer: str) -> str | None:
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
        (r"\b(?:what|which) commands?\b", re.compile(r"```|`[^`]+ [^`]+`"), "a command"),
    )
    for asks, holds, what in checks:
        if re.search(asks, low) and not holds.search(answer):
            return f"question asks for {what} that the sentence does not give"
    return None


def copied(question: str, answer: str) -> int:
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
    return {stem(word) for word in words(text) if word not in ASKING and len(word) > 2}
