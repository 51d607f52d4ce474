"""Labels that are no numbers of classes: from columns, from ``labels.csv``, from the hub, and drawn."""

import io
import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fastshap_lab.data import build_data
from fastshap_lab.data.base import SPLITS
from fastshap_lab.data.columns import read_columns
from fastshap_lab.data.folder import Folder
from fastshap_lab.data.hub import Hub
from fastshap_lab.data.synthetic import Synthetic
from fastshap_lab.errors import UserError
from fastshap_lab.models import build_task

COUNT = 60


def place(row):
    return f"row {row}"


@pytest.mark.parametrize(
    ("columns", "task", "name", "class_names", "values"),
    [
        ({"kind": ["cat", "ape", "cat"]}, None, "multiclass", ["ape", "cat"], [1, 0, 1]),
        ({"spam": ["1", "0", "1"]}, None, "binary", ["spam"], [[1], [0], [1]]),
        ({"spam": [True, False, True]}, None, "binary", ["spam"], [[1], [0], [1]]),
        ({"cat": ["1", "0"], "dog": ["true", "False"]}, None, "multilabel", ["cat", "dog"], [[1, 1], [0, 0]]),
        ({"age": ["31", "4.5"]}, None, "regression", ["age"], [[31], [4.5]]),
        ({"x": [1, 0], "y": [0.5, -2]}, None, "regression", ["x", "y"], [[1, 0.5], [0, -2]]),
        ({"digit": ["10", "9", "9"]}, "multiclass", "multiclass", ["9", "10"], [1, 0, 0]),
        ({"kind": ["cat", "ape"]}, "binary", "binary", ["cat"], [[1], [0]]),
        ({"spam": ["1", "0"]}, "regression", "regression", ["spam"], [[1], [0]]),
        ({"spam": ["1", "0"]}, "multilabel", "multilabel", ["spam"], [[1], [0]]),
        ({"spam": ["1", "0"]}, "multiclass", "multiclass", ["0", "1"], [1, 0]),
    ],
)
def test_columns_choose_a_task_or_are_read_as_the_one_that_is_wanted(columns, task, name, class_names, values):
    read = read_columns(columns, task and build_task(task), place)
    assert (read.task.name, read.class_names, read.values.tolist()) == (name, class_names, values)


@pytest.mark.parametrize(
    ("columns", "task", "said"),
    [
        ({"age": ["3", "nan"]}, None, "row 1: age is nan, must be a finite number"),
        ({"age": [3.0, float("inf")]}, None, "row 1: age is inf, must be a finite number"),
        ({"age": ["3", ""]}, None, "row 1: age is empty; every image needs a value"),
        ({"age": [None, 1.0]}, None, "row 0: age is empty"),
        (
            {"age": ["3", "4.5"]},
            "multiclass",
            "row 1: age is 4.5, which is no class; data.task=regression reads any numbers",
        ),
        (
            {"a": ["x", "y"], "b": ["1", "2"]},
            None,
            "data.task=multiclass: there must be one column of labels, found a, b",
        ),
        ({"a": ["1", "2"], "b": ["1", "0"]}, "multilabel", r"row 1: a is 2.0, must be 0 or 1 \(data.task=multilabel\)"),
        ({"kind": ["1", "ape"]}, "regression", r"row 1: kind is ape, must be a number \(data.task=regression\)"),
        ({"kind": ["a", "b", "c"]}, "binary", "data.task=binary: kind has 3 different values, must have 2"),
    ],
)
def test_what_a_column_does_not_say_is_one_line(columns, task, said):
    with pytest.raises(UserError, match=f"^{said}"):
        read_columns(columns, task and build_task(task), place)


def write_table(root, header, rows, count=COUNT):
    """Write images whose colour says their number, and labels.csv; ``rows`` gives what stands after a file's name."""
    root.mkdir(exist_ok=True)
    for index in range(count):
        Image.new("RGB", (6, 4), (index, 0, 7)).save(root / f"{index}.png")
    lines = [",".join([f"{index}.png", *map(str, rows(index))]) for index in range(count)]
    (root / "labels.csv").write_text("\n".join([f"file,{header}", *lines, ""]))
    return root


