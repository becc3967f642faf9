"""What the documents name: flags, options, environment variables, functions, error messages, rows of tables.

`coverage` holds this list against the pairs, and a chunk is asked again for names that none of its pairs mentions.
Names are found by how they are written, in prose, code and tables alike; an ordinary word is no name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dataset_builder.blocks import blocks_of
from dataset_builder.rows import Chunk, Grounded
from dataset_builder.sentences import clean

KINDS = ("flag", "option", "environment variable", "function", "error message", "table row")
MAX_MESSAGE_CHARS = 100

_FLAG = re.compile(r"(?<![\w/-])--[A-Za-z][\w-]*\w")
_CODE = re.compile(r"(?<!`)`([^`\n]{2,80})`(?!`)")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*\w\(.*\)")
_DOTTED = re.compile(r"[a-z_]\w*(?:\.\w+)+")
_FILE = re.compile(r"\.(?:md|rst|py|sh|ya?ml|json|txt|toml|html?|cpp|ipynb|gguf|bat|exe|so|whl|cfg|ini)$", re.I)
_VARIABLE = re.compile(r"(?<![\w./-])[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+(?![\w/-])")
_OPTION = re.compile(r"[a-z][a-z0-9]*(?:_[A-Za-z0-9]+)+")
_MESSAGE = re.compile(r"(?m)\b((?:\w+(?:Error|Exception)|error)\b:[ \t]*\S[^\n`|]{8,})")


@dataclass(frozen=True, slots=True)
class Name:
    """One thing that a chunk names."""

    kind: str
    text: str


def names(chunk: Chunk) -> tuple[Name, ...]:
    """The names of a chunk in the order of their place within each kind, each once.

    >>> from dataset_builder.rows import Chunk
    >>> text = "Pass `--bf16` or set `lora_r`; `torch.xpu.empty_cache()` obeys `IPEX_TILE_AS_DEVICE`."
    >>> [name.text for name in names(Chunk("c", "d", "o", "T", ("T",), "", text, 0, len(text), 1))]
    ['--bf16', 'lora_r', 'IPEX_TILE_AS_DEVICE', 'torch.xpu.empty_cache()']
    """
    found = dict.fromkeys(_walk(chunk.text))
    return tuple(sorted(found, key=lambda name: KINDS.index(name.kind)))


def _walk(text: str) -> Iterator[Name]:
    for match in _FLAG.finditer(text):
        yield Name("flag", match.group())
    for match in _CODE.finditer(text):
        code = match[1].strip()
        if _FUNCTION.fullmatch(code) and "=" not in code.split("(")[0]:
            yield Name("function", code.split("(")[0] + "()")
        elif _DOTTED.fullmatch(code) and not _FILE.search(code) and "_" in code:
            yield Name("function", code)
        elif _OPTION.fullmatch(code):
            yield Name("option", code)
    for match in _VARIABLE.finditer(text):
        yield Name("environment variable", match.group())
    for match in _MESSAGE.finditer(text):
        yield Name("error message", " ".join(match[1].split())[:MAX_MESSAGE_CHARS])
    for block in blocks_of(text):
        if block.type == "row" and block.cells:
            cell = clean(block.cells[0]).strip("`* ")
            if 2 <= len(cell) <= 60 and re.search(r"[A-Za-z]{2}", cell) and not cell.endswith((".", ":")):
                yield Name("table row", cell)


class Mentions:
    """What pairs speak of: looked up per document, where the same words mean the same thing."""

    def __init__(self, pairs: Sequence[Grounded]) -> None:
        said: dict[str, list[str]] = {}
        for one in pairs:
            texts = (one.pair.question, one.pair.answer)
            said.setdefault(one.chunk.document_id, []).extend(" ".join(text.split()).casefold() for text in texts)
        self._said: Mapping[str, str] = {document: "\n".join(texts) for document, texts in said.items()}

    def of(self, name: Name, document_id: str) -> bool:
        """Whether a pair of the document mentions the name: whole, in question or answer."""
        said = self._said.get(document_id, "")
        low = name.text.casefold().removesuffix("()")
        if name.kind == "error message":
            return low[:40] in said
        place = said.find(low)
        while place >= 0:
            before, after = said[place - 1 : place], said[place + len(low) : place + len(low) + 1]
            if not (before.isalnum() or before in ("_", "-")) and not (after.isalnum() or after == "_"):
                return True
            place = said.find(low, place + 1)
        return False


def unmentioned(chunk: Chunk, pairs: Sequence[Grounded]) -> list[str]:
    """Names of a chunk that none of these pairs mentions."""
    mentions = Mentions(pairs)
    return [name.text for name in names(chunk) if not mentions.of(name, chunk.document_id)]
