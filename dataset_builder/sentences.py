"""Sentences of technical prose: where they begin and end, whether one can stand alone, and which question it answers.

A pattern here names a grammatical shape of documentation English ("To X, do Y", "X is a Y", "If X, Y"), never a product or a library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dataset_builder.identifiers import exact_words

VERBS = frozenset(
    """activate add adjust allocate append apply assign attach avoid benchmark build cache calculate call change check choose clean
clear clone collect combine commit compare compile compress compute configure connect convert copy create customize debug decide declare decode
define delete deploy detect disable download edit emit enable encode ensure evaluate exclude execute explain export extend extract fetch filter
find fine-tune finetune fit fix force format generate get group handle hide import improve include increase infer initialize inspect install
integrate invoke keep launch limit link list load log lower make manage map mark measure merge migrate modify monitor mount move offload open
optimize override pack parse pass pin place plan prepare preserve prevent print profile pull push quantize query raise read rebuild reduce
refresh register reload remove rename replace report reproduce request reset resolve restart restore resume retrieve return reuse review run
save scale search select send serve set share shard show skip sort specify split start stop store stream submit switch sync test trace track
train transfer transform troubleshoot try tune turn uninstall unpack unset update upgrade upload use validate verify view visualize warm wrap
write""".split()
)
"""Base forms that begin an instruction or a heading such as "Install the driver"."""

_THIRD = {
    "supports": "support",
    "requires": "require",
    "needs": "need",
    "contains": "contain",
    "includes": "include",
    "returns": "return",
    "provides": "provide",
    "uses": "use",
    "takes": "take",
    "accepts": "accept",
    "means": "mean",
    "holds": "hold",
    "prints": "print",
    "writes": "write",
    "reads": "read",
    "covers": "cover",
    "depends on": "depend on",
    "consists of": "consist of",
    "offers": "offer",
    "stores": "store",
    "produces": "produce",
    "expects": "expect",
    "ships": "ship",
    "shows": "show",
    "says": "say",
    "lists": "list",
    "describes": "describe",
    "represents": "represent",
    "specifies": "specify",
    "indicates": "indicate",
    "controls": "control",
    "defines": "define",
    "determines": "determine",
    "decides": "decide",
    "replaces": "replace",
}
_DOES = {
    "enables",
    "allows",
    "lets",
    "makes",
    "adds",
    "creates",
    "helps",
    "sets",
    "runs",
    "starts",
    "stops",
    "builds",
    "checks",
    "converts",
    "turns",
    "keeps",
    "loads",
    "saves",
    "removes",
    "reduces",
    "improves",
    "optimizes",
    "applies",
    "generates",
    "installs",
    "downloads",
    "serves",
    "implements",
    "extends",
    "handles",
    "manages",
    "exports",
    "splits",
    "computes",
    "measures",
    "splits",
    "groups",
    "asks",
    "gives",
    "counts",
    "refuses",
    "drops",
    "trains",
    "compiles",
    "launches",
    "performs",
    "executes",
    "selects",
    "chooses",
    "brings",
}
_VERB_FORMS = "|".join(sorted((*_THIRD, *_DOES), key=len, reverse=True))

_BOUNDARY = re.compile(r"(?<=[.!?])(?:[\"')*_\]]+)?\s+(?:>\s*)*(?=[\"'(*_`\[]*[A-Z0-9`<])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|Fig|No|approx|resp|Dr|Inc|St)\.|\b[A-Z]\.|(?:^|\n)\s*\d{1,3}\.)$"
)
_DANGLING = re.compile(
    r"(?i)^(?:this|these|those|that|it|its|they|their|he|she|such|here|there|also|however|then|otherwise|therefore|thus|so|but|and|or|"
    r"moreover|furthermore|additionally|in addition|besides|finally|next|first|second|third|secondly|meanwhile|instead|similarly|likewise|"
    r"see|please (?:see|refer|check|visit|note|follow|read|feel)|refer|for (?:more|details|further|example|instance|this|these|that|other)|"
    r"click|as (?:shown|you|a result|mentioned|described|below|above)|in (?:this|that|these|both|either|the (?:above|following|example|"
    r"previous))|after that|once (?:done|this|it)|let'?s|we (?:will|also|have|hope|would|are|can|recommend you to refer)|you(?:'ll| will| can now| "
    r"may also| can also| should now| should see| are now| may see| could|r )|now|note|both|each of (?:these|them)|all of (?:these|them)|"
    r"please|sometimes|while (?:this|it)|simply|we|go to|check (?:out|our)|another|one (?:of (?:these|them)|more)|the (?:former|latter|same|above|below|following|previous|rest|other|last|next|first|second)|"
    r"(?:some|many|most|none|two|three|four|all) of (?:these|them|it)|like|if (?:so|not|this|it|they|that)|when (?:this|it|they)|yes|no)\b"
)
_POINTERS = re.compile(
    r"(?i)\b(?:(?:the )?(?:above|below|following)|click here|this (?:section|page|guide|document|tutorial|example|table|file|command|"
    r"article|chapter|readme|link|step|list|issue|way)|these (?:steps|commands|options|files)|previous(?:ly)? (?:section|step)|"
    r"next (?:section|step|chapter)|see (?:also|the)|refer to|as follows|learn more|read more|\bhere\b|for more (?:details|information)"
    r"|at the time of writing|stay tuned|coming soon)"
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What one sentence answers: the question a template makes of it, the thing it is about, and the shape it was recognised by."""

    kind: str
    subject: str
    question: str


