"""Which question a sentence answers, by its grammatical shape: "To X, do Y", "X is a Y", "If X, Y", "X must not Y,
because Z".

The template's wording is what a weak model's wording is measured against, and what is used where that fails.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dataset_builder.identifiers import exact_words
from dataset_builder.sentences import VERBS, first_person

_THIRD = {
    "supports": "support", "requires": "require", "needs": "need", "contains": "contain", "includes": "include",
    "returns": "return", "provides": "provide", "uses": "use", "takes": "take", "accepts": "accept",
    "means": "mean", "holds": "hold", "prints": "print", "writes": "write", "reads": "read", "covers": "cover",
    "depends on": "depend on", "consists of": "consist of", "offers": "offer", "stores": "store",
    "produces": "produce", "expects": "expect", "ships": "ship", "shows": "show", "says": "say", "lists": "list",
    "describes": "describe", "represents": "represent", "specifies": "specify", "indicates": "indicate",
    "controls": "control", "defines": "define", "determines": "determine", "decides": "decide",
    "replaces": "replace",
}
_DOES_WORDS = """
    enables allows lets makes adds creates helps sets runs starts stops builds checks converts turns keeps loads
    saves removes reduces improves optimizes applies generates installs downloads serves implements extends
    handles manages exports splits computes measures groups asks gives counts refuses drops trains compiles
    launches performs executes selects chooses brings
