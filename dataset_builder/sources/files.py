"""Source `files`: documents in a folder of this machine."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal

from dataset_builder.problems import BuildProblem
from dataset_builder.rows import Document
from dataset_builder.sources.common import MAX_DOCUMENT_BYTES, Context, File, Unreadable, documents
from dataset_builder.strict import Field, Strict

MAX_FILES = 100_000


class FilesSource(Strict):
    """Documents in a folder (or one file) of this machine."""

    kind: Literal["files"]
    path: str
    """Folder or file, relative to the current directory."""
    include: tuple[str, ...] = Field(default=("**/*",), strict=False)
    """Glob patterns relative to `path`; files of a kind that cannot be read are skipped and counted."""
    exclude: tuple[str, ...] = Field(default=(), strict=False)
    """Glob patterns taken out again."""
    licence: str | None = None
    """SPDX id of the documents, where the folder does not say."""


def fetch(spec: FilesSource, context: Context) -> Iterator[Document]:
    """Every readable document of the folder, sorted by path. Raises BuildProblem where the path does not exist."""
    folder = Path(os.path.expanduser(spec.path))
    folder = folder if folder.is_absolute() else context.root / folder
    if not folder.exists():
        raise BuildProblem(
            f"dataset.sources: {spec.path} does not exist\n"
            f"  fix: paths are relative to the folder you start `recipe` in ({context.root})"
        )
    from dataset_builder.licences import licence_of_folder

    alone = folder.is_file()
    licence = spec.licence or (None if alone else licence_of_folder(folder))
    paths = [folder] if alone else walk(folder, spec.include, spec.exclude, context)
    names = ("" if alone else path.relative_to(folder).as_posix() for path in paths)
    files = (_file(path, origin_of(spec.path, name), spec.licence, licence)
             for path, name in zip(paths, names, strict=True))  # fmt: skip
    yield from documents(files, context)


def walk(folder: Path, include: Sequence[str], exclude: Sequence[str], context: Context) -> list[Path]:
    """Files of the folder that the patterns choose, sorted; links that lead out of it are skipped and counted, `.git`
    is not entered."""
    from pathspec import PathSpec

    wanted, unwanted = PathSpec.from_lines("gitignore", include), PathSpec.from_lines("gitignore", exclude)
    home, found = folder.resolve(), []
    for base, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if name not in (".git", "node_modules", ".venv", "__pycache__"))
        for name in sorted(names):
            path = Path(base, name)
            relative = path.relative_to(folder).as_posix()
            if not wanted.match_file(relative) or unwanted.match_file(relative):
                continue
            if path.is_symlink() and not _inside(path, home):
                context.report.skip(relative, "a link that leads out of the folder")
                continue
            found.append(path)
            if len(found) > MAX_FILES:
                raise BuildProblem(f"{folder}: more than {MAX_FILES:,} files\n  fix: narrow `include`")
    return sorted(found)


def _inside(path: Path, home: Path) -> bool:
    try:
        return path.resolve(strict=True).is_relative_to(home)
    except (OSError, RuntimeError):
        return False


def _file(path: Path, origin: str, licence: str | None, around: str | None) -> File:
    """The file as it lies there, or why it is no document."""
    from dataset_builder.formats import readable

    try:
        if not readable(path.name):
            raise Unreadable(f"files ending in {path.suffix or 'nothing'} are not documents")
        if not path.is_file():
            raise Unreadable("not a regular file")
        size = path.stat().st_size
        if size > MAX_DOCUMENT_BYTES:
            raise Unreadable(f"{size:,} bytes; at most {MAX_DOCUMENT_BYTES:,} are read")
        return File(origin, path.name, path.read_bytes(), licence, around)
    except (Unreadable, OSError) as error:
        problem = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return File(origin, path.name, b"", licence, around, problem)


def origin_of(stated: str, relative: str) -> str:
    """The document's path as the recipe writes it, so that the lock is the same on every machine; forward slashes,
    printable.

    >>> origin_of("./my-notes/", "a/b.md")
    'my-notes/a/b.md'
    """
    return PurePosixPath(PurePath(stated).as_posix(), relative).as_posix().encode("utf-8", "backslashreplace").decode()
