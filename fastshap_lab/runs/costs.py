"""What making a run will cost: from earlier runs of like work on this machine, or else from a short measurement."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastshap_lab.files import sha256, size_of
from fastshap_lab.records import read_record


@dataclass(frozen=True)
class Cost:
    """An estimate, meant to be right within a factor of two on a machine that is as busy as it was.

    Attributes:
        seconds: Of wall time.
        size: Bytes of disk.
    """

    seconds: float
    size: int


@dataclass(frozen=True)
class Work:
    """What a run has to do.

    Attributes:
        kind: What decides over the cost of one unit of it, as plain values: units of equal kinds cost the same.
        amount: Number of units.
        trial: Returns the cost of all of it from a measurement of about a second, or None where that cannot be told.
        grows: Whether the disk that it takes grows with the amount.
    """

    kind: Mapping[str, Any]
    amount: int
    trial: Callable[[], Cost | None]
    grows: bool = False

    @property
    def digest(self) -> str:
        """What identifies the kind."""
        return sha256(json.dumps(self.kind, sort_keys=True))

    def to_json(self, folder: Path) -> dict[str, Any]:
        """Return what a finished run's record keeps of it, for later estimates."""
        return {"kind": self.digest, "amount": self.amount, "size": size_of(folder)}


def earlier(folder: Path, work: Work, hardware: Mapping[str, Any]) -> Cost | None:
    """Return the cost in proportion to that of a finished run of this kind, of those the one of the nearest amount.

    Args:
        folder: Holds the runs of the stage.
        work: To be done.
        hardware: What it will run on; runs on other hardware do not count.
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
    """Return the sum of some costs, and how many are not in it, as the last line of a plan."""
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
    """Return a size with its unit."""
    for unit, length in (("GB", 1e9), ("MB", 1e6)):
        if size >= length:
            return f"{size / length:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"
