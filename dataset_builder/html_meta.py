"""What an HTML page says about itself: title, canonical URL, licence, links, robots rules."""

import re
from dataclasses import dataclass

from lxml.html import HtmlElement

from dataset_builder.markdown import absolute

_LICENCE_URLS = (
    (re.compile(r"creativecommons\.org/licenses/(by|by-sa|by-nd|by-nc|by-nc-sa|by-nc-nd)/(\d\.\d)"), "CC-{0}-{1}"),
    (re.compile(r"creativecommons\.org/publicdomain/zero/1\.0"), "CC0-1.0"),
    (re.compile(r"apache\.org/licenses/LICENSE-2\.0"), "Apache-2.0"),
    (re.compile(r"opensource\.org/licen[sc]es?/MIT\b", re.I), "MIT"),
    (re.compile(r"opensource\.org/licen[sc]es?/BSD-(\d)-Clause", re.I), "BSD-{0}-Clause"),
    (re.compile(r"gnu\.org/(?:licenses|copyleft)/fdl-1\.(\d)"), "GFDL-1.{0}"),
)


@dataclass(frozen=True, slots=True)
class Meta:
    """See `markdown.Page` for the fields."""

    title: str
    canonical: str | None
    licence: str | None
    links: tuple[str, ...]
    nofollow: bool
    noindex: bool
    version: str | None
    markdown_twin: str | None


def read_meta(root: HtmlElement, url: str) -> Meta:
    """Read before anything is taken out of the tree."""
    named: dict[str, str] = {}
    for element in root.iter("meta"):
        key = (element.get("name") or element.get("property") or "").lower()
        named.setdefault(key, element.get("content") or "")
    base = next((element.get("href") for element in root.iter("base") if element.get("href")), None)
    base_url = absolute(url, base) or url if base else url
    links = (
        absolute(base_url, link.get("href"))
        for link in root.iter("a", "area")
        if link.get("href") and "nofollow" not in (link.get("rel") or "").lower().split()
    )
    canonical = markdown_twin = None
    for element in root.iter("link"):
        relation, href = (element.get("rel") or "").lower().split(), element.get("href") or ""
        if "canonical" in relation:
            canonical = canonical or absolute(base_url, href)
        elif "alternate" in relation and "markdown" in (element.get("type") or ""):
            markdown_twin = markdown_twin or absolute(base_url, href)
    robots = named.get("robots", "").lower()
    words = " ".join(next((element.text_content() for element in root.iter("title")), "").split())
    title = re.split(r"\s+[|\u2013\u2014\u00b7\u00bb]\s+|\s+-\s+(?=\S.*[Dd]oc(?:s|umentation))", words, maxsplit=1)[
        0
    ] or named.get("og:title", "")
    return Meta(
        title,
        canonical,
        licence_of(root),
        tuple(dict.fromkeys(link for link in links if link)),
        "nofollow" in robots,
        "noindex" in robots,
        named.get("docsearch:version") or named.get("docusaurus_version") or None,
        markdown_twin,
    )


def licence_of(root: HtmlElement) -> str | None:
    """SPDX id of the licence that the page declares: `rel=license`, then any link of a footer."""
    declared = [
        element for element in root.iter("link", "a") if "license" in (element.get("rel") or "").lower().split()
    ]
    boxes = [
        element
        for element in root.iter("footer", "div")
        if element.tag == "footer" or "footer" in (element.get("class") or "").split()
    ]
    for link in [*declared, *(link for box in boxes for link in box.iter("a"))]:
        found = licence_of_url(link.get("href") or "")
        if found:
            return found
    return None


def licence_of_url(url: str) -> str | None:
    """SPDX id of a licence's web address; None where it is not one of the few that documentation uses.

    >>> licence_of_url("https://creativecommons.org/licenses/by-sa/4.0/deed.en")
    'CC-BY-SA-4.0'
    """
    for pattern, name in _LICENCE_URLS:
        match = pattern.search(url)
        if match:
            return name.format(*(group.upper() for group in match.groups()))
    return None
