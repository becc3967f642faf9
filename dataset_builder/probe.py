"""Finds out what a model can do by asking it, never by its name: the way in which it will be asked for pairs.

A few fixed questions about tiny passages, judged by code alone. The answers lie in the ledger like any other, so a
second run asks nothing.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from dataset_builder.engine import BadReply, Engine, Reply, Request
from dataset_builder.replies import has_thoughts, json_in, tagged_lines
from dataset_builder.spec import Generator

Path = Literal["schema", "json", "tagged", "answer-first"]

PASSAGES = (
    "## Retries\n\nA failed upload is tried again three times by default. Set `max_retries` to 0 to turn this off. "
    "Between two tries the client waits `backoff_seconds`, which doubles each time up to a limit of 64 seconds.",
    "## Log files\n\nThe server writes one log file a day into `/var/log/quay`. Files older than 14 days are deleted "
    "by the nightly job. To keep them longer, raise `retention_days` in `quay.toml` and restart the service.",
    "## Choosing a device\n\nWithout `--device` the tool uses the first graphics card it finds. Pass `--device cpu` to "
    "run without one. Runs on the processor are about twelve times slower, but they need no driver at all.",
    "## Time zones\n\nAll times are stored in UTC. The column `created_at` is converted to the zone of the user only "
    "when a page is shown. Reports use the zone given by `report_zone`, which falls back to UTC when it is empty.",
    "## Limits of the free plan\n\nA project on the free plan may hold 500 documents. When the limit is reached, new "
    "uploads fail with error `E1207`, while existing documents stay readable. Deleted documents count for a day more.",
)
"""Made up for this purpose, so that no model can know the answers by heart."""

class Hopes(Protocol):
    """Who wants to know how the probe goes before it ends."""

    def good(self, form: str, reply: Reply) -> None:
        """A good reply in this form came."""

    def doubtful(self) -> None:
        """Not all of the first replies in a form were good."""


FIRST, ENOUGH = 3, 3
"""Passages asked about first; good answers wanted of all five. The other two are asked where they can decide."""
FIELDS = ("question", "answer", "quote")
SCHEMA = {"type": "object", "additionalProperties": False, "required": list(FIELDS),
          "properties": {name: {"type": "string"} for name in FIELDS}}
TASK = ("Below is a passage of documentation. Write one question that a user of the product may ask and that the "
        "passage answers, the answer in one full sentence, and a quote: the sentence of the passage that proves the "
        "answer, copied character by character.")
FORMS: dict[str, str] = {
    "schema": "Reply with a JSON object with the keys question, answer and quote.",
    "json": 'Reply with JSON only, in this form: {"question": "...", "answer": "...", "quote": "..."}',
    "tagged": "Reply with three lines in this form:\nQUESTION: ...\nANSWER: ...\nQUOTE: ...",
}
LIKELIEST = next(iter(FORMS))
"""The form that is tried first."""
ROOM, THINKING_ROOM = 200, 4096
"""Tokens of one reply, without and with a chain of thought in front."""
QUESTION_WORDS = re.compile(r"\b(what|which|how|why|when|where|who|can|does|do|is|are|will|should|may|must)\b", re.I)
PLAIN = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "by", "can", "do", "does", "for", "from", "how", "if", "in", "is", "it",
    "no", "not", "of", "on", "or", "that", "the", "this", "to", "what", "when", "where", "which", "who", "why", "will"))


@dataclass(frozen=True, slots=True)
class Capability:
    """How to ask this model."""

    path: Path
    """`schema`: JSON Schema is obeyed; `json`: JSON in the text; `tagged`: lines with tags; `answer-first`: it cannot
    be trusted to quote, so the builder picks the sentence and asks only for words around it."""
    context_tokens: int | None
    """Prompt and reply together; None: the endpoint does not say."""
    tokens_per_second: float | None
    """Of one reply, as the caller sees it (queue and prompt included)."""
    thinking: bool
    """It writes a chain of thought in front: leave room for it."""
    why: str
    """One line for the report."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a reply, in a few words."""

    text: str
    of_form: bool
    """It is not what was asked for at all, so another form may help; else the words are at fault, and none will."""


def probe(generator: Generator, engine: Engine, hopes: Hopes | None = None) -> Capability:
    """Asks for one pair per passage in the most comfortable form first, and takes the first form that works. `hopes`
    is told at once how it goes.

    A model whose replies have the right form but false quotes or no questions goes straight to `answer-first`. A form
    that the endpoint refuses counts as one that does not work. Raises BuildProblem as `Engine.run` does.
    """
    seen: list[Reply] = []
    found = []
    for form in FORMS:
        faults = _faults(generator, engine, form, range(FIRST), seen, hopes)
        if hopes and any(faults):
            hopes.doubtful()
        if 0 < faults.count(None) < ENOUGH:
            faults += _faults(generator, engine, form, range(FIRST, len(PASSAGES)), seen, hopes)
        bad = [fault for fault in faults if fault]
        found.append(f"{form} {faults.count(None)}/{len(faults)}" + (f" ({bad[0].text})" if bad else ""))
        if faults.count(None) >= ENOUGH:
            return _capability(form, engine, seen, found)
        if sum(fault.of_form for fault in bad) < len(bad) / 2:
            break
    return _capability("answer-first", engine, seen, found)


