"""Bytes of a file -> Markdown, by the kind its name tells: md, mdx, rst, txt, html, ipynb, pdf, docx, py."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath

from dataset_builder.markdown import decode, from_html, tidy
from dataset_builder.sources.common import MAX_DOCUMENT_BYTES, Unreadable


@dataclass(frozen=True, slots=True)
class Reading:
    """A file as Markdown."""

    title: str
    markdown: str
    licence: str | None = None


def read(name: str, data: bytes) -> Reading:
    """The file `name` as Markdown. Raises Unreadable, with the reason, for any that cannot be read."""
    reader = READERS.get(PurePosixPath(name.lower()).suffix)
    if reader is None:
        raise Unreadable(f"files ending in {PurePosixPath(name).suffix or 'nothing'} are not documents")
    if len(data) > MAX_DOCUMENT_BYTES:
        raise Unreadable(f"{len(data):,} bytes; at most {MAX_DOCUMENT_BYTES:,} are read")
    try:
        reading = reader(name, data)
    except RecursionError as error:
        raise Unreadable("nested too deeply") from error
    if not reading.markdown.strip():
        raise Unreadable("holds no text")
    return Reading(reading.title or _name_title(name), reading.markdown, reading.licence)


def readable(name: str) -> bool:
    """Whether the name's ending is one that can be read."""
    return PurePosixPath(name.lower()).suffix in READERS


def _name_title(name: str) -> str:
    return PurePosixPath(name).stem.replace("-", " ").replace("_", " ")


def _text(data: bytes) -> str:
    """Text of a file that is not HTML: UTF-8, UTF-16 with its mark, else Windows-1252. Raises Unreadable for binary
    data."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = data.decode("utf-16", "replace")
    else:
        if b"\0" in data[:8192]:
            raise Unreadable("binary data")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("cp1252", "replace")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "", text)


def read_markdown(name: str, data: bytes) -> Reading:
    text, title = _text(data), ""
    front = re.match(r"\A---[ \t]*\n(.*?\n)?(?:---|\.\.\.)[ \t]*(?:\n|\Z)", text, re.S)
    if front:
        found = re.search(r"""(?m)^title:[ \t]*(?:"([^"\n]*)"|'([^'\n]*)'|([^\n#]*))""", front[1] or "")
        title = next((group.strip() for group in found.groups() if group), "") if found else ""
        text = text[front.end() :]
    if name.lower().endswith(".mdx"):
        text = without_jsx(text)
    text = tidy(text)
    return Reading(first_heading(text) or title, text)


def without_jsx(text: str) -> str:
    """MDX without its imports, exports, comments and component tags; their text and all code fences stay."""
    parts = re.split(r"(?ms)(^[ \t]*(```+|~~~+).*?^[ \t]*\2`*[ \t]*$)", text)
    cleaned = []
    for number, part in enumerate(parts):
        if number % 3 == 2:
            continue  # the fence mark that the split pattern captures
        if number % 3 == 0:
            part = re.sub(
                r"(?ms)^(?:import\s[^\n]*?from\s+['\"][^\n]*|import\s+['\"][^\n]*|export\s+(?:const|default|function)\b.*?(?:\n\n|\Z))",
                "",
                part,
            )
            part = re.sub(r"(?s)\{/\*.*?\*/\}", "", part)
            part = re.sub(
                r"(?s)<(?:TabItem|Tab|Step|Accordion|Card|details|AccordionItem)\b[^<>]*?(?:label|title)=[\"']([^\"'<>]*)[\"'][^<>]*?>",
                r"\n**\1**\n",
                part,
            )
            part = re.sub(r"(?s)</?[A-Z][\w.]*(?:\s[^<>]*?)?/?>", "", part)
            part = re.sub(
                r"(?m)^:::+[ \t]*(\w+)[ \t]*(?:\[([^\]\n]*)\]|([^\n]*))$",
                lambda match: f"**{(match[2] or match[3] or match[1]).strip().capitalize()}:**\n",
                part,
            )
            part = re.sub(r"(?m)^:::+[ \t]*$", "", part)
        cleaned.append(part)
    return "".join(cleaned)


def first_heading(markdown: str) -> str:
    """Words of the first heading of level one; "" where there is none outside code."""
    from dataset_builder.chunks import parser, plain_heading

    tokens = parser().parse(markdown[:20_000])
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.tag == "h1":
            return plain_heading(inline.content)
    return ""


def read_rst(name: str, data: bytes) -> Reading:
    from dataset_builder.rst import to_html

    page = from_html(to_html(_text(data), name))
    return Reading(page.title, page.markdown)


def read_text(name: str, data: bytes) -> Reading:
    text = tidy(_text(data))
    return Reading("", text)


def read_html(name: str, data: bytes) -> Reading:
    if b"\0" in data[:1024] and data[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        raise Unreadable("binary data")
    page = from_html(decode(data))
    return Reading(page.title, page.markdown, page.licence)


def read_notebook(name: str, data: bytes) -> Reading:
    """Cells in order: Markdown as it is, code fenced in the kernel's language, short text outputs fenced below it."""
    try:
        notebook = json.loads(_text(data))
        cells = notebook.get("cells")
        if cells is None:
            cells = [cell for sheet in notebook.get("worksheets", []) for cell in sheet.get("cells", [])]
        language = str(((notebook.get("metadata") or {}).get("kernelspec") or {}).get("language") or "python")
        parts = [part for cell in cells for part in _cell(cell, language)]
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise Unreadable("not a Jupyter notebook") from error
    text = tidy("\n\n".join(parts))
    return Reading(first_heading(text), text)


def _joined(source: object) -> str:
    return "".join(map(str, source)) if isinstance(source, list) else str(source or "")


def _cell(cell: dict, language: str) -> list[str]:
    source = _joined(cell.get("source", cell.get("input"))).rstrip()
    if cell.get("cell_type") in ("markdown", "heading"):
        return [f"{'#' * int(cell.get('level') or 1)} {source}" if cell.get("cell_type") == "heading" else source]
    if cell.get("cell_type") != "code" or not source.strip():
        return []
    outputs = [
        _joined(output.get("text", (output.get("data") or {}).get("text/plain")))
        for output in cell.get("outputs") or ()
    ]
    shown = re.sub(
        r"\x1b\[[0-9;]*[A-Za-z]|\[[0-9;]+m", "", "\n".join(text.rstrip() for text in outputs if text.strip())
    )
    return [fence(source, language), *([fence(shown, "")] if shown.strip() and len(shown) <= 2000 else [])]


def fence(code: str, language: str) -> str:
    """A fenced block whose marks are longer than any in the code."""
    ticks = "`" * (max([2, *(len(run) for run in re.findall("`+", code))]) + 1)
    return f"{ticks}{language}\n{code}\n{ticks}"


def read_pdf(name: str, data: bytes) -> Reading:
    from dataset_builder.readers import pdf

    return Reading(*pdf(data))


def read_docx(name: str, data: bytes) -> Reading:
    from dataset_builder.readers import docx

    return Reading(*docx(data))


def read_python(name: str, data: bytes) -> Reading:
    from dataset_builder.readers import docstrings

    module = PurePosixPath(name).stem
    return Reading(module, docstrings(_text(data), module))


READERS: dict[str, Callable[[str, bytes], Reading]] = {
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".mdx": read_markdown,
    ".rst": read_rst,
    ".txt": read_text,
    ".html": read_html,
    ".htm": read_html,
    ".xhtml": read_html,
    ".ipynb": read_notebook,
    ".pdf": read_pdf,
    ".docx": read_docx,
    ".py": read_python,
}
"""Ending of a file name -> its reader."""
