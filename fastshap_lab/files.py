"""Files that appear under their name only when complete."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
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
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: many writers choose the format by it.
    temporary = path.with_name(f".{path.stem}.{uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path | str, data: bytes | str) -> None:
    """Write a file whole or not at all; text as UTF-8 with its line ends kept.

    Args:
        path: The file to make or replace.
        data: Its content.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
