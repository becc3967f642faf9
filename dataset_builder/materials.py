"""raw-materials/: every document as Markdown with front matter, and the lock that says which documents a dataset was
made from.

    raw-materials/<recipe>/<kind>-<digest of the source>/<path>.md     git-ignored
    raw-materials/<recipe>.lock.yaml                                  committed

`read_sources` does all of it: fetch, scrub, refuse by licence, write, lock. Files are written whole or not at all; the
lock is written last.
"""

import filecmp
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_builder.problems import BuildProblem
from dataset_builder.rows import Document, digest
from dataset_builder.runner import HERE, Runner
from dataset_builder.shelf import Shelf
from dataset_builder.sources.common import Context, SourceReport

if TYPE_CHECKING:
    from dataset_builder.spec import Dataset, Source

FOLDER = "raw-materials"
_FRONT_CHARACTERS = 8192
"""Read of a file to find its front matter."""


def document(
    origin: str,
    title: str,
    markdown: str,
    *,
    licence: str | None = None,
    fetched: str | None = None,
    etag: str | None = None,
) -> Document:
    """A Document with its id and digest filled in. `markdown` gets `\\n` line ends; `fetched` is an ISO date."""
    markdown = markdown.replace("\r\n", "\n").replace("\r", "\n")
    sha256 = hashlib.sha256(markdown.encode()).hexdigest()
    return Document(digest(origin), origin, " ".join(title.split())[:300], markdown, sha256, licence, fetched, etag)


def read_sources(
    dataset: "Dataset", root: Path, recipe_name: str, report: SourceReport | None = None, *, offline: bool = False,
    on: Runner = HERE,
) -> Shelf[Document]:
    """All documents of a recipe's sources, scrubbed, in the order of the sources and then of their origin.

    Writes `raw-materials/<recipe_name>/` and its lock below `root`. What was left out and why is in `report`. A
    document that two sources name is read once; one whose text equals another's is left out. Raises BuildProblem where
    a source cannot be reached, or where nothing is left.
    """
    report = report or SourceReport()
    root = Path(root).resolve()
    context = Context(root, report, offline, on)
    base = root / FOLDER / _safe_name(recipe_name)
    documents: Shelf[Document] = Shelf(folder=root / ".cache")
    entries: list[dict] = []
    origins: set[str] = set()
    texts: dict[str, str] = {}
    for source in dataset.sources:
        if source.kind == "hf":
            continue  # rows, not documents: sources.hf.read_rows
        found: Shelf[Document] = Shelf(folder=root / ".cache")
        order: list[tuple[str, int]] = []
        for item in _fetch(source, context):
            kept = _admitted(item, dataset, report, origins, texts)
            if kept is not None:
                order.append((kept.origin, len(found)))
                found.append(kept)
                report.counts["documents"] += 1
        order.sort()
        before = len(documents)
        documents.extend(_dated((found[place] for _, place in order), _folder(source, base)))
        entries.append(_store(source, documents, range(before, len(documents)), base, root))
        report.say(f"{source.kind} {_where(source)}: {len(found)} documents")
    _forget_others(base, {Path(entry["folder"]).name for entry in entries})
    if not documents and any(source.kind != "hf" for source in dataset.sources):
        raise BuildProblem(_nothing(report))
    write_whole(root / FOLDER / f"{_safe_name(recipe_name)}.lock.yaml", lock_text(entries))
    return documents


def _fetch(source: "Source", context: Context) -> Iterator[Document]:
    """The documents of one source, from its own module."""
    from dataset_builder.sources import files, repo, web

    if source.kind == "files":
        return files.fetch(source, context)
    if source.kind == "web":
        return web.fetch(source, context)
    if source.kind == "repo":
        return repo.fetch(source, context)
    raise AssertionError(f"source kind {source.kind} has no module")


