"""Document -> Chunks: whole Markdown blocks packed by a token budget, each run under the headings it stands below.

The parser (markdown-it-py, CommonMark with tables) says where blocks begin; the text itself is never rewritten, so that
`chunk.text == document.markdown[chunk.start:chunk.end]` and a quote's offsets stay true. A code fence is never broken,
whatever its size; a list, a quotation, a table or a paragraph is broken only where it is larger than the budget.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from dataset_builder.rows import Chunk, Document, address, digest

Count = Callable[[str], int]
"""Text -> tokens."""

_CONTAINERS = {"bullet_list", "ordered_list", "list_item", "blockquote"}
_SENTENCE_END = re.compile(r"(?<=[.!?:;])\s+(?=\S)|\n")
_WORD_END = re.compile(r"\s+")


def estimate_tokens(text: str) -> int:
    """Tokens of English text and code as most tokenizers count them: about four characters each."""
    return (len(text) + 3) // 4


@dataclass(frozen=True, slots=True)
class _Span:
    """Characters start..end of the document that stay together; a heading carries its level and its words."""

    start: int
    end: int
    level: int = 0
    heading: str = ""


@dataclass(frozen=True, slots=True)
class _Run:
    """Spans that become one chunk: blocks with text, then headings whose text is still to come. Either may be
    missing."""

    start: int
    body_end: int
    """Where the blocks with text end; equal to `start` while there are none."""
    end: int
    path: tuple[str, ...]
    """The headings above all of the text; without text, those above what comes."""

    @property
    def has_text(self) -> bool:
        return self.body_end > self.start


def chunk(document: Document, max_tokens: int, count: Count | None = None) -> list[Chunk]:
    """The document as chunks of at most `max_tokens` tokens (a larger code block stays whole), in reading order.

    Every character but blank ones at the edges is in exactly one chunk. `count` counts tokens; omitted: characters / 4.
    Equal input gives equal chunks. Raises ValueError for a budget below one token.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}; a chunk needs at least one token")
    count = count or estimate_tokens
    text = document.markdown
    chunks, seen = [], set()
    for run in _pack(text, _spans(text, max_tokens, count), max_tokens, count):
        body = text[run.start : run.end]
        start = run.start + len(body) - len(body.lstrip("\n")) if body.strip() else run.start
        end = run.start + len(body.rstrip())
        if start >= end:
            continue
        body = text[start:end]
        path = run.path or ((document.title,) if document.title else ())
        name, repeat = digest(address(document.origin), *path, body), 1
        while name in seen:  # the same words under the same headings twice in a document
            repeat += 1
            name = digest(address(document.origin), *path, body, str(repeat))
        seen.add(name)
        chunks.append(
            Chunk(
                id=name,
                document_id=document.id,
                origin=document.origin,
                title=document.title,
                heading_path=path,
                anchor=slug(path[-1]) if path else "",
                text=body,
                start=start,
                end=end,
                tokens=count(body),
                licence=document.licence,
                sha256=document.sha256,
            )
        )
    return chunks


def slug(heading: str) -> str:
    """The heading's anchor as GitHub, MkDocs and Sphinx make it: lower case, words joined by hyphens.

    >>> slug("The `xpu` Device: Set-up")
    'the-xpu-device-set-up'
    """
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-")


def plain_heading(markdown: str) -> str:
    """A heading's words without Markdown's marks: links, emphasis, code ticks and a closing `#` row.

    >>> plain_heading("Use [`torch.xpu`](xpu.html) **now** ##")
    'Use torch.xpu now'
    """
    words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"\s#+\s*$|\{#[\w-]+\}\s*$", "", markdown))
    parts = re.split(r"(`+)(.+?)\1", words)  # prose, ticks, code, prose ...
    for place in range(0, len(parts), 3):
        prose = re.sub(r"<[^>]{1,200}>|(?<!\\)\*{1,3}|(?<!\w)_{1,3}(?=\w)|(?<=\w)_{1,3}(?!\w)", "", parts[place])
        parts[place] = re.sub(r"\\([^\w\s])", r"\1", prose)
    return " ".join("".join(part for place, part in enumerate(parts) if place % 3 != 1).split())


