"""Files that appear under their name only when complete, and those of others, opened with care."""

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block ends well.

    The content is on disk before the name changes, so a reader, a full disk or a power cut never meets half a file.
    If the block raises, the temporary file is removed and what ``path`` held before stays. Missing parent folders are
    made.

    Args:
        path: The file to make or replace.

    Raises:
        OSError: It cannot be written; names ``path``, which a failing write by itself would not.
    """
    path = Path(path)
    # The suffix stays last: many writers choose the format by it.
    temporary = path.with_name(f".{path.stem}.{uuid4().hex[:8]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):  # the folder may be what is missing
            temporary.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left of files and model folders below a folder, where nobody else may be writing."""
    for path in list(folder.rglob(".*")):
        if re.fullmatch(r"\..+\.[0-9a-f]{8}(\.\w+)?", path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def write_atomically(path: Path | str, data: bytes | memoryview | str) -> None:
    """Write a file whole or not at all; text as UTF-8 with its line ends kept.

    Args:
        path: The file to make or replace.
        data: Its content.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def open_file(path: Path | str) -> BinaryIO:
    """Return a file opened for reading, without waiting for whatever else the name may stand for.

    Args:
        path: The file; links are followed.

    Raises:
        OSError: It cannot be opened, or is a FIFO, a socket or a device, which may never end, or a folder.
    """
    # Asked before as well as after: opening a device may already do something, and the name may change in between.
    _check_regular(Path(path).stat(), path)
    file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    try:
        _check_regular(os.fstat(file.fileno()), path)
    except OSError:
        file.close()
        raise
    return file


def _check_regular(status: os.stat_result, path: Path | str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"is {kind}, not a file", str(path))
