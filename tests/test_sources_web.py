"""Source `web` against a site on loopback: crawl, revalidation, robots.txt, sitemaps, llms.txt, and what is refused."""

import contextlib
import gzip
import socket
import threading
import time

import pytest
from docs_server import serve

from dataset_builder.materials import read_sources
from dataset_builder.problems import BuildProblem
from dataset_builder.sources.common import SourceReport, Unreadable
from dataset_builder.sources.http import Client, Refused, public_address
from dataset_builder.sources.robots import Robots
from dataset_builder.sources.sitemap import parse_sitemap
from dataset_builder.sources.urls import Scope, normalised, version_of
from dataset_builder.sources.web import WebSource
from dataset_builder.spec import Dataset


def page(title: str, *links: str, head: str = "") -> str:
    text = "".join(f'<li><a href="{link}">{link}</a></li>' for link in links)
    return (
        f"<html><head><title>{title} - Docs</title>{head}</head><body><nav><ul>{text}</ul></nav>"
        f"<main><h1>{title}</h1><p>Words of {title}, a page of its own.</p></main></body></html>"
    )


def read(tmp_path, url: str, report: SourceReport | None = None, **settings):
    source = {"kind": "web", "url": url, "allow_private": True, **settings}
    dataset = Dataset.model_validate({"sources": [source], "generator": {"model": "x"}})
    return list(read_sources(dataset, tmp_path, "t", report or SourceReport()))


SITE = {
    "/docs/": page(
        "Start",
        "a.html",
        "b.html#part",
        "/other/c.html",
        "http://elsewhere.example/",
        "mailto:x@y.z",
        "genindex.html",
        "pic.png",
    ),
    "/docs/a.html": page("A", "deep.html", "./"),
    "/docs/b.html": page("B", "a.html?utm_source=x"),
    "/docs/deep.html": page("Deep", "deeper.html"),
    "/docs/deeper.html": page("Deeper"),
    "/other/c.html": page("C"),
}


def test_one_page(tmp_path):
    with serve(SITE) as site:
        documents = read(tmp_path, site.url + "/docs/")
    assert [item.origin for item in documents] == [site.url + "/docs/"]
    assert documents[0].markdown == "# Start\n\nWords of Start, a page of its own.\n"
    assert documents[0].etag and documents[0].fetched and documents[0].title == "Start"


def test_a_crawl_stays_within_its_depth_and_folder(tmp_path):
    with serve(SITE) as site:
        one = read(tmp_path / "1", site.url + "/docs/", depth=1)
        two = read(tmp_path / "2", site.url + "/docs/", depth=2)
    assert [item.title for item in one] == ["Start", "A", "B"]
    assert [item.title for item in two] == ["Start", "A", "B", "Deep"]
    asked = [path for path, _ in site.statuses()]
    assert not {"/other/c.html", "/docs/genindex.html", "/docs/pic.png", "/docs/deeper.html"} & set(asked)
    assert asked.count("/docs/a.html") == 2  # once a crawl, whatever the links' parameters


def test_include_exclude_and_max_pages(tmp_path):
    report = SourceReport()
    with serve(SITE) as site:
        included = read(tmp_path / "1", site.url + "/docs/", depth=1, include=["/other/*"])
        excluded = read(tmp_path / "2", site.url + "/docs/", depth=1, exclude=["/docs/a*"])
        limited = read(tmp_path / "3", site.url + "/docs/", report, depth=2, max_pages=2)
    assert [item.title for item in included] == ["Start", "C"]
    assert [item.title for item in excluded] == ["Start", "B"]
    assert len(limited) == 2 and any("max_pages = 2" in note for note in report.notes)


