"""The page of a review, served on loopback to whoever holds the link.

A page of any web site can make a browser send requests to loopback, and can make its own name point there (DNS
rebinding). So every request must name this very address as its Host, and what reads or changes pairs must carry the
token of this run, which stands in the link behind `#`: it is never sent by a browser on its own, nor logged, nor passed
on as a referrer. What changes something must also come from the page itself (Origin) and be JSON; nothing changes on
GET. The texts of pages and pairs reach the browser as JSON and are put on the page as text; the Content-Security-Policy
lets nothing but the three files of this package run.
"""

from __future__ import annotations

import hmac
import json
import secrets
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from urllib.parse import parse_qsl, urlsplit

from dataset_builder.problems import BuildProblem
from dataset_builder.review.cards import Filter
from dataset_builder.review.desk import Desk, Refused

HOST = "127.0.0.1"
TOKEN_HEADER = "X-Review-Token"
MAX_BODY_BYTES = 1 << 20
IDLE_SECONDS = 30
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/review.js": ("review.js", "text/javascript; charset=utf-8"),
    "/show.js": ("show.js", "text/javascript; charset=utf-8"),
    "/review.css": ("review.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Server(ThreadingHTTPServer):
    """Serves one desk. Raises BuildProblem where the port is taken."""

    daemon_threads = True

    def __init__(self, desk: Desk, port: int = 0) -> None:
        self.desk = desk
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise BuildProblem(
                f"{HOST}:{port}: cannot listen there: {error.strerror or error}\n  fix: another --port, or none"
            ) from None
        self.hosts = frozenset(f"{name}:{self.server_port}" for name in (HOST, "localhost"))

    @property
    def link(self) -> str:
        """What the reader opens."""
        return f"http://{HOST}:{self.server_port}/#{self.token}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that goes away in the middle is no news; all else is a fault of ours and is shown."""
        import sys

        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Stop(Exception):
    """The request ends here."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "recipe-review", ""
    timeout = IDLE_SECONDS
    wbufsize = -1
    """Head and body leave together: apart, the second waits 40 ms for the browser's delayed acknowledgement."""
    server: Server

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_HEAD(self) -> None:
        self._serve(self._get)

    def do_POST(self) -> None:
        self._serve(self._post)

    def log_message(self, *_: object) -> None:
        """Nothing: what is read here is nobody's business."""

    def _serve(self, answer) -> None:
        try:
            self._from_here()
            status, kind, data = answer()
        except _Stop as stop:
            status, kind, data = stop.status, *_json({"problem": str(stop)})
        except Refused as error:
            status, kind, data = HTTPStatus.UNPROCESSABLE_ENTITY, *_json({"problem": str(error)})
        except BuildProblem as error:  # the disk, or a file that is not what it should be
            status, kind, data = HTTPStatus.SERVICE_UNAVAILABLE, *_json({"problem": str(error)})
        if status >= 400:
            self.close_connection = True  # a body that was not read must not be taken for the next request
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _from_here(self) -> None:
        """No name that somebody made point to loopback, and no page of another origin."""
        if self.headers.get_all("Host") is None or self.headers.get_all("Host") != [self.headers["Host"]]:
            raise _Stop(HTTPStatus.BAD_REQUEST, "one Host, please")
        if self.headers["Host"].lower() not in self.server.hosts:
            raise _Stop(HTTPStatus.MISDIRECTED_REQUEST, "this is not the address of the review")
        origin = self.headers.get("Origin")
        if origin is not None and origin.lower() != f"http://{self.headers['Host'].lower()}":
            raise _Stop(HTTPStatus.FORBIDDEN, "another page has nothing to ask here")

    def _may(self) -> None:
        given = self.headers.get(TOKEN_HEADER, "")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self.server.token.encode()):
            raise _Stop(HTTPStatus.UNAUTHORIZED, "Open the link that `recipe review` printed when it started.")

    def _get(self) -> tuple[HTTPStatus, str, bytes]:
        url = urlsplit(self.path)
        if url.path in FILES:
            name, kind = FILES[url.path]
            return HTTPStatus.OK, kind, resources.files(__package__).joinpath("page", name).read_bytes()
        if url.path not in ("/api/summary", "/api/queue", "/api/card"):
            raise _Stop(HTTPStatus.NOT_FOUND, "there is nothing of this name")
        self._may()
        asked = dict(parse_qsl(url.query, max_num_fields=20))
        if url.path == "/api/summary":
            found = self.server.desk.summary()
        elif url.path == "/api/card":
            found = self.server.desk.card(asked.get("key", ""))
        else:
            names = Filter.__dataclass_fields__
            wanted = Filter(**{name: asked[name] for name in names if name in asked})
            found = self.server.desk.queue(wanted, asked.get("order", "risk"), asked.get("after", ""))
        return HTTPStatus.OK, *_json(found)

    def _post(self) -> tuple[HTTPStatus, str, bytes]:
        if self.headers.get("Origin") is None:
            raise _Stop(HTTPStatus.FORBIDDEN, "changes are made on the page alone")
        if self.headers.get_content_type() != "application/json":
            raise _Stop(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "JSON, please")
        self._may()
        body, desk = self._body(), self.server.desk
        texts = {name: value for name, value in body.items() if isinstance(value, str)}
        parts = {name: texts.get(name, "") for name in ("question", "answer", "quote")}
        if self.path == "/api/check":
            found = {"problem": desk.check(texts.get("key", ""), **parts)}
        elif self.path == "/api/decide":
            found = desk.decide(texts.get("key", ""), texts.get("verdict", ""), texts.get("seen", ""), parts,
                                texts.get("note", ""))  # fmt: skip
        elif self.path == "/api/undo":
            found = desk.undo()
        else:
            raise _Stop(HTTPStatus.NOT_FOUND, "there is nothing of this name")
        return HTTPStatus.OK, *_json(found)

    def _body(self) -> dict:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdecimal() or self.headers.get("Transfer-Encoding"):
            raise _Stop(HTTPStatus.LENGTH_REQUIRED, "say how long it is")
        if int(length) > MAX_BODY_BYTES:
            raise _Stop(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BODY_BYTES:,} bytes")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise _Stop(HTTPStatus.BAD_REQUEST, "this is no JSON") from None
        if not isinstance(body, dict):
            raise _Stop(HTTPStatus.BAD_REQUEST, "this is no object")
        return body


def _json(value: object) -> tuple[str, bytes]:
    # escaped, so that a lone surrogate of a page's text can be sent
    return "application/json", json.dumps(value).encode()
