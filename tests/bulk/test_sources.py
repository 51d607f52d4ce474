"""Where pictures come from: the same ones, in the same order, from any position on."""

import io
import os
import tarfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fastshap_lab.bulk.sources import HubImages, open_source
from fastshap_lab.errors import UserError
from fastshap_lab.images import images_in

NAMES = ["a/2.png", "a/b/1.png", "a.png", "c/1.PNG", "c/10.png", "c/2.png", "z.png"]


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate([*NAMES, ".hidden/1.png", "c/.hidden.png"]):
        path = Path("pictures", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    Path("pictures/notes.txt").write_text("no picture")


def table(path: str, count: int = 150, group: int = 70, column: str = "image") -> None:
    rows = [{"bytes": png(number), "path": None} for number in range(count)]
    rows[5] = None
    Path(path).parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"label": range(count), column: rows}), path, row_group_size=group)


def shards() -> None:
    Path("shards").mkdir()
    for shard, count in enumerate((3, 0, 4)):
        with tarfile.open(f"shards/{shard}.tar", "w") as tar:
            for number in range(count):
                for suffix, content in (("png", png(10 * shard + number)), ("cls", b"7"), ("json", b"{}")):
                    member = tarfile.TarInfo(f"{number:04d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def opened(name: str):
    if name == "shards":
        shards()
    if name == "tables":
        table("tables/a.parquet")
        table("tables/.cache/b.parquet")
        table("tables/b.parquet", 20)
    if name == "list.txt":
        Path(name).write_bytes(b"pictures/z.png\n\npictures/nothing.png\r\npictures/a.png")
    return open_source(name)


@pytest.mark.parametrize(
    ("name", "count"), [("pictures", 7), ("tables", 170), ("shards", 7), ("list.txt", 3), ("pictures/c/*.png", 2)]
)
def test_from_any_position_on_come_the_same_pictures(name, count):
    source = opened(name)
    every = list(source.pictures())
    assert len(source) == len(every) == count
    for start in (1, count // 2, 63, 64, 70, 100, 149, 150, 151, count - 1, count, count + 5):
        assert list(source.pictures(start)) == every[start:]


def test_a_folder_is_walked_in_the_order_of_its_paths():
    found = [picture.content for picture in open_source("pictures").pictures()]
    assert found == sorted(images_in(Path("pictures")))
    assert [str(path.relative_to("pictures")) for path in found] == NAMES


def test_rows_of_a_table_are_called_by_their_number_and_those_without_an_image_are_there():
    rows = list(opened("tables").pictures())
    assert [rows[index].name for index in (0, 149, 150)] == [
        "tables/a.parquet#0",
        "tables/a.parquet#149",
        "tables/b.parquet#0",
    ]
    assert [rows[index].content for index in (4, 5, 6)] == [png(4), b"", png(6)]


def test_members_of_shards_that_are_no_pictures_are_passed_over():
    found = list(opened("shards").pictures())
    assert [picture.name for picture in found[2:4]] == ["shards/0.tar/0002.png", "shards/2.tar/0000.png"]
    assert [picture.content for picture in found] == [png(number) for number in (0, 1, 2, 20, 21, 22, 23)]


def test_a_data_set_is_what_the_hubs_library_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split in ("train", "test"):
        table(f"set/{split}.parquet", 70)
    source = HubImages("set", split="test")
    every = list(source.pictures())
    assert len(source) == len(every) == 70
    assert [(one.name, one.content) for one in every[4:6]] == [("set/test#4", png(4)), ("set/test#5", b"")]
    for start in (1, 64, 69, 70):
        assert list(source.pictures(start)) == every[start:]
    for split, column, line in (
        (None, None, "set: has several splits; choose one of train, test"),
        ("test", "label", "set: has no column label of images, but image"),
    ):
        with pytest.raises(UserError, match=line):
            HubImages("set", split, column)


def test_the_digest_follows_names_sizes_and_times():
    before = open_source("pictures").digest
    assert open_source("pictures").digest == before
    os.utime("pictures/z.png", ns=(0, 0))
    assert open_source("pictures").digest != before
    before = open_source("pictures").digest
    Path("pictures/z.png").rename("pictures/y.png")
    assert open_source("pictures").digest != before


def test_any_bytes_may_be_in_a_name():
    name = os.fsdecode(b"pictures/\xff\xe4.png")
    Path(name).write_bytes(png(1))
    last = list(open_source("pictures").pictures())[-1]
    assert last.name == "pictures/\\xff\\xe4.png"
    assert last.content == Path(name)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nothing", "nothing: no such file or folder, and no user/name of the hub"),
        ("a/b/c.tar", "a/b/c.tar: no such file or folder"),
        ("nothing/*.tar", r"nothing/\*.tar: no file fits this pattern"),
        ("pictures/notes.md", "notes.md: unknown; a picture, .parquet, .tar or a list of paths"),
        ("empty", "empty: no picture, Parquet or tar file in it"),
        ("broken.tar", "broken.tar: cannot be read as an uncompressed tar file: "),
        ("cut.tar", "cut.tar: cannot be read as an uncompressed tar file: unexpected end of data"),
        ("broken.parquet", "broken.parquet: cannot be read as a Parquet file: "),
        ("labels.parquet", "labels.parquet: has no column of images, but label"),
    ],
)
def test_a_mistake_is_one_line(name, line):
    Path("pictures/notes.md").touch()
    Path("empty").mkdir()
    for broken in ("broken.tar", "broken.parquet"):
        Path(broken).write_bytes(b"?" * 600)
    shards()
    Path("cut.tar").write_bytes(Path("shards/0.tar").read_bytes()[:1100])
    pq.write_table(pa.table({"label": [1]}), "labels.parquet")
    with pytest.raises(UserError, match=line) as raised:
        len(open_source(name))
    assert "\n" not in str(raised.value)


def test_a_column_is_chosen_by_its_name():
    rows = [b"one", b"two", b"three"]
    pq.write_table(pa.table({"thumbnail": rows, "scan": [png(number) for number in range(3)]}), "t.parquet")
    assert next(open_source("t.parquet").pictures()).content == rows[0]
    assert [one.content for one in open_source("t.parquet", column="scan").pictures(1)] == [png(1), png(2)]
    with pytest.raises(UserError, match=r"t.parquet: has no column other of images, but thumbnail, scan"):
        len(open_source("t.parquet", column="other"))