def _pack(text: str, spans: Iterator[_Span], max_tokens: int, count: Count) -> Iterator[_Run]:
    """Fill runs up to the budget. A heading starts a new run unless the one before holds nothing but headings, or is
    tiny."""
    tiny = max_tokens // 8
    above: list[tuple[int, str]] = []
    run: _Run | None = None
    for span in spans:
        if span.level:
            while above and above[-1][0] >= span.level:
                above.pop()
            above.append((span.level, span.heading))
        path = tuple(words for _, words in above if words)
        if run is None:
            run = _Run(span.start, span.start if span.level else span.end, span.end, path)
        elif span.level:
            joins = (
                count(text[run.start : run.body_end]) <= tiny and bool(_common(run.path, path))
                if run.has_text
                else path[: len(run.path)] == run.path
            )  # a heading without text is swallowed by a deeper one only
            if not joins:
                yield run
                run = _Run(span.start, span.start, span.end, path)
            else:
                run = _Run(run.start, run.body_end, span.end, run.path if run.has_text else path)
        elif run.has_text and count(text[run.start : span.end]) > max_tokens:
            waiting = run.body_end  # headings cling to what they introduce, even past the budget
            yield _Run(run.start, waiting, waiting, run.path)
            run = _Run(waiting, span.end, span.end, path)
        else:
            run = _Run(run.start, span.end, span.end, _common(run.path, path) if run.has_text else path)
    if run is not None:
        yield run


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    """The headings that both stand under."""
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    return one[:shared]


@cache
def parser():
    """The Markdown parser of this project: CommonMark and tables, blocks only: what stands inside a line is left as it
    is. Raw HTML is text, so that it cannot swallow the blocks below it."""
    from markdown_it import MarkdownIt

    blocks = MarkdownIt("commonmark", {"maxNesting": 20}).enable("table")
    return blocks.disable(["html_block", "reference", "inline", "text_join"])


def _spans(text: str, max_tokens: int, count: Count) -> Iterator[_Span]:
    """The top-level blocks in order, without a gap between them; blocks over the budget come in pieces."""
    from markdown_it.tree import SyntaxTreeNode

    lines = [0, *(match.end() for match in re.finditer("\n", text)), len(text)]
    tokens = [token for token in parser().parse(text) if token.type != "inline" or token.level == 1]
    nodes = [node for node in SyntaxTreeNode(tokens).children if node.map]
    yield from _partition(nodes, 0, len(text), lines, text, max_tokens, count)


def _partition(
    nodes: list, start: int, end: int, lines: list[int], text: str, max_tokens: int, count: Count
) -> Iterator[_Span]:
    """One span a node, from its first line to the next node's first line, so that blank lines go with what stands
    before."""
    starts = [start, *(lines[node.map[0]] for node in nodes[1:]), end]
    for node, begin, finish in zip(nodes, starts, starts[1:], strict=False):
        if node.type == "heading":
            yield _Span(
                begin, finish, int(node.tag[1]), plain_heading(node.children[0].content if node.children else "")
            )
        elif begin < finish and count(text[begin:finish]) > max_tokens:
            yield from _pieces(node, begin, finish, lines, text, max_tokens, count)
        else:
            yield _Span(begin, finish)


def _pieces(node, start: int, end: int, lines: list[int], text: str, max_tokens: int, count: Count) -> Iterator[_Span]:
    """A block that is over the budget, broken where its kind allows."""
    children = [child for child in node.children if child.map] if node.type in _CONTAINERS else []
    if children:
        for span in _partition(children, start, end, lines, text, max_tokens, count):
            yield _Span(span.start, span.end)  # a heading inside a list opens no section
    elif node.type == "table":
        for begin, finish in _cuts(text, start, end, re.compile("\n"), max_tokens, count):
            yield _Span(begin, finish)
    elif node.type == "paragraph":
        for begin, finish in _cuts(text, start, end, _SENTENCE_END, max_tokens, count):
            if count(text[begin:finish]) <= max_tokens:
                yield _Span(begin, finish)
            else:
                yield from (_Span(*piece) for piece in _cuts(text, begin, finish, _WORD_END, max_tokens, count))
    else:
        yield _Span(start, end)


def _cuts(
    text: str, start: int, end: int, border: re.Pattern, max_tokens: int, count: Count
) -> Iterator[tuple[int, int]]:
    """Pieces of text[start:end] that end at a border and are as long as the budget allows; an unbroken stretch stays
    whole."""
    begin = last = start
    for match in border.finditer(text, start, end):
        if last > begin and count(text[begin : match.end()]) > max_tokens:
            yield begin, last
            begin = last
        last = match.end()
    if last > begin and end > last and count(text[begin:end]) > max_tokens:
        yield begin, last
        begin = last
    if begin < end:
        yield begin, end
