"""Pictures in any number, one after the other: of folders, lists, Parquet files, WebDataset shards or the hub."""

import os
import re
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from glob import glob, has_magic
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fastshap_lab.errors import UserError
from fastshap_lab.files import open_file
from fastshap_lab.images import EXTENSIONS

_LISTS = {".txt", ".lst", ".list"}
_ROWS = 64  # of a table in memory


@dataclass(frozen=True)
class Picture:
    """A picture that is still encoded.

    Attributes:
        name: Its path, or its place in the file that it comes from; printable as UTF-8.
        content: Its file, or what such a file would hold.
    """

    name: str
    content: Path | bytes


class Source(ABC):
    """Pictures in an order that is always the same, of which few are in memory at a time."""

    @abstractmethod
    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """Yield the pictures from a position on; those before are not read.

        Raises:
            UserError: A file that holds pictures is damaged.
        """

    @abstractmethod
    def entries(self) -> Iterator[tuple[str, int]]:
        """Yield for each file what tells it from others (name, size and time of its change), and its pictures' number.

        Raises:
            UserError: A file that holds pictures is damaged.
        """

    @cached_property
    def _scanned(self) -> tuple[int, str]:
        number, digest = 0, sha256()
        for identity, held in self.entries():
            number += held
            digest.update(f"{identity}\n".encode())
        return number, digest.hexdigest()

    def __len__(self) -> int:
        return self._scanned[0]

    @property
    def digest(self) -> str:
        """SHA-256 of the names, sizes and times of change of all files: their content is not read for it."""
        return self._scanned[1]


class Files(Source):
    """Files of a picture each, those that are missing among them.

    Args:
        find: Returns their paths, in order.
    """

    def __init__(self, find: Callable[[], Iterator[Path]]) -> None:
        self._find = find

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """Yield the files."""
        for path in islice(self._find(), start, None):
            yield Picture(_printable(path), path)

    def entries(self) -> Iterator[tuple[str, int]]:
        """Yield what is known of each file."""
        for path in self._find():
            yield _identity(path), 1


class Parquet(Source):
    """Images in Parquet files, as bytes or as the hub's data sets have them, in a struct with a field ``bytes``.

    Args:
        paths: The files.
        column: Their column; the first that can hold images if None.
    """

    def __init__(self, paths: Sequence[Path], column: str | None = None) -> None:
        self._paths, self._column = paths, column

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """Yield the rows; one without bytes is a picture that cannot be read."""
        for path in self._paths:
            with self._opened(path) as (file, column):
                row = 0
                for group in range(file.num_row_groups):
                    if start >= row + (rows := file.metadata.row_group(group).num_rows):
                        row += rows
                        continue
                    for batch in file.iter_batches(_ROWS, row_groups=[group], columns=[column]):
                        for value in batch.column(0).to_pylist():
                            if row >= start:
                                content = value["bytes"] if isinstance(value, dict) else value
                                yield Picture(f"{_printable(path)}#{row}", content or b"")
                            row += 1
                start = max(0, start - row)

    def entries(self) -> Iterator[tuple[str, int]]:
        """Yield what is known of each file."""
        for path in self._paths:
            with self._opened(path) as (file, column):
                yield f"{_identity(path)} {column}", file.metadata.num_rows

    @contextmanager
    def _opened(self, path: Path) -> Iterator[tuple[pq.ParquetFile, str]]:
        try:
            # Read a piece at a time: a group of rows, which would be read whole, may be all of a file.
            with open_file(path) as content, pq.ParquetFile(content, buffer_size=2**20) as file:
                yield file, _image_column(path, file.schema_arrow, self._column)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path}: cannot be read as a Parquet file: {_brief(error)}") from None


class Shards(Source):
    """Pictures in uncompressed tar files, as WebDataset writes them; whatever else is in them is passed over.

    Args:
        paths: The files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """Yield the members that have a picture's extension."""
        for path in self._paths:
            with _opened_tar(path) as tar:
                for member in _members(tar):
                    if start:
                        start -= 1
                        continue
                    with tar.extractfile(member) as file:
                        yield Picture(f"{_printable(path)}/{_printable(member.name)}", file.read())

    def entries(self) -> Iterator[tuple[str, int]]:
        """Yield what is known of each file; of all members the headers are read."""
        for path in self._paths:
            with _opened_tar(path) as tar:
                yield _identity(path), sum(1 for _ in _members(tar))


