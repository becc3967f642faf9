"""HTML blocks that Markdown has no word for, rewritten into ones it has: definition lists, admonitions, tabs, tables.

All functions change the BeautifulSoup tree in place; `plain_blocks` runs them in their order.
"""

import re

from bs4 import BeautifulSoup, Tag

from dataset_builder.html_main import BLOCKS, HEADINGS
from dataset_builder.html_tables import classes, field_tables, layout_tables, new, regular_tables

_OBJECTS = frozenset(
    [
        "function",
        "class",
        "method",
        "attribute",
        "data",
        "exception",
        "module",
        "describe",
        "classmethod",
        "staticmethod",
        "property",
        "option",
        "envvar",
        "confval",
        "cmdoption",
        "macro",
        "type",
        "struct",
        "enum",
        "enumerator",
        "member",
        "var",
        "opcode",
        "setting",
        "directive",
        "role",
        "templatetag",
        "templatefilter",
        "django-admin",
        "describe",
        "program",
        "decorator",
    ]
)
"""Sphinx's object types; a definition list of one of them is an API entry."""


def plain_blocks(soup: BeautifulSoup, main: Tag) -> None:
    """Everything of this module, in the order in which one relies on the other."""
    _tabs(soup, main)
    _admonitions(soup, main)
    _details(soup, main)
    field_tables(soup, main)
    layout_tables(main)
    regular_tables(soup, main)
    _signatures(soup, main)
    _definitions(soup, main)
    _lists_of_sections(main)
    _quoted_code(main)


def _lead(soup: BeautifulSoup, text: str) -> Tag:
    """A paragraph of one bold phrase, such as `**Note:**`."""
    paragraph = new(soup, "p")
    paragraph.append(new(soup, "strong", text))
    return paragraph


def _lead_in(soup: BeautifulSoup, words: str, block: Tag | None) -> Tag | None:
    """Put bold words before the paragraph that `block` is or begins with; where it begins otherwise, return them as a
    paragraph."""
    while block is not None and block.name in ("div", "section"):
        block = next((child for child in block.children if isinstance(child, Tag) or child.strip()), None)
        if not isinstance(block, Tag):
            break
    if not isinstance(block, Tag) or block.name != "p":
        return _lead(soup, words)
    block.insert(0, " ")
    block.insert(0, new(soup, "strong", words))
    return None


def _squeezed(element: Tag) -> str:
    return " ".join(element.get_text().split())


def _tabs(soup: BeautifulSoup, main: Tag) -> None:
    """Tab labels become a bold line above their panel; all panels stay."""
    for tab_list in main.find_all(attrs={"role": "tablist"}):
        labels = tab_list.find_all(attrs={"role": "tab"})
        panels = tab_list.parent.find_all(attrs={"role": "tabpanel"}) if tab_list.parent else []
        if labels and len(labels) == len(panels):
            _label(soup, labels, panels)
            tab_list.decompose()
    for tab_set in main.find_all("div", class_="tabbed-set"):
        labels, panels = (
            tab_set.select(".tabbed-labels > label") or tab_set.select(":scope > label"),
            tab_set.select(".tabbed-content > .tabbed-block") or tab_set.select(":scope > .tabbed-content"),
        )
        if labels and len(labels) == len(panels):
            _label(soup, labels, panels)
            for label in labels:
                label.decompose()
    for label in main.find_all("label"):
        if "sd-tab-label" in classes(label):
            label.replace_with(_lead(soup, _squeezed(label)))


def _label(soup: BeautifulSoup, labels: list[Tag], panels: list[Tag]) -> None:
    for label, panel in zip(labels, panels, strict=True):
        panel.insert(0, _lead(soup, _squeezed(label)))


def _admonitions(soup: BeautifulSoup, main: Tag) -> None:
    """Notes and warnings: a bold first line, then their blocks, not quoted, so that code in them stays as it is."""
    for table in main.select("div.admonitionblock > table"):
        title, content = table.select_one("td.icon"), table.select_one("td.content")
        if title is not None and content is not None:
            content.name = "div"
            words = _squeezed(title) or next(iter(classes(table.parent) - {"admonitionblock"}), "note").capitalize()
            lead = _lead_in(soup, f"{words}:", content)
            if lead is not None:
                content.insert(0, lead)
            table.replace_with(content.extract())
    for title in main.find_all(class_=re.compile(r"^(?:admonition-title|admonitionHeading|admonition-heading)")):
        words = _squeezed(title).rstrip(":")
        if title.name != "summary" and words:
            lead = _lead_in(soup, f"{words[:1].upper()}{words[1:]}:", title.find_next_sibling())
            title.decompose() if lead is None else title.replace_with(lead)


