"""Evidence checked by code: the quote stands in the chunk, the answer invents nothing, the question can be understood
alone.

Each check returns a reason or None; nothing here asks a model. A quote is looked for as the reader sees the text
(without Markdown's
marks and line breaks); its place in the Markdown is returned, so that `chunk.text[start:end]` is the verbatim evidence.
"""

from __future__ import annotations

import ast
import json
import re
import shlex

from dataset_builder.identifiers import exact_words, missing_words, words

MIN_FUZZY_CHARS, MIN_FUZZY_WORDS, FUZZY_SCORE = 20, 4, 95.0
MIN_QUOTE_CHARS, MIN_QUOTE_WORDS = 10, 2
MAX_QUESTION_CHARS, MIN_QUESTION_CHARS = 300, 12
MAX_ANSWER_CHARS = 4000

_MARKS = re.compile(
    r"!?\[(?P<text>[^\]\n]*)\]\([^)\n]*\)|<[^>\n]{1,200}>|[*`|]+|(?m:^[ \t]*(?:>[ \t]?)+|^[ \t]*#{1,6}[ \t]+|"
    r"^[ \t]*[-+][ \t]+)|\\(?=[\\`*_{}\[\]()#+.!<>-])|\s+"
)
_CURLY = str.maketrans({"\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'", "\u2013": "-", "\u2014": "-"})
_FENCE = re.compile(r"(?ms)^[ \t]*(```+|~~~+)[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*\1[ \t]*$")
_POINTS_OUTSIDE = re.compile(
    r"(?i)\b(?:(?:this|the|that|given|provided|above|following|current) (?:text|passage|document(?:ation)?|"
    r"section|page|guide|article|excerpt|"
    r"paragraph|chunk|sentence|snippet|context(?! (?:manager|window|length|size))|"
    r"tutorial|table|figure|image|example above|content|readme|author|"
    r"following)\b|"
    r"(?:mentioned|described|listed|shown|given|provided|discussed|stated) (?:above|below|here|earlier|in (?:the|"
    r"this))|"
    r"as (?:above|below|follows)|the (?:above|below|following|previous)|according to (?:the|this)|in the (?:text|"
    r"code|example)\b)"
)
_BARE_POINTER = re.compile(
    r"(?i)^(?:what|why|how|when|which|who|where|is|are|does|do|can|should)\b[^?]{0,24}?\b(?:this|these|those|it|"
    r"they|that|its|their)"
    r"(?=\s+(?:is|are|do|does|mean|used|work|for|be|called|command|code|option|feature|script|step|model|file|tool|"
    r"function|method|setting|parameter|value|error|library|project|software|release|version|issue|problem|the)\b|\?|$)"
)
TEMPLATE_MARK = re.compile(
    r"<\|[\w /-]{1,40}\|>|</?(?:s|eos|bos|pad|unk|start_of_turn|end_of_turn)>|\[/?INST\]|<</?SYS>>|"
    r"<\uff5c[^>\uff5c]{1,40}\uff5c>"
)
"""Marks of chat templates: tokenizers read them as such wherever they stand, so that an answer with one would end in
the middle, or a question begin another turn."""
_DENYING = frozenset(
    ("do", "does", "is", "are", "not", "no", "never", "cannot", "nor", "can't", "don't", "doesn't", "isn't", "aren't")
)
_DENIES = re.compile(r"(?i)\b(?:not|never|cannot|nor|no longer)\b|n't\b")
_NEGATIVE = re.compile(
    r"(?i)\b(?:not?|never|cannot|nor|none|neither|nothing|without|only|unless|except\w*|instead|rather|fail\w*|errors?|"
    r"avoid\w*|lack\w*|exclu\w*|off|false|wrong\w*|remov\w*|skip\w*|ignor\w*|prevent\w*|missing|refus\w*|reject\w*|"
    r"forbid\w*|stops?|drop\w*|deprecat\w*|obsolete|optional\w*|limit\w*|less|until|yet|un[a-z]{4,}|in(?:compatib|valid|"
    r"activ|suffic|abil)\w*|dis[a-z]{4,}|im(?:possib|prop)\w*|non\w*|ir\w+|omit\w*|too|few|little|hardly|0|\w+less)\b|n't\b"
)
"""Words by which something is denied, and those that can stand behind a denial in other words."""
_SHOWN = r"(?:commands?|steps?|code|examples?|scripts?|sections?|tables?|figures?|instructions?|output|lines?|"
_SHOWN += r"snippets?|settings?|variables?|links?|results?|lists?|configurations?)"
_SHOWS = re.compile(
    rf"(?i)\bfollowing (?:[\w-]+ ){{0,2}}?{_SHOWN}\b|\b(?:below|above) {_SHOWN}\b|"
    rf"\b{_SHOWN} (?:(?:shown|listed|given|described) )?(?:below|above)\b|\bas (?:follows|below)\b|"
    r"\bsee (?:below|above)\b"
)
"""Words that promise something to look at."""


