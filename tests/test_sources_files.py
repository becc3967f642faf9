"""Source `files`, the store of raw materials, the lock, licences and scrubbing."""

import os
import zipfile

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dataset_builder.licences import licence_of_text
from dataset_builder.materials import document, file_name, read_document, read_sources, refusal, with_front_matter
from dataset_builder.problems import BuildProblem
from dataset_builder.scrub import scrub
from dataset_builder.sources.common import SourceReport
from dataset_builder.spec import Dataset

MIT = "MIT License\n\nPermission is hereby granted, free of charge, to any person obtaining a copy of this software"


def dataset(*sources: dict, **settings) -> Dataset:
    return Dataset.model_validate({"sources": sources, "generator": {"model": "x"}, **settings})


def write(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


def test_a_folder_becomes_documents_front_matter_and_a_lock(tmp_path):
    write(
        tmp_path,
        docs__b_DOT_md="# B\n\nText b.",
        docs__sub__a_DOT_rst="A\n=\n\nText a.\n",
        docs__c_DOT_html="<h1>C</h1><p>Text c.",
        docs__LICENSE=MIT,
        docs__pic_DOT_png=b"\x89PNG",
    )
    report = SourceReport()
    documents = read_sources(dataset({"kind": "files", "path": "docs"}), tmp_path, "mine", report)
    assert [(item.origin, item.title, item.licence) for item in documents] == [
        ("docs/b.md", "B", "MIT"),
        ("docs/c.html", "C", "MIT"),
        ("docs/sub/a.rst", "A", "MIT"),
    ]
    lock = yaml.safe_load((tmp_path / "raw-materials/mine.lock.yaml").read_text())
    entry = lock["sources"][0]
    assert entry["source"] == {"kind": "files", "path": "docs"}
    assert [item["sha256"] for item in entry["documents"]] == [item.sha256 for item in documents]
    for item, listed in zip(documents, entry["documents"], strict=True):
        assert read_document(tmp_path / entry["folder"] / listed["file"]) == item
    assert sorted(row.item["origin"] for row in report.dropped) == ["docs/LICENSE", "docs/pic.png"]
    assert report.counts["documents"] == 3 and report.counts["skipped"] == 2
    assert not list((tmp_path / "raw-materials").rglob("*.part"))


def test_a_text_keeps_the_day_on_which_it_was_first_read(tmp_path):
    write(tmp_path, docs__a_DOT_md="# A\n\nText.", docs__b_DOT_md="# B\n\nText b.")
    first = read_sources(dataset({"kind": "files", "path": "docs"}), tmp_path, "r")
    stored = sorted((tmp_path / "raw-materials/r").rglob("*.md"))
    for path in stored:  # as if that had been years ago
        path.write_text(path.read_text().replace(f"fetched: '{first[0].fetched}'", "fetched: '2020-02-29'"))
    before = stored[0].read_bytes()
    write(tmp_path, docs__b_DOT_md="# B\n\nAnother text.")
    again = read_sources(dataset({"kind": "files", "path": "docs"}), tmp_path, "r")
    assert again[0].fetched == "2020-02-29" and stored[0].read_bytes() == before
    assert again[1].fetched >= first[1].fetched > "2020-02-29"


def test_a_second_run_writes_the_same_bytes_and_forgets_what_is_gone(tmp_path):
    write(tmp_path, docs__a_DOT_md="# A\n\nText.", docs__b_DOT_md="# B\n\nText b.")
    spec = dataset({"kind": "files", "path": "docs"})
    first = list(read_sources(spec, tmp_path, "r"))
    files = {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in (tmp_path / "raw-materials").rglob("*")
        if path.is_file()
    }
    assert list(read_sources(spec, tmp_path, "r")) == first
    assert files == {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in (tmp_path / "raw-materials").rglob("*")
        if path.is_file()
    }
    (tmp_path / "docs/b.md").unlink()
    assert len(read_sources(spec, tmp_path, "r")) == 1
    assert len(list((tmp_path / "raw-materials/r").rglob("*.md"))) == 1
    read_sources(dataset({"kind": "files", "path": "docs", "exclude": ["z*"]}), tmp_path, "r")
    assert len(list((tmp_path / "raw-materials/r").iterdir())) == 1


def test_include_and_exclude(tmp_path):
    write(tmp_path, d__a_DOT_md="A.", d__x__b_DOT_md="B.", d__x__c_DOT_txt="C.", d__y__d_DOT_md="D.")
    found = read_sources(
        dataset({"kind": "files", "path": "./d/", "include": ["**/*.md"], "exclude": ["y/**"]}), tmp_path, "r"
    )
    assert [item.origin for item in found] == ["d/a.md", "d/x/b.md"]
    alone = read_sources(dataset({"kind": "files", "path": "d/x/c.txt"}), tmp_path, "s")
    assert [(item.origin, item.markdown) for item in alone] == [("d/x/c.txt", "C.\n")]


def test_hostile_files_are_skipped_with_a_reason_and_nothing_leaves_the_folder(tmp_path):
    write(
        tmp_path,
        secret_DOT_md="# Secret",
        d__ok_DOT_md="# Fine\n\nWords.",
        d__bin_DOT_md=b"\0\1\2",
        d__bad_DOT_ipynb="{",
        d__empty_DOT_md="  \n",
        d__bad_DOT_pdf=b"%PDF-1.7",
        d__null_DOT_html=b"<p>a\0b",
        d__deep_DOT_html="<div>" * 20_000 + "x",
        d__deep_DOT_md="> " * 5000 + "x",
        d__nest_DOT_md="- " * 3000 + "x",
    )
    os.symlink(tmp_path / "secret.md", tmp_path / "d/link.md")
    os.symlink(tmp_path / "nowhere", tmp_path / "d/broken.md")
    os.symlink(tmp_path, tmp_path / "d/loop")
    os.symlink("ok.md", tmp_path / "d/inside.md")
    os.mkfifo(tmp_path / "d/pipe.md")
    with zipfile.ZipFile(tmp_path / "d/bomb.docx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../../../evil.txt", b"x")
        archive.writestr("word/document.xml", b"0" * 100_000_000)
    with open(tmp_path / "d/huge.md", "wb") as stream:
        stream.truncate(30_000_000)
    report = SourceReport()
    found = read_sources(dataset({"kind": "files", "path": "d"}), tmp_path, "r", report)
    reasons = {row.item["origin"]: row.reason for row in report.dropped}
    assert {item.origin for item in found} >= {"d/inside.md"} and "Secret" not in "".join(
        item.markdown for item in found
    )
    assert "leads out" in reasons["link.md"] and "leads out" in reasons["broken.md"]
    assert (
        reasons["d/bin.md"] == "binary data"
        and reasons["d/empty.md"] == "holds no text"
        and "notebook" in reasons["d/bad.ipynb"]
    )
    assert (
        "regular file" in reasons["d/pipe.md"]
        and "30,000,000" in reasons["d/huge.md"]
        and "unpacks" in reasons["d/bomb.docx"]
    )
    assert "PDF" in reasons["d/bad.pdf"] and "same text as" in reasons["d/ok.md"]
    assert report.counts["skipped"] == len(report.dropped)
    assert not (tmp_path.parent / "evil.txt").exists()


def test_a_missing_folder_and_an_empty_one(tmp_path):
    with pytest.raises(BuildProblem, match="does not exist\n  fix:"):
        read_sources(dataset({"kind": "files", "path": "nothing"}), tmp_path, "r")
    (tmp_path / "d").mkdir()
    with pytest.raises(BuildProblem, match="no document could be read"):
        read_sources(dataset({"kind": "files", "path": "d"}), tmp_path, "r")
    assert not list((tmp_path / "raw-materials").glob("*.lock.yaml"))


def test_licences_are_checked_against_the_policy(tmp_path):
    write(tmp_path, d__a_DOT_md="# A\n\nx", d__LICENSE=MIT, e__b_DOT_md="# B\n\ny")
    sources = ({"kind": "files", "path": "d"}, {"kind": "files", "path": "e"})
    report = SourceReport()
    found = read_sources(dataset(*sources, licences={"allow": ["mit"]}), tmp_path, "r", report)
    assert [item.licence for item in found] == ["MIT"]
    assert {row.reason for row in report.dropped} >= {"licence unknown is not in dataset.licences.allow"}
    with pytest.raises(BuildProblem, match="licence MIT is denied"):
        read_sources(dataset(sources[0], licences={"deny": ["MIT"]}), tmp_path, "s")
    stated = read_sources(
        dataset({**sources[1], "licence": "CC-BY-4.0"}, licences={"allow": ["CC-BY-4.0"]}), tmp_path, "u"
    )
    assert stated[0].licence == "CC-BY-4.0"
    assert refusal(None, None, ()) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (MIT, "MIT"),
        (
            "                                 Apache License\n                           Version 2.0, January 2004",
            "Apache-2.0",
        ),
        ("GNU GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007", "GPL-3.0-only"),
        ("Mozilla Public License Version 2.0", "MPL-2.0"),
        (
            "Redistribution and use in source and binary forms, with or without\nmodification ... Neither the name of",
            "BSD-3-Clause",
        ),
        ("Redistribution and use in source and binary forms, with or without modification", "BSD-2-Clause"),
        ("# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception\n", "Apache-2.0 WITH LLVM-exception"),
        ("Attribution-ShareAlike 4.0 International", "CC-BY-SA-4.0"),
        ("All rights reserved.", None),
    ],
)
def test_licence_texts(text, name):
    assert licence_of_text(text) == name


