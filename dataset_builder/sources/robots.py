"""robots.txt (RFC 9309) through protego: what may be fetched, how fast, and where the sitemaps are."""

from urllib.parse import urlsplit

from dataset_builder.sources.common import Unreadable
from dataset_builder.sources.http import AGENT_TOKEN, Client, Unreachable

DEFAULT_DELAY_S = 0.1
MAX_DELAY_S = 60.0


class Robots:
    """The rules of every host that is met, each fetched once; sets the client's delay for the host."""

    def __init__(self, client: Client, delay_s: float | None, private: bool):
        self._client, self._delay_s, self._private = client, delay_s, private
        self._rules: dict[str, object] = {}

    def allows(self, url: str) -> bool:
        """Whether the rules let this program fetch the URL. Raises Unreadable where the host may not be asked at
        all."""
        return self._of(url).can_fetch(url, AGENT_TOKEN)

    def sitemaps(self, url: str) -> list[str]:
        """Sitemaps named in robots.txt, else the usual place."""
        parts = urlsplit(url)
        return list(self._of(url).sitemaps) or [f"{parts.scheme}://{parts.netloc}/sitemap.xml"]

    def _of(self, url: str):
        from protego import Protego

        parts = urlsplit(url)
        if parts.netloc not in self._rules:
            rules = Protego.parse(self._text(f"{parts.scheme}://{parts.netloc}/robots.txt"))
            self._rules[parts.netloc] = rules
            asked = rules.crawl_delay(AGENT_TOKEN)
            default = 0.0 if self._private else DEFAULT_DELAY_S
            wanted = self._delay_s if self._delay_s is not None else float(asked) if asked is not None else default
            self._client.delay_s[parts.netloc] = min(MAX_DELAY_S, max(wanted, float(asked or 0)))
        return self._rules[parts.netloc]

    def _text(self, url: str) -> str:
        """RFC 9309, 2.3.1: no file means no rules; a server error means that everything is forbidden."""
        try:
            response = self._client.get(url, accept="text/plain,*/*;q=0.5")
        except Unreachable as error:
            if "offline" in str(error):
                return ""
            raise
        except Unreadable as error:
            if "bytes" in str(error):
                return ""
            raise
        if response.status >= 500:
            raise Unreadable(f"robots.txt answers {response.status}; until it is readable nothing may be fetched")
        return response.body[:512_000].decode("utf-8", "replace") if response.status == 200 else ""
