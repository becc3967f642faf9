"""Source `web`: a page, a crawl of limited depth, a sitemap, or a site's llms.txt."""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from dataset_builder.problems import BuildProblem
from dataset_builder.rows import Document
from dataset_builder.sources.common import Context, Unreadable
from dataset_builder.strict import Field, Strict


class WebSource(Strict):
    """A page, or the pages that it links to on the same site."""

    kind: Literal["web"]
    url: str
    """First page; http or https. A sitemap (`.../sitemap.xml`) or `.../llms.txt` gives the pages that it lists;
    `.../llms-full.txt` is a page."""
    depth: int = Field(default=0, ge=0, le=10)
    """Links followed from the first page, below its folder."""
    include: tuple[str, ...] = Field(default=(), strict=False)
    """Glob patterns on the URL path; omitted: the folder of `url` and below."""
    exclude: tuple[str, ...] = Field(default=(), strict=False)
    """Glob patterns on the URL path, taken out again."""
    max_pages: int = Field(default=500, ge=1)
    allow_private: bool = False
    """Allow this URL's host to be a private or loopback address."""
    licence: str | None = None
    """SPDX id of the pages, where they do not say."""
    discover: Literal["links", "sitemap", "llms"] = "links"
    """Where pages are found: links; also the site's sitemap; also its llms.txt."""
    version: str | None = None
    """Version segment of the URLs, such as `latest` or `v2.1`; omitted: that of `url`, and unversioned pages only where
    it has none (of a sitemap or llms.txt that lists none: `stable`, `latest`, else the highest)."""
    markdown_twins: bool = False
    """Try `<page>.md` before the page: some sites offer their Markdown so."""
    delay_s: float | None = Field(default=None, ge=0, le=60, strict=False)
    """Seconds between two requests to the host; omitted: what robots.txt asks, else 0.1 (none on a private host)."""
    max_age_hours: float = Field(default=0, ge=0, strict=False)
    """Pages fetched within so many hours are used without asking the server whether they changed."""


@dataclass
class _Crawl:
    """The state of one source's crawl."""

    waiting: deque = field(default_factory=deque)
    """(URL, links from the first page)."""
    known: set[str] = field(default_factory=set)
    origins: set[str] = field(default_factory=set)
    taken: int = 0


def fetch(spec: WebSource, context: Context) -> Iterator[Document]:
    """The pages of the source, first page first. Raises BuildProblem where the first page cannot be had."""
    from dataset_builder.sources.http import Client, Refused
    from dataset_builder.sources.robots import Robots
    from dataset_builder.sources.urls import Scope, normalised

    start = normalised(spec.url)
    host = urlsplit(start).hostname
    if urlsplit(start).scheme not in ("http", "https") or not host:
        raise BuildProblem(
            f"dataset.sources: {spec.url} is not a http or https URL\n  fix: write it as https://host/path"
        )
    client = Client(context.cache / "http", frozenset({host.lower()} if spec.allow_private else ()), context.offline)
    try:
        try:
            robots = Robots(client, spec.delay_s, private=spec.allow_private)
            crawl = _Crawl(deque([(start, 0)]), {start})
            scope = Scope.of(spec, start)
            scope = _discover(spec, start, client, robots, scope, crawl, context)
        except Refused as error:
            raise BuildProblem(
                f"dataset.sources: {spec.url}: {error}\n"
                "  fix: name a public http or https address, or set allow_private: true"
            ) from None
        yield from _pages(spec, start, client, robots, scope, crawl, context)
    finally:
        client.close()
        context.report.counts["requests"] += client.requests
        context.report.counts["not modified"] += client.not_modified
        context.report.counts["bytes"] += client.transferred_bytes