def test_secrets_and_addresses_are_scrubbed_and_counted(tmp_path):
    # Put together here so that no scanner takes the test for a leak.
    token, key = "ghp_" + "aB3" * 12, "AKIA" + "ABCDEFGHIJKLMNOP"
    private = "-----BEGIN RSA PRIVATE " + "KEY-----\nMIIB\nabc\n-----END RSA PRIVATE " + "KEY-----"
    text = "# A\n\nWrite jane.doe@intel.com or bob@example.com, git@github.com:x/y.\n\n"
    text += f"```\n{token}\n{key}\n{private}\n```\n"
    write(
        tmp_path, d__a_DOT_md=text + "See https://user:hunter2hunter2@host.org/ and torch@2.1 `pkg@1.2.3` @decorator\n"
    )
    report = SourceReport()
    markdown = read_sources(dataset({"kind": "files", "path": "d"}), tmp_path, "r", report)[0].markdown
    for gone in ("jane.doe", token, key, "MIIB", "hunter2"):
        assert gone not in markdown and gone not in "".join(
            path.read_text() for path in (tmp_path / "raw-materials").rglob("*.md")
        )
    for kept in (
        "bob@example.com",
        "git@github.com:x/y",
        "torch@2.1",
        "pkg@1.2.3",
        "@decorator",
        "```\n[GitHub token removed]",
    ):
        assert kept in markdown
    assert {kind: number for kind, number in report.counts.items() if kind.startswith("scrubbed")} == {
        "scrubbed: private key": 1,
        "scrubbed: AWS key": 1,
        "scrubbed: GitHub token": 1,
        "scrubbed: password in a URL": 1,
        "scrubbed: e-mail address": 1,
    }


