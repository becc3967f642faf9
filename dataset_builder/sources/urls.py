"""Which URLs are one page, and which pages belong to a source."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from posixpath import normpath
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

_VERSION = re.compile(
    r"(?i)^(?:latest|stable|main|master|dev|devel|nightly|next|canary|current|v\d+(?:[._]\d+)*(?:[._]x)?(?:[-.]?(?:rc|alpha|beta|a|b|dev)\.?\d*)?"
    r"|\d+(?:\.\d+)+(?:\.x)?(?:[-.]?(?:rc|alpha|beta|a|b|dev)\.?\d*)?|\d+\.x)$"
)
_PREFERRED = ("stable", "latest", "current", "main", "master")
_NO_DOCUMENT = re.compile(
    r"(?i)(?:/(?:genindex(?:-[\w.]+)?|search|py-modindex|modindex|genindex-all|404)(?:\.html?|/)?$|/_(?:modules|sources|static|images|downloads)/)"
    r"|\.(?:png|jpe?g|gif|svg|ico|webp|css|js|mjs|json|ya?ml|zip|gz|tgz|bz2|xz|whl|exe|msi|deb|rpm|dmg|iso|mp4|webm|mp3|woff2?|ttf|eot|"
    r"xml|inv|tar|7z|jar|bin|apk|py|c|cpp|h|csv|epub|rss|atom)$"
)
_TRACKING = re.compile(r"(?i)^(?:utm_\w+|gclid|fbclid|ref|source|highlight|mc_cid|mc_eid)$")
_INDEX = re.compile(r"(?i)(?<=/)index\.html?$")


def normalised(url: str) -> str:
    """The URL as the crawler compares it: lower-case host, no default port, no fragment, no `index.html`, no tracking
    parameters.

    >>> normalised("HTTPS://Docs.Example.org:443/a/../b/index.html?utm_source=x&q=1#top")
    'https://docs.example.org/b/?q=1'
    """
    try:
        parts = urlsplit(url.strip())
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return url
    if ":" in host:
        host = f"[{host}]"
    if port and port != {"http": 80, "https": 443}.get(parts.scheme.lower()):
        host = f"{host}:{port}"
    path = (
        quote(unquote(parts.path, errors="surrogateescape"), safe="/~!$&'()*+,;=:@", errors="surrogateescape")
        if "%" in parts.path
        else quote(parts.path, safe="/~!$&'()*+,;=:@%")
    )
    if "/." in path or "//" in path:
        path = re.sub(r"^/+", "/", normpath(path)) + ("/" if path.endswith(("/", "/.", "/..")) and path != "/" else "")
        path = path.replace("//", "/")
    query = urlencode(
        [(key, value) for key, value in parse_qsl(parts.query, keep_blank_values=True) if not _TRACKING.match(key)]
    )
    return urlunsplit((parts.scheme.lower(), host, _INDEX.sub("", path or "/"), query, ""))


def version_of(path: str) -> str | None:
    """The segment of a URL path that names a version of the documentation.

    >>> version_of("/docs/v2.1/intro.html"), version_of("/en/latest/"), version_of("/blog/2024/post")
    ('v2.1', 'latest', None)
    """
    return next((segment for segment in path.split("/")[:-1] if _VERSION.match(segment)), None)


@dataclass(frozen=True, slots=True)
class Scope:
    """Which URLs belong to a source."""

    scheme_host: tuple[str, str]
    folder: str
    include: tuple[re.Pattern, ...]
    exclude: tuple[re.Pattern, ...]
    version: str | None
    start: str

    @classmethod
    def of(cls, spec, start: str) -> "Scope":
        parts = urlsplit(start)
        listing = parts.path.lower().endswith((".xml", ".xml.gz", "/llms.txt", "/llms-full.txt"))
        folder = parts.path.rsplit("/", 1)[0] + "/"
        return cls(
            (parts.scheme, parts.netloc),
            "/" if listing and not spec.include else folder,
            tuple(_glob(pattern) for pattern in spec.include),
            tuple(_glob(pattern) for pattern in spec.exclude),
            spec.version or version_of(parts.path),
            start,
        )

    def of_one_version(self, pages: Iterable[str]) -> "Scope":
        """This scope where any of the pages lies in it; else that of one version which some of them have: the stable
        one, the latest, else the highest."""
        versions = {version_of(urlsplit(page).path) for page in pages} - {None}
        if self.version or not versions or any(self.refuses(page) is None for page in pages):
            return self
        scopes = [replace(self, version=version) for version in sorted(versions, key=_preference)]
        return next((scope for scope in scopes if any(scope.refuses(page) is None for page in pages)), self)

    def same_site(self, url: str) -> bool:
        """Whether the URL is on the source's host; http and https of one host are one site."""
        return urlsplit(url).netloc == self.scheme_host[1]

    def refuses(self, url: str, followed: bool = False) -> str | None:
        """Why a URL is outside; None where it belongs. `followed`: it was reached by redirect from one that belongs."""
        if url == self.start:
            return None
        parts = urlsplit(url)
        if parts.netloc != self.scheme_host[1] and not (
            followed and self.include == () and _www(parts.netloc) == _www(self.scheme_host[1])
        ):
            return "another site"
        if parts.scheme not in ("http", "https"):
            return "not http"
        if _NO_DOCUMENT.search(parts.path):
            return "not a document"
        if any(pattern.fullmatch(parts.path) for pattern in self.exclude):
            return "excluded"
        if self.include:
            if not any(pattern.fullmatch(parts.path) for pattern in self.include):
                return "not included"
        elif not parts.path.startswith(self.folder):
            return f"outside {self.folder}"
        if (version := version_of(parts.path)) != self.version and not (version is None and self.include):
            return f"another version ({version or 'none'} instead of {self.version or 'none'})"
        return None


def _preference(version: str) -> tuple[int, list[int], str]:
    low = version.lower()
    numbers = [-int(number) for number in re.findall(r"\d+", low)]
    return _PREFERRED.index(low) if low in _PREFERRED else len(_PREFERRED), numbers or [1], low


def _www(netloc: str) -> str:
    return netloc.removeprefix("www.")


def _glob(pattern: str) -> re.Pattern:
    """A glob on URL paths: `**` and `*` as in file patterns; one without a leading slash may begin at any folder."""
    pattern = pattern if pattern.startswith(("/", "*")) else f"/**/{pattern}"
    parts = re.split(r"(\*\*/?|\*|\?)", pattern)
    words = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    return re.compile("".join(words.get(part, re.escape(part)) for part in parts))
