"""Files that appear under their name only when complete."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


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