@given(st.text(max_size=400))
def test_scrubbing_is_done_once(text):
    once, _ = scrub(text)
    assert scrub(once) == (once, {})


@given(st.text(min_size=1, max_size=300))
def test_file_names_stay_inside_and_apart(origin):
    used: set[str] = set()
    names = [file_name(origin, used), file_name(origin + "x", used), file_name(origin.swapcase() + "\ud800", used)]
    assert len({name.lower() for name in names}) == 3
    for name in names:
        assert (
            name.endswith(".md")
            and not name.startswith("/")
            and ".." not in name.split("/")
            and len(name) < 200
            and "\\" not in name
        )


@given(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r"), max_size=300),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=50),
)
def test_front_matter_round_trip(tmp_path_factory, markdown, title):
    item = document("https://x.org/a", title, markdown, licence="MIT", fetched="2026-11-22", etag='W/"x: y"')
    path = tmp_path_factory.getbasetemp() / "round.md"
    path.write_bytes(with_front_matter(item).encode())
    assert read_document(path) == item


def test_a_disk_that_refuses_is_told(tmp_path):
    write(tmp_path, d__a_DOT_md="# A\n\nText.", **{"raw-materials": "a file where the folder should be"})
    with pytest.raises(BuildProblem, match="cannot be written"):
        read_sources(dataset({"kind": "files", "path": "d"}), tmp_path, "r")
