"""How much of real HTML documentation survives as Markdown: code, headings, table cells, navigation; speed.

    python benchmarks/markdown.py FOLDER... [--sample N] [--worst N] [--main SELECTOR]

Each FOLDER is read recursively for *.html. What should survive is taken from the page's own element that holds its
text, by BeautifulSoup and independently of the converter. A code block counts as kept only if a fence holds exactly
its text, common indentation and blank lines at its ends aside.
"""

import argparse
import random
import re
import sys
import textwrap
import time
import warnings
from pathlib import Path

from bs4 import BeautifulSoup, Tag, XMLParsedAsHTMLWarning

from dataset_builder.markdown import decode, from_html

SKIPPED = re.compile(r"(?:^|/)(?:genindex[^/]*|search|py-modindex|modindex|404|print|_modules/.*|_sources/.*)\.html$")
SELECTORS = (
    "[itemprop=articleBody]",
    "main article",
    "article[role=main]",
    "[role=main]",
    "main",
    "article",
    "#bd .yui-b",
    "div.body",
    "body",
)
JUNK = (
    "script, style, nav, footer, .headerlink, .hash-link, [role=navigation], .toctree-wrapper, .sphinxsidebar, "
    "button:not([role=tab])"
)
KINDS = ("code", "headings", "cells", "navigation")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folders", nargs="+", type=Path)
    arguments.add_argument("--sample", type=int, default=60, help="pages a folder, chosen with a fixed seed")
    arguments.add_argument("--worst", type=int, default=0, help="print so many lost items a folder")
    arguments.add_argument(
        "--main", help="CSS selector of the element that holds the text, instead of those tried here"
    )
    options = arguments.parse_args()
    print(
        f"{'folder':26} {'pages':>5} {'code':>16} {'headings':>16} {'table cells':>16} {'nav gone':>9} {'pages/s':>8}"
    )
    for folder in options.folders:
        report(folder, options)


def report(folder: Path, options: argparse.Namespace) -> None:
    """One line for a folder, and its worst losses."""
    pages = sorted(path for path in folder.rglob("*.html") if path.is_file() and not SKIPPED.search(path.as_posix()))
    random.Random(0).shuffle(pages)
    totals = {kind: [0, 0] for kind in KINDS}
    lost, seconds = [], 0.0
    for path in pages[: options.sample]:
        html = decode(path.read_bytes())
        started = time.process_time()
        markdown = from_html(html).markdown
        seconds += time.process_time() - started
        for kind, wanted, kept in score(html, markdown, options.main):
            missing = [item for item in wanted if item not in kept]
            totals[kind][0] += len(missing) if kind == "navigation" else len(wanted) - len(missing)
            totals[kind][1] += len(wanted)
            if kind != "navigation":
                lost += [f"  {kind:10} {path.relative_to(folder)}: {item[:110]!r}" for item in missing]
    shares = [f"{kept}/{of} {kept / of:.3f}" if of else "-" for kept, of in (totals[kind] for kind in KINDS[:3])]
    gone, of = totals["navigation"]
    read = min(len(pages), options.sample)
    print(
        f"{folder.name[:26]:26} {read:5} {shares[0]:>16} {shares[1]:>16} {shares[2]:>16} "
        f"{f'{gone / of:.3f}' if of else '-':>9} {read / seconds if seconds else 0:8.1f}"
    )
    print("".join(line + "\n" for line in random.Random(1).sample(lost, min(options.worst, len(lost)))), end="")
    sys.stdout.flush()


def score(html: str, markdown: str, selector: str | None) -> list[tuple[str, list[str], set[str]]]:
    """(kind, what the page has, what the Markdown has) for each kind; navigation should be gone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)
        soup = BeautifulSoup(html, "lxml")
    body = soup.body or soup
    found = next(
        (hits for hits in (body.select(place) for place in ([selector] if selector else SELECTORS)) if hits), [body]
    )
    holder = max(found, key=lambda element: len(element.get_text()))
    menus = {
        squeeze(link.get_text(" ")) for menu in soup.find_all(("nav", "footer")) for link in menu.find_all("a")
    } - {""}
    for junk in holder.select(JUNK):
        junk.decompose()
    prose = outside_fences(markdown)
    rows = [line.replace("\\|", "|") for line in markdown.split("\n") if line.lstrip().startswith("|")]
    cells = [squeeze(cell.get_text(" ")) for cell in holder.find_all("td") if is_data(cell)]
    every = "\n".join(squeeze(row) for row in rows)
    headings = [squeeze(heading.get_text()) for heading in holder.find_all(re.compile(r"^h[1-6]$"))]
    return [
        ("code", [code for code in code_blocks(holder) if code], fenced(markdown)),
        (
            "headings",
            [words for words in headings if words],
            {squeeze(line.lstrip("#")) for line in prose if line[:1] == "#"},
        ),
        ("cells", [words for words in cells if words], {words for words in cells if words in every}),
        ("navigation", sorted(menus), {squeeze(line.lstrip("-* ")) for line in prose if line[:1] != "#"}),
    ]


def is_data(cell: Tag) -> bool:
    """Whether a cell belongs to a table of data, not to one that numbers lines or boxes a note."""
    table = cell.find_parent("table")
    layout = {"highlighttable", "field-list", "footnote", "rouge-table"} & set(table.get("class") or ())
    return not layout and not cell.find(("pre", "table")) and cell.find_parent(class_="admonitionblock") is None


def code_blocks(holder: Tag) -> list[str]:
    blocks = []
    for pre in holder.find_all("pre"):
        if pre.find_parent("pre") or re.fullmatch(r"[\d\s]*", pre.get_text()):
            continue
        for number in pre.select(".linenos, .lineno"):
            number.decompose()
        for line_break in pre.find_all("br"):
            line_break.replace_with("\n")
        blocks.append(plain(pre.get_text()))
    return blocks


def fenced(markdown: str) -> set[str]:
    """The content of every fence."""
    blocks, fence, lines = set(), None, []
    for line in markdown.split("\n"):
        mark = re.match(r"\s*(```+)", line)
        if fence is None and mark:
            fence, lines = mark[1], []
        elif fence is not None and line.strip() == fence:
            blocks.add(plain("\n".join(lines)))
            fence = None
        elif fence is not None:
            lines.append(line)
    return blocks


def outside_fences(markdown: str) -> list[str]:
    lines, fence = [], None
    for line in markdown.split("\n"):
        mark = re.match(r"\s*(```+)", line)
        if fence is None and mark:
            fence = mark[1]
        elif fence is not None and line.strip() == fence:
            fence = None
        elif fence is None:
            lines.append(line)
    return lines


def plain(code: str) -> str:
    lines = [line.rstrip() for line in code.replace("\r\n", "\n").expandtabs(8).split("\n")]
    return textwrap.dedent("\n".join(lines).strip("\n")).strip()


def squeeze(text: str) -> str:
    """Text without blanks, Markdown's marks and link targets, so that only its words are compared."""
    return re.sub(r"[\s\u200b\xb6#`*\\\[\]]+|\(https?:[^)]*\)", "", text)


if __name__ == "__main__":
    main()
