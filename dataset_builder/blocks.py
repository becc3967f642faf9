"""The blocks of a chunk with their places: headings, paragraphs, list items, table rows, code, ordered lists."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

from dataset_builder import sentences


@dataclass(frozen=True, slots=True)
class Block:
    type: str
    """heading, paragraph, item, row, fence, ordered."""
    start: int
    end: int
    text: str
    info: str = ""
    cells: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()


@cache
def _parser():
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable("table").disable(["inline", "text_join"])  # only blocks are asked for


@lru_cache(maxsize=64)
def blocks_of(text: str) -> tuple[Block, ...]:
    """The blocks in the order of their place; text[block.start:block.end] is the Markdown of each."""
    tokens = _parser().parse(text)
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)

    def span(line_range: list[int]) -> tuple[int, int]:
        start, end = starts[line_range[0]], min(starts[min(line_range[1], len(starts) - 1)], len(text))
        raw = text[start:end]
        return start + len(raw) - len(raw.lstrip()), start + len(raw.rstrip())

    blocks: list[Block] = []
    depth, headers, cells, in_head, ordered = 0, (), [], False, None
    for i, token in enumerate(tokens):
        if token.type in {"bullet_list_open", "ordered_list_open"}:
            if depth == 0 and token.type == "ordered_list_open":
                ordered = token.map
            depth += 1
        elif token.type in {"bullet_list_close", "ordered_list_close"}:
            depth -= 1
            if depth == 0 and ordered is not None:
                start, end = span(ordered)
                blocks.append(Block("ordered", start, end, text[start:end]))
                ordered = None
        elif token.type == "thead_open":
            in_head, headers = True, ()
        elif token.type == "tr_open":
            cells, row_map = [], token.map
        elif token.type == "tr_close":
            if in_head:
                headers, in_head = tuple(cells), False
            elif row_map:
                start, end = span(row_map)
                blocks.append(Block("row", start, end, text[start:end], cells=tuple(cells), headers=headers))
        elif token.type == "inline":
            opener = tokens[i - 1].type
            if opener in {"td_open", "th_open"}:
                cells.append(token.content)
            elif token.map:
                start, end = span(token.map)
                kind = {"heading_open": "heading"}.get(opener, "item" if depth else "paragraph")
                content = sentences.clean(token.content) if kind == "heading" else token.content
                blocks.append(Block(kind, start, end, content, info="ordered" if ordered else ""))
        elif token.type == "fence" and token.map and depth <= 1:
            start, end = span(token.map)
            blocks.append(Block("fence", start, end, token.content, info=(token.info.split() or [""])[0].casefold()))
    return tuple(blocks)
