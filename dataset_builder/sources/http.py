"""A polite HTTP client: revalidates what it has, keeps one connection a host, waits where it is asked to.

Which addresses it may connect to is `guard`'s business.
"""

import json
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from dataset_builder.rows import digest
from dataset_builder.sources.common import MAX_DOCUMENT_BYTES, Unreadable
from dataset_builder.sources.guard import (
    CONNECT_SECONDS,
    Refused,
    guarded_session,
    literal_address,
    private,
    public_address,
)

AGENT_TOKEN = "finetune-recipes"
"""The name that robots.txt rules for this program would use."""
READ_SECONDS, PAGE_SECONDS = 30, 120
MAX_REDIRECTS, TRIES, MAX_WAIT_SECONDS = 5, 3, 60
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


class Unreachable(Unreadable):
    """No answer, or none that is one: DNS, connection, time-out, 5xx after retries."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; with status 200 or, from the store, its last good one."""

    url: str
    """After redirects."""
    status: int
    body: bytes
    content_type: str
    """Lower case, without parameters."""
    charset: str | None
    etag: str | None
    last_modified: str | None
    fetched: str
    """ISO date of the last transfer of the body."""
    fresh: bool
    """False: the server said 304, or could not be asked, and the body is the stored one."""
    link: str = ""
    """Link header, as sent."""
    robots: str = ""
    """X-Robots-Tag header, lower case."""


@dataclass(frozen=True, slots=True)
class _Entry:
    url: str
    status: int
    content_type: str
    charset: str | None
    etag: str | None
    last_modified: str | None
    fetched: str
    link: str = ""
    robots: str = ""


