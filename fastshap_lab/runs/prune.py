"""What a folder of runs holds, and deleting what no run refers to."""

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
    """Print how large runs and kept results are, and delete what nothing refers to.

    That is files of the store that no run's record lists, and what killed writers left where nobody is at work. What an
    unfinished run may have made, and will list when it is done, stays: whatever is younger than the beginning of the
    oldest one. Run folders stay, finished or not.

    Args:
        runs_dir: Where runs are kept.
        console: To print to.
        dry_run: Delete nothing.
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
        waiting = f", {len(free) - len(old)} more than runs list, kept for {oldest}" if len(old) < len(free) else ""
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
    """Return when an unfinished run was begun; where its record does not say, the time of its oldest file."""
    try:
        return datetime.fromisoformat(record["begun"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return min(path.lstat().st_mtime for path in folder.rglob("*"))


def _left_in(folder: Path, record: dict[str, Any]) -> list[Path]:
    """Return what killed writers left in a run's folder; nothing while somebody is at it, who may be writing."""
    found = leftovers(folder)
    if not found:
        return []
    try:
        with FileLock(lock_of(folder.parent, str(record.get("fingerprint")))).acquire(timeout=0):
            return leftovers(folder)
    except Timeout:
        return []