class HubImages(Source):
    """Images of a data set of the Hugging Face hub, which are copied to its cache once.

    Args:
        path: ``user/name``.
        split: Of the data set; the only one if None.
        column: Of the images; the first that holds any if None.

    Raises:
        UserError: There is no such data set, split or column.
    """

    def __init__(self, path: str, split: str | None = None, column: str | None = None) -> None:
        import datasets

        try:
            found = datasets.load_dataset(path)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"{path}: neither there nor a data set on the hub: {_brief(error)}") from None
        if split not in found and (split is not None or len(found) > 1):
            given = "several splits" if split is None else f"no split {split}"
            raise UserError(f"{path}: has {given}; choose one of {', '.join(found)}")
        self._split = split or next(iter(found))
        rows = found[self._split]
        chosen = _image_column(path, rows.features.arrow_schema, column)
        self._path, self._rows = path, rows.select_columns([chosen]).cast_column(chosen, datasets.Image(decode=False))

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """Yield the rows; one without an image is a picture that cannot be read."""
        rows = self._rows.select(range(start, len(self._rows)) if start < len(self._rows) else [])
        for batch in rows.with_format("arrow").iter(_ROWS):
            for value in batch.column(0).to_pylist():
                yield Picture(f"{self._path}/{self._split}#{start}", (value or {}).get("bytes") or b"")
                start += 1

    def entries(self) -> Iterator[tuple[str, int]]:
        """Yield what is known of each cached file, whose path says of which version of the data set it is."""
        for file in self._rows.cache_files:
            yield file["filename"], 0
        yield f"{self._path}/{self._split} {self._rows.column_names}", len(self._rows)


class Joined(Source):
    """Several sources, one after the other.

    Args:
        sources: At least one.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """Yield the pictures of each."""
        for source in self._sources:
            if start < len(source):
                yield from source.pictures(start)
            start = max(0, start - len(source))

    def entries(self) -> Iterator[tuple[str, int]]:
        """Yield what each is made of."""
        for source in self._sources:
            yield from source.entries()


def open_source(images: str, split: str | None = None, column: str | None = None) -> Source:
    """Return the pictures that a text names.

    Args:
        images: A picture; a folder of pictures, of Parquet files or of tar files; one such file, or several by a
            pattern (``shards/*.tar``); a text file with a path in each line, from its folder; or ``user/name`` of the
            hub.
        split: Of a data set of the hub.
        column: Of the images in Parquet files and data sets.

    Raises:
        UserError: It names none of these.
    """
    path = Path(images).expanduser()
    if path.is_dir():
        return _in_folder(path, column)
    if has_magic(images) and not path.exists():
        paths = sorted(map(Path, glob(str(path))))  # noqa: PTH207 - a pattern may begin anywhere
        if not paths:
            raise UserError(f"{images}: no file fits this pattern")
        return Joined([open_source(str(one), split, column) for one in paths])
    if not path.exists():
        if re.fullmatch(r"[\w.-]+/[\w.-]+", images):
            return HubImages(images, split, column)
        raise UserError(f"{images}: no such file or folder, and no user/name of the hub")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return Parquet([path], column)
    if suffix == ".tar":
        return Shards([path])
    if suffix in EXTENSIONS:
        return Files(lambda: iter([path]))
    if suffix in _LISTS:
        return Files(lambda: _listed(path))
    raise UserError(f"{images}: unknown; a picture, .parquet, .tar or a list of paths ({' '.join(sorted(_LISTS))})")


def _in_folder(path: Path, column: str | None) -> Source:
    if tables := _below(path, "*.parquet"):
        return Parquet(tables, column)
    if shards := _below(path, "*.tar"):
        return Shards(shards)
    if next(_walked(path), None) is None:
        raise UserError(f"{path}: no picture, Parquet or tar file in it ({' '.join(sorted(EXTENSIONS))})")
    return Files(lambda: _walked(path))


def _below(folder: Path, pattern: str) -> list[Path]:
    """Return the files in a folder and those in it that are not hidden, sorted."""
    found = sorted(folder.rglob(pattern))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _walked(folder: Path) -> Iterator[Path]:
    """Yield the pictures in a folder as ``images.images_in`` finds them, sorted, with the names of few in memory."""
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208 - names alone
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    for name in names:
        path = folder / name
        if path.is_dir():
            yield from _walked(path)
        elif path.suffix.lower() in EXTENSIONS:
            yield path


def _listed(path: Path) -> Iterator[Path]:
    with open_file(path) as file:
        for line in file:
            if line.strip():
                yield path.parent / os.fsdecode(line.strip())


def _identity(path: Path) -> str:
    try:
        status = path.stat()
    except OSError as error:
        return f"{_printable(path)} {error.strerror}"
    return f"{_printable(path)} {status.st_size} {status.st_mtime_ns}"


def _printable(path: Path | str) -> str:
    """Return a path as text that UTF-8 can write, whatever bytes a file is called."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _image_column(place: Path | str, schema: pa.Schema, column: str | None) -> str:
    """Return the column of images that is wanted, or else the first: marked as such, or of bytes."""
    found = [field.name for field in schema if _holds_bytes(field.type)]
    if not found or column not in (None, *found):
        wanted = "column of images" if column is None else f"column {column} of images"
        raise UserError(f"{place}: has no {wanted}, but {', '.join(found or schema.names)}")
    return column or found[0]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


@contextmanager
def _opened_tar(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with open_file(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            yield tar
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{path}: cannot be read as an uncompressed tar file: {_brief(error)}") from None


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members.clear()  # of which it would remember all
        name = Path(member.name)
        if member.isreg() and not member.issparse() and name.suffix.lower() in EXTENSIONS and name.name[:1] != ".":
            yield member
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # where it ends, or what follows is lost
        raise tarfile.ReadError("unexpected end of data")


def _brief(error: Any) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())[:300] or type(error).__name__