"""
_DOES = frozenset(_DOES_WORDS.split())
_VERB_FORMS = "|".join(sorted((*_THIRD, *_DOES), key=len, reverse=True))


@dataclass(frozen=True, slots=True)
class Reading:
    """What one sentence answers: the question a template makes of it, the thing it is about, and the shape it was
    recognised by."""

    kind: str
    subject: str
    question: str


def read(sentence: str) -> Reading | None:
    """The question that a sentence of a known shape answers; None for other shapes.

    >>> read("To resume a run, start the same command again.").question
    'How do I resume a run?'
    >>> read("A ledger is a table of paid answers.").question
    'What is a ledger?'
    """
    for shape in (_how_to, _condition, _because, _default, _definition, _does, _named_does, _has, _passive):
        found = shape(sentence)
        if (
            found is not None
            and not found.question.count("`") % 2
            and found.question.count("(") == found.question.count(")")
        ):
            return found
    return None


_PREDICATE = re.compile(r"\b(?:is|are|was|were|has|have|can|will|provides?|allows?|helps?|enables?)\b")
"""In "Log component is used to ..." the first word is no imperative, though it could be a verb."""
_POINTS = re.compile(r"\b(?:this|these|those|it|them)\b")


def _how_to(sentence: str) -> Reading | None:
    match = re.match(r"(?:In order to|To) (?P<goal>[a-z][^,:]{6,90}), (?!first\b)(?P<rest>.+)", sentence)
    doing = VERBS | {"be", "do", "go", "have", "see"}
    if match and not _POINTS.search(match["goal"]) and match["goal"].split()[0] in doing:
        return Reading("how-to", match["goal"], f"How do I {first_person(match['goal'])}?")
    match = re.match(
        r"(?P<verb>[A-Z][a-z-]+) (?P<object>[^.;:]{3,120}?) to (?P<goal>[a-z-]+ [^.;:]{4,90})[.!]$", sentence
    )
    if (
        match
        and match["verb"].lower() in VERBS
        and match["goal"].split()[0] in VERBS
        and "," not in match["goal"]
        and not _PREDICATE.search(match["object"])
        and not _POINTS.search(match["goal"])
    ):
        return Reading("how-to", match["goal"], f"How do I {first_person(match['goal'])}?")
    return None


def _condition(sentence: str) -> Reading | None:
    match = re.match(r"(?P<word>If|When|Once) (?P<case>[^,:;]{8,110}), (?P<rest>.+)", sentence)
    if not match or re.search(r"\b(?:it|they|this|these|that one)\b", match["case"]):
        return None
    if re.match(r"you(?:'re| are) (?:\w+ing)\b", match["case"]):
        return None  # "If you are developing an application": everybody is
    if re.match(r"(?:you are an? [\w ]{0,20}(?:user|developer)|we)\b", match["case"]):
        return None  # who asks is no case
    if match["word"] == "If" and re.match(r"\w+ing\b", match["case"]):
        return None  # "If setting `x=0`": a clause without a subject
    if len(match["case"].split()) < 2 or re.match(r"[a-z]+ed\b", match["case"]):
        return None  # "Once finished"
    if match["case"].split()[0] in VERBS:
        return None  # "When import a tensor": a clause without a subject makes no question
    rest = re.sub(r"^(?:then |please |simply |just )+", "", match["rest"])
    if re.match(r"(?:but|and|or|which|so|if|when|is|are)\b", rest):
        return None
    asks_to_act = (
        re.match(
            r"(?:you (?:also )?(?:can|could|should|need|must|may|have)|it is (?:required|recommended|advised)|"
            r"we (?:also )?(?:recommend|suggest)|the (?:\w+ ){0,2}solution|set|try|"
            r"make sure|consider|file|do not|don't|be sure|"
            r"restart|reboot|follow|refer|ignore)\b",
            rest,
        )
        or rest.split()[0] in VERBS
    )
    ask = "What should I do" if asks_to_act else "What happens"
    return Reading("condition", match["case"], f"{ask} {match['word'].lower()} {first_person(match['case'])}?")


def _default(sentence: str) -> Reading | None:
    match = re.match(r"(?P<subject>[^,;:]{2,60}?) defaults? to .+", sentence) or re.match(
        r"[Tt]he default (?:value )?(?:of|for) (?P<subject>[^,;:]{2,60}?) (?:is|are) .+", sentence
    )
    if match and not _vague(match["subject"]):
        return Reading("default", match["subject"], f"What is the default of {_inside(match['subject'])}?")
    return None


def _definition(sentence: str) -> Reading | None:
    match = re.match(
        r"(?P<subject>[^,;:]{2,60}?) (?P<verb>is|are) (?:an? |the |one of |used |how |where |what |designed |"
        r"intended |based )",
        sentence,
    )
    if not match or _vague(match["subject"]):
        return None
    return Reading(
        "definition",
        match["subject"],
        f"What {match['verb']} {_inside(match['subject'])}?"
        if not re.search(r"(?:is|are) (?:used|designed|intended) ", match.group())
        else f"What {match['verb']} {_inside(match['subject'])} {match.group().split()[-1]} for?",
    )


def _does(sentence: str) -> Reading | None:
    match = re.match(rf"(?P<subject>[^,;:]{{2,60}}?) (?P<verb>{_VERB_FORMS}) (?P<rest>.+)", sentence)
    if not match or _vague(match["subject"]) or " and " in match["subject"] or _VERB_INSIDE.search(match["subject"]):
        return None  # "The tool fetches and converts": the verb found is not the first one
    subject, verb = _inside(match["subject"]), match["verb"]
    if verb in _THIRD:
        return Reading("statement", match["subject"], f"What does {subject} {_THIRD[verb]}?")
    return Reading("purpose", match["subject"], f"What does {subject} do?")


def _because(sentence: str) -> Reading | None:
    match = re.match(
        r"(?P<subject>[^,;:]{2,60}?) (?P<modal>must|should|can|cannot|may|is|are)(?P<no> not| never)? "
        r"(?P<rest>[^,;:]{4,90}), because .+",
        sentence,
    )
    if not match or _vague(match["subject"]):
        return None
    modal, no = ("can", " not") if match["modal"] == "cannot" else (match["modal"], match["no"] or "")
    question = f"Why {modal} {_inside(match['subject'])}{no} {match['rest']}?"
    return Reading("condition", match["subject"], question)


_NOUN_NAME = re.compile(r"(?P<subject>The (?:[a-z-]+ ){1,3}`[^`]+`(?: of `[^`]+`)?) (?P<verb>[a-z]+s) (?!and\b).+")


_VERB_INSIDE = re.compile(r"(?:`[^`]+`|[a-z]) [a-z]+s (?:`|and\b)")
"""Another verb before the one that was found: "The builder obeys `robots.txt` and keeps"."""


def _named_does(sentence: str) -> Reading | None:
    """ "The option `--x` restricts ...": a named thing and any verb in the third person."""
    match = _NOUN_NAME.match(sentence)
    if not match or match["verb"] in {"is", "was", "has", "as", "does", "needs", "this", "plus", "versus"}:
        return None
    return Reading("purpose", match["subject"], f"What does {_inside(match['subject'])} do?")


def _has(sentence: str) -> Reading | None:
    """ "The card has 12 GiB of memory": how much memory; "It has a vocabulary of 256,000": which vocabulary."""
    match = re.match(
        r"(?P<subject>[^,;:]{2,60}?) has (?:(?P<size>[\d.,]+ [KMGT]i?B) of (?P<what>[a-z]+)|an? (?P<part>[a-z]+) "
        r"of )\b",
        sentence,
    )
    if not match or _vague(match["subject"]):
        return None
    ask = f"How much {match['what']}" if match["what"] else f"Which {match['part']}"
    return Reading("statement", match["subject"], f"{ask} does {_inside(match['subject'])} have?")


def _passive(sentence: str) -> Reading | None:
    match = re.match(
        r"(?P<subject>[^,;:]{2,60}?) (?P<be>is|are) (?:never |always |only |not |then |also )?"
        r"(?:refused|ignored|dropped|stored|kept|removed|deleted|skipped|retired|truncated|cut|scrubbed|rejected|"
        r"cached|overwritten|merged)\b .*",
        sentence.rstrip(".") + " .",
    )
    if (
        not match
        or _vague(match["subject"])
        or re.match(r".* (?:is|are) (?:used|designed|intended|called|based)\b", sentence)
    ):
        return None
    return Reading("statement", match["subject"], f"What happens to {_inside(match['subject'])}?")


_NOT_A_NAME = re.compile(
    r"\b(?:which|that|who|where|if|when|and then|is|are|was|do|does|can|will|must|should|may|has|have|not|never|still|"
    r"also|always|only|you|we|it)\b"
)
"""Words that begin a clause or a predicate."""

_NO_START_WORDS = """
    to by for in on at with from as after before once while because since each every any all both two three four
    some several many most more these those currently now there what how why nothing everything something no under
    without
