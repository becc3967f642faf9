"""Code blocks of an HTML page, whatever highlighter made them: one plain <pre> each, its text exact, its language in
`data-language`.

Works on the lxml tree, before BeautifulSoup sees the page: the highlighters' spans are most of its elements.
"""

import re

from lxml.html import HtmlElement, builder

from dataset_builder.html_main import BLOCKS, classes, drop, text_of, words_of

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
_GUTTER = re.compile(r"line-?num|lineno|gutter|^lnt?$", re.I)
_LABEL = re.compile(r"^(?:code-?block-?|code-?)?lang(?:uage)?(?:-?name|-?label)?$", re.I)
_LAID_OUT = re.compile(r"white-space:\s*pre|display:\s*block", re.I)
_NOT_POWERS = frozenset({"st", "nd", "rd", "th", "tm", "sm", "r", "c", "er", "re", "e"})
"""Ordinals and trade marks: set high, but no exponents."""
_EDITORS = frozenset(
    ["code", "codemirror", "editor", "example", "highlight", "playable", "playground", "prettyprint", "repl", "sandbox",
     "snippet", "source", "sql"]
)  # fmt: skip
_TYPED_BY_READERS = frozenset(
    ["comment", "comments", "contact", "embed", "feedback", "message", "reply", "search", "share"]
)
_INLINE = frozenset({"a", "strong", "em", "b", "i", "code", "p", "sub", "sup", "del", "s", "q", "kbd", "samp"})
_ENDS = frozenset({"body", "article", "main", "li", "td", "dd", "section"})


def editable_code(root: HtmlElement) -> None:
    """Code in a <textarea>, as playgrounds and old highlighters write it, becomes a <pre>; what readers type into does
    not, nor what a page keeps beside a block for its copy button."""
    shown = {"".join(pre.text_content().split()) for pre in root.iter("pre")}
    for box in list(root.iter("textarea")):
        around = [box, *list(box.iterancestors())[:3]]
        words = words_of(" ".join(one.get(name) or "" for one in around for name in ("class", "id")))
        words |= words_of(box.get("name") or "")
        text, parent = box.text_content(), box.getparent()
        if parent is None or not words & _EDITORS or words & _TYPED_BY_READERS:
            continue
        if not text.strip() or "".join(text.split()) in shown:
            continue
        pre = builder.PRE(text)
        language = _language(box)
        if not language and box.get("name") == "code":  # SyntaxHighlighter before 3
            language = _known(re.match(r"[\w+#.-]*", box.get("class") or "")[0])
        if language:
            pre.set("data-language", language)
        pre.tail, box.tail = box.tail, None
        parent.replace(box, pre)


def plain_code(main: HtmlElement) -> None:
    """Make every code block of the tree plain."""
    _lines_in_boxes(main)
    for table in list(main.iter("table")):
        _without_line_numbers(table)
    for code in list(main.iter("code")):
        _promote(code)
    for pre in list(main.iter("pre")):
        if next(pre.iterancestors("pre"), None) is None:
            _without_gutter(pre)
            _plain(pre)


def _lines_in_boxes(main: HtmlElement) -> None:
    """Doxygen and SyntaxHighlighter write a block as boxes of a line each, GitHub's file view as rows: a <pre> each."""
    fragments = [box for box in main.iter("div") if "fragment" in classes(box)]
    for box in [*fragments, *(cell for cell in main.iter("td") if "code" in classes(cell))]:
        lines = [line for line in box.iter("div") if "line" in classes(line)]
        if lines and next(box.iter("pre"), None) is None:
            _become_pre(box, lines)
    for table in list(main.iter("table")):
        rows = [list(row.iter("td")) for row in table.iter("tr")]
        if len(rows) < 2 or next(table.iterancestors("pre"), next(table.iter("pre"), None)) is not None:
            continue
        if all(len(row) == 2 and classes(row[0]) & _LINE_NUMBERS for row in rows):
            _become_pre(table, [code for _, code in rows])


