"""Files that appear only when complete and reveal later changes, and safe opening of files of others.

A file's digest is stored inside the file, in places that safetensors and zip archives have for such data. So file and
digest always come from the same write, whenever a writer is killed.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fastshap_lab.errors import UserError

_DIGEST = "sha256"
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path, whose file replaces ``path`` when the block ends without an error.

    The content is on disk before the name changes, so that a full disk or a power cut never leaves half a file. If the
    block raises, the temporary file is removed and ``path`` is not changed. Missing parent folders are created.

    Args:
        path: File to create or replace.

    Raises:
        OSError: The file cannot be written; the error names ``path``, unlike that of a failing write.
        UserError: ``path`` is a folder.
    """
    path = Path(path)
    refuse_folder(path)
    # The suffix stays at the end, since many writers choose the format by it.
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
        with suppress(OSError):  # the folder itself may be missing
            temporary.unlink()


def refuse_folder(path: Path) -> None:
    """Raise a ``UserError`` if the path of a file to write is a folder."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder, and a file must be written in its place; move it away")


def leftovers(folder: Path) -> list[Path]:
    """Return the temporary files and model folders below a folder that killed writers have left."""
    return [path for path in folder.rglob(".*") if re.fullmatch(r"\..+\.[0-9a-f]{8}(\.\w+)?", path.name)]


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed writers have left below a folder, to which no one else may be writing."""
    for path in leftovers(folder):
        remove(path)


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it exists."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Return the size of a file, or of all files below a folder, in bytes."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file())


def write_atomically(path: Path | str, data: bytes | memoryview | str) -> None:
    """Write a file whole or not at all.

    Args:
        path: File to create or replace.
        data: Content of the file; text is written as UTF-8 with unchanged line ends.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def sha256(*parts: str | bytes | memoryview) -> str:
    """Return the SHA-256 digest of the concatenated parts in hexadecimal; text is encoded as UTF-8."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()


def write_tensors(path: Path, tensors: dict[str, Tensor], identity: str) -> None:
    """Write a safetensors file with its digest in the header.

    Args:
        path: File to create or replace.
        tensors: Content of the file.
        identity: Text that identifies the tensors; the digest covers it, so that they cannot be read as others.
    """
    write_atomically(path, save(tensors, {_DIGEST: sha256(identity, "\n", save(tensors))}))


def read_tensors(path: Path, identity: str) -> dict[str, Tensor] | None:
    """Return the tensors that ``write_tensors`` wrote, or None if the file is missing, changed or of another identity.

    Args:
        path: File to read.
        identity: Text that identifies the tensors.
    """
    try:
        content = path.read_bytes()
        tensors = load(content)
    except (FileNotFoundError, IsADirectoryError, SafetensorError):
        return None
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    # Equal tensors are always saved as equal bytes.
    same = header.get("__metadata__", {}).get(_DIGEST) == sha256(identity, "\n", save(tensors))
    return tensors if same else None


def write_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint with its digest, which is stored as the comment of the file's zip archive.

    Args:
        path: File to create or replace.
        checkpoint: Tensors and plain values, nested.
    """
    content = BytesIO()
    torch.save(checkpoint, content)  # in memory, since its error for a full disk would be misleading
    with content.getbuffer() as archive:
        comment = sha256(path.name, "\n", archive).encode()
    content.seek(-2, os.SEEK_END)  # the length of the comment, which is 0 in PyTorch's archives
    content.write(len(comment).to_bytes(2, "little") + comment)
    write_atomically(path, content.getbuffer())


def is_intact(path: Path) -> bool:
    """Return whether a file is unchanged since ``write_checkpoint`` wrote it under this name."""
    return _intact(path) is not None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the checkpoint that ``write_checkpoint`` wrote, on the CPU.

    Raises:
        UserError: The file is missing, or was changed.
    """
    content = _intact(path)
    if content is None:
        raise UserError(f"{path}: missing, or changed since it was written; delete {path.parent} to train anew")
    return torch.load(BytesIO(content), map_location="cpu", weights_only=True)


def _intact(path: Path) -> bytes | None:
    if not path.is_file():
        return None
    content = path.read_bytes()
    archive, length, comment = memoryview(content)[:-66], content[-66:-64], content[-64:]
    found = sha256(path.name, "\n", archive, b"\0\0").encode()
    return content if (length, comment) == (len(found).to_bytes(2, "little"), found) else None


def open_file(path: Path | str) -> BinaryIO:
    """Return a file opened for reading. A path that is no regular file raises an error, and never blocks.

    Args:
        path: File to open; links are followed.

    Raises:
        OSError: The file cannot be opened, or is a folder, or is a FIFO, a socket or a device, which may never end.
    """
    # Checked before opening, which may have an effect on a device, and after it, since the path may have changed.
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
