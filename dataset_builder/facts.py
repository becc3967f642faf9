"""Facts that code finds in a chunk: definitions, options, table rows, commands, steps, conditions. The answer is the
document's own.

For a model too weak to write pairs by itself, the answer is picked here and the model only words the question
(`answer_first`). The same
list is what the documents define, so `coverage` counts against it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from dataset_builder import sentences, shapes
from dataset_builder.blocks import Block, blocks_of
from dataset_builder.identifiers import exact_words, words
from dataset_builder.rows import Chunk

MAX_BLOCK_CHARS = 1200
"""Longest answer taken whole from a list of steps or a code block, in characters (about 300 tokens)."""
SHELL = {"bash", "sh", "shell", "console", "zsh", "cmd", "bat", "powershell", "ps1", "terminal"}


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that a chunk says, as an answer, and the template's question for it."""

    kind: str
    """definition, purpose, statement, condition, default, how-to, option, cell, command, code, steps."""
    subject: str
    """What it is about, as the document names it."""
    answer: str
    """Markdown; a sentence or a cleaned block."""
    question: str
    """The template's wording; empty where no template fits and only a model can ask."""
    start: int
    end: int
    """chunk.text[start:end] is the evidence."""


def facts(chunk: Chunk) -> tuple[Fact, ...]:
    """The facts of a chunk in the order of their place, each answer once."""
    found: list[Fact] = []
    seen: set[str] = set()
    for fact in _walk(chunk):
        key = " ".join(fact.answer.casefold().split())
        if key not in seen and fact.end > fact.start:
            seen.add(key)
            found.append(fact)
    return tuple(found)


def _walk(chunk: Chunk) -> Iterator[Fact]:
    heading = chunk.heading_path[-1] if chunk.heading_path else chunk.title
    before: Block | None = None
    for block in blocks_of(chunk.text):
        if block.type == "heading":
            heading = block.text
        elif block.type == "paragraph":
            yield from _of_sentences(block, chunk, heading)
        elif block.type == "item":
            yield from _of_item(block, chunk, heading)
        elif block.type == "row":
            yield from _of_row(block, topic(chunk, heading), heading)
        elif block.type == "ordered":
            yield from _of_steps(block, chunk, heading, before)
        elif block.type == "fence":
            yield from _of_code(block, chunk, heading, before)
        before = block


_NO_TOPIC = re.compile(
    r"[\w-]+\.\w{1,5}|"
    r"(?i:faqs?|frequently asked questions(?: \(faqs?\))?|overview|introduction|read ?me|index|contents)|"
    r"[A-Z]{3,}(?: [A-Z]{2,}){2,}"
)
"""A bare file name, a shout ("THIS PROJECT IS ARCHIVED") or what any page may be called: "In Overview,
what ...?" says nothing."""


def topic(chunk: Chunk, heading: str = "") -> str:
    """What the section is about, for questions that need a setting: the page's title, else the first heading."""
    for name in (chunk.title, *chunk.heading_path[:1], heading):
        name = sentences.clean(name).rstrip(".:")
        if name and not _NO_TOPIC.fullmatch(name):
            return name
    return ""


def _of_sentences(block: Block, chunk: Chunk, heading: str) -> Iterator[Fact]:
    for start, end in sentences.split(chunk.text, block.start, block.end):
        plain = sentences.clean(chunk.text[start:end])
        if not sentences.stands_alone(plain):
            continue
        text = sentences.strip_note(plain)
        reading = shapes.read(text)
        if reading is None:
            subject = _first_name(text) or topic(chunk, heading)
            yield Fact("statement", subject, text, "", start, end)
        else:
            yield Fact(reading.kind, reading.subject, text, set_in(reading.question, topic(chunk, heading)), start, end)


_CLAUSE = {"how", "what", "why", "where", "when", "which"}
_ANY_PAGE = re.compile(
    r"(?i)(?:new )?(?:features|examples|releases|release notes|contribution|contributing|quick ?start|getting started|"
    r"troubleshooting|performance|technical details|known issues|api(?: doc| documentation)?|license)"
)
"""Titles that any product's page may have: nothing is told by "In Releases, ..."."""


