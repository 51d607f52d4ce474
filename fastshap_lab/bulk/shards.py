"""Explanations of many pictures as Parquet files of so many pictures each, which appear whole or not at all."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pds
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fastshap_lab.bulk.explaining import Explained, explained
from fastshap_lab.bulk.sources import Source
from fastshap_lab.errors import UserError, check_max_batch
from fastshap_lab.files import open_file, remove_leftovers, replacing, write_atomically
from fastshap_lab.inference import AmortizedExplainer, Explanation, check_refinement
from fastshap_lab.progress import Progress

FOLDER, FAILED = "explanations", "failed.jsonl"
"""Of the shards in a folder, and of the pictures that could not be read."""

_HEADER, _FAILED = b"fastshap_lab", b"failed"  # in the metadata of each file
_ROWS = 64  # in memory while they are read


@dataclass(frozen=True)
class Settings:
    """What decides over the explanations of given pictures, beside the explainer.

    Attributes:
        top: Classes to keep of each picture, the most probable ones, in this order; all in theirs if None.
        refine: As for ``AmortizedExplainer.explain``.
        tolerance: The same.
        shard: Pictures to a file.
    """

    top: int | None = None
    refine: int = 0
    tolerance: float | None = None
    shard: int = 4096

    def check(self, num_players: int, prefix: str) -> None:
        """Raise a ``UserError`` where a setting makes no sense.

        Args:
            num_players: Of the explainer.
            prefix: Of the settings' names, for errors.
        """
        for name in ("top", "shard"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"{prefix}{name}={value}: must be at least 1")
        if self.tolerance is not None and not self.refine:
            raise UserError(f"{prefix}tolerance: says when to stop refining; give {prefix}refine, too")
        if self.refine:
            check_refinement(self.refine, self.tolerance, num_players)


def write_explanations(
    explainer: AmortizedExplainer,
    source: Source,
    folder: Path,
    settings: Settings,
    identity: str,
    max_batch: int,
) -> tuple[int, int]:
    """Write the explanations of all pictures that are not there yet; return how many pictures there are, and failed.

    Shards are ``explanations/000000.parquet``, …; pictures that cannot be read are lines of ``failed.jsonl``. What is
    in a shard does not depend on which others are there, nor on where an earlier start was stopped.

    Args:
        explainer: On the device that it is to run on.
        source: The pictures.
        folder: Where the files go; nobody else may be writing there.
        settings: What to keep of them.
        identity: Of explainer, pictures and settings: shards of another one are not taken over.
        max_batch: Pictures at once.

    Raises:
        UserError: A setting makes no sense; the folder holds shards of another identity; no picture can be read; or
            pictures have gone meanwhile.
    """
    check_max_batch(max_batch)
    settings.check(explainer.grid.num_players, "")
    number, place = len(source), folder / FOLDER
    if not number:
        raise UserError("there is no picture to explain")
    sizes = [min(settings.shard, number - first) for first in range(0, number, settings.shard)]
    paths = [place / f"{index:06d}.parquet" for index in range(len(sizes))]
    if other := next((path for path in place.glob("*.parquet") if _identity(path) not in (identity, None)), None):
        raise UserError(f"{other}: of other pictures, settings or another explainer; choose another folder")
    remove_leftovers(place)
    missing = [index for index, path in enumerate(paths) if _identity(path) is None]
    header = _header(explainer, settings, identity)
    left = sum(sizes[index] for index in missing)
    with Progress("explain", number, number - left) as progress:
        shown = _Rate(progress, left)
        for first, last in _stretches(missing):
            pictures = islice(source.pictures(first * settings.shard), (last - first) * settings.shard)
            options = max_batch, settings.refine, settings.tolerance, settings.shard
            with closing(explained(explainer, pictures, *options)) as batches:
                for index in range(first, last):
                    _write(paths[index], shown(_of_one_shard(batches, sizes[index])), header)
    failed = [line for path in paths for line in json.loads(_metadata(path)[_FAILED])]
    write_atomically(folder / FAILED, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in failed))
    if len(failed) == number:
        raise UserError(f"{folder / FAILED}: none of {number:,} pictures could be read")
    return number, len(failed)


class _Rate:
    """Counts pictures, and shows how many are explained in a second and how long the rest takes."""

    def __init__(self, progress: Progress, left: int) -> None:
        self._progress, self._left, self._done, self._start = progress, left, 0, time.monotonic()

    def __call__(self, batches: Iterator[Explained]) -> Iterator[Explained]:
        for batch in batches:
            yield batch
            self._done += len(batch.names)
            rate = self._done / max(time.monotonic() - self._start, 1e-9)
            seconds = (self._left - self._done) / rate
            time_left = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"
            self._progress.say(f"{rate:,.{0 if rate >= 10 else 1}f} pictures per second, {time_left} left")
            self._progress.advance(len(batch.names))


def _stretches(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the first of numbers that follow each other, and the one after the last of them."""
    for _, group in groupby(enumerate(numbers), lambda one: one[1] - one[0]):
        stretch = [number for _, number in group]
        yield stretch[0], stretch[-1] + 1


