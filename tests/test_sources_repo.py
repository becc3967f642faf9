"""Source `repo` against local repositories behind git's own `url.<base>.insteadOf`: no network."""

import os
import shutil
import subprocess
from datetime import UTC, datetime

import pytest
import yaml

from dataset_builder.materials import read_sources
from dataset_builder.problems import BuildProblem
from dataset_builder.sources.common import SourceReport
from dataset_builder.sources.repo import RepoSource, public_url
from dataset_builder.spec import Dataset

URL = "https://git.example.org/team/widget"
WHO = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")


def git(folder, *arguments):
    done = subprocess.run(["git", *WHO, "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def upstream(tmp_path, monkeypatch):
    """A repository that git is led to from URL by the user's configuration."""
    folder = tmp_path / "upstream" / "team" / "widget"
    files = {
        "README.md": "# Widget\n\nWhat it is.",
        "docs/guide.rst": "Guide\n=====\n\nHow to.\n",
        "docs/old.md": "# Old\n\nGone by.",
        "docs/built/out.md": "# Built\n\nBy a tool.",
        ".gitignore": "built/\n",
        "src/widget.py": '"""Module words."""\n',
        "tool.bin": "\0",
        "LICENSE": "Apache License\nVersion 2.0, January 2004",
        "docs/LICENSE": "Attribution 4.0 International",
        "other/x.md": "# X\n\nMore.",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    os.symlink("/etc/passwd", folder / "docs/passwd.md")
    git(folder.parent, "init", "-q", "-b", "trunk", "widget")
    git(folder, "add", "-f", "-A")
    git(folder, "commit", "-q", "-m", "first")
    git(folder, "tag", "v1")
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{tmp_path}/upstream/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://git.example.org/")
    return folder


def read(tmp_path, report=None, offline=False, **settings):
    dataset = Dataset.model_validate(
        {"sources": [{"kind": "repo", "url": URL, **settings}], "generator": {"model": "x"}}
    )
    return read_sources(dataset, tmp_path, "r", report or SourceReport(), offline=offline)


def test_documents_of_the_head(upstream, tmp_path):
    report = SourceReport()
    documents = read(tmp_path, report)
    commit = git(upstream, "rev-parse", "HEAD")
    assert [(item.origin, item.licence) for item in documents] == [
        (f"{URL}@{commit}:README.md", "Apache-2.0"),
        (f"{URL}@{commit}:docs/guide.rst", "CC-BY-4.0"),
        (f"{URL}@{commit}:docs/old.md", "CC-BY-4.0"),
        (f"{URL}@{commit}:other/x.md", "Apache-2.0"),
    ]
    assert [row.reason for row in report.dropped] == ["named by the repository's .gitignore"]
    lock = yaml.safe_load((tmp_path / "raw-materials/r.lock.yaml").read_text())["sources"][0]
    assert lock["commit"] == commit and lock["documents"][0]["file"] == "git.example.org/team/widget/README.md"


def test_globs_and_docstrings(upstream, tmp_path):
    found = read(tmp_path, include=["docs/**/*.md", "**/*.py"], exclude=["docs/o*"])
    assert [item.markdown for item in found] == ["# widget\n\nModule words.\n"]
    checkout = next((tmp_path / ".cache/sources/git").iterdir())
    assert not (checkout / "other").exists() and not (checkout / "README.md").exists()  # sparse


def test_a_ref_is_kept_to(upstream, tmp_path):
    first = git(upstream, "rev-parse", "HEAD")
    (upstream / "README.md").write_text("# Widget two\n\nNew.")
    git(upstream, "commit", "-q", "-a", "-m", "second")
    second = git(upstream, "rev-parse", "HEAD")
    assert read(tmp_path, include=["README.md"])[0].origin == f"{URL}@{second}:README.md"
    for ref in ("v1", first):
        assert read(tmp_path, include=["README.md"], ref=ref)[0].title == "Widget"
    assert read(tmp_path, include=["README.md"], ref="trunk")[0].title == "Widget two"


def test_a_new_commit_is_seen_and_without_a_network_the_last_one_is_used(upstream, tmp_path):
    read(tmp_path)
    (upstream / "README.md").write_text("# Changed\n\nNew.")
    git(upstream, "commit", "-q", "-a", "-m", "second")
    assert read(tmp_path)[0].title == "Changed"
    upstream.rename(upstream.with_name("gone"))
    report = SourceReport()
    assert read(tmp_path, report)[0].title == "Changed"
    assert any("the commit fetched last is used" in note for note in report.notes)
    assert read(tmp_path, offline=True)[0].title == "Changed"


def test_a_commit_keeps_the_day_on_which_it_was_fetched(upstream, tmp_path):
    first = read(tmp_path)
    (record,) = (tmp_path / ".cache/sources/git").glob("*/fetched/*")
    os.utime(record, (1_582_934_400, 1_582_934_400))  # 2020-02-29
    shutil.rmtree(tmp_path / "raw-materials")
    assert {item.fetched for item in read(tmp_path)} == {"2020-02-29"}
    stored = {path: path.read_bytes() for path in (tmp_path / "raw-materials").rglob("*.md")}
    record.touch()
    assert [item.fetched for item in read(tmp_path, offline=True)] == ["2020-02-29"] * len(first)
    assert {path: path.read_bytes() for path in stored} == stored
    git(upstream, "commit", "-q", "--allow-empty", "-m", "second")
    assert {item.fetched for item in read(tmp_path)} <= {first[0].fetched, datetime.now(UTC).date().isoformat()}


def test_nothing_of_the_repository_runs(upstream, tmp_path):
    trap = tmp_path / "trapped"
    (upstream / ".gitattributes").write_text("*.md filter=evil\n")
    (upstream / ".gitmodules").write_text(f'[submodule "m"]\n\tpath = m\n\turl = {tmp_path}/upstream/team/widget\n')
    (upstream / "hooks").mkdir()
    hook = tmp_path / "templates" / "hooks" / "post-checkout"
    hook.parent.mkdir(parents=True)
    hook.write_text(f"#!/bin/sh\ntouch {trap}\n")
    hook.chmod(0o755)
    git(upstream, "add", "-A")
    git(upstream, "commit", "-q", "-m", "trap")
    os.environ["GIT_TEMPLATE_DIR"] = str(tmp_path / "templates")
    try:
        assert len(read(tmp_path)) == 4
    finally:
        del os.environ["GIT_TEMPLATE_DIR"]
    assert not trap.exists()


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c touch% /tmp/x",
        "--upload-pack=touch /tmp/x",
        "file:///etc",
        "/etc",
        "../up",
        "fd::1",
        "-u:x",
        "git://x.org/y",
        "https://-oProxyCommand=x/y",
        "ssh://-oProxyCommand=touch/x",
        "a@-oProxyCommand=x:y",
    ],
)
def test_urls_that_git_would_take_for_something_else(tmp_path, url):
    dataset = Dataset.model_validate({"sources": [{"kind": "repo", "url": url}], "generator": {"model": "x"}})
    with pytest.raises(BuildProblem, match="not the URL of a git repository"):
        read_sources(dataset, tmp_path, "r")
    assert not (tmp_path / ".cache").exists()


@pytest.mark.parametrize("ref", ["--upload-pack=x", "-x", "a..b", "a b", "", "x:y", "a^{commit}", "refs/heads/"])
def test_refs_that_git_would_take_for_something_else(tmp_path, ref):
    with pytest.raises(BuildProblem, match="not a git ref"):
        read(tmp_path, ref=ref)


def test_a_repository_of_this_machine_needs_the_users_own_configuration(upstream, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_COUNT", "0")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    with pytest.raises(BuildProblem, match=r"git\.example\.org/team/widget at HEAD: fatal"):
        read(tmp_path)


def test_a_missing_ref_and_no_match(upstream, tmp_path):
    with pytest.raises(BuildProblem, match="at nowhere: fatal"):
        read(tmp_path, ref="nowhere")
    with pytest.raises(BuildProblem, match="has no document for nothing/"):
        read(tmp_path, include=["nothing/*.md"])


def test_public_urls_carry_no_credentials():
    assert public_url("https://user:token@host.org/a/b.git/") == "https://host.org/a/b"
    assert public_url("ssh://git@host.org/a/b") == "https://host.org/a/b"
    assert RepoSource(kind="repo", url=URL).ref is None
