"""Views of a pair that code can make: the same fact asked from another side or in another voice, never with another
meaning.

A view is (name, question, answer). Answers reuse the document's own sentence, so nothing can drift; what a view adds
is checked like any
other answer. Which views pay: "Active Reading" (arXiv 2508.09494) found varied strategies at 63 % where paraphrases
reach 26 %, and a fact
trained in one direction only is not known in the other (reversal curse, arXiv 2309.12288).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from dataset_builder.corpus import Corpus
from dataset_builder.facts import topic
from dataset_builder.identifiers import exact_words, words
from dataset_builder.rows import Chunk, Grounded, digest
from dataset_builder.runner import HERE, Runner
from dataset_builder.sentences import VERBS, clean
from dataset_builder.wording import content_stems

MIN_SAID_WORDS = 3
"""Content words that what is said of a thing has, if one shall find the thing by it ("is the new release" has 2)."""
MIN_START_WORDS = 4
"""Content words (or one exact word) without which nobody could guess how a statement goes on."""

View = tuple[str, str, str]
"""(name, question, answer)."""


def corpus(chunks: Sequence[Chunk], on: Runner = HERE, folder: Path | None = None) -> Corpus:
    """What all views need to know; `folder`: where it may lie for the time of the build."""
    return Corpus(chunks, on, folder)


def all_views(grounded: Grounded, known: Corpus) -> list[View]:
    """Every view code can make of a pair by itself, direct first, each question once."""
    found: list[View] = [("direct", grounded.pair.question, grounded.pair.answer)]
    seen = {_key(grounded.pair.question)}
    for make in MAKERS:
        for name, question, answer in make(grounded, known):
            if _key(question) not in seen and len(question) <= 700:
                seen.add(_key(question))
                found.append((name, question, answer))
    return found


def _key(question: str) -> str:
    return " ".join(question.casefold().split())


def reworded(grounded: Grounded, _: Corpus) -> Iterator[View]:
    """The model's other wordings, then those of grammar alone."""
    for question in (*grounded.wordings, *rewordings(grounded.pair.question)):
        yield "reworded", question, grounded.pair.answer


_PATTERNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"How do I (?P<x>.+)\?$", ("What do I have to do to {x}?", "How can I {x}?", "What is the way to {x}?")),
    (r"What is the default of (?P<x>.+)\?$", ("Which default does {x} have?", "If I do not set {x}, what is used?")),
    (
        r"What does (?P<x>.+) do\?$",
        ("What is {x} good for?", "Which job does {x} have?", "What happens when I use {x}?"),
    ),
    (
        r"What should I do (?P<w>if|when|once) (?P<x>.+)\?$",
        ("What is recommended {w} {x}?", "{w} {x}, what is there to do?"),
    ),
    (r"What happens (?P<w>if|when|once) (?P<x>.+)\?$", ("{w} {x}, what follows?", "What is the consequence {w} {x}?")),
    (
        r"What (?P<v>is|are) the (?P<c>[\w -]{2,40}) of (?P<x>.+)\?$",
        ("Which {c} does {x} have?", "{x}: what {v} the {c}?"),
    ),
    (
        r"What (?P<v>is|are) (?P<x>.+) (?P<u>used|designed|intended) for\?$",
        ("For what {v} {x} {u}?", "What do people use {x} for?"),
    ),
    (r"What is (?P<x>.+) for\?$", ("Which purpose does {x} serve?", "What do people use {x} for?")),
    (
        r"What (?P<v>is|are) (?P<x>(?!not\b|\w+ed\b|set\b|done\b)(?:\S+ ){0,7}\S+)\?$",
        ("Can you say what {x} {v}?", "What is meant by {x}?", "How would you describe {x}?"),
    ),
    (r"What happens to (?P<x>.+)\?$", ("What becomes of {x}?", "How is {x} dealt with?")),
    (
        r"Why (?P<w>must|should|can|may|is|are) (?P<x>.+)\?$",
        ("For what reason {w} {x}?", "What is the reason why {w} {x}?"),
    ),
    (
        r"What does (?P<x>.+) (?P<w>support|require|need|contain|include|return|provide|use|take|accept|hold|"
        r"print|write|read)\?$",
        ("What is it that {x} {w}s?", "Can you name what {x} {w}s?"),
    ),
)