def split(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Offsets of the sentences of text[start:end]; a full stop inside `code`, an abbreviation or a list number ends none."""
    spans, begin = [], start
    for gap in _BOUNDARY.finditer(text, start, end):
        before = text[begin : gap.start()]
        if (
            before.count("`") % 2
            or _ABBREVIATION.search(before.rstrip("\"')*_]"))
            or before.count("(") > before.count(")")
        ):
            continue
        spans.append((begin, gap.start() + len(gap.group()) - len(gap.group().lstrip("\"')*_]"))))
        begin = gap.end()
    if begin < end:
        spans.append((begin, end))
    return [
        (a + len(text[a:b]) - len(text[a:b].lstrip()), a + len(text[a:b].rstrip()))
        for a, b in spans
        if text[a:b].strip()
    ]


def clean(markdown: str) -> str:
    """Prose without link targets, emphasis, images and tags, in one line; `code` keeps its marks."""
    text = re.sub(r"(?m)^[ \t]*(?:>[ \t]?)+", "", markdown)
    parts = re.split(r"(`+[^`]*`+)", text)
    for i in range(0, len(parts), 2):
        part = re.sub(r"!\[[^\]]*\]\([^)]*\)|\[!\w+\]|\[\^\w+\]", "", parts[i])
        part = re.sub(r"</?(?!https?:)[A-Za-z][^>\n]*>|<!--.*?-->", "", part, flags=re.S)
        part = re.sub(r"\\?\*+|(?<!\w)_+|_+(?!\w)", "", part)
        parts[i] = re.sub(r"\\([\\`*_{}\[\]()#+.!<>-])", r"\1", part)
    text = "".join(parts)
    text = re.sub(r"\[([^\]\n]*(?:\n[^\]\n]*)?)\]\([^)\s]*(?:\s+\"[^\"]*\")?\)", r"\1", text)
    text = re.sub(r"\[([^\]\n]+)\]\[[^\]\n]*\]", r"\1", text)
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"\s+([.,;:!?)])(?=\s|$)", r"\1", text)


def stands_alone(sentence: str) -> bool:
    """Whether a reader who sees only this sentence knows what it speaks of."""
    text = strip_note(sentence)
    count = len(text.split())
    if (
        not (5 <= count <= 60 and 30 <= len(text) <= 420)
        or not text.endswith((".", "!"))
        or text.endswith(("...", "etc!"))
    ):
        return False
    if not re.match(r"[A-Z0-9`\"]", text) or _DANGLING.match(text) or _POINTERS.search(text):
        return False
    if (
        text.count("`") % 2
        or text.count("(") != text.count(")")
        or text.count('"') % 2
        or "http" in text
        or "](" in text
    ):
        return False
    letters = sum(char.isalpha() for char in text)
    return letters > 0.6 * len(text.replace(" ", ""))


def strip_note(sentence: str) -> str:
    """The sentence without "Note that", "Please note:" or "Tip:" before it."""
    text = re.sub(
        r"(?i)^(?:(?:please )?note(?: that)?|important|tip|warning|caution|hint|info)\b\s*[:,-]?\s+(?=\S)", "", sentence
    )
    return text[:1].upper() + text[1:] if text != sentence else sentence


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


def _how_to(sentence: str) -> Reading | None:
    match = re.match(r"(?:In order to|To) (?P<goal>[a-z][^,:]{6,90}), (?P<rest>.+)", sentence)
    if match and match["goal"].split()[0] in VERBS | {"be", "do", "go", "have", "see"}:
        return Reading("how-to", match["goal"], f"How do I {first_person(match['goal'])}?")
    match = re.match(
        r"(?P<verb>[A-Z][a-z-]+) (?P<object>[^.;:]{3,120}?) to (?P<goal>[a-z-]+ [^.;:]{4,90})[.!]$", sentence
    )
    if match and match["verb"].lower() in VERBS and match["goal"].split()[0] in VERBS and "," not in match["goal"]:
        return Reading("how-to", match["goal"], f"How do I {first_person(match['goal'])}?")
    return None


def _condition(sentence: str) -> Reading | None:
    match = re.match(r"(?P<word>If|When|Once) (?P<case>[^,:;]{8,110}), (?P<rest>.+)", sentence)
    if not match or re.search(r"\b(?:it|they|this|these|that one)\b", match["case"]):
        return None
    rest = re.sub(r"^(?:then|please)\s+", "", match["rest"])
    if re.match(r"(?:but|and|or|which|so)\b", rest):
        return None
    asks_to_act = (
        re.match(
            r"(?:you (?:can|should|need|must|may|have)|set|try|make sure|consider|file|do not|don't|be sure|restart|reboot|follow|refer|ignore)\b",
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
        r"(?P<subject>[^,;:]{2,60}?) (?P<verb>is|are) (?:an? |the |one of |used |how |where |what |designed |intended |based )",
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
        r"(?P<subject>[^,;:]{2,60}?) (?P<modal>must|should|can|cannot|may|is|are)(?P<no> not| never)? (?P<rest>[^,;:]{4,90}), because .+",
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
        r"(?P<subject>[^,;:]{2,60}?) has (?:(?P<size>[\d.,]+ [KMGT]i?B) of (?P<what>[a-z]+)|an? (?P<part>[a-z]+) of )\b",
        sentence,
    )
    if not match or _vague(match["subject"]):
        return None
    ask = f"How much {match['what']}" if match["what"] else f"Which {match['part']}"
    return Reading("statement", match["subject"], f"{ask} does {_inside(match['subject'])} have?")


def _passive(sentence: str) -> Reading | None:
    match = re.match(
        r"(?P<subject>[^,;:]{2,60}?) (?P<be>is|are) (?:never |always |only |not |then |also )?"
        r"(?:refused|ignored|dropped|stored|kept|removed|deleted|skipped|retired|truncated|cut|scrubbed|rejected|cached|overwritten|merged)\b .*",
        sentence.rstrip(".") + " .",
    )
    if (
        not match
        or _vague(match["subject"])
        or re.match(r".* (?:is|are) (?:used|designed|intended|called|based)\b", sentence)
    ):
        return None
    return Reading("statement", match["subject"], f"What happens to {_inside(match['subject'])}?")


def _vague(subject: str) -> bool:
    """A subject that names nothing by itself, or is no noun phrase at all."""
    low = subject.casefold()
    tokens = low.split()
    if len(tokens) > 7 or re.search(
        r"\b(?:which|that|who|where|if|when|and then|is|are|was|can|will|must|should|may|has|have|not|you|we|it)\b", low
    ):
        return True
    if tokens[0] in VERBS and subject[0].isupper() and "`" not in subject and len(tokens) > 1:
        return True
    if tokens[0] in {
        "to",
        "by",
        "for",
        "in",
        "on",
        "at",
        "with",
        "from",
        "as",
        "after",
        "before",
        "once",
        "while",
        "because",
        "since",
        "each",
        "every",
        "any",
        "all",
        "both",
        "there",
        "what",
        "how",
        "why",
        "nothing",
        "everything",
        "something",
        "no",
        "under",
        "without",
    }:
        return True
    core = [token for token in tokens if token not in {"the", "a", "an"}]
    return not core or core[0] in {
        "goal",
        "reason",
        "idea",
        "result",
        "problem",
        "first",
        "second",
        "last",
        "next",
        "only",
        "main",
        "same",
        "purpose",
        "other",
        "one",
        "number",
        "rest",
        "answer",
        "way",
        "point",
        "difference",
        "above",
        "following",
        "output",
        "example",
    }


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


def first_person(text: str) -> str:
    """ "you save your model" -> "I save my model": how the reader would ask it."""
    for old, new in (
        (r"\byou are\b", "I am"),
        (r"\byou're\b", "I am"),
        (r"\byourself\b", "myself"),
        (r"\byour\b", "my"),
        (r"\byou\b", "I"),
    ):
        text = re.sub(old, new, text)
    return re.sub(r"(?:\s+(?:through|by|with|via|using|like|as|from|at))+$", "", text.strip().rstrip("."))


def imperative_goal(heading: str) -> str | None:
    """ "Install the driver" or "Installing the driver" -> "install the driver"; None where a heading is no instruction."""
    text = clean(
        re.sub(r"^(?:(?:step )?\d+[.:)]?(?:\d+[.)]?)*|[IVX]+\.|[A-Z]\.)\s+", "", heading.strip(), flags=re.I)
    ).rstrip(".:!")
    head, _, rest = text.partition(" ")
    low = head.lower()
    if re.match(r"(?i)how to\b", text):
        return first_person(text[7:].strip()) or None
    if low.startswith("set") and rest.lower().startswith("up "):
        return first_person(f"set {rest}")
    if not rest or len(text) > 90:
        return None
    if low in VERBS:
        return first_person(f"{low} {rest}")
    if low.endswith("ing"):
        stem = low[:-3]
        for base in (stem, stem + "e", stem[:-1] if len(stem) > 2 and stem[-1] == stem[-2] else stem):
            if base in VERBS:
                return first_person(f"{base} {rest}")
    return None