_BARE = re.compile(r"\bdoes the [a-z]+ [a-z]+\?$")
""" "What does the extension provide?": of many extensions, though the page's title has the same word."""


def set_in(question: str, where: str) -> str:
    """The question with its setting in front, unless it already names something exact ("In Quickstart, how do I
    ...?"). An acronym alone ("What is DEBUG?") can mean anything anywhere."""
    named = exact_words(re.sub(r"\b[A-Z]{2,}s?\b", "", question)) or "`" in question
    if named or not where or len(where.split()) > 12:
        return question
    shared = {word for word in words(where) if len(word) > 3} & set(words(question))
    if _ANY_PAGE.fullmatch(where) or (shared and not _BARE.search(question)):
        return question
    lower = question[0].lower() + question[1:]
    first = where.split()[0].casefold()
    if first in _CLAUSE or first in sentences.VERBS or len(where.split()) > 6 or ":" in where:  # no place to be in
        return f'About "{where}": {lower}'
    return f"In {where}, {lower}"


def _first_name(text: str) -> str | None:
    match = re.search(r"`[^`]{2,40}`", text)
    if match:
        return match.group()
    names = exact_words(text)
    return next((word.strip(".,:;()") for word in text.split() if word.strip(".,:;()").casefold() in names), None)


_ITEM = re.compile(
    r"^\s*(?:(?P<code>`[^`\n]{1,60}`)|\*\*(?P<bold>[^*\n]{2,60}?):?\*\*)(?:\s*\([^)\n]{1,40}\))?\s*(?::|--|\u2013|\u2014|"
    r"-)\s+(?P<what>\S.+)$",
    re.S,
)


def _of_item(block: Block, chunk: Chunk, heading: str) -> Iterator[Fact]:
    match = _ITEM.match(block.text)
    if match is None:
        yield from _of_sentences(_trimmed(block, chunk.text), chunk, heading)
        return
    name = match["code"] or sentences.clean(match["bold"]).rstrip(":")
    what = sentences.clean(match["what"])
    if not match["code"] and len(name.split()) < 2 and not exact_words(name):
        return  # "Solution: ...", "Note: ...": a label, no name
    if (
        sentences.HOLLOW.search(f"{what.rstrip('.')}.")
        or len(what.split()) < 4
        or what.endswith(":")
        or len(what) > 500
        or (block.info == "ordered" and not match["code"])
        or sentences.POINTERS.search(what)
    ):
        return
    yield _named(name, what, topic(chunk, heading), block, "")


def _trimmed(block: Block, text: str) -> Block:
    marker = re.match(r"(?:\d{1,3}[.)]|[-*+])\s+(?:\[[ xX]\]\s+)?", text[block.start : block.end])
    return Block(block.type, block.start + (marker.end() if marker else 0), block.end, block.text)


def _named(name: str, what: str, where: str, block: Block, noun: str) -> Fact:
    """ "`name`: what" as a fact; a description that begins with a verb reads on as a sentence."""
    what = what if what.endswith((".", "!", "?")) else what.rstrip(";,") + "."
    what = re.sub(r"[;,]\.$", ".", what)
    first = re.match(r"(?:\w+ly )?([\w-]+)", what)
    verb = first.group(1).lower() if first else ""
    label = f"the {noun} {name}" if noun else name
    if not name.startswith("`") and not noun and _FINITE.search(" ".join(what.split()[:12])):
        # "**User experience**: coverage is higher": the label is no term that the sentence defines
        return Fact("statement", name, f"{name}: {what}", "", block.start, block.end)
    if name.startswith("`") and verb.endswith("s") and (verb[:-1] in sentences.VERBS or verb[:-2] in sentences.VERBS):
        question, answer = f"What does {label} do?", f"{name} {what[0].lower()}{what[1:]}"
    elif verb in sentences.VERBS:
        question, answer = (
            f"What does {label} do?" if name.startswith("`") else f"What is {label} for?",
            f"{name}: {what}",
        )
    else:
        question, answer = f"What is {label}?", f"{name}: {what}"
    return Fact("option", name, answer, set_in(question, where), block.start, block.end)