def _become_pre(box: HtmlElement, lines: list[HtmlElement]) -> None:
    """The text of `lines` as the one <pre> of `box`; a cell keeps the <pre> inside."""
    language = _language(box)
    for line in lines:
        for number in [element for element in line.iter("span") if classes(element) & _LINE_NUMBERS]:
            if number.tail and number.tail.startswith("\xa0"):  # Doxygen before 1.9 sets one between number and code
                number.tail = number.tail[1:]
            drop(number)
    text = "\n".join(re.sub(r"[\r\n]", "", line.text_content()).replace("\xa0", " ").rstrip() for line in lines)
    pre = builder.PRE(text)
    if language:
        pre.set("data-language", language)
    if box.tag == "td":
        for child in list(box):
            box.remove(child)
        box.text = None
        box.append(pre)
    else:
        pre.tail, box.tail = box.tail, None
        box.getparent().replace(box, pre)


def _without_gutter(pre: HtmlElement) -> None:
    """Line numbers and the language's name that stand beside the block."""
    for beside in [*pre.itersiblings(), *pre.itersiblings(preceding=True)]:
        marks = classes(beside)
        text = beside.text_content().split()
        gutter = all(word.isdigit() for word in text) and any(_GUTTER.search(mark) for mark in marks)
        label = len(text) == 1 and len(text[0]) <= 20 and any(_LABEL.match(mark) for mark in marks)
        if gutter or label:
            drop(beside)


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
    alone = len(parent) == 1 and "".join(parent.text_content().split()) == "".join(code.text_content().split())
    if not alone and not _LAID_OUT.search(code.get("style") or ""):
        return
    pre = builder.PRE()
    pre.tail, code.tail = code.tail, None
    parent.replace(code, pre)
    pre.append(code)


def _plain(pre: HtmlElement) -> None:
    language = _language(pre)
    for element in list(pre.iterdescendants()):
        if element.tag == "button" or classes(element) & _LINE_NUMBERS or _is_number_aside(element):
            drop(element)
    for line_break in list(pre.iter("br")):
        line_break.tail = "\n" + (line_break.tail or "")
    for line in list(pre.iterdescendants("div", "li", "tr")):
        if line.getnext() is not None and not line.text_content().endswith("\n"):
            line.tail = "\n" + (line.tail or "").lstrip("\n")
    text = pre.text_content().replace("\r\n", "\n").replace("\r", "\n")
    # a blank that does not break a line is a blank once it is copied out of a browser, and no compiler takes it
    text = re.sub(r"^(?:[ \t]*\n)+", "", text.replace("\xa0", " ")).rstrip()
    for child in list(pre):
        pre.remove(child)
    tail = pre.tail
    pre.attrib.clear()
    pre.text, pre.tail = text, tail
    if language:
        pre.set("data-language", language)
    if not text:
        drop(pre)


def _is_number_aside(element: HtmlElement) -> bool:
    """A number that its page keeps from what is copied or found: Chroma's styles, rustdoc."""
    aside = "user-select:none" in (element.get("style") or "").replace(" ", "") or "data-nosnippet" in element.attrib
    return aside and element.text_content().strip().isdigit()


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
    _scripts(main)
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


def _scripts(main: HtmlElement) -> None:
    """High and low characters in plain text: 10<sup>6</sup> is 10^6 and never 106; a footnote's mark is [1]."""
    for script in list(main.iterdescendants("sup", "sub")):
        words = text_of(script)
        before = _character_before(script)
        link = next(script.iter("a"), script if script.getparent().tag == "a" else None)
        note = link is not None and words.isdigit()
        if note:
            words = f"[{words}]"
        elif script.tag == "sub":
            words = f"_{words}" if before.isdigit() and words[:1].isdigit() else words
        elif re.match(r"[-\u2212+]?\w", words) and (before.isalnum() or before in (")", "]")):
            high = f"^{words}" if re.fullmatch(r"[-\u2212+]?[\w.]+", words) else f"^({words})"
            words = words if words.casefold() in _NOT_POWERS else high
        if words != text_of(script):
            for child in list(script):
                script.remove(child)
            script.text = words
        script.drop_tag()


def _character_before(element: HtmlElement) -> str:
    previous = element.getprevious()
    text = (previous.tail or previous.text_content()) if previous is not None else element.getparent().text
    return (text or "")[-1:]
