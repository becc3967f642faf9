"""HTML page -> Markdown: the documentation's text with its headings, code blocks and tables, without the site around
it.

markdownify writes the Markdown, with its escaping off (`sample_packing`, never `sample\\_packing`): a quote must be
found verbatim. Everything it has no word for is rewritten before (html_blocks); navigation is gone before that
(html_main).
"""

import re
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

MAX_HTML_CHARS = 10_000_000


@dataclass(frozen=True, slots=True)
class Page:
    """What is read from one HTML page."""

    title: str
    markdown: str
    canonical: str | None = None
    """Absolute URL of `<link rel=canonical>`, where the page names one."""
    licence: str | None = None
    """SPDX id, where the page links a licence known by its URL or names one in its meta data."""
    links: tuple[str, ...] = ()
    """Absolute http(s) URLs of all links of the page, navigation included, without fragments, in order."""
    nofollow: bool = False
    noindex: bool = False
    version: str | None = None
    """Documentation version named in the page's meta data."""
    markdown_twin: str | None = None
    """Absolute URL of `<link rel=alternate type=text/markdown>`."""


def from_html(html: str, url: str = "") -> Page:
    """The page as Markdown. Never raises for odd HTML; an empty page gives empty Markdown.

    `url` makes links absolute. Raises ValueError above 10 million characters.
    """
    if len(html) > MAX_HTML_CHARS:
        raise ValueError(f"{len(html):,} characters of HTML; at most {MAX_HTML_CHARS:,} are read")
    from bs4 import BeautifulSoup
    from lxml.html import tostring

    from dataset_builder.html_blocks import plain_blocks
    from dataset_builder.html_code import editable_code, plain_code, plain_inline
    from dataset_builder.html_main import main_content
    from dataset_builder.html_meta import read_meta

    root = parse(html)
    if root is None:
        return Page("", "")
    meta = read_meta(root, url)
    editable_code(root)
    content = main_content(root)
    plain_code(content)
    plain_inline(content)
    soup = BeautifulSoup(tostring(content, encoding="unicode", with_tail=False), "lxml")
    main = soup.body or soup
    plain_blocks(soup, main)
    markdown = tidy(_converter(url).process_tag(main, parent_tags=set()))
    first = re.search(r"(?m)^# (.+)$", markdown)
    title = first[1].strip() if first else meta.title
    return Page(
        title,
        markdown,
        meta.canonical,
        meta.licence,
        meta.links,
        meta.nofollow,
        meta.noindex,
        meta.version,
        meta.markdown_twin,
    )


_TEXTAREA = re.compile(r"(<textarea\b[^<>]*>)(?:\r?\n)?(.*?)(?=</textarea|\Z)", re.I | re.S)
"""A tag inside is text (https://html.spec.whatwg.org/#parsing-rcdata), which lxml does not know; one line end after the
opening is none."""


def parse(html: str):
    """The page as an lxml tree, None for an empty one. lxml closes what HTML lets authors leave open (</p>, </li>,
    </td>)."""
    from lxml.etree import LxmlError
    from lxml.html import HTMLParser, document_fromstring

    html = re.sub(r"[\x00-\x08\x0b\x0e-\x1f\ufffe\uffff\ud800-\udfff]", "", html)
    html = _TEXTAREA.sub(lambda found: found[1] + found[2].replace("<", "&lt;"), html)
    try:
        # As bytes with their encoding said: what the page's own <meta charset> claims was settled in `decode`.
        return document_fromstring(
            html.encode(), parser=HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
        )
    except (LxmlError, ValueError):
        return None


def decode(data: bytes, charset: str | None = None) -> str:
    """Bytes of a page as text: byte-order mark, then `charset` of the HTTP header, then the page's own meta, then a
    guess."""
    from bs4.dammit import UnicodeDammit

    dammit = UnicodeDammit(data, user_encodings=[charset] if charset else [], is_html=True)
    return dammit.unicode_markup or data.decode("utf-8", "replace")


