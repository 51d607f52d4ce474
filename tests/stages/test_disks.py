"""A full disk or an unwritable folder is one line and status 2, and leaves nothing that is taken for a result."""

import errno
import os
import resource
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.interruptions import assert_same_result, command
from tests.small_runs import RESNET, TINY, UNET, executed, planned


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.suffix != ".lock"]


def full_at(monkeypatch: pytest.MonkeyPatch, pattern: str, call: int = 1) -> None:
    """Let the disk be full when a file or folder of that name would take its place, at the given time."""
    original, calls = Path.replace, []

    def replace(self: Path, target: Path) -> Path:
        if fnmatch(Path(target).name, pattern):
            calls.append(target)
            if len(calls) >= call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)


def read_only(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int = errno.EROFS) -> None:
    """Let nothing begin below a folder; what chmod does would not stop root."""
    original = Path.mkdir

    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        if self.is_relative_to(folder):
            raise OSError(number, os.strerror(number), str(self))
        original(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse)


def assert_says(said: str, folder: Path, what: str, advice: str) -> None:
    assert said.startswith(f"error: {folder}")
    assert said.endswith(f": {what}; {advice}\n")
    assert said.count("\n") == 1


def test_a_disk_full_at_any_write_of_a_training(tmp_path, monkeypatch, capsys):
    uninterrupted = executed("stage=classifier", f"runs_dir={tmp_path / 'a'}")[-1].folder
    words = ["stage=classifier", f"runs_dir={tmp_path / 'b'}"]
    for pattern, call in [
        ("config.yaml", 1),
        ("run.json", 1),
        ("metrics.csv", 1),
        ("best.ckpt", 1),
        ("last.ckpt", 1),
        ("last.ckpt", 2),
        ("model.safetensors", 1),
        ("config.json", 1),
        ("model", 1),
        ("metrics.json", 1),
        ("run.json", 2),
    ]:
        with monkeypatch.context() as patch:
            full_at(patch, pattern, call)
            status, _, said = command(patch, capsys, *words)
        assert status == 2, pattern
        assert_says(said, tmp_path / "b", "No space left on device", "make room, or choose another runs_dir")
        assert not leftovers(tmp_path / "b")
        (run,) = planned(*words)
        assert not run.finished
        assert run.record().get("status") != "finished"
    assert command(monkeypatch, capsys, *words)[0] == 0
    assert_same_result(uninterrupted, run.folder)


def test_a_disk_full_at_any_write_of_an_evaluation(tmp_path, monkeypatch, capsys):
    words = [f"runs_dir={tmp_path}", *UNET]
    executed("stage=explainer", *words)
    for pattern in ("*.safetensors", "*.csv", "*.png", "report.html"):
        with monkeypatch.context() as patch:
            full_at(patch, pattern)
            status, _, said = command(patch, capsys, *words)
        assert status == 2, pattern
        assert_says(said, tmp_path, "No space left on device", "make room, or choose another runs_dir")
        assert not leftovers(tmp_path)
        assert not planned(*words, base=[*TINY, *RESNET])[-1].finished
    assert command(monkeypatch, capsys, *words)[0] == 0


def test_files_that_may_not_become_large_enough(tmp_path, monkeypatch, capsys):
    """Writes that really fail, midway: Python ignores the signal that comes with them."""
    uninterrupted = executed("stage=classifier", f"runs_dir={tmp_path / 'a'}")[-1].folder
    words, before = ["stage=classifier", f"runs_dir={tmp_path / 'b'}"], resource.getrlimit(resource.RLIMIT_FSIZE)
    best, last = ((uninterrupted / "checkpoints" / name).stat().st_size for name in ("best.ckpt", "last.ckpt"))
    assert 8_000 < best < last - 10
    for limit, name in [(100, "config.yaml"), (8_000, "best.ckpt"), (last - 10, "last.ckpt")]:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            status, _, said = command(monkeypatch, capsys, *words)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert (status, Path(said.split(": ")[1]).name) == (2, name)
        assert_says(
            said, tmp_path / "b", "File too large", "allow larger files (ulimit -f), or choose another runs_dir"
        )
        assert not leftovers(tmp_path / "b")
    assert command(monkeypatch, capsys, *words)[0] == 0
    assert_same_result(uninterrupted, planned(*words)[0].folder)


@pytest.mark.parametrize("below", ["", "/below"])
def test_a_file_where_the_runs_should_go(tmp_path, monkeypatch, capsys, below):
    (tmp_path / "file").write_text("mine")
    status, _, said = command(monkeypatch, capsys, "stage=classifier", f"runs_dir={tmp_path / 'file'}{below}")
    assert status == 2
    assert_says(said, tmp_path / "file", "Not a directory", "choose a runs_dir that is a folder, or can become one")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "allow it, or choose another runs_dir"),
        (errno.EROFS, "choose a runs_dir where files can be written"),
    ],
)
def test_a_folder_where_nothing_may_be_written(tmp_path, monkeypatch, capsys, number, advice):
    read_only(monkeypatch, tmp_path, number)
    status, _, said = command(monkeypatch, capsys, "stage=classifier", f"runs_dir={tmp_path}")
    assert status == 2
    assert_says(said, tmp_path, os.strerror(number), advice)


def test_what_is_finished_needs_no_folder_to_write_in(tmp_path, monkeypatch, capsys):
    words = ["stage=classifier", f"runs_dir={tmp_path}"]
    executed(*words)
    read_only(monkeypatch, tmp_path)
    status, out, said = command(monkeypatch, capsys, *words)
    assert (status, said) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()] == [["classifier", "reuse"], ["classifier", "reused"]]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(tmp_path, monkeypatch, capsys):
    tmp_path.chmod(0o500)
    status, _, said = command(monkeypatch, capsys, "stage=classifier", f"runs_dir={tmp_path}")
    tmp_path.chmod(0o700)
    assert status == 2
    assert_says(said, tmp_path, "Permission denied", "allow it, or choose another runs_dir")
