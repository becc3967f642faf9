"""A documentation site on loopback for tests: pages from a dict, ETags, a log of what was asked."""

import hashlib
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """Path -> text, bytes, or (status, headers, body); `log` has (path, status, headers of the request)."""

    pages: dict = field(default_factory=dict)
    log: list = field(default_factory=list)
    url: str = ""
    port: int = 0

    def statuses(self) -> list[tuple[str, int]]:
        return [(path, status) for path, status, _ in self.log]


@contextmanager
def serve(pages: dict):
    """The site, served until the block ends."""
    site = Site(dict(pages))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            answer = site.pages.get(self.path, (404, {}, b"no such page"))
            if callable(answer):
                answer = answer()
            status, headers, body = answer if isinstance(answer, tuple) else (200, {}, answer)
            data = body.encode() if isinstance(body, str) else body
            headers = {"Content-Type": "text/html; charset=utf-8", **headers}
            if status == 200:
                headers.setdefault("ETag", f'"{hashlib.sha256(data).hexdigest()[:12]}"')
                if self.headers.get("If-None-Match") == headers["ETag"]:
                    status, data = 304, b""
            site.log.append((self.path, status, dict(self.headers)))
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if status != 304:
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.port = server.server_address[1]
    site.url = f"http://127.0.0.1:{site.port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
