import pytest

from fastshap_lab.files import replacing, write_atomically


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
