"""Two facts of one section asked about together: "How do `--a` and `--b` differ?".

A pair alone never teaches what tells its neighbour apart, and neighbours (`lora_r`, `lora_alpha`) are what a reader
mixes up. Code can ask only where two pairs of one chunk say the same kind of thing of two exactly named things; the
answer is both documents' sentences, one after the other, so that nothing is concluded that does not stand there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby, pairwise

from dataset_builder.rows import Grounded
from dataset_builder.views import View

KINDS = frozenset(("option", "definition", "default", "direct", "purpose"))
"""Kinds of question whose answers say what a thing is or does."""
MOST_CHARS = 240
"""Of each answer: two long ones side by side compare nothing."""
_CODE = re.compile(r"(?<!`)`([^`\n]{2,40})`(?!`)")
_BEGINS = re.compile(r"(?:The (?:[\w-]+ ){1,2})?`([^`\n]{2,40})`")


def named(one: Grounded) -> str:
    """The code-marked name that a pair is about: the only one of its question, which its answer begins with."""
    names = list(dict.fromkeys(_CODE.findall(one.pair.question)))
    answer = one.pair.answer
    if len(names) != 1 or "\n" in answer or len(answer) > MOST_CHARS:
        return ""
    begins = _BEGINS.match(answer)
    return names[0] if begins and begins[1] == names[0] else ""


def partners(pairs: Sequence[Grounded]) -> dict[str, Grounded]:
    """Pair id -> the pair it is compared with: the next of its kind in the same chunk. The last has none, so no two
    things are compared twice. The order of `pairs` changes nothing."""
    found: dict[str, Grounded] = {}
    able = [one for one in pairs if one.pair.kind in KINDS and named(one)]
    able.sort(key=lambda one: (one.chunk.id, one.pair.kind, one.pair.quote_start, one.pair.id))
    for _, group in groupby(able, key=lambda one: (one.chunk.id, one.pair.kind)):
        members = list(group)
        for one, other in pairwise(members):
            if named(one) != named(other):
                found[one.pair.id] = other
    return found


def comparison(one: Grounded, other: Grounded) -> View:
    """The question about both, and what the document says of each."""
    question = f"How do `{named(one)}` and `{named(other)}` differ?"
    return "comparison", question, f"{_ended(one.pair.answer)} {_ended(other.pair.answer)}"


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
