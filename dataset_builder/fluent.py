"""Whether a question by a model that words well asks for its fact: freer with words than `wording`, stricter with what
is asked.

A 1.5B model writes plain grammar, so words of asking ("which script", "should be done") need not stand in the
sentence. What it does wrong is to promise what the sentence does not give (a reason, a benefit), to ask two things at
once, and to take a page's title for the name of a product.
"""

from __future__ import annotations

import re

from dataset_builder.evidence import question_problem
from dataset_builder.facts import Fact, set_in, topic
from dataset_builder.identifiers import exact_words, missing_words, words
from dataset_builder.rows import Chunk
from dataset_builder.sentences import VERBS
from dataset_builder.wording import ASKING, YES_NO, content_stems, copied, grounds, stem, unasked

_NOUNS_WORDS = """
    address API argument class command configuration directory done enable environment error field file flag folder
    function happen information key library line location message method mode model module necessary object
    operating option package parameter path platform port recommend recommended required require run script
    software specific specify step support system tool URL variable version want ensure perform performed encounter
    setting settings configure resolve fix avoid achieve provide contain include describe apply change check become
"""
_NOUNS_OF_ASKING = frozenset(stem(word) for word in _NOUNS_WORDS.casefold().split())
"""What may be asked for or done in any product: such a word claims nothing."""
_PROMISED = re.compile(
    r"(?i)\b(benefit|advantage|relationship|reason|limitation|difference|impact|condition|consequence|significance|"
    r"importance|role|feature|requirement|prerequisite|example|tip|criteria|order|metric|recommendation|tools|steps)s?\b"
)
"""The answer must speak of it by the same word."""
_TWO = re.compile(r"(?i)\b(?:and|or) (?:how|what|why|which|when|where|who)\b")
_OUTSIDE = re.compile(r"(?i)\b(?:provided|specified|given|mentioned|sentence|described|stated|answer)\b")
_REASON = re.compile(
    r"(?i)\b(?:because|due to|so that|in order to|to (?:avoid|ensure|reduce|improve|increase|prevent|make|enable|allow|"
    r"keep|get|save|support|speed)|therefore|thus|hence|reason|otherwise|allow\w*|enabl\w*|caus\w*|faster|which (?:may|"
    r"can|will))\b|\bsince (?!v?\d|[A-Z])"
)
_PURPOSE = re.compile(
    r"(?i)\b(?:to [a-z]{3,}|for|used|allow\w*|enabl\w*|provid\w*|designed|help\w*|leverag\w*|lets?|so that|reduc\w*)\b"
)
_HOW_ANSWERED = re.compile(
    r"(?i)\b(?:by|using|via|through|use|run|set|add|install|pass|call|select|choose|click|execute|export|can|should|"
    r"must|need|have to|will|automatically|enable|configure|edit|open|replace|move|start|change|download|with|get)\b"
)
_WHAT_IS = re.compile(r"(?i)what (?P<be>is|are|was|were) (?P<core>.+)\?$")
_USED_FOR = re.compile(
    r"(?i)\b(?:purpose|used|designed|intended|needed|required|necessary|meant|supported)\b|"
    r"^(?:\w+ed|set|done|made|built|run|kept|put|written)\b"
)
_DEFINES = re.compile(
    r"^(?P<head>.{2,90}?)(?:: | (?:is|are) "
    r"(?=(?:an?|the|one|used|designed|intended)\b|[A-Z`\"\d]|\w+ (?:\w+ )?of\b))"
)
_CODE_SPAN = re.compile(r"(?<!`)(`{1,2})(?!`)([^`]+)\1(?!`)")
_ASKS_A_NAME = re.compile(
    r"(?:what|which) (?:url|file|script|function|variable|path|directory|option|argument|class|tool)\b"
)
LEAST_COMMON = 3
"""Content words that a question and its sentence share; 2 where the question holds an exact word of the sentence."""


def fluent_problem(question: str, fact: Fact, chunk: Chunk) -> str | None:
    """Why a capable model's wording does not ask for this fact, or None."""
    if problem := question_problem(question):
        return problem
    if YES_NO.match(question):
        return "a yes/no question"
    if re.search(r"(?i)\b(?:we|our|us|this|these|those)\b", _CODE_SPAN.sub("", question)):
        return "question points at a text the reader does not have"
    if _TWO.search(question):
        return "two questions in one"
    if missing_words(question, grounds(chunk)):
        return "question names what the source does not"
    if (outside := _OUTSIDE.search(question)) and outside[0].casefold() not in fact.answer.casefold():
        return "question points at a text the reader does not have"
    return _of_words(question, fact, chunk) or _of_kind(question, fact) or _of_question_word(question, fact)


def placed(question: str, chunk: Chunk) -> str:
    """The question with its page's title in front where it names nothing exact."""
    return set_in(question, topic(chunk))


