"""An HTTP answer -> Markdown, by its content type; a page's Markdown twin is preferred where the site has one."""

import re
from dataclasses import replace
from urllib.parse import urlsplit

from dataset_builder.markdown import Page, absolute, decode, from_html
from dataset_builder.sources.common import Unreadable
from dataset_builder.sources.http import Client, Response
from dataset_builder.sources.urls import normalised

_KINDS = {
    "text/markdown": ".md",
    "text/x-markdown": ".md",
    "text/plain": ".txt",
    "text/x-rst": ".rst",
    "application/pdf": ".pdf",
    "application/x-ipynb+json": ".ipynb",
}
_HTML = ("text/html", "application/xhtml+xml", "")
TWIN_PROBE_DAYS = 7.0
"""A twin that was not there is asked for again after so many days."""


def ask(url: str, client: Client, spec) -> Response:
    """The answer for a page, status 200. Raises Unreadable with the status otherwise."""
    age = client.age_days(url)
    stored = client.stored(url) if spec.max_age_hours and age is not None and age * 24 <= spec.max_age_hours else None
    response = stored if stored is not None and stored.status == 200 else client.get(url)
    if response.status != 200:
        raise Unreadable(f"the server answers {response.status}")
    return response


def read_response(response: Response, url: str, client: Client, spec) -> Page:
    """The page as Markdown, with its links. Raises Unreadable for types that are no documents."""
    from dataset_builder.formats import read

    kind = response.content_type
    if kind in _HTML or (
        kind not in _KINDS and response.body[:200].lstrip().lower().startswith((b"<!doctype html", b"<html"))
    ):
        return _html_page(response, url, client, spec)
    ending = "." + urlsplit(response.url).path.rsplit(".", 1)[-1].lower()
    if kind == "text/plain" or kind not in _KINDS:
        ending = (
            ending if ending in (".md", ".mdx", ".rst", ".txt", ".ipynb", ".pdf", ".markdown") else _KINDS.get(kind, "")
        )
        ending = ".md" if urlsplit(response.url).path.endswith(("llms.txt", "llms-full.txt")) else ending
    else:
        ending = _KINDS[kind]
    if not ending:
        raise Unreadable(f"content type {kind} is no document")
    body = response.body
    if response.charset and ending in (".md", ".mdx", ".rst", ".txt"):
        body = decode(body, response.charset).encode()
    reading = read("page" + ending, body)
    links = (
        [absolute(response.url, link) for link in re.findall(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)", reading.markdown)]
        if ending == ".md"
        else []
    )
    return Page(
        reading.title if reading.title != "page" else urlsplit(response.url).path.rsplit("/", 1)[-1],
        reading.markdown,
        canonical=_canonical_header(response),
        links=tuple(link for link in links if link),
        noindex="noindex" in response.robots,
    )


def _html_page(response: Response, url: str, client: Client, spec) -> Page:
    try:
        page = from_html(decode(response.body, response.charset), response.url)
    except ValueError as error:
        raise Unreadable(str(error)) from error
    except RecursionError as error:
        raise Unreadable("nested too deeply") from error
    canonical = page.canonical or _canonical_header(response)
    page = replace(
        page,
        canonical=normalised(canonical) if canonical else None,
        noindex=page.noindex or "noindex" in response.robots,
    )
    twin = _twin(page, response.url, client, spec)
    if twin is not None:
        page = replace(page, markdown=twin[1], title=twin[0] or page.title)
    if not page.markdown.strip():
        raise Unreadable("holds no text")
    return page


def _canonical_header(response: Response) -> str | None:
    match = re.search(r"<([^>]+)>\s*;[^,]*\brel=\"?canonical\"?", response.link)
    return absolute(response.url, match[1]) if match else None


def _twin(page: Page, url: str, client: Client, spec) -> tuple[str, str] | None:
    """Title and text of the page's Markdown twin; None where there is none that holds as much."""
    from dataset_builder.formats import read_markdown

    for place in _twin_places(page, url, spec):
        known = client.stored(place)
        if known is not None and known.status != 200 and (client.age_days(place) or 0.0) < TWIN_PROBE_DAYS:
            continue
        try:
            response = client.get(place, accept="text/markdown,text/plain;q=0.8")
            if (
                response.status != 200
                or "html" in response.content_type
                or response.body[:100].lstrip().lower().startswith(b"<")
            ):
                continue
            reading = read_markdown("page.md", response.body)
        except Unreadable:
            continue
        if len(reading.markdown) >= 0.5 * len(page.markdown):  # a stub is not the page
            return reading.title, reading.markdown
    return None


def _twin_places(page: Page, url: str, spec) -> list[str]:
    """llmstxt.org: the page's URL with `.md` appended, `index.html.md` for a folder; what the page itself names comes
    first."""
    host = urlsplit(url).netloc
    named = [page.markdown_twin] if page.markdown_twin and urlsplit(page.markdown_twin).netloc == host else []
    if not spec.markdown_twins:
        return named
    bare = url.split("?", 1)[0]
    guesses = (
        [f"{bare}index.html.md", f"{bare}index.md"]
        if bare.endswith("/")
        else [f"{bare}.md", re.sub(r"\.html?$", ".md", bare)]
    )
    return list(dict.fromkeys([*named, *guesses]))


def links_of(page: Page) -> tuple[str, ...]:
    """The page's links as the crawler compares them, each once."""
    return tuple(dict.fromkeys(normalised(link) for link in page.links))
