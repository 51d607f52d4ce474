"""Listing of a folder of runs, and deletion of files that no run refers to."""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from fastshap_lab.files import leftovers, remove, size_of
from fastshap_lab.records import RECORD, read_record
from fastshap_lab.runs.costs import in_bytes
from fastshap_lab.runs.run import lock_of

STORE = "store"


def prune(runs_dir: Path, console: Console, dry_run: bool) -> None:
    """Print the sizes of runs and of the store, and delete files that nothing refers to.

    These are files of the store that no run's record lists, and temporary files of processes that were killed. Files
    that are younger than the start of the oldest unfinished run stay, since that run may have made them and will list
    them when it is finished. Run folders always stay.

    Args:
        runs_dir: Folder of the runs.
        console: Console to print to.
        dry_run: Whether to print only, and delete nothing.
    """

    def say(*words: str) -> None:
        console.print("  ".join(words), soft_wrap=True, markup=False)

    runs = {path.parent: read_record(path.parent) for path in sorted(runs_dir.glob(f"*/*/{RECORD}"))}
    for folder, record in runs.items():
        say(
            f"{folder.parent.name:<10}",
            f"{record.get('status', 'damaged'):<11}",
            str(folder),
            in_bytes(size_of(folder)),
        )
    begun = {folder: _begun(folder, record) for folder, record in runs.items() if record.get("status") != "finished"}
    oldest = min(begun, key=begun.__getitem__, default=None)
    used = {name for record in runs.values() for name in record.get("uses", [])}
    store, useless = runs_dir / STORE, list[Path]()
    for kind in sorted(path for path in store.glob("*") if path.is_dir()):
        files = [path for path in sorted(kind.rglob("*")) if path.is_file()]
        free = [path for path in files if not {name := path.relative_to(store).as_posix(), _stem(name)} & used]
        old = [path for path in free if oldest is None or path.lstat().st_mtime < begun[oldest]]
        useless += old
        unlisted = len(free) - len(old)
        waiting = f", of which no run lists {unlisted}; they stay for the unfinished {oldest}" if unlisted else ""
        say(f"{STORE:<10}", f"{len(files)} files".ljust(11), str(kind), in_bytes(_size(files)) + waiting)
    for folder, record in runs.items():
        useless += _left_in(folder, record)
    deleted = _size(useless)
    for path in useless:
        say(f"{'would go' if dry_run else 'deleted':<10}", " " * 11, str(path), in_bytes(size_of(path)))
        if not dry_run:
            remove(path)
    left = _size([store, *runs]) - (deleted if dry_run else 0)
    verb = "would delete" if dry_run else "deleted"
    say(f"{verb} {in_bytes(deleted)} in {len(useless)} files; {len(runs)} runs and the store hold {in_bytes(left)}")


def _size(paths: Iterable[Path]) -> int:
    return sum(size_of(path) for path in paths if path.exists())


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _begun(folder: Path, record: dict[str, Any]) -> float:
    """Return the time at which an unfinished run started, from its record or else from its oldest file."""
    try:
        return datetime.fromisoformat(record["begun"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return min(path.lstat().st_mtime for path in folder.rglob("*"))


def _left_in(folder: Path, record: dict[str, Any]) -> list[Path]:
    """Return temporary files of killed processes in a run's folder; none while a process is making the run."""
    found = leftovers(folder)
    if not found:
        return []
    try:
        with FileLock(lock_of(folder.parent, str(record.get("fingerprint")))).acquire(timeout=0):
            return leftovers(folder)
    except Timeout:
        return []