class Client:
    """HTTP GET with a store of earlier answers in `folder`. `allowed_hosts` may have private addresses. Close it when
    done."""

    def __init__(
        self,
        folder: Path,
        allowed_hosts: frozenset[str] = frozenset(),
        offline: bool = False,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.folder, self.allowed_hosts, self.offline, self.sleep = folder, allowed_hosts, offline, sleep
        self.delay_s: dict[str, float] = {}
        """Host -> seconds between two requests."""
        self.transferred_bytes = self.requests = self.not_modified = 0
        self._last: dict[str, float] = {}
        self._session = None if offline else guarded_session(allowed_hosts)

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    def get(
        self, url: str, accept: str = "text/html,application/xhtml+xml,text/markdown;q=0.9,text/plain;q=0.8,*/*;q=0.5"
    ) -> Response:
        """The page at `url`, revalidated. Statuses other than 200 are returned, not raised; an old answer stands in for
        a failing server.

        Raises Refused for what may not be asked, Unreachable where there is neither an answer nor an old one,
        Unreadable above the size limit.
        """
        stored = self._stored(url)
        if self.offline:
            if stored is None:
                raise Unreachable("offline, and never fetched before")
            return stored
        try:
            response = self._ask(url, stored, accept)
        except Unreachable:
            if stored is None:
                raise
            return stored
        if response.status in RETRIED and stored is not None and stored.status == 200:
            return stored
        if response.fresh and response.status in (200, 404, 410):
            self._store(url, response)
        return response

    def age_days(self, url: str) -> float | None:
        """Days since `url` was last transferred; None where it never was."""
        try:
            return (time.time() - self._paths(url)[0].stat().st_mtime) / 86400
        except OSError:
            return None

    def stored(self, url: str) -> Response | None:
        """The stored answer, without asking anyone."""
        return self._stored(url)

    def _ask(self, url: str, stored: Response | None, accept: str) -> Response:
        for attempt in range(TRIES):
            try:
                response = self._follow(url, accept, stored)
            except Unreachable:
                if attempt == TRIES - 1:
                    raise
                self.sleep(0.5 * 2**attempt)
                continue
            if response[0].status not in RETRIED or attempt == TRIES - 1:
                return response[0]
            self.sleep(min(MAX_WAIT_SECONDS, response[1] if response[1] is not None else 0.5 * 2**attempt))
        raise AssertionError("the last try returns or raises")

    def _follow(self, url: str, accept: str, stored: Response | None) -> tuple[Response, float | None]:
        """One GET with its redirects; the second value is Retry-After in seconds. The stored answer's ETag and date are
        told to the address that gave it, which may lie behind a redirect."""
        import requests

        here = url
        for _ in range(MAX_REDIRECTS + 1):
            self._judge(here)
            self._wait(urlsplit(here).netloc)
            headers = {"Accept": accept}
            if stored is not None and stored.status == 200 and stored.url == here:
                headers |= {"If-None-Match": stored.etag} if stored.etag else {}
                headers |= {"If-Modified-Since": stored.last_modified} if stored.last_modified else {}
            try:
                reply = self._session.get(
                    here, headers=headers, stream=True, allow_redirects=False, timeout=(CONNECT_SECONDS, READ_SECONDS)
                )
            except requests.RequestException as error:
                raise Unreachable(_told(error)) from error
            self.requests += 1
            with reply:
                if reply.is_redirect:
                    here = urljoin(here, reply.headers["location"])
                    continue
                return self._read(reply, here, stored), _retry_after(reply.headers.get("retry-after"))
        raise Unreadable(f"more than {MAX_REDIRECTS} redirects")

    def _read(self, reply, here: str, stored: Response | None) -> Response:
        if reply.status_code == 304 and stored is not None:
            self.not_modified += 1
            return stored
        kind, _, rest = reply.headers.get("content-type", "").partition(";")
        charset = next(
            (
                part.split("=", 1)[1].strip().strip("\"'")
                for part in rest.split(";")
                if part.strip().lower().startswith("charset=")
            ),
            None,
        )
        body = _limited(reply) if reply.status_code == 200 else b""
        self.transferred_bytes += len(body)
        return Response(
            here,
            reply.status_code,
            body,
            kind.strip().lower(),
            charset,
            reply.headers.get("etag"),
            reply.headers.get("last-modified"),
            datetime.now(UTC).date().isoformat(),
            True,
            reply.headers.get("link", "")[:4000],
            reply.headers.get("x-robots-tag", "").lower()[:200],
        )

    def _judge(self, url: str) -> None:
        """Refuse by the URL alone what needs no connection to be refused."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Refused(f"only http and https are read, not {parts.scheme or url[:40]!r}")
        host = parts.hostname.lower()
        if host in self.allowed_hosts:
            return
        literal = literal_address(host)
        if host == "localhost" or host.endswith(".localhost") or (literal is not None and not public_address(literal)):
            raise Refused(private(host))

    def _wait(self, host: str) -> None:
        left = self._last.get(host, float("-inf")) + self.delay_s.get(host, 0.0) - time.monotonic()
        if left > 0:
            self.sleep(left)
        self._last[host] = time.monotonic()

    def _paths(self, url: str) -> tuple[Path, Path]:
        name = digest(url)
        return self.folder / name[:2] / f"{name}.json", self.folder / name[:2] / f"{name}.body"

    def _stored(self, url: str) -> Response | None:
        head, body = self._paths(url)
        try:
            fields = json.loads(head.read_text(encoding="utf-8"))
            entry = _Entry(**{**fields, "url": fields["url"]})
            if fields.get("digest_of") not in (None, url):
                return None
            return Response(
                entry.url,
                entry.status,
                body.read_bytes(),
                entry.content_type,
                entry.charset,
                entry.etag,
                entry.last_modified,
                entry.fetched,
                False,
                entry.link,
                entry.robots,
            )
        except (OSError, ValueError, TypeError, KeyError):
            return None  # absent, or cut short by a crash: asked again

    def _store(self, url: str, response: Response) -> None:
        from dataset_builder.materials import write_bytes_whole

        head, body = self._paths(url)
        entry = _Entry(
            response.url,
            response.status,
            response.content_type,
            response.charset,
            response.etag,
            response.last_modified,
            response.fetched,
            response.link,
            response.robots,
        )
        head.unlink(missing_ok=True)  # a head always belongs to the body beside it
        write_bytes_whole(body, response.body)
        write_bytes_whole(head, json.dumps(asdict(entry)).encode())


def _limited(reply) -> bytes:
    """The body, decompressed, up to the size and time limits."""
    from urllib3.exceptions import HTTPError

    announced = reply.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > MAX_DOCUMENT_BYTES:
        raise Unreadable(f"{int(announced):,} bytes; at most {MAX_DOCUMENT_BYTES:,} are read")
    parts, size, end = [], 0, time.monotonic() + PAGE_SECONDS
    try:
        # read1 gives what has come: a full piece of a server that sends a byte a second would take a day
        while part := reply.raw.read1(65536, decode_content=True):
            size += len(part)
            if size > MAX_DOCUMENT_BYTES:
                raise Unreadable(f"more than {MAX_DOCUMENT_BYTES:,} bytes")
            if time.monotonic() > end:
                raise Unreachable(f"still sending after {PAGE_SECONDS} s")
            parts.append(part)
    except (HTTPError, OSError) as error:
        raise Unreachable(_told(error)) from error
    return b"".join(parts)


def _retry_after(value: str | None) -> float | None:
    """Retry-After in seconds; both of its forms."""
    if not value:
        return None
    if value.strip().isdigit():
        return float(value)
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _cause(error: BaseException, kind: type) -> BaseException | None:
    """The first error of `kind` among the causes, contexts and arguments of `error`."""
    waiting, seen = [error], set()
    while waiting:
        here = waiting.pop()
        if id(here) in seen or not isinstance(here, BaseException):
            continue
        seen.add(id(here))
        if isinstance(here, kind):
            return here
        waiting += [here.__cause__, here.__context__, getattr(here, "reason", None), *here.args]
    return None


def _told(error: Exception) -> str:
    """A network error in a few words."""
    import requests
    from urllib3.exceptions import TimeoutError as ReadTimeout

    if _cause(error, socket.gaierror):
        return "its host name cannot be resolved"
    if isinstance(error, requests.exceptions.SSLError):
        return "its TLS certificate is not accepted"
    if isinstance(error, requests.Timeout | ReadTimeout):
        return "no answer in time"
    if _cause(error, ConnectionRefusedError):
        return "connection refused"
    return f"no connection ({type(error).__name__})"