def test_a_second_run_transfers_only_what_changed(tmp_path):
    with serve(SITE) as site:
        first = read(tmp_path, site.url + "/docs/", depth=1)
        site.log.clear()
        report = SourceReport()
        assert read(tmp_path, site.url + "/docs/", report, depth=1) == first
        assert {status for path, status in site.statuses() if path != "/robots.txt"} == {304}
        assert report.counts["bytes"] == 0 and report.counts["not modified"] == 3
        site.pages["/docs/a.html"] = page("A", "deep.html").replace("Words", "New words")
        site.log.clear()
        changed = read(tmp_path, site.url + "/docs/", depth=1)
        assert [entry for entry in site.statuses() if entry[1] == 200] == [("/docs/a.html", 200)]
    assert "New words" in changed[1].markdown and changed[0] == first[0] and changed[2] == first[2]


def test_a_page_behind_a_redirect_is_revalidated_where_it_lies(tmp_path):
    moved = (301, {"Location": "/new.html"}, "")
    with serve({"/old.html": moved, "/new.html": page("New"), "/other.html": page("Other")}) as site:
        first = read(tmp_path, site.url + "/old.html")
        site.log.clear()
        assert read(tmp_path, site.url + "/old.html")[0].markdown == first[0].markdown
        assert ("/new.html", 304) in site.statuses()
        site.pages["/old.html"] = (301, {"Location": "/other.html"}, "")
        assert read(tmp_path, site.url + "/old.html")[0].title == "Other"


def test_last_modified_is_revalidated_too(tmp_path):
    answer = (200, {"ETag": "", "Last-Modified": "Sun, 01 Nov 2026 00:00:00 GMT"}, page("Old"))
    with serve({"/": answer}) as site:
        read(tmp_path, site.url + "/")
        read(tmp_path, site.url + "/")
    assert [headers.get("If-Modified-Since") for path, _, headers in site.log if path == "/"] == [
        None,
        "Sun, 01 Nov 2026 00:00:00 GMT",
    ]


def test_a_server_in_trouble_is_asked_again_and_then_the_old_page_serves(tmp_path):
    troubles = iter([(503, {"Retry-After": "0"}, b""), page("Up")])
    with serve({"/": lambda: next(troubles)}) as site:
        first = read(tmp_path, site.url + "/")
        site.pages["/"] = (500, {}, b"")
        assert read(tmp_path, site.url + "/") == first
    assert read(tmp_path, site.url + "/") == first  # nobody answers any more


def test_offline_uses_what_is_stored(tmp_path):
    with serve(SITE) as site:
        first = read(tmp_path, site.url + "/docs/", depth=1)
        site.log.clear()
        dataset = Dataset.model_validate(
            {
                "sources": [{"kind": "web", "url": site.url + "/docs/", "depth": 1, "allow_private": True}],
                "generator": {"model": "x"},
            }
        )
        assert list(read_sources(dataset, tmp_path, "t", offline=True)) == first
        assert site.log == []


def test_max_age_asks_nothing(tmp_path):
    with serve(SITE) as site:
        read(tmp_path, site.url + "/docs/")
        site.log.clear()
        read(tmp_path, site.url + "/docs/", max_age_hours=1)
    assert [path for path, _ in site.statuses()] == ["/robots.txt"]


def test_robots_txt_is_obeyed(tmp_path):
    robots = (200, {"Content-Type": "text/plain"}, "User-agent: *\nDisallow: /docs/a.html\nCrawl-delay: 7\n")
    report = SourceReport()
    with serve({**SITE, "/robots.txt": robots}) as site:
        slept: list[float] = []
        client = Client(tmp_path / "http", frozenset({"127.0.0.1"}), sleep=slept.append)
        rules = Robots(client, None, private=True)
        assert not rules.allows(site.url + "/docs/a.html") and rules.allows(site.url + "/docs/b.html")
        client.get(site.url + "/docs/b.html")
        client.get(site.url + "/docs/")
        client.close()
        assert len(slept) == 2 and all(6 < seconds <= 7 for seconds in slept)
        site.pages["/robots.txt"] = (200, {}, "User-agent: finetune-recipes\nDisallow: /docs/a.html\n")
        documents = read(tmp_path, site.url + "/docs/", report, depth=1)
    assert [item.title for item in documents] == ["Start", "B"]
    assert [row.reason for row in report.dropped] == ["robots.txt does not allow it"]
    assert ("/docs/a.html", 200) not in site.statuses()


