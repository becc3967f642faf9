"""Source `repo`: documents of a git repository at one commit, fetched shallow and sparse."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Literal

from dataset_builder.problems import BuildProblem
from dataset_builder.rows import Document, digest
from dataset_builder.sources.common import MAX_DOCUMENT_BYTES, Context, File, documents
from dataset_builder.strict import Field, Strict

DEFAULT_INCLUDE = ("**/*.md", "**/*.mdx", "**/*.rst", "**/*.ipynb")
_LICENCE_PATTERNS = ("LICENSE*", "LICENCE*", "COPYING*", "UNLICENSE*")
_BATCH = 200
"""Documents whose bytes are held at a time."""


class RepoSource(Strict):
    """Documents of a git repository."""

    kind: Literal["repo"]
    url: str
    """https (or ssh) URL of the repository."""
    ref: str | None = None
    """Branch, tag or commit; omitted: the remote's HEAD. The commit is recorded in the lock."""
    include: tuple[str, ...] = Field(default=DEFAULT_INCLUDE, strict=False)
    """Glob patterns relative to the repository; omitted: Markdown, reStructuredText and notebooks. `**/*.py` gives
    docstrings."""
    exclude: tuple[str, ...] = Field(default=(), strict=False)
    """Glob patterns taken out again."""
    licence: str | None = None
    """SPDX id of the documents, where the repository's LICENSE does not say."""


def fetch(spec: RepoSource, context: Context) -> Iterator[Document]:
    """The chosen documents at the ref's commit, by path. Raises BuildProblem where the repository or ref cannot be
    had."""
    from dataset_builder.sources.git import GitFailed, check

    check(spec.url, spec.ref)
    folder = context.cache / "git" / digest(spec.url)
    commit, fetched = _fetch_commit(spec, folder, context)
    base = f"{public_url(spec.url)}@{commit}"
    try:
        files = _tree(folder, commit)
        licences = _licences(folder, files)
        chosen = _chosen(spec, folder, files, base, context)
        contents = _contents(folder, [files[path] for path in chosen])
        found = (
            _file(f"{base}:{path}", path, data, spec.licence, _nearest(path, licences), fetched)
            for path, data in zip(chosen, contents, strict=True)
        )
        yield from documents(found, context)
    except GitFailed as error:
        raise BuildProblem(f"dataset.sources: {spec.url}: {error}\n  fix: delete {folder} and run again") from None


def public_url(url: str) -> str:
    """The repository as a reader opens it: https, without credentials and `.git`.

    >>> public_url("git@github.com:intel/oneapi.git")
    'https://github.com/intel/oneapi'
    """
    scp = re.fullmatch(r"[\w.-]+@([\w.-]+):(.+)", url)
    url = f"https://{scp[1]}/{scp[2]}" if scp else re.sub(r"^ssh://", "https://", url)
    return re.sub(r"(?:\.git)?/*$", "", re.sub(r"://[^/@]+@", "://", url))


def _contents(folder: Path, names: list[str]) -> Iterator[bytes | None]:
    """As `_blobs`, a batch at a time."""
    for start in range(0, len(names), _BATCH):
        yield from _blobs(folder, names[start : start + _BATCH])


def _file(origin: str, path: str, data: bytes | None, licence: str | None, around: str | None, fetched: str) -> File:
    """A file of the commit, or why it is no document."""
    problem = ""
    if data is None:
        problem = f"larger than {MAX_DOCUMENT_BYTES:,} bytes"
    elif data.startswith(b"version https://git-lfs.github.com/spec/"):
        problem = "stored in Git LFS"
    return File(origin, path, data or b"", licence, around, problem, fetched)


def _fetch_commit(spec: RepoSource, folder: Path, context: Context) -> tuple[str, str]:
    """Fetch the ref's commit with the blobs that the patterns choose; without a network, the one fetched last. Returns
    its id and the ISO date (UTC) on which it first came."""
    from dataset_builder.materials import write_whole
    from dataset_builder.sources.git import GitFailed, is_rewritten_to_local, run

    last = folder / "fetched" / digest(spec.ref or "HEAD", *spec.include)
    patterns = "\n".join([*spec.include, *_LICENCE_PATTERNS, ".gitignore"]) + "\n"
    try:
        if not (folder / ".git" / "HEAD").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            run(folder, "init", "--quiet", "--template=")
        if context.offline:
            raise GitFailed("offline")
        if spec.ref and re.fullmatch(r"[0-9a-f]{40}", spec.ref) and last.is_file():
            return spec.ref, _date_of(last)  # a commit never changes
        context.report.say(f"git fetch {public_url(spec.url)} {spec.ref or 'HEAD'}")
        local = is_rewritten_to_local(spec.url, folder)
        _name_remote(folder, spec.url)
        run(
            folder,
            "fetch",
            "--quiet",
            "--depth=1",
            "--no-tags",
            "--filter=blob:none",
            "--no-recurse-submodules",
            "--update-shallow",
            "origin",
            spec.ref or "HEAD",
            local=local,
        )
        commit = run(folder, "rev-parse", "--verify", "FETCH_HEAD^{commit}").decode().strip()
        run(folder, "sparse-checkout", "set", "--no-cone", "--stdin", data=patterns.encode(), local=local)
        run(folder, "checkout", "--quiet", "--force", "--detach", commit, local=local)
    except GitFailed as error:
        if last.is_file():
            context.report.note(f"{public_url(spec.url)} was not asked ({error}); the commit fetched last is used")
            return last.read_text().strip(), _date_of(last)
        raise BuildProblem(
            f"dataset.sources: {public_url(spec.url)} at {spec.ref or 'HEAD'}: {error}\n"
            "  fix: check URL, ref and network with "
            f"`git ls-remote {public_url(spec.url)}`"
        ) from None
    except OSError as error:
        raise BuildProblem(
            f"{error.filename or folder}: {error.strerror}\n  fix: check space and permissions of .cache/"
        ) from error
    write_whole(last, commit + "\n")
    return commit, _date_of(last)