def _faults(generator: Generator, engine: Engine, form: str, places: range, seen: list[Reply],
            hopes: Hopes | None) -> list[Fault | None]:  # fmt: skip
    replies = _ask(generator, engine, form, places, ROOM, hopes)
    if any(reply and reply.finish_reason == "length" and has_thoughts(reply.text) for reply in replies):
        replies = _ask(generator, engine, form, places, THINKING_ROOM, hopes)
    seen += [reply for reply in replies if reply]
    return [fault_in(form, reply, PASSAGES[place]) for reply, place in zip(replies, places, strict=True)]


def _ask(generator: Generator, engine: Engine, form: str, places: range, room: int,
         hopes: Hopes | None) -> list[Reply | None]:  # fmt: skip
    """One reply per passage; None where the endpoint refused."""

    def whole(reply: Reply) -> Reply:
        if reply.finish_reason == "length" and reply.max_tokens < room:
            raise BadReply("cut off at an earlier, smaller room")
        return reply

    requests = _requests(generator, form, places, room)
    replies: dict[int, Reply | None] = {}
    for outcome in engine.run(requests, whole, len(requests)):
        place, reply = outcome.request.about, outcome.reply
        replies[place] = reply
        if hopes and reply and fault_in(form, reply, PASSAGES[place]) is None:
            hopes.good(form, reply)
    return [replies[place] for place in places]


def first_requests(generator: Generator) -> list[Request]:
    """What every model is asked first."""
    return _requests(generator, LIKELIEST, range(FIRST), ROOM)


def _requests(generator: Generator, form: str, places: range, room: int) -> list[Request]:
    schema = SCHEMA if form == "schema" else None
    return [Request(generator.model, _messages(form, PASSAGES[place]), schema, room, 0.0, generator.seed, "probe",
                    about=place) for place in places]  # fmt: skip


def _messages(form: str, passage: str) -> tuple[tuple[str, str], ...]:
    return ("system", f"{TASK} {FORMS[form]}"), ("user", f"<passage>\n{passage}\n</passage>")


def fault_in(form: str, reply: Reply | None, passage: str) -> Fault | None:
    """The first thing that is wrong with a reply; None: nothing."""
    if reply is None:
        return Fault("refused by the endpoint", of_form=True)
    try:
        record = _record(form, reply.text)
    except BadReply as bad:
        # A reply without end is the model's fault, not the form's: it would ramble in any other.
        return Fault(str(bad), of_form=reply.finish_reason != "length")
    if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in FIELDS):
        return Fault("fields are missing", of_form=True)
    question, answer, quote = (record[name].strip() for name in FIELDS)
    text = _quote_fault(quote, passage) or _question_fault(question, passage) or _answer_fault(answer, question, quote)
    return Fault(text, of_form=False) if text else None


def _record(form: str, text: str) -> object:
    if form == "tagged":
        records = tagged_lines(text, [name.upper() for name in FIELDS])
        if not records:
            raise BadReply("no tagged lines in the reply")
        return {name.lower(): value for name, value in records[0].items()}
    return json_in(text)


def _quote_fault(quote: str, passage: str) -> str | None:
    """By the measure that pairs must meet later: exact but for white space, or 95 % alike; 20 characters, 4 words."""
    from rapidfuzz import fuzz

    body = " ".join(passage.split("\n", 1)[1].split())
    quote = " ".join(quote.strip("\"'").split())
    if len(quote) < 20 or len(quote.split()) < 4:
        return "the quote is too short to prove anything"
    # Of one that is longer than the passage, partial_ratio would look for the passage in the quote.
    if len(quote) > 1.05 * len(body) or fuzz.partial_ratio(quote, body) < 95:
        return "the quote is not in the passage"
    return None


def _question_fault(question: str, passage: str) -> str | None:
    words = _content(question)
    if not question.endswith("?") or len(question.split()) < 4 or not QUESTION_WORDS.search(question):
        return "the question is none"
    if "passage" in question.lower() or not words & _content(passage):
        return "the question is not about what the passage says"
    return None


def _answer_fault(answer: str, question: str, quote: str) -> str | None:
    words = _content(answer)
    if len(answer.split()) < 3 or answer.endswith("?"):
        return "the answer is none"
    if len(words & _content(quote)) < len(words) / 3:
        return "the answer is not what the quote says"
    if words <= _content(question):
        return "the answer only repeats the question"
    return None


def _content(text: str) -> set[str]:
    return {word for word in re.findall(r"[a-z0-9_]+", text.lower()) if word not in PLAIN}


def _capability(path: Path, engine: Engine, seen: list[Reply], found: Iterable[str]) -> Capability:
    speeds = [reply.completion_tokens / reply.seconds for reply in seen if reply.seconds and reply.completion_tokens]
    return Capability(
        path, engine.context_tokens(),
        round(statistics.median(speeds), 1) if speeds else None,
        any(has_thoughts(reply.text) for reply in seen), f"{path}: " + ", ".join(found))
