"""A folder of images, with a folder per class or a table of labels."""

import csv
import io
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np

from fastshap_lab.data.base import SPLITS, Split, height_and_width
from fastshap_lab.data.columns import Labels, read_columns
from fastshap_lab.data.decoded import MAX_RESIDENT, split_off
from fastshap_lab.data.image_files import ImageFiles, folders_in, listed, read_file
from fastshap_lab.data.splits import NO_LABEL
from fastshap_lab.errors import UserError
from fastshap_lab.images import EXTENSIONS, Resize, images_in
from fastshap_lab.models.tasks import Multiclass, Task, described

TABLE = "labels.csv"


class Folder(ImageFiles):
    """Images of any size and kind in folders that are called as their class, or with their labels in ``labels.csv``.

    Either ``train/<class>/…`` and ``test/<class>/…`` (validation images come from ``val/<class>/…`` if there is one,
    else from the training images; without ``test``, ``val`` is the test set), or ``<class>/…`` alone, from which test
    and validation images are split off, with the classes in proportion. Folders within a class belong to it.

    A ``labels.csv`` in the folder has a line per image, and the image's path within the folder in its column ``file``.
    If it has a column ``split``, this says ``train``, ``val`` or ``test``; if not, test and validation images are split
    off. All other columns are labels: words are classes, 0 and 1 say whether a label holds, other numbers are a
    regression's targets. Images that it does not name are left out.

    Files without an image's extension are passed over, as is what begins with a dot. Images become RGB as
    ``images.to_rgb`` says. Those of another size are stretched, as an explainer does with files; ``resize=crop`` keeps
    the proportions and cuts off what is beyond the largest part in the centre that has those of ``image_size``, ``pad``
    keeps them and all of the image, with black beside it.

    Args:
        path: The folder.
        image_size: Height and width, or the side of a square.
        resize: ``stretch``, ``crop``, ``pad``, or ``imagenet`` (see ``images.resized``).
        val_fraction: Share of the training images to validate on, without ``val``.
        test_fraction: Share of the images to test on, without ``train`` and ``test``.
        limit_train: Use only so many training images, and validation images in proportion.
        limit_test: Use only so many test images.
        max_resident: Splits of more bytes are decoded as they are needed.
        workers: Decoding threads; one for each available core if None.
        classes: Those that ``folders`` or a ``labels.csv`` say, or ``none``: any images in the folder and those in it,
            without labels. They can be explained with a classifier that is not trained and brings its classes.
        task: What labels are read as; chosen by ``labels.csv``, or else the classes that folders are, if None.

    Raises:
        UserError: The folder, a class or an image is not there or not readable, or labels are not of that task.
    """

    def __init__(
        self,
        path: str,
        image_size: int | tuple[int, int] = 224,
        resize: Resize = "stretch",
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        limit_train: int | None = None,
        limit_test: int | None = None,
        max_resident: int = MAX_RESIDENT,
        workers: int | None = None,
        classes: Literal["folders", "none"] = "folders",
        task: Task | None = None,
    ) -> None:
        root = Path(path).expanduser()
        if not root.is_dir():
            raise UserError(f"data.params.path={path}: no such folder")
        with_labels = _in_table if (root / TABLE).is_file() else _in_folders
        find = _without_labels if classes == "none" else with_labels
        files, labels = find(root, path, task, test_fraction)
        super().__init__(
            root,
            files,
            {split: labels.values[rows] for split, rows in _rows(files).items()},
            labels.class_names,
            height_and_width(image_size),
            val_fraction=val_fraction,
            limit_train=limit_train,
            limit_test=limit_test,
            resize=resize,
            max_resident=max_resident,
            workers=workers,
            task=labels.task,
        )


Files = dict[Split, list[Path]]


def _rows(files: Files) -> dict[Split, slice]:
    """Return which labels are those of each split: they follow each other in the order of the splits."""
    ends = np.cumsum([len(paths) for paths in files.values()]).tolist()
    return {split: slice(end - len(files[split]), end) for split, end in zip(files, ends, strict=True)}


def _without_labels(root: Path, path: str, task: Task | None, test_fraction: float) -> tuple[Files, Labels]:
    """Return any images of a folder, of which nobody says what they show."""
    if task is not None and described(task):
        raise UserError(
            f"data.params.classes=none: pictures without labels have no task; data.task={task.name} needs some"
        )
    found = sorted(images_in(root))
    if not found:
        raise UserError(f"data.params.path={path}: no image in it ({' '.join(sorted(EXTENSIONS))})")
    train, test = split_off(np.full(len(found), NO_LABEL), "test_fraction", test_fraction)
    files: Files = {"train": [found[index] for index in train], "test": [found[index] for index in test]}
    return files, Labels(Multiclass(), [], np.full(len(found), NO_LABEL))