def _admitted(
    item: Document, dataset: "Dataset", report: SourceReport, origins: set[str], texts: dict[str, str]
) -> Document | None:
    """The document scrubbed, or None, with the reason in the report."""
    from dataset_builder.scrub import scrub

    reason = refusal(item.licence, dataset.licences.allow, dataset.licences.deny)
    if reason is None and item.origin in origins:
        reason = "named by an earlier source already"
    if reason is None:
        markdown, found = scrub(item.markdown)
        if found:
            item = document(
                item.origin, item.title, markdown, licence=item.licence, fetched=item.fetched, etag=item.etag
            )
            for kind, number in found.items():
                report.counts[f"scrubbed: {kind}"] += number
        if item.sha256 in texts:
            reason = f"same text as {texts[item.sha256]}"
    if reason is not None:
        report.skip(item.origin, reason)
        return None
    origins.add(item.origin)
    texts[item.sha256] = item.origin
    return item


def refusal(licence: str | None, allow: tuple[str, ...] | None, deny: tuple[str, ...]) -> str | None:
    """Why a document of this licence may not be used; None where it may. SPDX ids are compared without regard to
    case."""
    if licence is not None and licence.lower() in {name.lower() for name in deny}:
        return f"licence {licence} is denied by dataset.licences.deny"
    if allow is not None and (licence is None or licence.lower() not in {name.lower() for name in allow}):
        return f"licence {licence or 'unknown'} is not in dataset.licences.allow"
    return None


def _nothing(report: SourceReport) -> str:
    reasons: dict[str, int] = {}
    for item in report.dropped:
        reasons[item.reason] = reasons.get(item.reason, 0) + 1
    told = "".join(
        f"\n  {number} x {reason}" for reason, number in sorted(reasons.items(), key=lambda pair: -pair[1])[:8]
    )
    return f"dataset.sources: no document could be read{told}\n  fix: check paths, `include` patterns and `licences`"


def _where(source: "Source") -> str:
    return getattr(source, "url", None) or getattr(source, "path", None) or getattr(source, "name", "")


def _folder(source: "Source", base: Path) -> Path:
    return base / f"{source.kind}-{digest(source.model_dump_json())[:8]}"


def _dated(documents: Iterable[Document], folder: Path) -> Iterator[Document]:
    """Each with the day on which its text was first read from there, which its file keeps; so that reading the same
    again, whoever gives no date or another one, changes no byte."""
    today, used = datetime.now(UTC).date().isoformat(), set()
    for item in documents:
        try:
            with (folder / file_name(item.origin, used)).open(encoding="utf-8") as stream:
                front = stream.read(_FRONT_CHARACTERS).partition("\n---\n")[0]
        except (OSError, ValueError):
            front = ""
        same = f"\nsha256: {item.sha256}" in front and f"origin: {item.origin}\n" in front
        known = re.search(r"^fetched: '?(\d{4}-\d\d-\d\d)'?$", front, re.M) if same else None
        yield replace(item, fetched=known[1] if known else item.fetched or today)


def _store(source: "Source", documents: Sequence[Document], places: range, base: Path, root: Path) -> dict:
    """Write one source's documents, remove those that are gone, and return its entry of the lock."""
    folder = _folder(source, base)
    listed, used, kept = [], set(), set()
    for item in map(documents.__getitem__, places):
        name = file_name(item.origin, used)
        kept.add(name)
        write_whole(folder / name, with_front_matter(item))
        listed.append(
            {
                "origin": item.origin,
                "file": name,
                "sha256": item.sha256,
                **({"licence": item.licence} if item.licence else {}),
            }
        )
    for path in sorted(folder.rglob("*.md")) if folder.is_dir() else ():
        if path.relative_to(folder).as_posix() not in kept:
            path.unlink()
    settings = source.model_dump(mode="json", exclude_defaults=True)
    first = documents[places[0]].origin if places and source.kind == "repo" else ""
    commit = re.search(r"@([0-9a-f]{40,64}):", first)
    return {
        "source": settings,
        **({"commit": commit[1]} if commit else {}),
        "folder": folder.relative_to(root).as_posix(),
        "documents": listed,
    }


def _forget_others(base: Path, kept: set[str]) -> None:
    """Remove folders of sources that the recipe no longer names."""
    import shutil

    for path in sorted(base.iterdir()) if base.is_dir() else ():
        if (
            path.is_dir()
            and not path.is_symlink()
            and path.name not in kept
            and re.fullmatch(r"[a-z]+-[0-9a-f]{8}", path.name)
        ):
            shutil.rmtree(path)