_FINITE = re.compile(r"\b(?:is|are|was|were|would|can|will|may|might|should|has|have)\b")
_NOUNS = {
    "option": "option", "flag": "flag", "field": "field", "key": "key", "parameter": "parameter",
    "argument": "argument", "command": "command", "variable": "variable",
    "environment variable": "environment variable", "setting": "setting", "function": "function",
    "method": "method", "argument name": "argument", "name": "", "api": "API", "class": "class",
    "attribute": "attribute", "parameters": "parameter", "options": "option", "property": "property",
    "target": "target", "file": "file",
}
_ABOUT = {
    "description", "meaning", "what it does", "what it is", "purpose", "explanation", "note", "notes", "does",
    "use", "usage", "what", "remarks", "details", "comment", "comments", "why", "effect",
}


_PHRASE = re.compile(
    r"(?:As|At|By|Can|For|From|If|In|Must|Not|On|Only|Should|To|Use|Used|When|With|Without)\b"
)
"""Begins a cell that cannot follow "is"."""


def _of_row(block: Block, where: str, heading: str) -> Iterator[Fact]:
    """A row of a table: the described thing as one fact, each short cell under a named column as another. A bare figure
    says nothing without its table, whose heading is then named."""
    headers = [sentences.clean(header).strip("*: ") for header in block.headers]
    cells = [sentences.clean(cell) for cell in block.cells]
    if len(cells) < 2 or len(headers) != len(cells) or not headers[0] or not _nameable(cells[0]):
        return
    name = cells[0]
    noun = _NOUNS.get(headers[0].casefold(), "")
    for header, cell, raw in zip(headers[1:], cells[1:], block.cells[1:], strict=True):
        if not re.sub(
            r"!?\[[^\]]*\]\([^)]*\)|[\s,;/]", "", raw
        ):  # nothing but links: the words of a link say nothing without its target
            continue
        if (
            not header
            or not cell
            or cell in {"-", "\u2013", "\u2014", "n/a", "N/A"}
            or sentences.POINTERS.search(cell)
            or "http" in cell
            or not re.search(r"[^\W_]", re.sub(r"&#?\w+;", "", cell))
            or len(cell) > 500
        ):
            continue
        if header.casefold() in _ABOUT or (len(cells) == 2 and len(cell.split()) >= 5):
            if len(cell.split()) >= 3:
                yield _named(name, cell, where, block, noun)
        elif len(header.split()) <= 4 and len(cell.split()) <= 30 and re.search(r"\w", cell):
            column = header if exact_words(header) else header.lower()
            label = f"the {noun} {name}" if noun else name
            verb = "are" if re.search(r"[a-zA-Z]{2}[^s]s$", column) else "is"
            told = ":" if _PHRASE.match(cell) else f" {verb}"
            asked, said = f"{verb} the {column} of {label}?", f"he {column} of {label}{told} {cell.rstrip('.')}."
            question, answer = set_in(f"What {asked}", where), f"T{said}"
            if _FIGURE.fullmatch(cell) and not noun and not name.startswith("`"):
                table = sentences.clean(heading).rstrip(".:")
                if not table or table.casefold() == where.casefold():
                    continue
                question, answer = f'In the table "{table}", what {asked}', f'In the table "{table}", t{said}'
            yield Fact("cell", name, answer, question, block.start, block.end)


_FIGURE = re.compile(r"[-+~<>=]*\s*\d[\d.,]*\s*(?:%|x)?")
"""A cell that is a number and says not of what."""


def _nameable(cell: str) -> bool:
    """The first cell names one thing: an exact word, or a short phrase; not a number, a tick or a sentence."""
    if not re.search(r"[A-Za-z]", cell) or len(cell) > 60 or cell.endswith((".", ":")):
        return False
    return bool(exact_words(cell)) or cell.startswith("`") or len(cell.split()) <= 4