def _of_one_shard(batches: Iterator[Explained], number: int) -> Iterator[Explained]:
    while number > 0:
        batch = next(batches, None)
        if batch is None:
            raise UserError("pictures have gone since they were counted; the same command counts them again")
        number -= len(batch.names)
        yield batch


def _write(path: Path, batches: Iterator[Explained], header: Mapping[str, Any]) -> None:
    """Write a shard; each batch is a group of rows in it, so that no more than that is in memory."""
    schema, failed = _schema(header), []
    options = {"compression": "zstd", "write_page_checksum": True}
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, **options) as writer:
        for batch in batches:
            pairs = list(zip(batch.names, batch.errors, strict=True))
            failed += [{"path": name, "error": error} for name, error in pairs if error is not None]
            if batch.explanation is not None:
                names = [name for name, error in pairs if error is None]
                writer.write_table(_table(names, batch.explanation, schema))
        writer.add_key_value_metadata({_FAILED: json.dumps(failed)})


def _header(explainer: AmortizedExplainer, settings: Settings, identity: str) -> dict[str, Any]:
    """Return what all shards say of themselves, as JSON values."""
    top = settings.top if settings.top is not None and settings.top < len(explainer.class_names) else None
    return {
        "format": 1,
        "identity": identity,
        "classes": explainer.class_names,
        "top": top,
        "link": explainer.link,
        "source": "surrogate" if explainer.classifier is None else "classifier",
        "task": explainer.task.to_json(),
        "answers": explainer.task.answers,
        "grid": list(explainer.grid.shape),
        "refined": settings.refine > 0,
    }


def _schema(header: Mapping[str, Any]) -> pa.Schema:
    """Return the columns of a shard.

    Values take half precision where they are of probabilities, whose links leave them small; targets of a regression
    may be larger than that reaches.
    """
    number = header["top"] or len(header["classes"])
    kind = pa.float16() if header["answers"] == "probabilities" else pa.float32()
    values = pa.list_(kind, number * header["grid"][0] * header["grid"][1])
    fields = {"path": pa.string()}
    if header["top"]:
        fields["classes"] = pa.list_(pa.int32(), number)
    fields |= {
        header["answers"]: pa.list_(pa.float32(), number),
        "values": values,
        "efficiency_gap": pa.list_(pa.float32(), number),
    }
    if header["refined"]:
        fields |= {"stderr": values, "evaluations": pa.int32()}
    columns = [pa.field(name, one, nullable=False) for name, one in fields.items()]
    return pa.schema(columns, {_HEADER: json.dumps(header)})


def _table(names: list[str], explanation: Explanation, schema: pa.Schema) -> pa.Table:
    """Return the rows of some pictures."""
    arrays: dict[str, Tensor] = {
        explanation.task.answers: explanation.predictions,
        "values": explanation.values,
        "efficiency_gap": explanation.efficiency_gap,
    }
    if explanation.stderr is not None:
        arrays["stderr"] = explanation.stderr
    if "classes" in schema.names:
        order = explanation.task.ranks(explanation.predictions).argsort(dim=1, descending=True, stable=True)
        kept = order[:, : schema.field("classes").type.list_size]
        rows = torch.arange(len(kept)).unsqueeze(1)
        arrays = {name: array[rows, kept] for name, array in arrays.items()} | {"classes": kept}
    arrays["evaluations"] = explanation.evaluations
    columns = [_column(arrays[field.name], field.type) for field in list(schema)[1:]]
    return pa.table([pa.array(names), *columns], schema=schema)


def _column(array: Tensor, kind: pa.DataType) -> pa.Array:
    of_lists = pa.types.is_fixed_size_list(kind)
    flat = pa.array(array.numpy().reshape(-1).astype((kind.value_type if of_lists else kind).to_pandas_dtype()))
    return pa.FixedSizeListArray.from_arrays(flat, type=kind) if of_lists else flat


def _metadata(path: Path) -> dict[bytes, bytes]:
    """Return what a shard says of itself; nothing where it is missing or no whole Parquet file."""
    try:
        with open_file(path) as file, pq.ParquetFile(file) as shard:
            return shard.metadata.metadata or {}
    except (OSError, pa.ArrowException):
        return {}


def _identity(path: Path) -> str | None:
    """Return whose explanations a shard holds; None where it is missing, damaged or somebody else's."""
    try:
        return str(json.loads(_metadata(path)[_HEADER])["identity"])
    except (KeyError, ValueError, TypeError):
        return None


@dataclass(frozen=True)
class ExplainedPicture:
    """What a shard holds of one picture.

    Attributes:
        path: Of the picture, or its place in the file that it comes from.
        classes: Names of the k classes that were kept, in the order of the arrays.
        predictions: (k,), of the model: probabilities, or a regression's answers.
        values: (k, rows, columns), the Shapley value of each player for each class, float32.
        efficiency_gap: (k,), what the network's raw values missed of the total.
        stderr: Standard errors of refined values, in the shape of these, else None.
        evaluations: Of the game, that the refinement took; 0 without one.
    """

    path: str
    classes: list[str]
    predictions: np.ndarray
    values: np.ndarray
    efficiency_gap: np.ndarray
    stderr: np.ndarray | None
    evaluations: int