def test_a_broken_robots_txt_forbids_everything(tmp_path):
    with (
        serve({**SITE, "/robots.txt": (500, {}, b"")}) as site,
        pytest.raises(BuildProblem, match=r"robots.txt answers 500"),
    ):
        read(tmp_path, site.url + "/docs/")


def test_sitemaps(tmp_path):
    with serve(SITE) as site:
        urls = "".join(
            f"<url><loc>{site.url}{path}</loc></url>" for path in ("/docs/a.html", "/docs/deeper.html", "/other/c.html")
        )
        site.pages["/part.xml.gz"] = (
            200,
            {"Content-Type": "application/gzip"},
            gzip.compress(f"<urlset>{urls}</urlset>".encode()),
        )
        index = f"<sitemapindex><sitemap><loc>{site.url}/part.xml.gz</loc></sitemap></sitemapindex>"
        site.pages["/sitemap.xml"] = (200, {"Content-Type": "application/xml"}, index)
        listed = read(tmp_path / "1", site.url + "/sitemap.xml")
        below = read(tmp_path / "2", site.url + "/docs/", discover="sitemap")
    assert [item.title for item in listed] == ["A", "Deeper", "C"]
    assert [item.title for item in below] == ["Start", "A", "Deeper"]


def test_sitemap_forms():
    assert parse_sitemap(b"http://a/b\nhttp://a/c\n") == (False, ["http://a/b", "http://a/c"])
    assert parse_sitemap(
        b"<urlset><url><loc><![CDATA[http://a/?x=1&y]]></loc></url><url><loc> http://a/?p=1&amp;q </loc></url></urlset>"
    ) == (False, ["http://a/?x=1&y", "http://a/?p=1&q"])
    assert parse_sitemap(b"\x1f\x8bbroken") == (False, [])


def test_llms_txt_and_markdown_twins(tmp_path):
    markdown = {"Content-Type": "text/markdown"}
    with serve(
        {
            **SITE,
            "/llms.txt": (
                200,
                {"Content-Type": "text/plain"},
                "# Docs\n\n- [A](/docs/a.html.md): the page\n- [B](docs/b.html)\n",
            ),
            "/docs/a.html.md": (200, markdown, "# A\n\nThe twin of A, written by hand for readers like us.\n"),
            "/llms-full.txt": (200, {"Content-Type": "text/plain"}, "# All\n\n## A\n\nEverything in one file.\n"),
        }
    ) as site:
        listed = read(tmp_path / "1", site.url + "/llms.txt")
        whole = read(tmp_path / "2", site.url + "/llms-full.txt")
        twin = read(tmp_path / "3", site.url + "/docs/a.html", markdown_twins=True)
        site.log.clear()
        read(tmp_path / "3", site.url + "/docs/b.html", markdown_twins=True)
        read(tmp_path / "3", site.url + "/docs/b.html", markdown_twins=True)
        probes = [path for path, status in site.statuses() if status == 404 and path.endswith(".md")]
    assert [item.title for item in listed] == ["A", "B"] and "written by hand" in listed[0].markdown
    assert whole[0].title == "All" and "Everything in one file." in whole[0].markdown
    assert "written by hand" in twin[0].markdown and twin[0].origin == site.url + "/docs/a.html"
    assert len(probes) == len(set(probes)) > 0  # a twin that is not there is not asked for again at once