def rewordings(question: str) -> Iterator[str]:
    """The question in other grammar; a setting in front ("In X, ...") moves to the end."""
    setting, core, where = "", question, ""
    match = re.match(
        r"(?:In (?P<where>[^,?]{2,60})|About \"(?P<title>[^\"?]+)\")[,:] (?P<core>(?:what|how|which)\b.+)$", question
    )
    if match:
        where = match["where"]
        setting, core = where or match["title"], match["core"][0].upper() + match["core"][1:]
        yield f"{core.rstrip('?')} in {setting}?" if match["where"] else f"{core} (about: {setting})"
    for pattern, templates in _PATTERNS:
        match = re.match(pattern, core)
        if match:
            for template in templates:
                text = template.format(**match.groupdict())
                if setting:
                    lower = text if text.startswith("I ") else text[0].lower() + text[1:]
                    text = f"In {setting}, {lower}" if where else f'About "{setting}": {lower}'
                yield text[0].upper() + text[1:]
            return


def reversed_view(grounded: Grounded, _: Corpus) -> Iterator[View]:
    """From what is said to what it is said of: "Which option sets ...?"."""
    answer, subject = grounded.pair.answer, grounded.subject
    if "\n" in answer:
        command = re.search(r"```\w+\n([^\n]{6,120})\n```", answer)
        if command and not command[1].startswith(("#", "$")):
            code = command[1].strip()
            yield (
                "reversed",
                f"What is `{code}` for?" if "`" not in code else "",
                f"Use `{code}` to {_second_person(grounded.subject)}.",
            )
        return
    if not subject or not answer.startswith(subject):
        return
    rest = answer[len(subject) :].strip()
    said = re.split(r",? (?:and (?:its|it|the|their)|so|because|which|but)\b|;", rest.rstrip("."))[0].rstrip(",")
    if re.search(r"\b(?:as well|too|also|then)$", said) or len(said.split()) < 4:
        return  # it goes on from the sentence before, or could be said of anything
    noun = re.match(
        r"The (?:[a-z-]+ )?(?P<noun>key|field|option|command|method|profile|kind|mapping|function|flag)\b", subject
    )
    what = f"Which {noun['noun']}" if noun else "Which option" if subject.startswith("`-") else ""
    match = re.match(r"(?:is|are) (?P<what>(?:an?|the) .{12,160})$", said)
    if match:
        yield (
            "reversed",
            f"{what} is {match['what']}?" if what else f"Which term is described as {match['what']}?",
            answer,
        )
    elif re.match(r"[a-z]+s (?!is\b|are\b).{8,160}$", said) and len(content_stems(said)) >= MIN_SAID_WORDS:
        yield "reversed", f"{what or 'What'} {said}?", answer
    elif rest.startswith(": ") and 4 <= len(rest.split()) <= 22:
        kind = "option" if "`" in subject else "item"
        yield "reversed", f'Which {kind} does this describe: "{rest[2:].rstrip(".")}"?', answer


def _second_person(goal: str) -> str:
    """What the reader asked in the first person, said to the reader."""
    return re.sub(r"\bmyself\b", "yourself", re.sub(r"\bmy\b", "your", re.sub(r"\bI am\b", "you are", goal))).replace(
        " I ", " you "
    )


