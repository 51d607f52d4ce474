"""What is deleted where runs are kept: what no run refers to, and nothing that somebody may need."""

import json
import os
import time
from io import StringIO
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from fastshap_lab.cli import main
from fastshap_lab.files import write_atomically
from fastshap_lab.runs.prune import prune
from tests.small_runs import executed, planned

HOUR = 3600


def said(runs_dir: Path, dry_run: bool = False) -> list[str]:
    out = StringIO()
    prune(runs_dir, Console(file=out, width=80), dry_run)
    return out.getvalue().splitlines()


def kept(store: Path, name: str, hours: float) -> Path:
    """Return a file of the store, so many hours old."""
    path = store / name
    write_atomically(path, bytes(1_000_000))
    os.utime(path, 2 * (time.time() - hours * HOUR,))
    return path


def record(folder: Path, **values: object) -> Path:
    path = folder / "run.json"
    content = json.loads(path.read_text()) if path.exists() else {"fingerprint": "0123456789abcdef"}
    write_atomically(path, json.dumps(content | values))
    return folder


def ago(hours: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(time.time() - hours * HOUR))


@pytest.fixture
def runs_dir(tmp_path) -> Path:
    """Return a folder of a finished evaluation that uses two results, one of them named without its suffix."""
    record(tmp_path / "evaluate" / "done-01234567", status="finished", uses=["maps/a.safetensors", "maps/sub/b"])
    return tmp_path


def test_what_no_run_lists_is_deleted_and_a_dry_run_only_lists(runs_dir):
    store = runs_dir / "store"
    used = [kept(store, name, 9) for name in ("maps/a.safetensors", "maps/sub/b.safetensors")]
    useless = [kept(store, name, 9) for name in ("maps/c.safetensors", "values/.d.0123abcd.safetensors")]
    lines = said(runs_dir, dry_run=True)
    assert all(path.exists() for path in used + useless)
    assert [line.split()[:2] for line in lines[:3]] == [["evaluate", "finished"], ["store", "3"], ["store", "1"]]
    assert lines[1].endswith(f"{store / 'maps'}  3.0 MB")
    assert [line.split()[2] for line in lines[3:5]] == [str(path) for path in useless]
    assert lines[-1] == "would delete 2.0 MB in 2 files; 1 runs and the store hold 2.0 MB"
    assert said(runs_dir)[-1] == "deleted 2.0 MB in 2 files; 1 runs and the store hold 2.0 MB"
    assert all(path.exists() for path in used)
    assert not any(path.exists() for path in useless)
    assert said(runs_dir)[-1].startswith("deleted 0 kB in 0 files")


@pytest.mark.parametrize("status", ["running", "interrupted", "failed", "damaged"])
def test_what_an_unfinished_run_may_have_made_stays(runs_dir, status):
    store, unfinished = runs_dir / "store", runs_dir / "evaluate" / "begun-89abcdef"
    record(unfinished, status=status, begun=ago(5))
    if status == "damaged":
        (unfinished / "run.json").write_text("{")
        os.utime(unfinished / "run.json", 2 * (time.time() - 5 * HOUR,))
    young, old = kept(store, "maps/young.safetensors", 4), kept(store, "maps/old.safetensors", 6)
    lines = said(runs_dir)
    assert (young.exists(), old.exists()) == (True, False)
    assert f"of which no run lists 1; they stay for the unfinished {unfinished}" in " ".join(lines)
    assert (unfinished / "run.json").exists()
    record(unfinished, status="finished", uses=[]) if status != "damaged" else (unfinished / "run.json").unlink()
    said(runs_dir)
    assert not young.exists()


def test_what_killed_writers_left_goes_where_nobody_is_at_work(tmp_path):
    (run,) = executed("stage=classifier", f"runs_dir={tmp_path}")
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    left = [run.folder / ".metrics.0123abcd.csv", run.folder / ".model.0123abcd" / "model.safetensors"]
    for path in left:
        write_atomically(path, "half")
    with FileLock(run.lock):
        said(tmp_path)
        assert all(path.exists() for path in left)
    said(tmp_path)
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before
    assert planned("stage=classifier", f"runs_dir={tmp_path}")[0].action == "reuse"


def test_a_run_remembers_when_it_was_begun(tmp_path, monkeypatch):
    (run,) = planned("stage=classifier", f"runs_dir={tmp_path}")
    run.begin()
    begun = run.record()["begun"]
    monkeypatch.setattr(time, "strftime", lambda *_: "later")
    run.begin()
    assert (run.record()["begun"], run.record()["updated"]) == (begun, "later")


def test_the_command_line_prunes_and_makes_nothing(runs_dir, monkeypatch, capsys):
    useless = kept(runs_dir / "store", "maps/c.safetensors", 9)
    for words in (["dry_run=true"], []):
        monkeypatch.setattr("sys.argv", ["train.py", "prune=true", f"runs_dir={runs_dir}", *words])
        main()
        assert useless.exists() == bool(words)
    said = capsys.readouterr()
    assert not said.err
    assert "deleted 1.0 MB in 1 files" in said.out
    assert {path.name for path in runs_dir.iterdir()} == {"evaluate", "store"}
