"""Where on an HTML page the documentation itself is, judged by structure; navigation is taken out.

Works on an lxml tree in place: this part sees the whole page, most of which is dropped, and lxml is some twenty times
faster at it than BeautifulSoup. Themes are recognised by the marks that Sphinx, MkDocs, Docusaurus, Asciidoctor and
Antora put around the text (roles, semantic elements, a few classes); a page with none of them by where its prose is.
"""

import re

from lxml import etree
from lxml.html import HtmlElement

HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
BLOCKS = (
    "p",
    "div",
    "ul",
    "ol",
    "dl",
    "table",
    "pre",
    "blockquote",
    "section",
    "article",
    "details",
    "figure",
    *HEADINGS,
)
"""Elements that stand as blocks of their own, headings among them."""


def _class(name: str) -> str:
    return f"contains(concat(' ', normalize-space(@class), ' '), ' {name} ')"


_MAIN = tuple(
    etree.XPath(path)
    for path in (
        ".//*[@itemprop='articleBody']",
        ".//main//article",
        ".//article[@role='main']",
        ".//div[@role='main']",
        f".//*[{_class('theme-doc-markdown')}]",
        f".//*[{_class('md-content')}]",
        ".//main",
        ".//*[@role='main']",
        ".//article",
        f".//div[{_class('document')}]//div[{_class('body')}]",
        f".//*[{_class('rst-content')}]",
        f".//*[@id='bd']//*[{_class('yui-b')}]",
        ".//*[@id='main-content']",
        ".//*[@id='content']",
    )
)
"""Tried in this order; measured on five themes (docs/sources.md)."""
_NEVER = (
    "script",
    "style",
    "noscript",
    "template",
    "svg",
    "iframe",
    "object",
    "canvas",
    "input",
    "select",
    "textarea",
    "dialog",
    "audio",
    "video",
    "link",
    "meta",
    "head",
)
_NAVIGATION_WORDS = frozenset(
    [
        "nav",
        "navbar",
        "navigation",
        "navheader",
        "navfooter",
        "sidebar",
        "sidenav",
        "breadcrumb",
        "breadcrumbs",
        "pagination",
        "pager",
        "prevnext",
        "toc",
        "tocmobile",
        "toctree",
        "localtoc",
        "contents",
        "related",
        "footer",
        "copyright",
        "copyrights",
        "edit",
        "share",
        "social",
        "search",
        "skip",
        "banner",
        "announcement",
        "versions",
        "feedback",
        "sphinxsidebar",
        "rst-versions",
        "indices",
    ]
)
"""Words of a class or id that mark navigation, believed only where links make up the element."""
_PERMALINKS = frozenset(
    {
        "headerlink",
        "hash-link",
        "anchor-link",
        "header-anchor",
        "viewcode-link",
        "viewcode-back",
        "doc-anchor",
        "theme-doc-version-badge",
    }
)
_MAX_DEPTH = 100
"""Elements nested deeper than any documentation are flattened to their text: the converter recurses."""
_BOXES = ("div", "main", "section", "article", "table", "tbody", "tr", "td", "center", "body")


def main_content(root: HtmlElement) -> HtmlElement:
    """The element that holds the page's text, cleaned of navigation. The tree is changed."""
    for element in list(root.iter(*_NEVER)):
        drop(element)
    body = next(root.iter("body"), root)
    main = _find_main(body)
    _flatten_deep(main)
    title = " ".join(next((element.text_content() for element in root.iter("title")), "").split())
    _drop_permalinks(main)
    _add_first_heading(body, main, title)
    _drop_navigation(main)
    return main


def classes(element: HtmlElement) -> frozenset[str]:
    return frozenset((element.get("class") or "").split())


def drop(element: HtmlElement) -> None:
    """Take an element out with all that is in it; the text after it stays."""
    if element.getparent() is not None:
        element.drop_tree()


def text_of(element: HtmlElement) -> str:
    return " ".join(element.text_content().split())


def _find_main(body: HtmlElement) -> HtmlElement:
    enough = _mass(body) / 2
    for path in _MAIN:
        found = [element for element in path(body) if not _inside_navigation(element)]
        if not found:
            continue
        outermost = [element for element in found if not any(parent in found for parent in element.iterancestors())]
        chosen = outermost[0] if len(outermost) == 1 else _shared_parent(outermost)
        if _mass(chosen) >= enough:  # a decorative <article> or an empty #content is not the page
            return chosen
    return _densest(body)


def _inside_navigation(element: HtmlElement) -> bool:
    return next(element.iterancestors("nav", "footer"), None) is not None