def project(text: str) -> tuple[str, list[int]]:
    """The text as a reader sees it (marks and link targets gone, spaces single), and for each character its offset in
    `text`."""
    plain: list[str] = []
    offsets: list[int] = []

    def put(start: int, end: int) -> None:
        for place in range(start, end):
            plain.append(text[place].translate(_CURLY)[:1] or " ")
            offsets.append(place)

    position = 0
    for mark in _MARKS.finditer(text):
        put(position, mark.start())
        if mark.group("text") is not None:
            put(*mark.span("text"))
        elif (mark.group().isspace() or mark.group()[0] in "|\n<") and plain and plain[-1] != " ":
            plain.append(" ")
            offsets.append(mark.start())
        position = mark.end()
    put(position, len(text))
    return "".join(plain), offsets


def locate(quote: str, text: str) -> tuple[int, int] | None:
    """Offsets of `quote` in `text`, or None. Exact but for spaces and marks; else rapidfuzz >= 95 over >= 20
    characters and 4 words."""
    wanted = project(quote)[0].strip().strip("\"'").removesuffix("...").strip()
    if len(wanted) < MIN_QUOTE_CHARS or len(wanted.split()) < MIN_QUOTE_WORDS:
        return None
    plain, offsets = project(text)
    place = plain.find(wanted)
    if place < 0:
        place = plain.casefold().find(wanted.casefold()) if len(plain) == len(plain.casefold()) else -1
    if place >= 0:
        return _whole_words(text, offsets[place], offsets[place + len(wanted) - 1] + 1)
    if len(wanted) < MIN_FUZZY_CHARS or len(wanted.split()) < MIN_FUZZY_WORDS or len(wanted) > len(plain):
        return None
    from rapidfuzz import fuzz

    found = fuzz.partial_ratio_alignment(wanted, plain, score_cutoff=FUZZY_SCORE)
    if found is None or found.dest_end - found.dest_start < MIN_FUZZY_CHARS:
        return None
    start, end = _whole_words(text, offsets[found.dest_start], offsets[found.dest_end - 1] + 1)
    # a near quote may differ in a comma, never in a number or a name
    if missing_words(wanted, text[start:end]):
        return None
    return start, end


def is_exact(quote: str, found: str) -> bool:
    """Whether a quote that was located says the same letters as the place, case, spaces and marks aside."""
    return _bare(quote) in project(found)[0].casefold()


def _bare(quote: str) -> str:
    return project(quote)[0].strip().strip("\"'").removesuffix("...").strip().casefold()


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without blanks at its ends, grown to the edges of the words it cuts."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    while start > 0 and text[start].isalnum() and text[start - 1].isalnum():
        start -= 1
    while end < len(text) and text[end - 1].isalnum() and text[end].isalnum():
        end += 1
    return start, end


def question_problem(question: str) -> str | None:
    """Why a question cannot stand alone in a dataset, or None."""
    text = question.strip()
    if not MIN_QUESTION_CHARS <= len(text) <= MAX_QUESTION_CHARS:
        return "question too short or too long"
    if text.count("?") != 1 or not text.rstrip("`\"').* ").endswith("?"):
        return "not one question"
    if "\n" in text or "```" in text:
        return "question spans lines"
    if _POINTS_OUTSIDE.search(text) or _BARE_POINTER.match(text):
        return "question points at a text the reader does not have"
    if len(words(text)) < 3:
        return "question too short or too long"
    return None


def answer_problem(question: str, answer: str, source: str) -> str | None:
    """Why an answer is not held by its source (chunk text with its headings), or None."""
    plain = project(answer)[0].strip()
    if len(plain) < 15 or len(words(plain)) < 3:
        return "answer is a bare value, not a sentence"
    if _POINTS_OUTSIDE.search(_FENCE.sub("", answer)) and _speaks_of_the_text(answer):
        return "answer points at a text the reader does not have"
    if mark := TEMPLATE_MARK.search(f"{question}\n{answer}"):
        return f"holds a mark of chat templates: {mark.group()}"
    if problem := rambling(plain):
        return problem
    if _shows_nothing(answer):
        return "answer promises what it does not show"
    if plain.casefold().rstrip(".?! ") == project(question)[0].strip().casefold().rstrip(".?! "):
        return "answer repeats the question"
    # `words` is case-folded; a placeholder such as <model-path> in a question may return in the answer
    invented = missing_words(answer, source + "\n" + question)
    if invented:
        return "not in the source: " + ", ".join(invented[:5])
    if not exact_words(question) <= exact_words(source) and (foreign := missing_words(question, source)):
        return "question names what the source does not: " + ", ".join(foreign[:5])
    return code_problem(answer, source)