def true_false(grounded: Grounded, known: Corpus) -> Iterator[View]:
    """The sentence as a claim, right or with one exact word exchanged; the answer corrects it."""
    answer = grounded.pair.answer
    if "\n" in answer or not 40 <= len(answer) <= 260:
        return
    clause = re.match(r"(?:If|When|Once) [^,]+, (\w+)", answer)
    begins = (clause[1] if clause else answer.split()[0]).casefold()
    if begins in {*VERBS, "ask"} or re.search(r"(?i)\bplease\b", answer) or re.match(r"\S+(?: \S+){0,3}: ", answer):
        return  # neither an instruction nor "name: what it is" is true or false
    wrong = _falsified(answer, grounded, known)
    if wrong is None:
        return  # claims of which none could be false would make "True" the safe guess
    if int(digest(grounded.pair.id, "claim"), 16) % 2:
        yield "true-false", f"True or false? {answer}", f"True. {answer}"
    else:
        yield "true-false", f"True or false? {wrong}", f"False. {answer}"


def _falsified(answer: str, grounded: Grounded, known: Corpus) -> str | None:
    """The sentence with a name or a number that makes it wrong: another name of the same document, or a number that
    is not in the chunk."""
    names = [name for name in re.findall(r"(?<!`)`([^`\s]{3,40})`(?!`)", answer) if known.names(name)]
    if names and answer.count(names[0]) == 1:
        others = [
            name
            for name in known.names_in(grounded.chunk.document_id)
            if _shape(name) == _shape(names[0])
            and name not in answer
            and name not in grounded.pair.quote
            and name.casefold() not in {"none", "true", "false", "auto", "null"}
        ]
        opposite = {"true": "false", "false": "true"}.get(names[0].casefold())
        if opposite:
            return answer.replace(names[0], opposite.capitalize() if names[0][0].isupper() else opposite)
        if others:
            return answer.replace(names[0], others[int(digest(grounded.pair.id, "name"), 16) % len(others)])
    # after a small word a number counts or measures; after a capital, or "stage", it is part of a name ("Gemma 2")
    found = re.search(r"(?:^|\s)(?!stage|step|version|level|part)[a-z]+ (\d{1,4})(?![\w.,`/-])", answer)
    if found and len(re.findall(rf"\b{found[1]}\b", answer)) == 1:
        wrong = str(int(found[1]) * 2 + 1)
        if wrong not in exact_words(grounded.chunk.text):
            return answer[: found.start(1)] + wrong + answer[found.end(1) :]
    return None


@lru_cache(maxsize=1 << 14)
def _shape(name: str) -> str:
    return (
        re.sub(r"[a-z]+", "a", re.sub(r"[A-Z]+", "A", re.sub(r"\d+", "0", name)))[:2]
        + ("." if "." in name else "")
        + ("/" if "/" in name else "")
        + ("=" if "=" in name else "")
        + ("(" if "(" in name else "")
    )


def completion(grounded: Grounded, _: Corpus) -> Iterator[View]:
    """The first half of the sentence, to be completed; for code, its first line."""
    answer = grounded.pair.answer
    where = topic(grounded.chunk)
    if "\n" in answer or len(answer.split()) < 9 or not where:
        return
    tokens = answer.split()
    cut = len(tokens) * 2 // 5
    while cut < len(tokens) - 3 and (
        tokens[cut - 1].endswith((",", ":", "(")) or " ".join(tokens[:cut]).count("`") % 2
    ):
        cut += 1
    start = " ".join(tokens[:cut])
    told = exact_words(start) or len(content_stems(start)) >= MIN_START_WORDS
    told = told and re.search(r"\b[a-z]{4,}\b", re.sub(r"`[^`]*`|\b(?:from|with|that)\b", "", start))
    if start.count("`") % 2 == 0 and len(words(start)) >= 4 and told:
        yield "completion", f'Complete this statement from "{where}": "{start} ..."', answer


