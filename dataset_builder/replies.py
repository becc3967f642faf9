"""From the text of a reply to values: what a model puts around its answer is peeled off here, and nowhere else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")


class BadReply(ValueError):
    """This reply is of no use; the text is the reason. The engine asks again."""


THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>.*?</\1>", re.S | re.I)
OPEN_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>(?!.*</\1>).*\Z", re.S | re.I)
# Some chat templates put the opening tag into the prompt, so that the reply holds only the closing one.
CLOSED_THOUGHT = re.compile(r"\A(?:(?!<think).)*?</(?:think|thinking|thought|reasoning)>", re.S | re.I)
FENCE = re.compile(r"```[ \t]*(?:json[c5]?|javascript)?[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.S | re.I)


_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]|"
    "(?<=[ -~\u200b])[\u200c\u200d]+(?=[ -~\u200b])"
)
"""Characters that no reader sees and no table should hold: controls, halves of a character, zero-width ones, marks that
turn the writing round; joiners only between ASCII letters, where no script needs them."""


def visible(value: Any) -> Any:
    """A reply's value without the characters that nobody sees, in all its texts.

    >>> visible({"a": ["x\\u200by\\ud800"]})
    {'a': ['xy']}
    """
    if isinstance(value, str):
        return _UNSEEN.sub("", value)
    if isinstance(value, list):
        return [visible(one) for one in value]
    return {visible(key): visible(one) for key, one in value.items()} if isinstance(value, dict) else value


def without_thoughts(text: str) -> str:
    """The reply without its `<think> ... </think>`; an unfinished thought (a truncated reply) goes too.

    >>> without_thoughts("<think>Let me see.</think>  42 ")
    '42'
    """
    return visible(OPEN_THOUGHT.sub("", CLOSED_THOUGHT.sub("", THOUGHT.sub("", text)))).strip()


def has_thoughts(text: str) -> bool:
    """Whether the model thinks aloud.

    >>> has_thoughts("<think>hm</think>yes"), has_thoughts("I think so")
    (True, False)
    """
    return without_thoughts(text) != visible(text).strip()


def json_in(text: str, truncated: bool = False) -> Any:
    """The JSON value in a reply: the whole text, else a fenced block, else the longest balanced piece, else repaired.

    A piece cut off at its end is refused unless `truncated` says that whole leading items are welcome: repair would
    close an answer in mid-sentence, and a half answer must not pass for a whole one. Raises BadReply.

    >>> json_in('Sure! Here it is: {"a": [1, 2]} Hope it helps.')
    {'a': [1, 2]}
    """
    text = without_thoughts(text)
    for candidate in [text, *FENCE.findall(text)]:
        try:
            return json.loads(candidate)
        except ValueError:
            continue
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    if start < 0:
        raise BadReply("no JSON in the reply")
    try:
        return json.JSONDecoder().raw_decode(text[start:])[0]
    except ValueError:
        return _repaired(text[start:], truncated)


def _repaired(text: str, truncated: bool) -> Any:
    import json_repair

    if not truncated and not _closed(text):
        raise BadReply("the reply's JSON is cut off")
    value = json_repair.loads(text)
    if not isinstance(value, dict | list) or not value:
        raise BadReply("the reply's JSON cannot be read")
    return value


def _closed(text: str) -> bool:
    """Whether the bracket that opens `text` is closed again (strings skipped)."""
    depth, in_string, escaped = 0, False, False
    for character in text:
        if escaped:
            escaped = False
        elif in_string:
            escaped, in_string = character == "\\", character != '"'
        elif character == '"':
            in_string = True
        elif character in "{[":
            depth += 1
        elif character in "}]":
            depth -= 1
            if depth == 0:
                return True
    return text.rstrip().rstrip("`").rstrip().endswith(("}", "]"))


def as_model(model: type[T], text: str, truncated: bool = False) -> T:
    """The reply as a pydantic `model`. Raises BadReply with the first fault in words."""
    from pydantic import ValidationError

    try:
        return model.model_validate(json_in(text, truncated))
    except ValidationError as wrong:
        first = wrong.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the reply"
        raise BadReply(f"{where}: {first['msg']}") from None


def tagged_lines(text: str, tags: Iterable[str]) -> list[dict[str, str]]:
    """Records of `TAG: value` lines, as weak models write them; a value goes on until the next tag.

    A record ends where its first tag comes again. Case, bullets, bold marks and numbers around a tag do not matter.
    Incomplete records are left out, so an empty list means: nothing usable.

    >>> tagged_lines("Q: What?\\n**A:** That.\\nQ: Why?", ["Q", "A"])
    [{'Q': 'What?', 'A': 'That.'}]
    """
    tags = list(tags)
    names = {tag.lower(): tag for tag in tags}
    mark = re.compile(
        rf"^[ \t>*_#\-]*(?:\d+[.)][ \t]*)?[*_`]*({'|'.join(re.escape(tag) for tag in tags)})"
        rf"[*_`]*[ \t]*\d*[ \t]*:[*_`]*[ \t]*", re.I | re.M)
    text = without_thoughts(text)
    marks = list(mark.finditer(text))
    records: list[dict[str, str]] = []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    for found, end in zip(marks, ends, strict=False):
        tag = names[found.group(1).lower()]
        value = text[found.end() : end].strip()
        if not records or tag in records[-1]:
            records.append({})
        records[-1][tag] = value
    return [record for record in records if all(record.get(tag) for tag in tags)]