def _of_words(question: str, fact: Fact, chunk: Chunk) -> str | None:
    asked = {stem(word) for word in words(question) if word not in ASKING}
    told = {stem(word) for word in words(f"{fact.answer} {fact.subject}")}
    title = {stem(word) for word in words(topic(chunk))}
    from_title = (asked & title) - told - _NOUNS_OF_ASKING
    if from_title and (_is_action(topic(chunk)) or "\n" in fact.answer):
        return "question takes the title of the page for a name"
    foreign = asked - told - title - _NOUNS_OF_ASKING
    if foreign and (len(foreign) > 1 or not foreign <= content_stems(chunk.text)):
        return "question speaks of what the sentence does not say"
    if exact_words(question) - exact_words(f"{fact.answer} {fact.subject} {topic(chunk)}"):
        return "question names what the sentence does not"
    common = asked & {stem(word) for word in words(fact.answer)}
    named = exact_words(question) & exact_words(fact.answer)
    least = LEAST_COMMON - bool(named)
    if fact.answer.startswith(fact.subject) and {stem(word) for word in words(fact.subject)} - ASKING <= asked:
        least = 1  # "What does `--x` do?" of a sentence that begins with `--x`
    if len(common) < least or 2 * len(common) < len(asked):
        return "question shares too little with the sentence"
    if (noun := _PROMISED.search(question)) and stem(noun[1].casefold()) not in told:
        return "question asks for what the sentence does not give: " + noun[0].casefold()
    if re.search(r"(?i)\b(?:for|to|of) in\b|\ban? \d+\.? [a-z]|\bpurpose of \w+ing .* to [a-z]", question):
        return "question is not grammatical"
    if re.search(r"\b(?:[Tt]he|[Aa]n?|of|for) (?:The|An?) |\b(?:the|an?) (?:the|an?) ", question):
        return "question is not grammatical"  # the sentence's first word, taken over as it stands there
    if re.search(r"(?i)\b(\w{4,})\s+(?:and|between|or|of the)\s+\1\b", question):
        return "question repeats itself"
    return None


def _is_action(title: str) -> bool:
    """A title such as "Run Dify on Intel GPU" names what a page does, no thing."""
    return bool(title) and title.split()[0].casefold() in VERBS


def _of_kind(question: str, fact: Fact) -> str | None:
    """What a fact of this kind can be asked for."""
    asked = {stem(word) for word in words(question)}
    goal = content_stems(fact.subject)
    if fact.kind in {"command", "code", "steps"}:
        if not re.match(r"(?i)(?:how (?:can|do|to|should)|(?:what|which) (?:command|code|steps?)s?)\b", question):
            return "question does not ask for the commands"
        if 3 * len(goal & asked) < 2 * len(goal):
            return "question does not ask for what the commands are for"
        return None
    if fact.kind in {"condition", "how-to"} and goal and 5 * len(goal & asked) < 3 * len(goal):
        return "question leaves out the condition"
    rest = content_stems(fact.answer) - asked
    if (len(rest) < 2 and not _names(fact.answer) - _names(question)) or not rest or copied(question, fact.answer) > 14:
        return "question gives the answer away"
    return None


def _of_question_word(question: str, fact: Fact) -> str | None:
    """Whether the sentence gives the kind of thing that is asked for."""
    low, answer = question.casefold(), fact.answer
    if fact.kind in {"command", "code", "steps"}:
        return None
    if re.search(r"\bwhy\b|\breason\b", low) and not _REASON.search(answer):
        return "question asks for a reason that the sentence does not give"
    if "default" in low and "default" not in answer.casefold():
        return "question asks for a default that the sentence does not give"
    if re.search(r"\bvalue of\b", low) and not re.search(r"(?i)default|\bset to\b|=|\d", answer):
        return "question asks for a value that the sentence does not give"
    if re.search(r"\bpurpose\b", low) and not _PURPOSE.search(answer):
        return "question asks for a purpose that the sentence does not give"
    if re.match(r"how would\b|how can .* be (?:regarded|considered)\b", low):
        return "question is not grammatical"
    if re.match(r"what does .* mean\?", low) and not re.search(r"(?i)\bmeans?\b|\bstands? for\b|: ", answer):
        return "question asks for a meaning that the sentence does not give"
    if re.match(r"how (?:can|do|does|should|to|is|are)\b", low):
        return None if _HOW_ANSWERED.search(answer) else "question asks for a way that the sentence does not give"
    if re.search(r"\b(?:what|which) commands?\b", low):
        spans = [span for _, span in _CODE_SPAN.findall(answer)]
        if "```" not in answer and not any(" " in span.strip() for span in spans):
            return "question asks for a command that the sentence does not give"
    if _ASKS_A_NAME.match(low) and not _names(answer) - _names(question):
        return "question asks for a name that the sentence does not give"
    return _of_definition(question, answer) or unasked(low, answer)


def _of_definition(question: str, answer: str) -> str | None:
    """ "What is X?" needs a sentence that begins with X; "What is the Y?" also takes one that says "X is the Y"."""
    found = _WHAT_IS.match(question)
    if found is None or _USED_FOR.search(found["core"]):
        return None
    asked = {stem(word) for word in words(found["core"]) if word not in ASKING} - _NOUNS_OF_ASKING
    begin = _DEFINES.match(answer)
    if begin and asked <= {stem(word) for word in words(begin["head"])}:
        return None
    said = re.search(r"\b(?:is|are) (?:the|only)\b(?P<what>.+)", answer, re.S)
    if said and len(asked & content_stems(said["what"])) >= 2 and copied(question, said["what"]) >= 3:
        return None
    return "question is about something the sentence only mentions"


def _names(text: str) -> set[str]:
    """Exact words, and what stands in code marks or quotation marks."""
    marked = re.findall(r"`([^`\n]+)`|[\"\u201c]([^\"\u201d\n]+)[\"\u201d]", text)
    return set(exact_words(text)) | {(code or quoted).casefold() for code, quoted in marked}