def _date_of(record: Path) -> str:
    """The day on which a commit was written down; a record that says the same is not written again."""
    return datetime.fromtimestamp(record.stat().st_mtime, UTC).date().isoformat()


def _name_remote(folder: Path, url: str) -> None:
    """`origin`, with its promise that blobs left out now may be asked for when they are checked out."""
    from dataset_builder.sources.git import run

    for key, value in (
        ("core.repositoryFormatVersion", "1"),
        ("extensions.partialClone", "origin"),
        ("remote.origin.url", url),
        ("remote.origin.promisor", "true"),
        ("remote.origin.partialclonefilter", "blob:none"),
    ):
        run(folder, "config", "--local", key, value)


def _tree(folder: Path, commit: str) -> dict[str, str]:
    """Path -> blob id of every regular file of the commit; links and submodules are not among them."""
    from dataset_builder.sources.git import run

    files = {}
    for entry in run(folder, "ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0"):
        head, _, path = entry.partition(b"\t")
        if head.startswith((b"100644 blob ", b"100755 blob ")):
            files[path.decode("utf-8", "backslashreplace")] = head.split()[2].decode()
    return files


def _chosen(spec: RepoSource, folder: Path, files: dict[str, str], base: str, context: Context) -> list[str]:
    from pathspec import PathSpec

    from dataset_builder.formats import readable

    wanted, unwanted = PathSpec.from_lines("gitignore", spec.include), PathSpec.from_lines("gitignore", spec.exclude)
    ignored = _ignore_rules(folder, files)
    chosen = []
    for path in sorted(files):
        if not wanted.match_file(path) or unwanted.match_file(path):
            continue
        if not readable(path):
            context.report.skip(
                f"{base}:{path}", f"files ending in {PurePosixPath(path).suffix or 'nothing'} are not documents"
            )
        elif any(rules.match_file(path[len(top) :]) for top, rules in ignored if path.startswith(top)):
            context.report.skip(f"{base}:{path}", "named by the repository's .gitignore")
        else:
            chosen.append(path)
    if not chosen:
        raise BuildProblem(
            f"dataset.sources: {spec.url} has no document for {', '.join(spec.include)}\n  fix: check `include`; the "
            f"repository's {len(files)} files begin with {', '.join(sorted(files)[:3])}"
        )
    return chosen


def _ignore_rules(folder: Path, files: dict[str, str]) -> list:
    """(folder with a trailing slash, its rules) of every .gitignore of the commit."""
    from pathspec import PathSpec

    paths = [path for path in files if PurePosixPath(path).name == ".gitignore"]
    texts = _blobs(folder, [files[path] for path in paths])
    return [
        (
            path.removesuffix(".gitignore"),
            PathSpec.from_lines("gitignore", (text or b"").decode("utf-8", "replace").splitlines()),
        )
        for path, text in zip(paths, texts, strict=True)
    ]


def _licences(folder: Path, files: dict[str, str]) -> dict[str, str]:
    """Folder ("." is the top) -> SPDX id of the licence file in it."""
    from dataset_builder.licences import is_licence_file, licence_of_text

    paths = sorted(path for path in files if is_licence_file(PurePosixPath(path).name))[:200]
    found: dict[str, str] = {}
    for path, text in zip(paths, _blobs(folder, [files[path] for path in paths]), strict=True):
        name = licence_of_text((text or b"").decode("utf-8", "replace"))
        if name:
            found.setdefault(str(PurePosixPath(path).parent), name)
    return found


def _nearest(path: str, licences: dict[str, str]) -> str | None:
    """The licence of the closest folder above the path that has one."""
    return next((licences[str(parent)] for parent in PurePosixPath(path).parents if str(parent) in licences), None)


def _blobs(folder: Path, names: list[str]) -> list[bytes | None]:
    """Contents of blobs in their order; None for one above the size limit."""
    from dataset_builder.sources.git import run

    if not names:
        return []
    listed = run(folder, "cat-file", "--batch-check", data="\n".join(names).encode() + b"\n", local=True).splitlines()
    small = [name for name, line in zip(names, listed, strict=True) if int(line.split()[2]) <= MAX_DOCUMENT_BYTES]
    out = run(folder, "cat-file", "--batch", data="\n".join(small).encode() + b"\n", local=True) if small else b""
    place, contents = 0, {}
    for name in small:
        end = out.index(b"\n", place)
        size = int(out[place:end].split()[2])
        contents[name] = out[end + 1 : end + 1 + size]
        place = end + 2 + size
    return [contents.get(name) for name in names]
