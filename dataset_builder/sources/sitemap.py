"""Pages that a site lists itself: sitemap.xml (and indexes of sitemaps, gzipped or not) and llms.txt."""

import re
import zlib
from urllib.parse import urlsplit

from dataset_builder.sources.common import MAX_DOCUMENT_BYTES, Unreadable
from dataset_builder.sources.http import Client
from dataset_builder.sources.urls import normalised

MAX_SITEMAPS, MAX_PAGES = 100, 50_000


def sitemap_pages(urls: list[str], client: Client, robots) -> list[str]:
    """Page URLs of the sitemaps, in their order, each once; indexes are followed. A sitemap that cannot be read gives
    nothing."""
    waiting, seen, pages = [normalised(url) for url in urls], set(), {}
    while waiting and len(seen) < MAX_SITEMAPS and len(pages) < MAX_PAGES:
        url = waiting.pop(0)
        if url in seen:
            continue
        seen.add(url)
        try:
            response = client.get(url, accept="application/xml,text/xml,text/plain;q=0.8,*/*;q=0.5")
        except Unreadable:
            if len(seen) == 1 and len(urls) == 1:
                raise
            continue
        if response.status != 200:
            continue
        is_index, found = parse_sitemap(response.body)
        if is_index:
            waiting += [normalised(page) for page in found]
        else:
            pages.update(dict.fromkeys(normalised(page) for page in found))
    return list(pages)[:MAX_PAGES]


def parse_sitemap(data: bytes) -> tuple[bool, list[str]]:
    """Whether it is an index of sitemaps, and its URLs. Plain-text sitemaps have one URL a line. No XML parser: no
    entity can explode."""
    if data[:2] == b"\x1f\x8b":
        try:
            data = zlib.decompressobj(wbits=31).decompress(data, MAX_DOCUMENT_BYTES)
        except zlib.error:
            return False, []
    text = data.decode("utf-8", "replace")
    if "<" not in text[:500]:
        return False, [line.strip() for line in text.splitlines() if line.strip().startswith(("http://", "https://"))]
    import html

    found = re.findall(r"<(?:\w+:)?loc\b[^>]*>\s*(?:<!\[CDATA\[)?\s*(.*?)\s*(?:\]\]>)?\s*</(?:\w+:)?loc>", text, re.S)
    return re.search(r"<(?:\w+:)?sitemapindex\b", text) is not None, [
        html.unescape(url) for url in found if len(url) < 2048
    ]


def llms_pages(url: str | None, client: Client, start: str = "") -> list[str]:
    """Pages that a site's llms.txt links (llmstxt.org): `url`, or the one in the folder of `start`, or the one of its
    host."""
    from dataset_builder.markdown import absolute

    parts = urlsplit(start)
    places = (
        [url]
        if url
        else list(dict.fromkeys([start.rsplit("/", 1)[0] + "/llms.txt", f"{parts.scheme}://{parts.netloc}/llms.txt"]))
    )
    for place in places:
        response = client.get(place, accept="text/plain,text/markdown,*/*;q=0.5")
        if response.status == 200 and "html" not in response.content_type:
            text = response.body.decode("utf-8", "replace")
            links = (absolute(response.url, link) for link in re.findall(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)", text))
            return list(dict.fromkeys(normalised(link) for link in links if link))[:MAX_PAGES]
    return []