def test_a_server_that_drips_is_left(tmp_path, monkeypatch):
    """It always sends something in time, and would keep the build for hours."""
    monkeypatch.setattr("dataset_builder.sources.http.PAGE_SECONDS", 0.3)
    monkeypatch.setattr("dataset_builder.sources.http.TRIES", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.closing(Client(tmp_path, {"127.0.0.1"})) as one:

        def drip():
            peer, _ = listener.accept()
            with peer, contextlib.suppress(OSError):
                peer.recv(4096)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 100\r\n\r\n")
                for _ in range(100):
                    peer.sendall(b"x")
                    time.sleep(0.05)

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(Unreadable, match="still sending"):
            one.get(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        thread.join()


def test_a_list_above_all_versions_gives_one_of_them(tmp_path):
    text = "- [A](/en/v1.9/a.html)\n- [B](/en/v1.10/a.html)\n- [C](/en/stable/a.html)\n- [D](https://other.example/d)\n"
    pages = {f"/en/{name}/a.html": page(f"Of {name}") for name in ("v1.9", "v1.10", "stable")}
    with serve({**pages, "/llms.txt": (200, {"Content-Type": "text/plain"}, text)}) as site:
        (stable,) = read(tmp_path / "1", site.url + "/llms.txt")
        site.pages["/llms.txt"] = (200, {"Content-Type": "text/plain"}, text.replace("stable", "v1.2"))
        (highest,) = read(tmp_path / "2", site.url + "/llms.txt")
        with pytest.raises(BuildProblem, match=r"0 in scope .*another version"):
            read(tmp_path / "3", site.url + "/llms.txt", version="v3")
    assert (stable.title, highest.title) == ("Of stable", "Of v1.10")


def test_canonical_urls_and_noindex(tmp_path):
    report = SourceReport()
    with serve(
        {
            "/": page("Home", "x.html", "y.html", "z.html"),
            "/z.html": page("Z", head='<meta name="robots" content="noindex">'),
        }
    ) as site:
        site.pages["/x.html"] = page("X", head=f'<link rel="canonical" href="{site.url}/y.html">')
        site.pages["/y.html"] = page("Y", head='<link rel="canonical" href="http://elsewhere.example/y.html">')
        documents = read(tmp_path, site.url + "/", report, depth=1)
    assert [item.origin for item in documents] == [site.url + "/", site.url + "/y.html"]
    assert [row.reason for row in report.dropped] == ["asks not to be indexed (robots: noindex)"]


def test_charsets_and_content_types(tmp_path):
    report = SourceReport()
    with serve(
        {
            "/": page("Home", "latin", "data", "notes.txt", "gone"),
            "/latin": (200, {"Content-Type": "text/html; charset=iso-8859-1"}, page("Café").encode("latin-1")),
            "/data": (200, {"Content-Type": "application/octet-stream"}, b"\0\1"),
            "/notes.txt": (200, {"Content-Type": "text/plain"}, "Plain notes."),
        }
    ) as site:
        documents = read(tmp_path, site.url + "/", report, depth=1)
    assert [item.title for item in documents] == ["Home", "Café", "notes.txt"]
    assert sorted(row.reason for row in report.dropped) == [
        "content type application/octet-stream is no document",
        "the server answers 404",
    ]


def test_too_large_a_page_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr("dataset_builder.sources.http.MAX_DOCUMENT_BYTES", 5000)
    report = SourceReport()
    bomb = (200, {"Content-Encoding": "gzip"}, gzip.compress(b"<p>" + b"a" * 1_000_000))
    with serve({"/": page("Home", "big", "bomb"), "/big": "<p>" + "a" * 6000, "/bomb": bomb}) as site:
        assert len(read(tmp_path, site.url + "/", report, depth=1)) == 1
    assert sorted(row.reason for row in report.dropped) == [
        "6,003 bytes; at most 5,000 are read",
        "more than 5,000 bytes",
    ]


@pytest.mark.parametrize(
    "url", ["ftp://example.com/", "file:///etc/passwd", "http://", "javascript:alert(1)", "//example.com/"]
)
def test_other_schemes_are_refused(tmp_path, url):
    with pytest.raises(BuildProblem, match="http"):
        read(tmp_path, url)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "10.1.2.3",
        "192.168.0.1",
        "169.254.169.254",
        "[::1]",
        "[fe80::1]",
        "0.0.0.0",
        "2130706433",
        "0x7f000001",
        "127.1",
        "[::ffff:127.0.0.1]",
        "100.64.0.1",
        "[64:ff9b::7f00:1]",
    ],
)
def test_private_addresses_are_refused(tmp_path, host):
    with pytest.raises(BuildProblem, match="private or local"):
        read(tmp_path, f"http://{host}:1/", allow_private=False)


