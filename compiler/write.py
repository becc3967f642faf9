"""Files are written whole or not at all: a temporary file beside the target, fsync, rename."""

import os
import tempfile
from pathlib import Path


def write_bytes(path: str | Path, data: bytes) -> None:
    """Put `data` at `path`, making its folders. On any error the old file, or its absence, stays, and no temporary
    file.

    Raises OSError with `filename` set, which `problems.reporting` prints.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
    except OSError as error:
        error.filename = str(path)  # the user knows the target, not the temporary name
        raise
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, _mode(path))
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None
        raise
    _sync_folder(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Put `text` at `path` as UTF-8 with the line ends it has; see `write_bytes`."""
    write_bytes(path, text.encode())


def _mode(path: Path) -> int:
    """The file's own permissions, or those a plain open() would give; mkstemp gives 0600, which no colleague can
    read."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets a folder be opened (Windows does not)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems refuse; the file's own data is on disk already
    finally:
        os.close(handle)
