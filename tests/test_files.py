import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fastshap_lab.errors import UserError
from fastshap_lab.files import (
    is_intact,
    open_file,
    read_checkpoint,
    read_tensors,
    remove_leftovers,
    replacing,
    write_atomically,
    write_checkpoint,
    write_tensors,
)


def test_writes_text_and_bytes_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "new" / "notes.md"
    write_atomically(path, "φ\r\n")
    assert path.read_bytes() == "φ\r\n".encode()
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert list(path.parent.iterdir()) == [path]


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "values.npy"
    path.write_text("old")

    def fail_midway():
        with replacing(path) as temporary:
            temporary.write_text("ha")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail_midway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_path_lies_beside_and_keeps_the_suffix(tmp_path):
    with replacing(tmp_path / "model.safetensors") as temporary:
        temporary.touch()
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".safetensors"
        assert not (tmp_path / "model.safetensors").exists()


def test_a_write_that_cannot_be_names_its_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError) as error:
        write_atomically(tmp_path / "file" / "below" / "notes.md", "φ")
    assert error.value.filename == str(tmp_path / "file" / "below" / "notes.md")

    def full():
        with replacing(tmp_path / "notes.md"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as error:
        full()
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(tmp_path / "notes.md")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    kept = [".1234abcd.lock", ".hidden", "model.0123abcd.safetensors", "sub/.gitignore", ".cache/x"]
    left = [".last.0123abcd.ckpt", "sub/.notes.v2.0123abcd.md", ".model.89abcdef/model.safetensors"]
    for name in kept + left:
        write_atomically(tmp_path / name, name)
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "missing")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


def damaged(path: Path) -> list[bytes]:
    """Return a file's content with one bit changed, in every third byte in turn, and cut short."""
    content, flipped = path.read_bytes(), []
    for place in range(0, len(content), 3):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        flipped.append(bytes(changed))
    return [*flipped, content[:-1], content[:20], b"", b"text", content + b"\0"]


def test_tensors_are_read_as_they_were_written_or_not_at_all(tmp_path):
    path, tensors = tmp_path / "000003.safetensors", {"phi": torch.randn(2, 3), "right": torch.tensor([True, False])}
    assert read_tensors(path, "image 3") is None
    write_tensors(path, tensors, "image 3")
    for found in (read_tensors(path, "image 3"), load_file(path)):
        assert {name: tensor.tolist() for name, tensor in found.items()} == {
            name: tensor.tolist() for name, tensor in tensors.items()
        }
    assert read_tensors(path, "image 5") is None  # renamed to it
    for content in damaged(path):
        path.write_bytes(content)
        assert read_tensors(path, "image 3") is None
    path.unlink()
    path.mkdir()
    assert read_tensors(path, "image 3") is None
    with pytest.raises(UserError, match=r"000003.safetensors: is a folder, and a file must be written in its place"):
        write_tensors(path, tensors, "image 3")


def test_checkpoints_are_read_as_they_were_written_or_not_at_all(tmp_path):
    path, checkpoint = tmp_path / "last.ckpt", {"state_dict": {"weight": torch.randn(2, 3)}, "epoch": 4}
    assert not is_intact(path)
    write_checkpoint(path, checkpoint)
    for found in (read_checkpoint(path), torch.load(path, weights_only=True)):
        assert torch.equal(found["state_dict"]["weight"], checkpoint["state_dict"]["weight"])
        assert found["epoch"] == 4
    path.with_name("best.ckpt").write_bytes(path.read_bytes())
    assert is_intact(path)
    assert not is_intact(path.with_name("best.ckpt"))
    for content in damaged(path):
        path.write_bytes(content)
        assert not is_intact(path)
    with pytest.raises(UserError, match=r"last.ckpt: missing, or changed since it was written; delete "):
        read_checkpoint(path)


def test_a_name_that_becomes_a_fifo_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "photo.png")
    regular = Path(__file__).stat()
    monkeypatch.setattr(Path, "stat", lambda self: regular)  # as it was when it was asked
    with pytest.raises(OSError, match="is a FIFO, not a file"):
        open_file(tmp_path / "photo.png")
