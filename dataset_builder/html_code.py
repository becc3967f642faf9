"""Code blocks of an HTML page, whatever highlighter made them: one plain <pre> each, its text exact, its language in
`data-language`.

Works on the lxml tree, before BeautifulSoup sees the page: the highlighters' spans are most of its elements.
"""

import re

from lxml.html import HtmlElement, builder

from dataset_builder.html_main import BLOCKS, classes, drop

_LINE_NUMBERS = frozenset(
    {
        "linenos",
        "lineno",
        "linenodiv",
        "gutter",
        "rouge-gutter",
        "line-numbers",
        "line-number",
        "line-numbers-rows",
        "ln",
        "blob-num",
        "gl",
        "codehilite-lineno",
        "prism-line-number",
    }
)
_NO_LANGUAGE = frozenset(
    {
        "",
        "default",
        "none",
        "text",
        "plain",
        "plaintext",
        "notranslate",
        "txt",
        "guess",
        "nohighlight",
        "source",
        "output",
        "undefined",
        "null",
        "literal-block",
        "content",
    }
)
_ALIASES = {"ipython3": "python", "python3": "python", "py": "python", "pycon3": "pycon", "ipython": "python"}
_LANGUAGE = re.compile(r"^(?:highlight-source-|highlight-|language-|lang-|sourceCode)(?P<name>[\w+#.-]+)$")
_MEANINGLESS = (
    "span",
    "font",
    "small",
    "u",
    "ins",
    "mark",
    "abbr",
    "cite",
    "label",
    "bdi",
    "time",
    "nobr",
    "wbr",
    "big",
    "center",
    "tt",
    "var",
)
_INLINE = frozenset({"a", "strong", "em", "b", "i", "code", "p", "sub", "sup", "del", "s", "q", "kbd", "samp"})
_ENDS = frozenset({"body", "article", "main", "li", "td", "dd", "section"})


def plain_code(main: HtmlElement) -> None:
    """Make every code block of the tree plain."""
    for table in list(main.iter("table")):
        _without_line_numbers(table)
    for code in list(main.iter("code")):
        _promote(code)
    for pre in list(main.iter("pre")):
        if next(pre.iterancestors("pre"), None) is None:
            _plain(pre)


def _without_line_numbers(table: HtmlElement) -> None:
    """Line numbers in a cell beside the code: keep the code cell alone."""
    cells = list(table.iter("td"))
    numbers = [cell for cell in cells if classes(cell) & _LINE_NUMBERS or _is_numbers(cell)]
    code = [cell for cell in cells if cell not in numbers and next(cell.iter("pre"), None) is not None]
    if not numbers or len(code) != 1 or len(list(table.iter("tr"))) > 2:
        return
    if next(table.iterancestors("pre"), None) is not None:  # Rouge: the table stands inside the block
        for cell in numbers:
            drop(cell)
        return
    pre = next(code[0].iter("pre"))
    language = _language(pre) or _language(table)
    pre.tail = table.tail
    table.tail = None
    table.getparent().replace(table, pre)
    if language:
        pre.set("data-language", language)


def _is_numbers(cell: HtmlElement) -> bool:
    pre = next(cell.iter("pre"), None)
    words = pre.text_content().split() if pre is not None else []
    if not words or not words[0].isascii() or not words[0].isdigit():
        return False
    return words == [str(number) for number in range(int(words[0]), int(words[0]) + len(words))]


def _promote(code: HtmlElement) -> None:
    """A <code> of several lines that is alone in its box is a block."""
    if not ("\n" in (code.text_content().strip()) or next(code.iter("br"), None) is not None):
        return
    parent = code.getparent()
    if parent is None or next(code.iterancestors("pre"), None) is not None:
        return
    if "".join(parent.text_content().split()) != "".join(code.text_content().split()) or len(parent) != 1:
        return
    pre = builder.PRE()
    pre.tail, code.tail = code.tail, None
    parent.replace(code, pre)
    pre.append(code)


def _plain(pre: HtmlElement) -> None:
    language = _language(pre)
    for element in list(pre.iterdescendants()):
        if element.tag == "button" or classes(element) & _LINE_NUMBERS:
            drop(element)
    for line_break in list(pre.iter("br")):
        line_break.tail = "\n" + (line_break.tail or "")
    for line in list(pre.iterdescendants("div")):
        if line.getnext() is not None and not line.text_content().endswith("\n"):
            line.tail = "\n" + (line.tail or "").lstrip("\n")
    text = pre.text_content().replace("\r\n", "\n").replace("\r", "\n")
    text = re.sub(r"^(?:[ \t]*\n)+", "", text).rstrip()
    for child in list(pre):
        pre.remove(child)
    tail = pre.tail
    pre.attrib.clear()
    pre.text, pre.tail = text, tail
    if language:
        pre.set("data-language", language)
    if not text:
        drop(pre)


def _language(pre: HtmlElement) -> str:
    """The language named by the block, the <code> inside it or the boxes around it; "" where none is."""
    inner = next(pre.iter("code"), None)
    around = [pre, *([inner] if inner is not None else [])]
    for parent in pre.iterancestors():
        if parent.tag in _ENDS or len(around) > 4:
            break
        around.append(parent)
    for element in around:
        named = element.get("data-language") or element.get("data-lang")
        marks = (element.get("class") or "").split()
        if named:
            return _known(named)
        for position, mark in enumerate(marks):
            match = _LANGUAGE.match(mark)
            if match:
                return _known(match["name"])
            if (
                mark in ("code", "sourceCode", "codehilite", "brush:")
                and element.tag == "pre"
                and position + 1 < len(marks)
            ):
                return _known(marks[position + 1])
    return ""


def _known(name: str) -> str:
    name = re.sub(r"[^\w+#.-]", "", name.lower())
    return "" if name in _NO_LANGUAGE else _ALIASES.get(name, name)


def plain_inline(main: HtmlElement) -> None:
    """Take away inline elements that mean nothing in Markdown: spans, links that lead nowhere from here, marks around
    whole blocks."""
    _formulas(main)
    for element in list(main.iterdescendants(*_MEANINGLESS)):
        if element.get("role") == "tab" or (element.tag == "label" and _is_tab(element)):
            continue
        if element.tag == "tt" or (
            element.tag == "span" and "literal" in classes(element)
        ):  # docutils before Sphinx touches it
            element.tag = "code"
        elif element.tag == "var":
            element.tag = "em"
        else:
            element.drop_tag()
    for element in list(main.iterdescendants("a")):
        if not (element.get("href") or "").startswith(("http://", "https://")):
            element.drop_tag()
    for block in list(main.iterdescendants(*BLOCKS)):
        parent = block.getparent()
        while parent is not None and parent is not main and parent.tag in _INLINE:
            above = parent.getparent()
            if parent.tag == "p":
                parent.tag = "div"
            else:
                parent.drop_tag()
            parent = above


def _is_tab(label: HtmlElement) -> bool:
    return "sd-tab-label" in classes(label) or any(
        "tabbed-set" in classes(parent) for parent in label.iterancestors("div")
    )


def _formulas(main: HtmlElement) -> None:
    """KaTeX and MathML carry their TeX source: it alone stays."""
    for formula in [element for element in main.iter("annotation") if element.get("encoding") == "application/x-tex"]:
        source = (formula.text or "").strip()
        box = next((parent for parent in formula.iterancestors("span") if "katex" in classes(parent)), None)
        box = next(formula.iterancestors("math"), None) if box is None else box
        if box is not None and source:
            for child in list(box):
                box.remove(child)
            box.text = f"${source}$"
