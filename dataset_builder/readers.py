"""Readers of the formats that need a library or a parser of their own: PDF, Word, Python docstrings."""

import ast
import io
import logging
import re
import warnings
import zipfile
from collections import Counter

from dataset_builder.markdown import from_html, tidy
from dataset_builder.sources.common import Unreadable

MAX_PDF_PAGES = 3000
MAX_UNPACKED_BYTES = 200_000_000
MAX_UNPACKED_RATIO = 200
"""A Word document unpacks to some ten times its size; a zip bomb to a thousand times."""


def pdf(data: bytes) -> tuple[str, str]:
    """Title and text of a PDF. Raises Unreadable for damaged, encrypted and image-only ones."""
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns of every oddity that it can mend
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("encrypted PDF")
        if len(reader.pages) > MAX_PDF_PAGES:
            raise Unreadable(f"{len(reader.pages)} pages; at most {MAX_PDF_PAGES} are read")
        pages = [page.extract_text() or "" for page in reader.pages]
        title = str((reader.metadata or {}).get("/Title") or "").strip()
        if re.fullmatch(r"(?i)\(?(?:anonymous|untitled|unknown|unspecified)\)?|microsoft \w+ - .*", title):
            title = ""  # a writer's default
    except (
        PyPdfError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        NotImplementedError,
        OSError,
        ArithmeticError,
        RecursionError,
        MemoryError,
        ImportError,
    ) as error:
        raise Unreadable(f"damaged PDF ({type(error).__name__})") from error
    text = tidy(pdf_paragraphs(pages))
    if not text.strip():
        raise Unreadable("a PDF of images: it holds no text")
    return title, text


def pdf_paragraphs(pages: list[str]) -> str:
    """Lines of PDF pages as paragraphs, words broken at a line's end mended, lists as lists.

    A first or last line that most pages share, page numbers aside, is a running head and goes.
    """
    lines = [
        [line.rstrip() for line in re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "", page).split("\n")] for page in pages
    ]
    edges = Counter(head for page in lines for head in {_bare(page[0]), _bare(page[-1])} if head)
    heads = {head for head, times in edges.items() if len(pages) >= 4 and times > len(pages) / 2} | {"#"}
    parts: list[str] = []
    for page in lines:
        for place, line in enumerate(page):
            if not (place in (0, len(page) - 1) and _bare(line) in heads):
                _add_line(parts, line.strip())
        parts.append("\n\n")
    return "".join(parts)


def _bare(line: str) -> str:
    return re.sub(r"\d+", "#", line.strip())


def _add_line(parts: list[str], words: str) -> None:
    last = parts[-1] if parts else "\n"
    if not words:
        parts.append("\n\n")
    elif re.search(r"[a-z]-$", last) and words[:1].islower():
        parts[-1] = last[:-1] + words
    elif re.match(r"(?:[•▪‣◦●\u2013-]|\d+[.)])\s", words):
        parts.append("\n" + re.sub(r"^[•▪‣◦●\u2013]\s*", "- ", words))
    elif last.endswith("\n"):
        parts.append(words)
    elif re.search(r"[.:!?]$", last) and len(last) < 60:
        parts.append("\n\n" + words)
    else:
        parts.append(" " + words)


def docx(data: bytes) -> tuple[str, str]:
    """Title and Markdown of a Word document by way of HTML; its images are left out. Raises Unreadable for bombs and
    damaged ones."""
    import mammoth

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(item.file_size for item in archive.infolist())
            if size > MAX_UNPACKED_BYTES or size > MAX_UNPACKED_RATIO * max(len(data), 10_000):
                raise Unreadable(f"unpacks to {size:,} bytes")
            for item in archive.infolist():
                if item.filename.endswith((".xml", ".rels")):
                    with archive.open(item) as stream:
                        if b"<!DOCTYPE" in stream.read(4096):  # no Word document declares entities
                            raise Unreadable("declares XML entities")
        images = mammoth.images.img_element(lambda image: {"src": ""})
        titles = "p[style-name='Title'] => h1:fresh"  # Word's own style, which mammoth reads as a paragraph
        html = mammoth.convert_to_html(io.BytesIO(data), convert_image=images, style_map=titles).value
    except Unreadable:
        raise
    except Exception as error:  # mammoth and zipfile raise whatever their own code trips over in a damaged file
        raise Unreadable(f"damaged Word document ({type(error).__name__})") from error
    page = from_html(f"<html><body><main>{html}</main></body></html>")
    return page.title, page.markdown


def docstrings(text: str, module: str) -> str:
    """The docstrings of a module and of its public classes and functions as Markdown, each below its signature.

    Raises Unreadable for what is not Python 3, and for modules without any.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SyntaxWarning of the module read, not ours
            tree = ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise Unreadable("not Python 3") from error
    parts = _documented(tree, f"# {module}", "", 2)
    if not parts:
        raise Unreadable("has no docstrings")
    return tidy("\n\n".join(parts))


def _documented(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, heading: str, owner: str, level: int
) -> list[str]:
    """Heading and docstring of the node and of what is public in it; nothing where there is no docstring at all."""
    doc = ast.get_docstring(node)
    parts = [docstring_markdown(doc)] if doc else []
    for child in node.body if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else ():
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            words = child.name if isinstance(child, ast.ClassDef) else f"{child.name}({ast.unparse(child.args)})"
            parts += _documented(child, f"{'#' * min(level, 6)} {owner}{words}", f"{owner}{child.name}.", level + 1)
    return [heading, *parts] if parts else []


def docstring_markdown(doc: str) -> str:
    """A docstring as Markdown: its doctests fenced, the rest as it stands."""
    lines: list[str] = []
    block: list[str] = []
    for line in [*doc.split("\n"), ""]:
        words = line.strip()
        if words.startswith(">>>") or (block and words):
            block.append(words)
            continue
        if block:
            lines += ["", "```python", *block, "```", ""]
            block = []
        lines.append(line)
    return "\n".join(lines).strip()