def _of_steps(block: Block, chunk: Chunk, heading: str, before: Block | None) -> Iterator[Fact]:
    goal = sentences.imperative_goal(heading)
    items = re.findall(r"(?m)^\d{1,3}[.)]\s", block.text)
    if (
        goal is None
        or len(items) < 2
        or len(block.text) > MAX_BLOCK_CHARS
        or "http" in block.text
        or "![" in block.text
        or sentences.POINTERS.search(block.text)
    ):
        return
    steps = re.sub(r"(?<!!)\[([^\]\n]+)\]\([^)\n]*\)", r"\1", block.text).strip()
    yield Fact("steps", goal, steps, set_in(f"How do I {goal}?", topic(chunk, heading)), block.start, block.end)


_NO_GOAL = re.compile(
    r"\b(?:and|or|the|an?)$|^(?:get|see|view|check) (?:the )?outputs?\b|^(?:replace|change|modify) .*`"
)
"""Cut off, or what is shown or changed in the code and not what the code does."""


def _of_code(block: Block, chunk: Chunk, heading: str, before: Block | None) -> Iterator[Fact]:
    """A code block with what it is for: the sentence right before it, else an imperative heading."""
    code = block.text.strip("\n")
    if (
        not code.strip()
        or len(code) > MAX_BLOCK_CHARS
        or code.count("\n") > 24
        or not block.info
        or block.info in {"text", "txt", "output", "log"}
    ):
        return
    lead = _lead(before, chunk.text) if before is not None and before.type in {"paragraph", "item"} else ""
    goal = _goal(lead)
    if goal is None and not lead:
        goal = sentences.imperative_goal(heading)
        lead = f"To {goal}:" if goal else ""
    if (
        goal is None
        or sentences.POINTERS.search(goal)
        or re.search(r"\b(?:it|this|these|them)\b|^(?:ensure|make sure|check if)\b", goal)
        or _NO_GOAL.search(goal)
        or re.match(r"\w+ (?:in|on|at|to|from|with|by|of|for|as)\b", goal)  # "set in the training": what is set?
    ):
        return
    kind = "command" if block.info in SHELL else "code"
    start = (
        before.start
        if before is not None
        and before.type in {"paragraph", "item"}
        and lead
        and not lead.startswith("To " + goal + ":")
        else block.start
    )
    lead = lead if not sentences.POINTERS.search(lead) else f"To {goal}:"
    yield Fact(
        kind,
        goal,
        f"{lead.rstrip(':.')}:\n\n```{block.info}\n{code}\n```",
        set_in(f"How do I {goal}?", topic(chunk, heading)),
        start,
        block.end,
    )


def _lead(block: Block, text: str) -> str:
    spans = sentences.split(text, block.start, block.end)
    if not spans:
        return ""
    lead = sentences.strip_note(sentences.clean(text[slice(*spans[-1])])).lstrip("-+*0123456789.) ")
    lead = re.sub(r"^(?:Then|Next|Finally|First|After that|Now),? (?=\w)", "", lead)
    return lead[:1].upper() + lead[1:]


def _goal(lead: str) -> str | None:
    """What the code is for, from the sentence that introduces it: "To train the model, run:" -> "train the model"."""
    match = re.match(r"(?:In order to|To) (?P<goal>[a-z][^,:]{4,90}?)(?:,| (?:run|use|execute)\b.*|:)", lead)
    if match and match["goal"].split()[0] in sentences.VERBS:
        return sentences.first_person(match["goal"])
    match = re.match(
        r"(?:Then |Next, |Finally, |First, |You (?:can|may|should|need to) |Please )?(?P<goal>[A-Za-z][a-z-]+ "
        r"[^:]{3,110}?)"
        r"(?: (?:by|with|using|via|as|as follows|like|like this|by running)(?: the)?(?: (?:following|commands?|"
        r"below|command below|this))*)?[:.]$",
        lead,
    )
    if match and match["goal"].split()[0].lower() in sentences.VERBS and "," not in match["goal"]:
        goal = match["goal"]
        goal = goal[0].lower() + goal[1:]
        if not re.match(
            r"(?:run|use|execute|try|see|check|start|call|put|write|add) (?:the )?(?:following|this|these|below|"
            r"command|commands|it)\b",
            goal,
        ):
            return sentences.first_person(goal)
    return None