def tidy(markdown: str) -> str:
    """At most one blank line between blocks, no blanks at line ends, one newline at the end; fenced code is left as it
    is."""
    lines, fence, blank = [], None, True
    for line in markdown.split("\n"):
        mark = re.match(r"[ \t>]*(```+|~~~+)(.*)$", line)
        if fence is not None:
            lines.append(line)
            if mark and mark[1].startswith(fence) and not mark[2].strip():
                fence = None
            continue
        if mark and not (mark[1][0] == "`" and "`" in mark[2]):
            fence = mark[1]
            lines.append(line)
            blank = False
            continue
        line = line.replace("\xa0", " ").replace("\u200b", "").rstrip()
        if line or not blank:
            lines.append(line)
        blank = not line
    return "\n".join(lines).strip("\n") + "\n" if any(lines) else ""


def _converter(url: str):
    """markdownify, with this project's few changes. Made here so that the package is imported only when a page is
    read."""
    from markdownify import MarkdownConverter

    host = urlsplit(url).netloc

    class Converter(MarkdownConverter):
        def convert_pre(self, el, text, parent_tags):
            code = el.get_text()
            ticks = max([2, *(len(run) for run in re.findall(r"`+", code))]) + 1
            return f"\n\n{'`' * ticks}{el.get('data-language', '')}\n{code}\n{'`' * ticks}\n\n"

        def convert_a(self, el, text, parent_tags):
            words, href = text.strip(), str(el.get("href") or "")
            if "_noformat" in parent_tags or not words or not href.startswith(("http://", "https://")):
                return text  # a relative link leads nowhere from raw-materials/
            if urlsplit(href).netloc == host or re.search(r"[\s<>()]", href):
                return text
            return f"<{href}>" if words == href else f"[{words}]({href})"

        def convert_img(self, el, text, parent_tags):
            words = " ".join(str(el.get("alt") or "").split())
            return words if " " in words and not re.search(r"\.(?:png|svg|jpe?g|gif)$|^_images", words) else ""

        def convert_br(self, el, text, parent_tags):
            return " " if "_inline" in parent_tags else "\n"

        def convert_li(self, el, text, parent_tags):
            # A fence goes on its own line, where any reader of Markdown finds it, not behind the bullet.
            return re.sub(
                r"\A(-|\d+\.) (?=```)",
                lambda mark: f"{mark[1]}\n{' ' * (len(mark[1]) + 1)}",
                super().convert_li(el, text, parent_tags),
            )

        def convert_p(self, el, text, parent_tags):
            text = super().convert_p(el, text, parent_tags)
            if "_inline" in parent_tags:
                return text
            # Prose that begins like a Markdown block would become one.
            return re.sub(
                r"(?m)^(?=#{1,6} |[-+*] |>|```|~~~|\|)", r"\\", re.sub(r"(?m)^(\d{1,9})([.)] )", r"\1\\\2", text)
            )

        def convert_td(self, el, text, parent_tags):
            cell = re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.split()))
            return f" {cell} |"

        def convert_th(self, el, text, parent_tags):
            return self.convert_td(el, text, parent_tags)

        def convert_tr(self, el, text, parent_tags):
            rule = "|" + " --- |" * len(el.find_all(("td", "th"), recursive=False)) + "\n"
            return f"|{text}\n{rule if el.find_previous_sibling('tr') is None else ''}"

    return Converter(
        heading_style="ATX",
        bullets="-",
        escape_asterisks=False,
        escape_underscores=False,
        escape_misc=False,
        wrap=True,
        wrap_width=None,
    )


def absolute(url: str, href: str) -> str | None:
    """`href` of the page at `url` as an absolute http(s) URL without its fragment; None where it leads elsewhere
    (mailto:, #here)."""
    href = href.strip()
    if not href or href.startswith("#"):
        return None
    try:
        joined = urljoin(url, href).split("#", 1)[0]
        parts = urlsplit(joined)
        return joined if parts.scheme in ("http", "https") and parts.hostname else None
    except ValueError:
        return None