def _discover(spec: WebSource, start: str, client, robots, scope, crawl: _Crawl, context: Context):
    """Fill the queue from a sitemap or llms.txt, where asked for or where the URL is one. Returns the scope: a list
    that is above all versions of the documentation names only versioned pages, of which one version is taken."""
    from dataset_builder.sources.sitemap import llms_pages, sitemap_pages

    path = urlsplit(start).path.lower()
    pages: list[str] = []
    if path.endswith((".xml", ".xml.gz")):
        crawl.waiting.clear()
        pages = sitemap_pages([start], client, robots)
    elif path.endswith("/llms.txt"):
        crawl.waiting.clear()
        pages = llms_pages(start, client)
    elif spec.discover == "sitemap":
        pages = sitemap_pages(robots.sitemaps(start), client, robots)
    elif spec.discover == "llms":
        pages = llms_pages(None, client, start)
    if not crawl.waiting and not pages:
        raise BuildProblem(f"dataset.sources: {spec.url} lists no page\n  fix: check the address in a browser")
    if not crawl.waiting and spec.version is None:
        scope = scope.of_one_version(pages)
    refused: Counter[str] = Counter()
    for page in pages:
        if reason := scope.refuses(page):
            refused[reason] += 1
        elif page not in crawl.known:
            crawl.known.add(page)
            crawl.waiting.append((page, max(1, spec.depth)))
    if pages:
        why = "; ".join(f"{count} {reason}" for reason, count in refused.most_common(3))
        listed = f"{spec.url}: {len(pages)} pages listed, {len(crawl.waiting)} in scope" + (f" ({why})" if why else "")
        if not crawl.waiting:
            raise BuildProblem(f"dataset.sources: {listed}\n  fix: set version or include, or name another address")
        context.report.say(listed)
    return scope


def _pages(spec: WebSource, start: str, client, robots, scope, crawl: _Crawl, context: Context) -> Iterator[Document]:
    while crawl.waiting and crawl.taken < spec.max_pages:
        url, steps = crawl.waiting.popleft()
        try:
            found, links = _page(url, spec, client, robots, scope, crawl)
        except Unreadable as error:
            if url == start:
                raise BuildProblem(
                    f"dataset.sources: {spec.url}: {error}\n"
                    "  fix: check the address in a browser; behind a proxy set HTTPS_PROXY"
                ) from None
            context.report.skip(url, str(error))
            continue
        if steps < spec.depth:
            for link in links:
                if link not in crawl.known and not scope.refuses(link):
                    crawl.known.add(link)
                    crawl.waiting.append((link, steps + 1))
        if found is not None:
            crawl.taken += 1
            context.report.say(
                f"{url}: {len(found.markdown):,} characters ({crawl.taken} pages, {len(crawl.waiting)} waiting)"
            )
            yield found
    if crawl.waiting:
        context.report.note(
            f"{spec.url}: stopped at max_pages = {spec.max_pages}; {len(crawl.waiting)} known pages were not read"
        )


def _page(url: str, spec: WebSource, client, robots, scope, crawl: _Crawl) -> tuple[Document | None, tuple[str, ...]]:
    """The document at `url` (None where it is another's duplicate or asks not to be indexed) and its links. Raises
    Unreadable."""
    from dataset_builder.materials import document
    from dataset_builder.sources.pages import ask, links_of, read_response
    from dataset_builder.sources.urls import normalised

    if not robots.allows(url):
        raise Unreadable("robots.txt does not allow it")
    response = ask(url, client, spec)
    here = normalised(response.url)
    if here != url and (reason := scope.refuses(here, followed=True)):
        raise Unreadable(f"leads to {here}: {reason}")
    if here != url and not robots.allows(here):
        raise Unreadable("robots.txt does not allow the page that it leads to")
    reading = read_response(response, url, client, spec)
    links = () if reading.nofollow else links_of(reading)
    origin = reading.canonical if reading.canonical and scope.same_site(reading.canonical) else here
    if reading.noindex:
        raise Unreadable("asks not to be indexed (robots: noindex)")
    if origin in crawl.origins:
        return None, links
    crawl.origins.add(origin)
    crawl.known.add(origin)
    return document(
        origin,
        reading.title,
        reading.markdown,
        licence=spec.licence or reading.licence,
        fetched=response.fetched,
        etag=response.etag,
    ), links