"""
_NO_START = frozenset(_NO_START_WORDS.split())
_NO_CORE_WORDS = """
    goal reason idea result problem first second last next only main same purpose other one number rest answer way
    point difference above following output example
"""
_NO_CORE = frozenset(_NO_CORE_WORDS.split())


def _vague(subject: str) -> bool:
    """A subject that names nothing by itself, or is no noun phrase at all."""
    low = subject.casefold()
    tokens = low.split()
    if len(tokens) > 7 or _NOT_A_NAME.search(low) or "by default" in low:
        return True
    if len(tokens) > 1 and tokens[0].endswith("ing") and VERBS & {tokens[0][:-3], tokens[0][:-3] + "e", tokens[0][:-4]}:
        return True  # "What is defining the config?"
    if tokens[0] in VERBS and subject[0].isupper() and "`" not in subject and len(tokens) > 1:
        return True
    if tokens[0] in _NO_START:
        return True
    core = [token for token in tokens if token not in {"the", "a", "an"}]
    return not core or core[0] in _NO_CORE


def _inside(subject: str) -> str:
    """The subject as it stands inside a question: "The plan" -> "the plan", names stay as they are."""
    head, _, rest = subject.partition(" ")
    if head in {"The", "A", "An"}:
        return f"{head.lower()} {rest}"
    plain_word = head.isalpha() and head[1:].islower() and not exact_words(head)
    return (
        f"{head.lower()} {rest}".strip()
        if plain_word and rest and head.endswith(("s", "ing")) and rest.split()[0].islower()
        else subject
    )