def _in_folders(root: Path, path: str, task: Task | None, test_fraction: float) -> tuple[Files, Labels]:
    """Return the images of a folder per class, and their labels, split after split."""
    if not any(folders_in(root / "train")):
        class_names = _class_names(root)
        files, numbers = listed(root, class_names, "")
        train, test = split_off(np.array(numbers), "test_fraction", test_fraction)
        parts: dict[Split, list[int]] = {"train": train.tolist(), "test": test.tolist()}
        all_files: Files = {split: [files[index] for index in indices] for split, indices in parts.items()}
        all_numbers = [numbers[index] for indices in parts.values() for index in indices]
    else:
        class_names = _class_names(root / "train")
        found: dict[Split, Path] = {split: root / split for split in SPLITS if (root / split).is_dir()}
        if "test" not in found:
            if "val" not in found:
                raise UserError(
                    f"data.params.path={path}: has train, but neither test nor val; data.params.path="
                    f"{root / 'train'} splits off test images"
                )
            found["test"] = found.pop("val")
        unknown = f"a class without training images; there are {', '.join(class_names)}"
        read = {split: listed(folder, class_names, unknown) for split, folder in found.items()}
        all_files = {split: files for split, (files, _) in read.items()}
        all_numbers = [number for _, numbers in read.values() for number in numbers]
    # Without a task, folders are classes whatever they are called; their names say what another task reads.
    if task is None or not described(task):
        return all_files, Labels(Multiclass(), class_names, np.array(all_numbers))
    names = [class_names[number] for number in all_numbers]
    return all_files, read_columns({"folder": names}, task, lambda row: f"{path}, {names[row]}")


def _in_table(root: Path, path: str, task: Task | None, test_fraction: float) -> tuple[Files, Labels]:
    """Return the images that ``labels.csv`` names, and their labels, split after split."""
    table = root / TABLE
    columns, lines = _read_table(table)
    names, splits = columns.pop("file"), columns.pop("split", None)
    if not columns:
        raise UserError(f"{table}: has no column of labels beside file and split")
    for name, line in zip(names, lines, strict=True):
        if not name or not (root / name).resolve().is_relative_to(root.resolve()) or not (root / name).is_file():
            raise UserError(f"{table}, line {line}: no such image in this folder: {name or 'empty'}")
    labels = read_columns(columns, task, lambda row: f"{table}, line {lines[row]}")
    labels.task.check_classes(labels.class_names, str(table))
    if splits is None:
        train, test = split_off(labels.values, "test_fraction", test_fraction, labels.task)
        parts: dict[Split, np.ndarray] = {"train": train, "test": test}
    else:
        for split, line in zip(splits, lines, strict=True):
            if split not in SPLITS:
                raise UserError(f"{table}, line {line}: split is {split or 'empty'}, must be {', '.join(SPLITS)}")
        parts = {split: np.flatnonzero(np.array(splits) == split) for split in SPLITS if split in splits}
        if not {"train", "test"} <= parts.keys():
            raise UserError(f"{table}: its column split names {', '.join(parts)}; train and test are needed")
    files: Files = {split: [root / names[row] for row in rows.tolist()] for split, rows in parts.items()}
    values = labels.values[np.concatenate(list(parts.values()))]
    return files, Labels(labels.task, labels.class_names, values)


def _read_table(table: Path) -> tuple[dict[str, list[str]], list[int]]:
    """Return the columns by name, and the line of each row."""
    try:
        reader = csv.reader(io.StringIO(read_file(table).decode("utf-8-sig"), newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table}: not a table of comma-separated values in UTF-8: {error}") from None
    header = [name.strip() for name in rows[0][1]] if rows else []
    if "file" not in header or "" in header or len(set(header)) != len(header):
        raise UserError(
            f"{table}: its first line must name the columns, file and others: {', '.join(header) or 'empty'}"
        )
    if len(rows) == 1:
        raise UserError(f"{table}: names no images")
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise UserError(f"{table}, line {line}: has {len(row)} values for {len(header)} columns")
    columns = {name: [row[place].strip() for _, row in rows[1:]] for place, name in enumerate(header)}
    lines = [line for line, _ in rows[1:]]
    for name, count in Counter(columns["file"]).items():
        if count > 1:
            raise UserError(f"{table}: {name} stands in {count} lines")
    return columns, lines


def _class_names(parent: Path) -> list[str]:
    names = [folder.name for folder in folders_in(parent)]
    if len(names) < 2:
        raise UserError(
            f"{parent}: needs a folder of images for each of two classes or more, has {names or 'none'}; "
            "data.params.classes=none reads images without labels"
        )
    return names
