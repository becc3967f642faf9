"""Sentences of technical prose: where they begin and end, and whether one can stand alone.

A pattern here names a grammatical shape of documentation English ("To X, do Y", "X is a Y", "If X, Y"), never a
product or a library.
"""

from __future__ import annotations

import re

_VERBS_WORDS = """
    activate add adjust allocate append apply assign attach avoid benchmark build cache calculate call change
    check choose clean clear clone collect combine commit compare compile compress compute configure connect
    convert copy create customize debug decide declare decode define delete deploy detect disable download edit
    emit enable encode ensure evaluate exclude execute explain export extend extract fetch filter find fine-tune
    finetune fit fix force format generate get group handle hide import improve include increase infer initialize
    inspect install integrate invoke keep launch limit link list load log lower make manage map mark measure merge
    migrate modify monitor mount move offload open optimize override pack parse pass pin place plan prepare
    preserve prevent print profile pull push quantize query raise read rebuild reduce refresh register reload
    repeat remove rename replace report reproduce request reset resolve restart restore resume retrieve return
    reuse review run save scale search select send serve set share shard show skip sort specify split start stop
    store stream submit switch sync test trace track train transfer transform troubleshoot try tune turn uninstall
    unpack unset update upgrade upload use validate verify view visualize warm wrap write
"""
VERBS = frozenset(_VERBS_WORDS.split())
"""Base forms that begin an instruction or a heading such as "Install the driver"."""

_BOUNDARY = re.compile(r"(?<=[.!?])(?:[\"')*_\]]+)?\s+(?:>\s*)*(?=[\"'(*_`\[]*[A-Z0-9`<])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|Fig|No|approx|resp|Dr|Inc|St)\.|\b[A-Z]\.|(?:^|\n)\s*\d{1,3}\.)$"
)
_DANGLING = re.compile(
    r"(?i)^(?:this|these|those|that|it|its|they|their|he|she|such|here|there|also|however|then|otherwise|"
    r"therefore|thus|so|but|and|or|"
    r"moreover|furthermore|additionally|in addition|besides|finally|next|first|second|third|secondly|meanwhile|"
    r"instead|similarly|likewise|"
    r"see|please (?:see|refer|check|visit|note|follow|read|feel)|refer|for (?:more|details|further|example|"
    r"instance|this|these|that|other)|"
    r"click|as (?:shown|you|a result|mentioned|described|below|above)|in (?:this|that|these|both|either|the "
    r"(?:above|following|example|"
    r"previous))|after that|once (?:done|this|it)|let'?s|we (?:will|also|have|hope|would|are|can|recommend you to "
    r"refer)|you(?:'ll| will| can now| "
    r"may also| can also| should now| should see| are now| may see| could|r )|now|note|both|each of (?:these|"
    r"them)|all of (?:these|them)|"
    r"please|sometimes|while (?:this|it)|simply|we|go to|check (?:out|our)|another|one (?:of (?:these|them)|more)|"
    r"the (?:former|latter|same|above|below|following|previous|rest|other|last|next|first|second)|"
    r"(?:some|many|most|none|two|three|four|all) of (?:these|them|it)|like|if (?:so|not|this|it|they|that)|when "
    r"(?:this|it|they)|yes|no)\b"
)
POINTERS = re.compile(
    r"(?i)\b(?:(?:the )?(?:above|below|following)|click here|this (?:section|page|guide|document|tutorial|example|"
    r"table|file|command|"
    r"article|chapter|readme|link|step|list|issue|way)|the links?\b|follow (?:the|our|these) (?:steps|instructions|"
    r"guide)|these (?:steps|commands|options|files)|previous(?:ly)? "
    r"(?:section|step)|"
    r"next (?:section|step|chapter)|see (?:also|the)|refer to|as follows|learn more|read more|\bhere\b|for more "
    r"(?:details|information)"
    r"|at the time of writing|stay tuned|coming soon)"
)


HOLLOW = re.compile(
    r"(?i)\b(?:in section \d|(?:to|in) the (?:example|tips)|been listed|my (?:recent )?PR|is now ready|arXiv|"
    r"you may already|one is to|you can see|you have (?:known|learned|seen)|the (?:overall )?view is|the same as|"
    r"the provided|(?:this|these|those|such) (?:\w+ ){0,2}(?:problems?|cases?|examples?|issues?|errors?|packages?|"
    r"features?|situations?|reasons?)|as (?:explained|mentioned|described|shown) (?:before|above|earlier)|"
    r"follow (?:the |our |this )?[^,.;]{0,50}\b(?:guides?|docs?|documentation|quickstart|instructions|tutorial)|"
    r"(?:several|some|various|a few|a number of) (?:\w+ ){0,3}(?:variables|settings|options|steps|things)"
    r"(?: (?:are|is) (?:required|recommended|needed|or|and|\s)+)*(?:\.|$| before\b))"
    r"|^(?:suppose|find the|conclusion is|go to|take (?:a look|`?[A-Z])|before moving on|in such|because\b)"
    r"|^(?:if|when|since|as the) [^,]*(?:, (?:but|and|or)\b[^,]*)?\.$|^replace \S+ with (?:the|your)\b"
    r"|^(?:when|if|while) \w+ing [^,]*, (?:it|they) |can be found (?:on|at|in) the [^.]*page\b"
    r"|\bsimilar (?:issues|problems|errors)\b| \|| -\.$"
)
"""What a sentence holds that says nothing by itself: it points elsewhere, or promises what its neighbours tell."""


def split(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Offsets of the sentences of text[start:end]; a full stop inside `code`, an abbreviation or a list number ends
    none."""
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
    if not re.match(r"[A-Z0-9`\"]", text) or _DANGLING.match(text) or POINTERS.search(text) or HOLLOW.search(text):
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
    """ "Install the driver" or "Installing the driver" -> "install the driver"; None where a heading is no
    instruction."""
    text = clean(
        re.sub(r"^(?:(?:step )?\d+[.:)]?(?:\d+[.)]?)*|[IVX]+\.|[A-Z]\.)\s+", "", heading.strip(), flags=re.I)
    ).rstrip(".:!")
    text = re.sub(r"\s*\((?:optional|recommended|linux|windows)[^)]*\)$|^\(optional\)\s*", "", text, flags=re.I)
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