def rambling(answer: str) -> str | None:
    """Whether an answer goes on and on, as a model does that has lost its thread, or None."""
    if len(answer) > MAX_ANSWER_CHARS:
        return f"answer is longer than {MAX_ANSWER_CHARS:,} characters"
    said = words(_FENCE.sub("", answer))
    threes = list(zip(said, said[1:], said[2:], strict=False))
    return "answer repeats itself" if len(threes) > 20 and len(set(threes)) < len(threes) / 2 else None


def points_outside(text: str) -> bool:
    """Whether a question speaks of a text that its reader does not have."""
    return bool(_POINTS_OUTSIDE.search(text) or _BARE_POINTER.match(text))


def denial_problem(answer: str, quoted: str, question: str, parent: str = "") -> str | None:
    """Whether an answer says the contrary of its evidence: it denies where nothing there does, repeats a sentence with
    one "not" more, or says nearly all of one sentence but its "not". `parent`: what was proven before."""
    known = f"{quoted}\n{parent}\n{question}"
    said, told = set(words(answer)) - _DENYING, set(words(known))
    denials = [len(_DENIES.findall(text)) for text in (answer, quoted, parent)]
    repeats = len(said) > 3 and len(said & told) >= 0.9 * len(said)
    if denials[0] and (not _NEGATIVE.search(known) or (repeats and denials[0] > max(denials[1:]))):
        return "answer denies what its quote does not"
    quote = quoted.strip()
    one_sentence = not re.search(r"[.!?;]\s", quote)
    if one_sentence and denials[1] and not _NEGATIVE.search(f"{answer}\n{question}"):
        told = set(words(quote)) - _DENYING
        if len(told & set(words(answer))) >= 0.8 * len(told):
            return "answer leaves out the denial of its quote"
    return None


def _shows_nothing(answer: str) -> bool:
    """Whether the answer promises a command, steps, a table ... of which nothing stands after these words (or, for what
    is "above", before them)."""
    bare = _FENCE.sub("", answer)
    promise = _SHOWS.search(bare)
    if promise is None or _FENCE.search(answer + "\n"):
        return False
    rest = bare[: promise.start()] if "above" in promise.group().casefold() else bare[promise.end() :]
    return not re.search(r"[`\n]|:\s*\S", rest.strip())


def _speaks_of_the_text(answer: str) -> bool:
    return bool(
        re.search(
            r"(?i)\b(?:the|this|provided|given) (?:text|passage|document|excerpt|chunk|section|"
            r"context(?! (?:manager|window|length|size))|snippet)\b|"
            r"\babove\b|\bbelow\b|"
            r"\bfollowing (?:table|figure|section)\b",
            _FENCE.sub("", answer),
        )
    )


def code_problem(answer: str, source: str) -> str | None:
    """The first fenced block of the answer that does not parse as its language says, unless it is verbatim in the
    source."""
    folded = " ".join(source.split())
    for match in _FENCE.finditer(answer + "\n"):
        language, code = match.group(2).casefold(), match.group(3)
        problem = parse_problem(language, code)
        if problem and " ".join(code.split()) not in folded:
            return f"{language} block does not parse: {problem}"
    if answer.count("```") % 2:
        return "a code fence is left open"
    return None


def parse_problem(language: str, code: str) -> str | None:
    """What the language's own parser says against `code`; None where it parses or no parser is known."""
    import tomllib

    import yaml

    try:
        if language in {"python", "py", "python3"}:
            ast.parse(_without_prompts(code))
        elif language == "json":
            json.loads(code)
        elif language in {"yaml", "yml"}:
            list(yaml.safe_load_all(code))
        elif language == "toml":
            tomllib.loads(code)
        elif language in {"bash", "sh", "shell", "console", "zsh"}:
            shlex.split(code, comments=True)
    except (SyntaxError, ValueError, yaml.YAMLError, RecursionError) as error:
        return str(error).splitlines()[0]
    return None


def _without_prompts(code: str) -> str:
    if ">>>" not in code:
        return code
    lines = [line.strip()[4:] for line in code.splitlines() if line.strip().startswith((">>> ", "... "))]
    return "\n".join(lines)