class Explanations:
    """Explanations on disk, of which iteration reads a few at a time, in order.

    Attributes:
        classes: Names of all K classes.
        grid: Rows and columns of the players.
        link: The space of the values.
        source: Whose predictions are kept: ``classifier`` or ``surrogate``.
        top: Number of classes that were kept of each picture; all if None.
        dataset: The same as PyArrow has it, to filter, to choose columns, or to convert.

    Args:
        folder: Holds the shards.

    Raises:
        UserError: There are none, or they are damaged or not of one kind.
    """

    def __init__(self, folder: str | Path) -> None:
        place = Path(folder) / FOLDER if (Path(folder) / FOLDER).is_dir() else Path(folder)
        self._failed = place.with_name(FAILED)
        self._paths = sorted(place.glob("*.parquet")) if place.is_dir() else []
        if not self._paths:
            raise UserError(
                f"{folder}: no explanations in it, as the stage explain and fastshap-lab explain write them"
            )
        self._size, headers = 0, set[str]()
        for path in self._paths:
            try:
                with open_file(path) as file, pq.ParquetFile(file) as shard:
                    header = json.loads(shard.metadata.metadata[_HEADER])
                    if not shard.schema_arrow.equals(_schema(header)):
                        raise ValueError("its columns are others")
                    self._size += shard.metadata.num_rows
            except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
                raise UserError(f"{path}: damaged or no explanations ({_brief(error)})") from None
            headers.add(json.dumps(header))
        if len(headers) > 1:
            raise UserError(
                f"{folder}: holds explanations of {len(headers)} kinds; read them from folders of their own"
            )
        self.classes: list[str] = header["classes"]
        self.grid: tuple[int, int] = (header["grid"][0], header["grid"][1])
        self.link: str = header["link"]
        self.source: str = header["source"]
        self.top: int | None = header["top"]
        self._answers: str = header["answers"]
        self.dataset: pds.Dataset = pds.dataset([str(path) for path in self._paths], format="parquet")

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        kept = f"{self.top} of {len(self.classes)}" if self.top else f"{len(self.classes)}"
        rows, columns = self.grid
        return (
            f"Explanations of {len(self):,} pictures in {len(self._paths):,} files: Shapley values of {rows}×{columns} "
            f"players for {kept} classes, link {self.link}"
        )

    def __iter__(self) -> Iterator[ExplainedPicture]:
        """Yield what is kept of each picture.

        Raises:
            UserError: A file was damaged.
        """
        for path in self._paths:
            try:
                with open_file(path) as file, pq.ParquetFile(file, page_checksum_verification=True) as shard:
                    for batch in shard.iter_batches(_ROWS):
                        yield from self._rows(batch)
            except (OSError, pa.ArrowException) as error:
                raise UserError(f"{path}: damaged ({_brief(error)})") from None

    @property
    def failed(self) -> list[dict[str, str]]:
        """The ``path`` and the ``error`` of each picture that could not be read, once all are explained."""
        if not self._failed.is_file():
            return []
        with self._failed.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def _rows(self, batch: pa.RecordBatch) -> Iterator[ExplainedPicture]:
        arrays = {
            field.name: batch.column(field.name).flatten().to_numpy(zero_copy_only=False).reshape(len(batch), -1)
            for field in batch.schema
            if pa.types.is_fixed_size_list(field.type)
        }
        evaluations = batch.column("evaluations").to_pylist() if "evaluations" in batch.schema.names else None
        for row, path in enumerate(batch.column("path").to_pylist()):
            chosen = arrays["classes"][row] if "classes" in arrays else range(len(self.classes))
            maps = {
                name: arrays[name][row].astype(np.float32).reshape(-1, *self.grid)
                for name in ("values", "stderr")
                if name in arrays
            }
            yield ExplainedPicture(
                path,
                [self.classes[number] for number in chosen],
                arrays[self._answers][row].copy(),
                maps["values"],
                arrays["efficiency_gap"][row].copy(),
                maps.get("stderr"),
                0 if evaluations is None else evaluations[row],
            )


def read_explanations(folder: str | Path) -> Explanations:
    """Return explanations on disk, of which nothing but the number of rows is read before they are iterated over.

    Args:
        folder: A run folder of the stage explain, the folder that ``fastshap-lab explain --parquet`` wrote to, or the
            folder ``explanations`` in one of these.

    Raises:
        UserError: There are none in it, or they are damaged.

    Example:
        >>> explanations = read_explanations("runs/explain/…")  # doctest: +SKIP
        >>> [picture.path for picture in explanations if picture.classes[0] == "cat"]  # doctest: +SKIP
    """
    return Explanations(folder)


def _brief(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())[:300] or type(error).__name__
