"""Explanations of many pictures on disk: whole shards, the same ones wherever the program was stopped."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fastshap_lab as fsl
from fastshap_lab.bulk import shards
from fastshap_lab.bulk.explaining import explained
from fastshap_lab.bulk.shards import Settings, write_explanations
from fastshap_lab.bulk.sources import open_source
from fastshap_lab.errors import UserError
from tests import small

NUMBER, BROKEN = 23, ("04.png", "09.png", "10.png", "11.png", "12.png", "13.png", "14.png")  # all of the third shard
OF_FIVE = Settings(shard=5)
REGRESSION = {"name": "regression", "params": {"mean": [5.0] * 3, "spread": [1e6, 2.0, 2.0]}}


@pytest.fixture(scope="module")
def explainer():
    return small.explainer()


@pytest.fixture(autouse=True)
def _somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    for number, image in enumerate(small.images(NUMBER)):
        path = Path(f"pictures/{number:02d}.png")
        Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).save(path)
        if path.name in BROKEN:
            path.write_text("no picture")


def written(folder: str, explainer, settings: Settings = OF_FIVE, identity: str = "this", max_batch: int = 2):
    return write_explanations(explainer, open_source("pictures"), Path(folder), settings, identity, max_batch)


def files(folder: str) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


def readable() -> list[str]:
    return [str(path) for path in sorted(Path("pictures").iterdir()) if path.name not in BROKEN]


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        (OF_FIVE, {}),
        (Settings(top=2, shard=7), {}),
        (Settings(top=3), {}),
        (Settings(top=1, refine=20), {}),
        (Settings(top=2), {"task": REGRESSION, "link": "identity"}),
    ],
)
def test_what_is_read_is_what_the_explainer_says(settings, changes):
    explainer = small.explainer(**changes)
    batch = NUMBER if settings.refine else 2
    assert written("out", explainer, settings, max_batch=batch) == (NUMBER, len(BROKEN))
    read = fsl.read_explanations("out")
    rows, expected = list(read), explainer.explain(readable(), batch, settings.refine, settings.tolerance)
    assert len(read) == len(rows) == NUMBER - len(BROKEN)
    assert [row.path for row in rows] == readable()
    assert [line["path"] for line in read.failed] == [f"pictures/{name}" for name in BROKEN]
    assert all(line["error"].startswith("cannot be read as an image: ") for line in read.failed)
    order = expected.task.ranks(expected.predictions).argsort(dim=1, descending=True)
    for index, row in enumerate(rows):
        kept = order[index, : settings.top] if settings.top in (1, 2) else torch.arange(3)
        assert row.classes == [expected.classes[number] for number in kept]
        exact = {"rtol": 1e-4, "atol": 1e-5}
        np.testing.assert_allclose(row.predictions, expected.predictions[index, kept], **exact)
        np.testing.assert_allclose(row.efficiency_gap, expected.efficiency_gap[index, kept], **exact)
        half = {"rtol": 1e-3, "atol": 1e-5}
        np.testing.assert_allclose(row.values, expected.values[index, kept], **(exact if changes else half))
        assert row.evaluations == expected.evaluations[index]
        assert (row.stderr is None) == (not settings.refine)
        if row.stderr is not None:
            np.testing.assert_allclose(row.stderr, expected.stderr[index, kept], **half)
    assert read.dataset.to_table(columns=["path"]).column("path").to_pylist() == readable()


class Killed(BaseException):
    """What nobody catches."""


def test_killed_time_and_again_it_ends_with_the_same_files(explainer, monkeypatch):
    written("whole", explainer)
    assert len(files("whole")) == 6  # five shards, of which one has no row, and the list of failures
    write, before = shards._table, {}
    for calls in (2, 4, 4):  # tables, of which a shard has three at most
        left = iter(range(calls))

        def table(*arguments, left=left):
            if next(left, None) is None:
                Path("out/explanations/.000003.0123abcd.parquet").write_bytes(b"half a file")
                raise Killed
            return write(*arguments)

        monkeypatch.setattr(shards, "_table", table)
        with pytest.raises(Killed):
            written("out", explainer)
        there = {name: content for name, content in files("out").items() if "/." not in name}
        assert there.items() <= files("whole").items()
        assert before.items() <= there.items()
        before = there
    assert 0 < len(before) < 5
    monkeypatch.setattr(shards, "_table", write)
    written("out", explainer)
    assert files("out") == files("whole")


def test_what_is_there_is_not_made_again_and_what_is_damaged_is(explainer, monkeypatch):
    written("out", explainer)
    before = files("out")
    Path("out/explanations/000001.parquet").write_bytes(before["explanations/000001.parquet"][:-20])
    Path("out/explanations/000004.parquet").unlink()
    asked = []
    explain = type(explainer).explain
    monkeypatch.setattr(
        type(explainer), "explain", lambda self, *a, **k: asked.append(len(a[0])) or explain(self, *a, **k)
    )
    written("out", explainer)
    assert sum(asked) == 4 + 3  # of 5 to 8, and of 20 to 22; 9 is broken
    assert files("out") == before


def test_pages_that_were_changed_are_noticed(explainer):
    written("out", explainer)
    path = Path("out/explanations/000000.parquet")
    content = bytearray(path.read_bytes())
    content[60] ^= 255
    path.write_bytes(content)
    read = fsl.read_explanations("out")
    with pytest.raises(UserError, match=re.escape(f"{path}: damaged (")):
        list(read)


def test_shards_of_others_are_left_alone(explainer):
    written("out", explainer)
    before = files("out")
    with pytest.raises(UserError, match=r"out/explanations/\d+\.parquet: of other pictures, settings or another"):
        written("out", explainer, identity="another")
    assert files("out") == before


def test_where_no_picture_can_be_read_it_fails(explainer):
    for path in readable():
        Path(path).write_text("no picture")
    with pytest.raises(UserError, match=r"out/failed.jsonl: none of 23 pictures could be read"):
        written("out", explainer)
    assert len(fsl.read_explanations("out").failed) == NUMBER


def test_where_there_is_none_or_some_have_gone_it_says_so(explainer, monkeypatch):
    Path("list.txt").touch()
    with pytest.raises(UserError, match="there is no picture to explain"):
        write_explanations(explainer, open_source("list.txt"), Path("out"), OF_FIVE, "this", 2)
    source = open_source("pictures")
    assert len(source) == NUMBER
    Path("pictures/22.png").unlink()
    with pytest.raises(UserError, match="pictures have gone since they were counted"):
        write_explanations(explainer, source, Path("out"), OF_FIVE, "this", 2)
    assert len(files("out")) == 4


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (Settings(top=0), "top=0: must be at least 1"),
        (Settings(tolerance=0.1), "tolerance: says when to stop refining; give refine, too"),
        (Settings(refine=1), "refine=1: must be 2 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(explainer, settings, line):
    with pytest.raises(UserError, match=line):
        written("out", explainer, settings)
    assert not Path("out").exists()


def test_few_pictures_are_in_memory_at_a_time(explainer):
    taken = []

    def pictures():
        for picture in open_source("pictures").pictures():
            taken.append(picture)
            yield picture

    batches = explained(explainer, pictures(), 2)
    assert next(batches).names == ["pictures/00.png", "pictures/01.png"]
    assert len(taken) == 6
    batches.close()


@pytest.mark.parametrize("content", ["nothing", "damaged", "others", "of two kinds"])
def test_what_is_no_explanations_is_one_line(content, explainer):
    Path("out/explanations").mkdir(parents=True)
    if content in ("others", "of two kinds"):
        written("out", explainer)
    if content == "of two kinds":
        written("more", explainer, Settings(top=1))
        Path("more/explanations/000000.parquet").rename("out/explanations/000009.parquet")
    if content == "damaged":
        Path("out/explanations/0.parquet").write_text("?")
    if content == "others":
        table = fsl.read_explanations("out").dataset.to_table()
        import pyarrow.parquet as pq

        pq.write_table(table.drop_columns("values"), "out/explanations/000000.parquet")
    lines = {
        "nothing": "out: no explanations in it",
        "damaged": r"out/explanations/0.parquet: damaged or no explanations \(",
        "others": r"000000.parquet: damaged or no explanations \(its columns are others\)",
        "of two kinds": "out: holds explanations of 2 kinds",
    }
    with pytest.raises(UserError, match=lines[content]) as raised:
        fsl.read_explanations("out")
    assert "\n" not in str(raised.value)


def test_failures_are_lines_of_json_whatever_pictures_are_called(explainer):
    Path("pictures/a\nb\u2028c.png").write_text("no picture")
    written("out", explainer)
    assert fsl.read_explanations("out").failed[-1]["path"] == "pictures/a\nb\u2028c.png"
    assert len(Path("out/failed.jsonl").read_text().split("\n")) == len(BROKEN) + 2
    json.loads(Path("out/failed.jsonl").read_text().split("\n")[-2])