TABLES = {
    "multiclass": ("kind", lambda index: ["cat" if index % 3 else "ape"], ["ape", "cat"]),
    "multilabel": ("cat,dog", lambda index: [index % 2, index % 3 == 0], ["cat", "dog"]),
    "binary": ("spam", lambda index: [int(index % 4 == 0)], ["spam"]),
    "regression": ("age", lambda index: [index / 2 + 1], ["age"]),
}


@pytest.mark.parametrize("task", TABLES)
def test_a_table_labels_every_image_and_splits_keep_proportions(task, tmp_path):
    header, rows, class_names = TABLES[task]
    data = Folder(str(write_table(tmp_path / "set", header, rows)), image_size=(4, 6), val_fraction=0.25)
    assert (data.task.name, data.class_names, data.num_classes) == (task, class_names, len(class_names))
    splits, found = {split: data.dataset(split) for split in SPLITS}, []
    assert [len(each) for each in splits.values()] == [36, 12, 12]
    for each in splits.values():
        numbers = each.images[:, 0, 1, 1].tolist()
        found += numbers
        if task == "multiclass":
            assert each.labels.tolist() == [int(index % 3 > 0) for index in numbers]
        else:
            assert each.labels.dtype == torch.float32
            assert each.labels.tolist() == [[float(value) for value in rows(index)] for index in numbers]
    assert sorted(found) == list(range(COUNT))
    means = torch.stack([each.labels.double().reshape(len(each), -1).mean(dim=0) for each in splits.values()])
    spread = splits["train"].labels.double().std()
    assert ((means - means[0]).abs() < 0.2 * spread).all()