def file_name(origin: str, used: set[str]) -> str:
    """A safe relative path ending in .md for an origin; `used` (names in lower case, added to) keeps two origins apart
    on file systems that ignore case."""
    path = re.sub(
        r"@[0-9a-f]{40,64}:", "/", re.sub(r"^\w+://", "", origin)
    )  # a new commit is a changed file, not a new one
    parts = [_safe_name(part) for part in re.split(r"[/\\]+", path) if part not in ("", ".", "..")]
    name = "/".join(parts[-12:]) or "document"
    name = re.sub(r"\.(?:md|markdown)$", "", name)
    name = name if len(name) <= 180 else f"{name[:160]}-{digest(origin)[:8]}"
    candidate = f"{name}.md"
    if candidate.lower() in used:
        candidate = f"{name}-{digest(origin)[:8]}.md"
    used.add(candidate.lower())
    return candidate


def _safe_name(part: str) -> str:
    return re.sub(r"[^\w.@+-]", "_", part, flags=re.ASCII).lstrip(".")[:80] or "_"


def with_front_matter(item: Document) -> str:
    """The file's text: YAML front matter between `---` lines, then the Markdown as it is."""
    import yaml

    fields = {
        "origin": item.origin,
        "title": item.title,
        "licence": item.licence,
        "fetched": item.fetched,
        "sha256": item.sha256,
        "etag": item.etag,
    }
    front = yaml.safe_dump(
        {key: value for key, value in fields.items() if value is not None},
        allow_unicode=True,
        sort_keys=False,
        width=4096,
    )
    return f"---\n{front}---\n{item.markdown}"


def read_document(path: Path) -> Document:
    """A file of raw-materials/ back as the Document it was written from. Raises BuildProblem where its front matter is
    not ours."""
    import yaml

    text = path.read_text(encoding="utf-8")
    match = re.match(r"\A---\n(.*?\n)---\n", text, re.S)
    try:
        fields = yaml.safe_load(match[1]) if match else None
        item = document(
            fields["origin"],
            fields["title"],
            text[match.end() :],
            licence=fields.get("licence"),
            fetched=fields.get("fetched"),
            etag=fields.get("etag"),
        )
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        raise BuildProblem(
            f"{path}: its front matter is not that of a fetched document\n  fix: delete the file and run again"
        ) from None
    return item


def lock_text(entries: list[dict]) -> str:
    """The lock: which documents, by digest, each source gave. Equal documents give equal bytes: it holds no dates."""
    parts = ["# Which documents the dataset was made from; written by `recipe data`.\n"]
    parts.append("sources:\n" if entries else "sources: []\n")
    for entry in entries:
        parts += _indented(_yaml([{**entry, "documents": []}]), 0)
        if entry["documents"]:  # one by one: PyYAML builds a graph of all that it is given
            parts[-1] = parts[-1].replace("documents: []", "documents:")
            parts += (line for one in entry["documents"] for line in _indented(_yaml([one]), 2))
    return "".join(parts)


def _yaml(value: object) -> str:
    import yaml

    return yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=4096)


def _indented(text: str, blanks: int) -> list[str]:
    return [f"{' ' * blanks}{line}" for line in text.splitlines(keepends=True)]


def write_whole(path: Path, text: str | Iterable[str]) -> None:
    """Write UTF-8 text to `path`, or the pieces of one, whole or not at all; an unchanged file is not touched."""
    _write_whole(path, [text.encode()] if isinstance(text, str) else (piece.encode() for piece in text))


def write_bytes_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path` whole or not at all; an unchanged file is not touched. Raises BuildProblem where the disk
    refuses."""
    _write_whole(path, [data])


def _write_whole(path: Path, pieces: Iterable[bytes]) -> None:
    try:
        if isinstance(pieces, list) and path.is_file() and path.read_bytes() == b"".join(pieces):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.writelines(pieces)
                stream.flush()
                os.fsync(stream.fileno())
            if path.is_file() and filecmp.cmp(temporary, path, shallow=False):
                os.unlink(temporary)
                return
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise BuildProblem(
            f"{path}: cannot be written: {error.strerror or error}\n  fix: check space and permissions of {FOLDER}/"
        ) from error