def _details(soup: BeautifulSoup, main: Tag) -> None:
    for summary in main.find_all("summary"):
        if not summary.find(HEADINGS) and summary.get_text(strip=True):
            summary.replace_with(_lead(soup, _squeezed(summary)))


def _signatures(soup: BeautifulSoup, main: Tag) -> None:
    """An API entry's signature becomes a heading one level below the section it stands in, its description that
    section's text."""
    level = 1
    for element in main.find_all((*HEADINGS, "dl")):
        if element.name in HEADINGS:
            level = int(element.name[1])
        elif _is_api(element):
            depth = sum(1 for parent in element.parents if parent.name == "div" and parent.get("data-api"))
            first = True
            for child in element.find_all(("dt", "dd"), recursive=False):
                if child.name == "dt":
                    child.replace_with(_signature(soup, child, min(6, level + 1 + depth), first))
                    first = False
                else:
                    child.name, first = "div", True
            element.name = "div"
            element["data-api"] = "yes"


def _is_api(definitions: Tag) -> bool:
    term = definitions.find("dt", recursive=False)
    return term is not None and (
        bool(classes(term) & {"sig", "sig-object"}) or bool(classes(definitions) & _OBJECTS and term.get("id"))
    )


def _signature(soup: BeautifulSoup, term: Tag, level: int, first: bool) -> Tag:
    words = _squeezed(term)
    if first:
        return new(soup, f"h{level}", words)
    paragraph = new(soup, "p")
    paragraph.append(new(soup, "code", words))
    return paragraph


def _definitions(soup: BeautifulSoup, main: Tag) -> None:
    """Other definition lists become lists: `- **term**: its first paragraph`, and what else there is below."""
    for definitions in main.find_all("dl"):
        items = new(soup, "ul")
        for terms, bodies in _entries(definitions):
            item = new(soup, "li")
            items.append(item)
            line = new(soup, "p")
            for term in terms:
                if line.contents:
                    line.append(", ")
                _add_term(soup, line, term)
            if line.contents:
                item.append(line)
            for body in bodies:
                first = next((child for child in body.children if isinstance(child, Tag) or child.strip()), None)
                if line.contents and body is bodies[0] and isinstance(first, Tag) and first.name == "p":
                    line.append(": ")
                    line.extend(list(first.contents))
                    first.decompose()
                elif line.contents and body is bodies[0] and not body.find(BLOCKS) and first is not None:
                    line.append(": ")
                    line.extend(list(body.contents))
                body.name, body.attrs = "div", {}
                item.append(body.extract())
        definitions.replace_with(items)


def _entries(definitions: Tag) -> list[tuple[list[Tag], list[Tag]]]:
    """(terms, descriptions) of each entry; HTML allows several of both, and a <div> around an entry."""
    entries: list[tuple[list[Tag], list[Tag]]] = []
    for child in definitions.find_all(("dt", "dd", "div"), recursive=False):
        for part in child.find_all(("dt", "dd"), recursive=False) if child.name == "div" else [child]:
            if not entries or (part.name == "dt" and entries[-1][1]):
                entries.append(([], []))
            entries[-1][0 if part.name == "dt" else 1].append(part)
    return entries


def _add_term(soup: BeautifulSoup, line: Tag, term: Tag) -> None:
    """A term's words, bold unless they have a mark of their own."""
    if term.find(("code", "strong", "b", "kbd")) and not term.find(BLOCKS):
        line.extend(list(term.contents))
    elif words := _squeezed(term).rstrip(": "):
        line.append(new(soup, "strong", words))


def _lists_of_sections(main: Tag) -> None:
    """A list whose items begin with a heading is a row of sections."""
    for items in main.find_all(("ul", "ol")):
        entries = items.find_all("li", recursive=False)
        if any(entry.find(HEADINGS) for entry in entries):
            for element in [items, *entries]:
                element.name = "div"


def _quoted_code(main: Tag) -> None:
    """docutils makes a quotation of anything indented; with code or a heading inside, it is no quotation."""
    for quote in main.find_all("blockquote"):
        if quote.find(("pre", "ul", "ol", "table", *HEADINGS)):
            quote.name = "div"