def test_a_table_may_say_the_split(tmp_path):
    def rows(index):
        return [["train", "val", "test"][index % 3], index]

    data = Folder(str(write_table(tmp_path / "set", "split,age", rows)), image_size=(4, 6))
    for remainder, split in enumerate(SPLITS):
        assert sorted(data.dataset(split).labels.flatten().tolist()) == list(range(remainder, COUNT, 3))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("image,age\n0.png,1\n", "its first line must name the columns, each once, among them file; it is image, age"),
        ("", "among them file; it is empty"),
        ("file,age\n", "lists no images"),
        ("file,split\n0.png,train\n", "needs a column of labels beside file and split"),
        ("file,age\n0.png,1\nnosuch.png,2\n", "line 3: no such image in this folder: nosuch.png"),
        ("file,age\n../elsewhere.png,1\n", r"line 2: no such image in this folder: \.\./elsewhere.png"),
        ("file,age\n0.png,1\n\n1.png,2,3\n", "line 4: has 3 values for 2 columns"),
        ("file,age\n0.png,1\n0.png,2\n", "0.png is in 2 lines"),
        ("file,age\n0.png,1\n1.png,nan\n", "line 3: age is nan, must be a finite number"),
        ("file,age,split\n0.png,1,train\n1.png,2,tset\n", "line 3: split is tset, must be train, val, test"),
        (
            "file,age,split\n0.png,1,train\n1.png,2,val\n",
            "its column split names train, val; train and test are needed",
        ),
        ('file,age\n"0.png,1\n', "must be a table of comma-separated values"),
        ("file,kind\n0.png,cat\n1.png,cat\n", r"has the classes \['cat'\]; a classifier needs two or more"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_line(table, said, tmp_path):
    root = write_table(tmp_path / "set", "age", lambda index: [index], count=2)
    Image.new("RGB", (6, 4)).save(tmp_path / "elsewhere.png")
    (root / "labels.csv").write_text(table)
    with pytest.raises(UserError, match=said) as error:
        Folder(str(root))
    assert str(error.value).startswith(str(root / "labels.csv"))
    assert "\n" not in str(error.value)


def test_the_digest_follows_labels_and_task(tmp_path):
    root = write_table(tmp_path / "set", "age", lambda index: [index % 5])
    tasks = [None, build_task("multiclass"), build_task({"name": "regression", "params": {"tolerance": 0.1}})]
    digests = [Folder(str(root), image_size=4, task=task).digest() for task in tasks]
    write_table(root, "age", lambda index: [index % 5 + (index == 7)])
    digests.append(Folder(str(root), image_size=4).digest())
    assert len(set(digests)) == 4


def test_folders_may_be_read_as_other_labels(tmp_path):
    for name in ("10", "20"):
        for index in range(20):
            (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (int(name), index, 0)).save(tmp_path / "set" / name / f"{index}.png")
    for task, class_names, first in (("multiclass", ["10", "20"], 0), ("regression", ["folder"], 10)):
        data = build_data("folder", {"path": str(tmp_path / "set"), "image_size": 4}, task)
        assert (data.task.name, data.class_names) == (task, class_names)
        for split in SPLITS:
            held = data.dataset(split)
            expected = held.images[:, 0, 0, 0].float() / 10 - 1
            assert torch.equal(held.labels.flatten().float(), expected * (10 if first else 1) + first)


def write_parquet(folder, values, feature):
    """Write a set of a hub's kind whose images' colours say their numbers."""
    folder.mkdir()
    for split, first, last in (("train", 0, 48), ("test", 48, COUNT)):
        files = [io.BytesIO() for _ in range(first, last)]
        for index, file in zip(range(first, last), files, strict=True):
            Image.new("RGB", (6, 4), (index, 0, 7)).save(file, "PNG")
        features = datasets.Features({"image": datasets.Image(), "label": feature})
        images = [{"bytes": file.getvalue(), "path": None} for file in files]
        label = pa.array(
            [values(index) for index in range(first, last)], datasets.Features({"x": feature}).arrow_schema[0].type
        )
        schema = pa.schema(
            features.arrow_schema, metadata={"huggingface": json.dumps({"info": {"features": features.to_dict()}})}
        )
        table = pa.table([pa.array(images, schema.field("image").type), label], schema=schema)
        pq.write_table(table, folder / f"{split}.parquet")
    return str(folder)


NAMES = ["ape", "bee", "cat"]
COLUMNS = {
    "float": (lambda i: i / 4, datasets.Value("float32"), "regression", ["label"], lambda i: [i / 4]),
    "floats": (
        lambda i: [i / 4, 1.0],
        datasets.List(datasets.Value("float64")),
        "regression",
        ["label[0]", "label[1]"],
        lambda i: [i / 4, 1.0],
    ),
    "classes": (
        lambda i: [k for k in range(3) if i >> k & 1],
        datasets.List(datasets.ClassLabel(names=NAMES)),
        "multilabel",
        NAMES,
        lambda i: [float(i >> k & 1) for k in range(3)],
    ),
    "words": (
        lambda i: [NAMES[k] for k in range(3) if i >> k & 1],
        datasets.List(datasets.Value("string")),
        "multilabel",
        NAMES,
        lambda i: [float(i >> k & 1) for k in range(3)],
    ),
    "flags": (
        lambda i: [i & 1, i >> 1 & 1],
        datasets.List(datasets.Value("int64")),
        "multilabel",
        ["label[0]", "label[1]"],
        lambda i: [float(i & 1), float(i >> 1 & 1)],
    ),
    "bool": (lambda i: i % 3 == 0, datasets.Value("bool"), "binary", ["label"], lambda i: [float(i % 3 == 0)]),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_hubs_column_chooses_the_task(kind, tmp_path):
    values, feature, task, class_names, expected = COLUMNS[kind]
    data = Hub(write_parquet(tmp_path / "set", values, feature), val_fraction=0.25)
    assert (data.task.name, data.class_names) == (task, class_names)
    found = []
    for split in SPLITS:
        held = data.dataset(split)
        numbers = held.images[:, 0, 0, 0].tolist()
        found += numbers
        assert held.labels.tolist() == [expected(index) for index in numbers]
    assert sorted(found) == list(range(COUNT))
    names = [f"renamed {name}" for name in class_names]
    assert Hub(data._path, class_names=names).class_names == names


@pytest.mark.parametrize(
    ("values", "feature", "task", "said"),
    [
        (lambda i: i / 4, datasets.Value("float32"), "multiclass", "image 1 of split train: label is 0.25, which is"),
        (lambda i: float("nan"), datasets.Value("float32"), None, "image 0 of split train: label is nan"),
        (lambda i: None if i == 50 else 1.0, datasets.Value("float32"), None, "image 2 of split test: label is empty"),
        (
            lambda i: [1.0] * (1 + i % 2),
            datasets.List(datasets.Value("float32")),
            None,
            "label has lists of 1 to 2 num",
        ),
        (lambda i: [], datasets.List(datasets.ClassLabel(names=NAMES)), None, "all lists in label are empty"),
        (
            lambda i: None,
            datasets.List(datasets.ClassLabel(names=NAMES)),
            None,
            "image 0 of split train: label is None",
        ),
        (lambda i: i % 3, datasets.ClassLabel(names=NAMES), "regression", "label is ape, must be a number"),
        (lambda i: i % 3, datasets.ClassLabel(names=NAMES), "binary", "label has 3 different values, must have 2"),
    ],
)
def test_what_is_wrong_with_a_hubs_column_is_one_line(values, feature, task, said, tmp_path):
    path = write_parquet(tmp_path / "set", values, feature)
    with pytest.raises(UserError, match=said):
        build_data("hub", {"path": path}, task)


def test_only_sets_that_can_be_read_otherwise_are():
    with pytest.raises(UserError, match=r"^data.task=regression: digits has one label of several classes"):
        build_data("digits", {}, "regression")
    with pytest.raises(UserError, match=r"^data.task=regresion: unknown, did you mean regression"):
        build_data("synthetic", {}, "regresion")
    assert build_data("digits", {}, "multiclass").digest() == build_data("digits", {}).digest()


def drawn(task, **options):
    return Synthetic(
        **{"num_classes": 4, "num_train": 64, "num_val": 8, "num_test": 8} | options, task=build_task(task)
    )


def test_the_same_pictures_are_labelled_by_shape_area_and_whether_it_is_the_first():
    classes, area, first = (drawn(task).dataset("train") for task in ("multiclass", "regression", "binary"))
    assert torch.equal(classes.images, area.images)
    assert torch.equal(classes.images, first.images)
    regions = classes.regions_at(torch.arange(64))
    assert torch.equal(area.labels, regions.sum(dim=(1, 2)).float().unsqueeze(1))
    assert torch.equal(first.labels, (classes.labels == 0).float().unsqueeze(1))
    assert (drawn("regression").class_names, drawn("binary").class_names) == (["area"], ["disk"])
    assert len({drawn(task).digest() for task in ("multiclass", "regression", "binary", "multilabel")}) == 4
    assert drawn("regression").digest() != drawn("regression", num_classes=3).digest()


@pytest.mark.parametrize("size", [32, (24, 40)])
def test_several_shapes_lie_apart_and_are_there_half_of_the_time(size):
    data = drawn("multilabel", image_size=size, num_train=256)
    train = data.dataset("train")
    assert (train.labels.mean(dim=0) - 0.5).abs().max() < 0.1
    assert np.corrcoef(train.labels.T.numpy())[~np.eye(4, dtype=bool)].max() < 0.2
    objects = data._several("train", torch.arange(256), torch.empty(0))
    assert torch.equal((objects.sum(dim=(2, 3)) > 0).float(), train.labels)
    assert objects.sum(dim=1).max() == 1  # no pixel of two shapes
    assert torch.equal(objects.any(dim=1), train.regions_at(torch.arange(256)).bool())
    fewer = drawn("multilabel", image_size=size, num_train=16).dataset("train")
    assert torch.equal(fewer.images, train.images[:16])