def test_a_name_that_resolves_to_a_private_address_is_refused(tmp_path, monkeypatch):
    with serve(SITE) as site:
        answers = [[(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", site.port))]]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers[0])
        with pytest.raises(BuildProblem, match="private or local"):
            read(tmp_path, f"http://docs.example.org:{site.port}/docs/", allow_private=False)
        assert site.log == []


def test_the_address_that_was_judged_is_the_one_connected_to(tmp_path, monkeypatch):
    """A second DNS answer (rebinding) must not be asked for: the name is resolved once a connection."""
    asked: list[str] = []

    def resolve(host, port, *_, **__):
        asked.append(host)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.215.14" if len(asked) == 1 else "127.0.0.1", port))
        ]

    connected: list[tuple] = []

    class Recorder(socket.socket):
        def connect(self, address):
            connected.append(address)
            raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "socket", Recorder)
    client = Client(tmp_path, sleep=lambda seconds: None)
    with pytest.raises(Refused, match="private or local"):  # the second try resolves to loopback and is refused
        client.get("http://docs.example.org/")
    client.close()
    assert connected == [("93.184.215.14", 80)]


def test_redirects_are_judged_like_links(tmp_path):
    report = SourceReport()
    with serve(
        {
            "/": page("Home", "moved", "away", "inside", "loop"),
            "/moved": (301, {"Location": "/new.html"}, b""),
            "/new.html": page("New"),
            "/away": (302, {"Location": "http://elsewhere.example/"}, b""),
            "/inside": (302, {"Location": "http://127.0.0.2:1/"}, b""),
            "/loop": (302, {"Location": "/loop"}, b""),
        }
    ) as site:
        documents = read(tmp_path, site.url + "/", report, depth=1)
    assert [item.origin for item in documents] == [site.url + "/", site.url + "/new.html"]
    reasons = {row.item["origin"].rsplit("/", 1)[1]: row.reason for row in report.dropped}
    assert "private or local" in reasons["inside"] and "redirects" in reasons["loop"] and "away" in reasons


def test_public_addresses():
    assert public_address("93.184.215.14") and public_address("2606:4700::1")
    assert not any(
        map(
            public_address,
            ("127.0.0.1", "fe80::1%eth0", "::ffff:10.0.0.1", "2002:7f00:1::", "224.0.0.1", "240.0.0.1", "nonsense"),
        )
    )


def test_normalised_urls():
    assert normalised("HTTP://Example.ORG:80/a/./b/../index.html?utm_campaign=x#frag") == "http://example.org/a/"
    assert normalised("https://example.org") == "https://example.org/"
    assert normalised("https://example.org/a%20b/ü?q=1&b=") == "https://example.org/a%20b/%C3%BC?q=1&b="
    assert normalised(normalised("https://example.org/a b/%7Ex//y")) == normalised("https://example.org/a b/%7Ex//y")
    assert normalised("http://[::1") == "http://[::1"


def test_versions():
    assert (
        version_of("/en/v2.1/a.html") == "v2.1"
        and version_of("/docs/3.x/a") == "3.x"
        and version_of("/2024/05/post") is None
    )
    scope = Scope.of(
        WebSource(kind="web", url="https://x.org/docs/stable/", include=["/docs/**"]), "https://x.org/docs/stable/"
    )
    assert scope.refuses("https://x.org/docs/stable/a") is None and scope.refuses("https://x.org/docs/a") is None
    assert "another version" in scope.refuses("https://x.org/docs/1.2/a")
    unversioned = Scope.of(WebSource(kind="web", url="https://x.org/docs/"), "https://x.org/docs/")
    assert (
        "another version" in unversioned.refuses("https://x.org/docs/2.0/a")
        and unversioned.refuses("https://x.org/docs/a") is None
    )
    pinned = Scope.of(WebSource(kind="web", url="https://x.org/docs/", version="2.0"), "https://x.org/docs/")
    assert pinned.refuses("https://x.org/docs/2.0/a") is None