def _shared_parent(elements: list[HtmlElement]) -> HtmlElement:
    first, *others = elements
    shared = list(first.iterancestors())
    for other in others:
        above = set(other.iterancestors())
        shared = [parent for parent in shared if parent in above]
    return shared[0] if shared else first


def _mass(element: HtmlElement) -> int:
    """Characters of text that is not link text: prose and code, not menus."""
    links = sum(len("".join(link.text_content().split())) for link in element.iter("a"))
    return len("".join(element.text_content().split())) - links


def _densest(body: HtmlElement) -> HtmlElement:
    """Descend while one child holds nearly all of the prose."""
    here, mass = body, _mass(body)
    while True:
        best = max((child for child in here if child.tag in _BOXES), key=_mass, default=None)
        if best is None or _mass(best) < 0.85 * mass:
            return here
        if sum(1 for _ in best.iter("h1", "h2", "h3", "pre")) < sum(1 for _ in here.iter("h1", "h2", "h3", "pre")):
            return here
        here = best


def _flatten_deep(main: HtmlElement) -> None:
    depths, deep = {main: 0}, []
    for element in main.iterdescendants():
        depths[element] = depth = depths[element.getparent()] + 1
        if depth == _MAX_DEPTH:
            deep.append(element)
    for element in deep:
        words = element.text_content()
        for child in list(element):
            element.remove(child)
        element.text = words


def _drop_navigation(main: HtmlElement) -> None:
    for element in list(
        main.iterdescendants(
            "nav",
            "footer",
            "header",
            "aside",
            "div",
            "ul",
            "ol",
            "section",
            "p",
            "table",
            "form",
            "button",
            "a",
            "span",
        )
    ):
        if _is_navigation(element):
            drop(element)


def _is_navigation(element: HtmlElement) -> bool:
    name, role = element.tag, element.get("role")
    if name in ("nav", "form") or role in ("navigation", "search", "contentinfo", "banner"):
        return not _has_content(element)
    if name == "button":
        return role != "tab"
    if name == "footer":
        return not _has_content(element) and next(element.iter(*HEADINGS), None) is None
    marks = f"{element.get('class') or ''} {element.get('id') or ''}"
    if not marks.strip():
        return False
    words = words_of(marks)
    if name in ("a", "span", "p"):
        return bool(words & {"edit", "skip"}) and (name == "a" or "link" in words)
    if "toctree" in words and name in ("div", "ul"):
        return True
    return bool(words & _NAVIGATION_WORDS) and not _has_content(element) and _link_share(element) > 0.5


def words_of(marks: str) -> frozenset[str]:
    """The words of classes and ids, however they are joined: `textareaCode`, `code-box`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", marks).lower()
    return frozenset(re.split(r"[^a-z]+", spaced)) | frozenset(marks.lower().split())


def _has_content(element: HtmlElement) -> bool:
    """Code, a definition list, or a first heading: what no menu has."""
    return next(element.iter("pre", "h1", "dl"), None) is not None


def _link_share(element: HtmlElement) -> float:
    text = len("".join(element.text_content().split()))
    links = sum(len("".join(link.text_content().split())) for link in element.iter("a"))
    return links / text if text else 1.0


def _drop_permalinks(main: HtmlElement) -> None:
    """The ¶, # and [source] marks beside headings and signatures."""
    for element in list(main.iterdescendants("a", "span")):
        mark = element.get("class")
        if mark and not _PERMALINKS.isdisjoint(mark.split()):
            drop(element)
        elif (
            element.tag == "a"
            and (element.get("href") or "").startswith("#")
            and next(element.iter("img", "code"), None) is None
        ):
            words = element.text_content().strip("\u200b \n\t")
            if not words or (len(words) <= 2 and not any(char.isalnum() for char in words)):
                drop(element)


def _add_first_heading(body: HtmlElement, main: HtmlElement, title: str) -> None:
    """Asciidoctor, AsciiDoc and some blogs put the page's first heading beside its text: it is brought in.

    AsciiDoc's `#header` comes whole (a manual page's NAME stands there), others only where `<title>` confirms the
    heading.
    """
    if next(main.iter("h1"), None) is not None or main is body:
        return
    header = main.getprevious()
    while header is not None and header.get("id") != "header":
        header = header.getprevious()
    if header is not None and main.get("id") == "content":
        for child in reversed(
            [child for child in header if child.get("id") != "toc" and "details" not in classes(child)]
        ):
            main.insert(0, child)
        return
    for heading in body.iter("h1"):
        words = text_of(heading)
        if words and words in title and not _inside_navigation(heading):
            heading.drop_tree()
            heading.tail = None
            main.insert(0, heading)
            return