def terse(grounded: Grounded, _: Corpus) -> Iterator[View]:
    """As typed into a search box."""
    question = re.sub(r"^(?:In [^,?]{2,60},|About \"[^\"]+\":) (?=what|how|which|why)", "", grounded.pair.question)
    where = "" if exact_words(question) else topic(grounded.chunk)
    short = re.sub(
        r"(?i)^(?:how (?:do|can) i|what (?:is|are|does|do)|which|what should i do|what happens)\s+(?:the |an? )?",
        "",
        question,
    ).rstrip("?")
    short = re.sub(r"(?i)\s+(?:do|for|mean)$|^to (?=an? )", "", short).strip()
    if question.startswith("What does "):  # "What does X take?": X is what is typed
        short = re.sub(r"\s+[a-z]+$", "", short) if not re.search(r"(?i)\sdo\?$", question) else short
    short = re.sub(r"(?i)^(?:which |how much )?(.+) does (?:an? |the )?(.+) have$", r"\2 \1", short)
    if "what happens to " in question.casefold():
        short = short.removeprefix("to ")
    if where and len(short.split()) < 2:
        short = f"{short}, {where}"
    if re.search(r"(?i)\bdo\b", short) and not question.startswith("How"):
        return  # "What does X do to improve ...?": what is left is no phrase
    if 1 <= len(short.split()) <= 14 and short.casefold() != question.rstrip("?").casefold():
        prefix = {"how do": "how to ", "how ca": "how to "}.get(question[:6].casefold(), "")
        setting = f"{where}: " if where and len(where.split()) <= 4 and where.casefold() not in short.casefold() else ""
        yield "terse", f"{setting}{prefix}{short}", grounded.pair.answer


def _titled(where: str) -> str:
    """A title that is a phrase of its own ("Run Dify on Intel GPU") in quotation marks."""
    return f'"{where}"' if where.split()[0].casefold() in VERBS or len(where.split()) > 4 else f"about {where}"


def novice(grounded: Grounded, _: Corpus) -> Iterator[View]:
    """Asked by a beginner, who is also told where it stands: a fact with one answer only is learnt as that string
    (several answers a question: Bhushan et al., NAACL 2025)."""
    where, answer = topic(grounded.chunk), placed_answer(grounded)
    if where and where.casefold() not in grounded.pair.question.casefold():
        yield "novice", f"I am new to this and reading {_titled(where)}. {grounded.pair.question}", answer
    else:
        yield "novice", f"I am new to this, please help. {grounded.pair.question}", answer


def placed_answer(grounded: Grounded) -> str:
    """The answer and the section that says so."""
    answer, path = grounded.pair.answer, grounded.chunk.heading_path
    heading = clean(path[-1] if path else grounded.chunk.title).strip()
    if not heading or len(heading) > 80 or '"' in heading:
        return answer
    return f'{answer}{chr(10) * 2 if chr(10) in answer else " "}The documentation says so under "{heading}".'


def misspelled(grounded: Grounded, _: Corpus) -> Iterator[View]:
    """Lower case and one or two slips of the finger; exact words stay as they are."""
    tokens = grounded.pair.question.rstrip("?").split(" ")
    plain = [i for i, token in enumerate(tokens) if token.isalpha() and len(token) > 3 and token.islower()]
    if not plain or grounded.pair.question.count("`") % 2:
        return
    for turn in range(min(2, len(plain))):
        place = plain[int(digest(grounded.pair.id, "slip", str(turn)), 16) % len(plain)]
        tokens[place] = _slip(tokens[place], int(digest(grounded.pair.id, "kind", str(turn)), 16))
    text = " ".join(tokens)
    yield "misspelled", text[0].lower() + text[1:] if text[1:2].islower() else text, grounded.pair.answer


def _slip(word: str, number: int) -> str:
    place = 1 + number % (len(word) - 2)
    if number // 7 % 3 == 0:
        return word[:place] + word[place + 1 :]
    if number // 7 % 3 == 1:
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    return word[:place] + word[place] + word[place:]


MAKERS: tuple[Callable[[Grounded, Corpus], Iterator[View]], ...] = (
    reversed_view,
    true_false,
    reworded,
    completion,
    terse,
    misspelled,
    novice,
)
"""In the order in which a pair's rows are filled: other sides of the fact before other voices."""
