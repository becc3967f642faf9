"""Tables of an HTML page as Markdown can hold them: a regular grid with one header row, code moved below.

All functions change the BeautifulSoup tree in place.
"""

import copy

from bs4 import BeautifulSoup, Tag

from dataset_builder.html_main import HEADINGS


def classes(element: Tag) -> frozenset[str]:
    value = element.get("class") or ()
    return frozenset(value.split() if isinstance(value, str) else value)


def new(soup: BeautifulSoup, name: str, text: str = "", **attributes: str) -> Tag:
    element = soup.new_tag(name, attrs=attributes)
    if text:
        element.string = text
    return element


def field_tables(soup: BeautifulSoup, main: Tag) -> None:
    """docutils before 0.14 wrote field lists as tables."""
    for table in main.select("table.field-list, table.footnote, table.citation"):
        definitions = new(soup, "dl")
        for row in table.find_all("tr"):
            cells = row.find_all(("th", "td"), recursive=False)
            for cell, name in zip(cells, ("dt", *["dd"] * len(cells)), strict=False):
                cell.name = name
                definitions.append(cell.extract())
        table.replace_with(definitions)


def layout_tables(main: Tag) -> None:
    """A table around one cell, or around headings or other tables, is a box: its cells become blocks."""
    for table in main.find_all("table"):
        cells = table.find_all(("td", "th"))
        if (len(cells) > 1 and not table.find(("table", *HEADINGS))) or (not cells and table.find("tr") is None):
            continue
        for element in [table, *table.find_all(("thead", "tbody", "tfoot", "tr", "td", "th", "colgroup"))]:
            if element.find_parent("table") is table or element is table:
                element.name = "div"


def regular_tables(soup: BeautifulSoup, main: Tag) -> None:
    """A regular grid: spans repeated, the first row a header, blocks of code moved below the table."""
    for table in main.find_all("table"):
        rows = _grid(table)
        if not rows:
            table.decompose()
            continue
        moved = []
        for pre in table.find_all("pre"):
            text = pre.get_text()
            short = "\n" not in text and len(text) <= 120
            moved.append(
                pre.replace_with(
                    new(soup, "code", text) if short else new(soup, "span", f"(code {len(moved) + 1} below)")
                )
            )
        caption = table.find("caption")
        width = max(len(row) for row in rows)
        grid = new(soup, "table")
        head_is_header = all(cell is None or cell.name == "th" for cell in rows[0]) or table.find("thead") is not None
        for number, row in enumerate(rows if head_is_header else [[None] * width, *rows]):
            line = new(soup, "tr")
            for cell in [*row, *[None] * (width - len(row))]:
                line.append(_cell(soup, cell, "th" if number == 0 else "td"))
            grid.append(line)
        for block in reversed(moved):
            table.insert_after(block)
        table.insert_after(grid)
        if caption is not None and caption.get_text(strip=True):
            caption.name = "p"
            grid.insert_before(caption.extract())
        table.decompose()


def _grid(table: Tag) -> list[list[Tag | None]]:
    """Rows of cells with row and column spans filled: a cell that spans rows is repeated in each, so that every row
    reads alone."""
    rows: list[list[Tag | None]] = []
    waiting: dict[int, tuple[int, Tag | None]] = {}
    for row in table.find_all("tr")[:5000]:
        cells, line, column = iter(row.find_all(("td", "th"), recursive=False)), [], 0
        cell = next(cells, None)
        while cell is not None or any(place >= column for place in waiting):
            if column in waiting:
                left, spanning = waiting.pop(column)
                line.append(spanning)
                if left > 1:
                    waiting[column] = (left - 1, spanning)
                column += 1
                continue
            if cell is None:
                line.append(None)
                column += 1
                continue
            across, down = _span(cell, "colspan"), _span(cell, "rowspan")
            for offset in range(across):
                line.append(cell if offset == 0 else None)
                if down > 1:
                    waiting[column + offset] = (down - 1, cell if offset == 0 else None)
            column += across
            cell = next(cells, None)
        if any(cell is not None and cell.get_text(strip=True) for cell in line):
            rows.append(line)
    return rows


def _span(cell: Tag, name: str) -> int:
    value = str(cell.get(name) or "1")
    return min(100, max(1, int(value))) if value.isascii() and value.isdigit() else 1


def _cell(soup: BeautifulSoup, cell: Tag | None, name: str) -> Tag:
    copied = new(soup, name) if cell is None else copy.copy(cell)
    copied.name, copied.attrs = name, {}
    for item in copied.find_all(("li", "br")):
        if item.name == "br":
            item.replace_with(" ")
        elif item.find_next_sibling("li"):
            (item.find("p") or item).append(";")
    for block in copied.find_all(("ul", "ol", "li", "div", "p", "dl", "dt", "dd", "blockquote")):
        block.insert_after(" ")
        block.unwrap()
    return copied
