"""Estimates of a run's cost, from earlier runs of the same kind on this machine or else from a short measurement."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastshap_lab.files import sha256, size_of
from fastshap_lab.records import read_record


@dataclass(frozen=True)
class Cost:
    """An estimated cost, which should be right within a factor of two if the machine is as busy as before.

    Attributes:
        seconds: Wall time in seconds.
        size: Disk space in bytes.
    """

    seconds: float
    size: int


@dataclass(frozen=True)
class Work:
    """The work of a run, from which its cost is estimated.

    Attributes:
        kind: Settings that determine the cost of one unit of work, as plain values.
        amount: Number of units.
        trial: Function that measures for about a second and returns the cost of all units, or None if it cannot tell.
        grows: Whether the disk space is proportional to ``amount``.
    """

    kind: Mapping[str, Any]
    amount: int
    trial: Callable[[], Cost | None]
    grows: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 of the kind."""
        return sha256(json.dumps(self.kind, sort_keys=True))

    def to_json(self, folder: Path) -> dict[str, Any]:
        """Return the entry for the record of a finished run in ``folder``, which later estimates read."""
        return {"kind": self.digest, "amount": self.amount, "size": size_of(folder)}


def earlier(folder: Path, work: Work, hardware: Mapping[str, Any]) -> Cost | None:
    """Return the cost in proportion to that of the finished run of the same kind with the nearest amount, or None.

    Args:
        folder: Folder that contains the runs of the stage.
        work: Work to estimate.
        hardware: Hardware of this process; runs on other hardware are ignored.
    """
    found: list[tuple[float, Cost]] = []
    for place in folder.glob("*/"):
        record = read_record(place)
        done = record.get("work", {})
        if (done.get("kind"), record.get("hardware")) == (work.digest, hardware):
            ratio = work.amount / done["amount"]
            cost = Cost(float(record["seconds"] * ratio), round(done["size"] * (ratio if work.grows else 1)))
            found.append((max(ratio, 1 / ratio), cost))
    return min(found, key=lambda one: one[0])[1] if found else None


def total(costs: Sequence[Cost | None]) -> str:
    """Return the sum of the known costs and the number of unknown ones, in words, for the last line of a plan."""
    known = [cost for cost in costs if cost is not None]
    whole = in_words(Cost(float(sum(cost.seconds for cost in known)), sum(cost.size for cost in known)))
    return whole + (f", and {len(costs) - len(known)} not estimated" if len(known) < len(costs) else "")


def in_words(cost: Cost | None) -> str:
    """Return a cost as a plan shows it: ``~40 s, 25 MB``."""
    if cost is None:
        return "not estimated"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if cost.seconds >= 2 * length:
            return f"~{cost.seconds / length:.2g} {unit}, {in_bytes(cost.size)}"
    return f"~{max(cost.seconds, 1):.0f} s, {in_bytes(cost.size)}"


def in_bytes(size: int) -> str:
    """Return a size in bytes as a number with its unit."""
    for unit, length in (("GB", 1e9), ("MB", 1e6)):
        if size >= length:
            return f"{size / length:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"
