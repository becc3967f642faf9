"""Which addresses the crawler may connect to, judged where the connection is made.

The name is resolved here, refused addresses are dropped, and the socket is opened to the very address that was judged,
so that neither a redirect nor a second DNS answer can lead elsewhere.
"""

import ipaddress
import socket
from collections.abc import Iterator

from dataset_builder.sources.common import Unreadable

USER_AGENT = "finetune-recipes/0.1 (documentation dataset builder)"
CONNECT_SECONDS = 10


class Refused(Unreadable):
    """An address, scheme or redirect that this source may not use."""


def public_address(address: str) -> bool:
    """Whether an IP address is one of the public internet; IPv4 inside IPv6 is judged as IPv4."""
    try:
        ip = ipaddress.ip_address(address.split("%", 1)[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return public_address(str(inner))
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def literal_address(host: str) -> str | None:
    """The address that a host written as a number means, in any of the forms the C library takes (0x7f.1, 2130706433);
    None for names."""
    try:
        return str(ipaddress.ip_address(host.strip("[]").split("%", 1)[0]))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host)) if host[-1:].isdigit() or host.startswith("0x") else None
    except OSError:
        return None


def private(host: str) -> str:
    """What the user is told of a host that may not be used."""
    return f"{host} is a private or local address (allow_private: true lets a source's own host be one)"


def _addresses(host: str, port: int, allowed: bool) -> Iterator[tuple]:
    """getaddrinfo's answers that may be used, resolved once. Raises Refused where none may."""
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    usable = [answer for answer in answers if allowed or public_address(answer[4][0])]
    if not usable:
        raise Refused(private(host))
    yield from usable


def guarded_session(allowed_hosts: frozenset[str]):
    """A requests session whose direct connections are opened by `_connect`; a proxy named in the environment is used as
    it is."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.exceptions import NameResolutionError, NewConnectionError

    def connect(connection) -> socket.socket:
        host, allowed = connection.host.strip("[]"), connection.host.strip("[]").lower() in allowed_hosts
        last: OSError | None = None
        try:
            for family, kind, protocol, _, address in _addresses(host, connection.port, allowed):
                opened = socket.socket(family, kind, protocol)
                try:
                    opened.settimeout(CONNECT_SECONDS)
                    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    opened.connect(address)
                    return opened
                except OSError as error:
                    opened.close()
                    last = error
        except socket.gaierror as error:
            raise NameResolutionError(host, connection, error) from error
        raise NewConnectionError(connection, f"cannot connect: {last}") from last

    class Plain(HTTPConnection):
        def _new_conn(self):
            return connect(self)

    class Secure(HTTPSConnection):
        def _new_conn(self):
            return connect(self)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args, **kwargs):
            super().init_poolmanager(*args, **kwargs)
            self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

    session = requests.Session()
    session.headers["User-Agent"] = USER_AGENT
    session.mount("http://", Adapter(pool_connections=4, pool_maxsize=1, max_retries=0))
    session.mount("https://", Adapter(pool_connections=4, pool_maxsize=1, max_retries=0))
    return session
