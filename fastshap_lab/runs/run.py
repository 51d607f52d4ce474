"""Stages, as they are declared, and runs: one stage under one configuration, its fingerprint and its folder."""

import json
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import torch
from omegaconf import OmegaConf

from fastshap_lab.config import Config
from fastshap_lab.data import ImageDataModule
from fastshap_lab.errors import UserError
from fastshap_lab.files import (
    is_intact,
    refuse_folder,
    remove_leftovers,
    sha256,
    write_atomically,
)
from fastshap_lab.records import MEASURES, METRICS_FILE, RECORD, REPORT, read_record
from fastshap_lab.runs.costs import Cost, Work, earlier
from fastshap_lab.runs.store import Store

_BEST, _LAST = "checkpoints/best.ckpt", "checkpoints/last.ckpt"
_MODEL = ("model/config.json", "model/model.safetensors")
_LEFT = 0.05  # at least so much of a run that was begun is left
_PACKAGES = ("fastshap-lab", "torch", "lightning", "timm", "numpy")


@dataclass(frozen=True)
class Stage:
    """What a stage says of itself: whoever plans and runs stages knows none by its name.

    Args:
        name: Of the stage, and of the folder of its runs.
        settings: Returns all that can change the result and nothing else, as plain values, of a configuration and the
            digest of the data. What a parent was made from is not said again: its fingerprint counts.
        check: Raises a ``UserError`` where a run cannot be made; called on the meta device, before anything starts.
        make: Makes the result in a run's folder, from finished parents, and returns its measures.
        group: Group of the configuration that it belongs to: a pipeline without one ends before it.
        parents: Names of the stages that it builds on, as far as a configuration has them.
        joins: Whether it builds on the ends of all pipelines instead.
        wanted: Returns whether a configuration has this stage at all.
        classes: Returns the classes of the model that it takes over as it is, where they are not the data's; else None.
        part: Returns its part of the readable name of folders.
        trains: Whether the result is a model.
        reports: Whether the result is a page.
        work: Returns what a run has to do, for estimates of its cost; None where that cannot be told.
        headline: Measures that are printed when it is done, and their formats.
        warnings: Returns what there is to say about a result, a line each, of its run and its measures.
        loading: Program text that loads the result from ``{place}``, for users to paste.
    """

    name: str
    settings: Callable[[Config, str], dict[str, Any]]
    check: Callable[["Run"], None]
    make: Callable[["Run"], dict[str, float]]
    group: str | None = None
    parents: tuple[str, ...] = ()
    joins: bool = False
    wanted: Callable[[Config], bool] = lambda config: True
    classes: Callable[[Config, ImageDataModule], list[str] | None] = lambda config, data: None
    part: Callable[[Config], str] = lambda config: ""
    trains: bool = False
    reports: bool = False
    work: Callable[["Run"], Work | None] = lambda run: None
    headline: Mapping[str, str] = field(default_factory=dict)
    warnings: Callable[["Run", Mapping[str, float]], list[str]] = lambda run, measures: []
    loading: str | None = None


@dataclass
class Run:
    """A stage to be made, or made already.

    Args:
        stage: Which one.
        name: The readable part of the folder's name.
        settings: Everything that can change the result, and nothing else; plain values.
        parents: The runs it builds on, by role.
        config: The whole configuration, of which the stage reads its part.
        data: The images.
        pipeline: Name of the pipeline that the run belongs to; runs that several pipelines share name the first.
        tracker: The W&B run, while one is open.
    """

    stage: Stage
    name: str
    settings: dict[str, Any]
    parents: dict[str, "Run"]
    config: Config
    data: ImageDataModule = field(repr=False)
    pipeline: str = ""
    tracker: Any = field(default=None, repr=False)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the settings and of the parents' fingerprints."""
        parents = {role: parent.fingerprint for role, parent in self.parents.items()}
        content = json.dumps({"stage": self.stage.name, "settings": self.settings, "parents": parents}, sort_keys=True)
        return sha256(content)

    @property
    def folder(self) -> Path:
        """The run folder; one that was made under another name is found by its fingerprint.

        The first digits of that stand in its name, and all of them in ``run.json``: a folder of another run that shares
        the first ones is passed over, and the second of the two runs may get more of them in its name.

        Raises:
            UserError: There is no folder for this run that is not another's.
        """
        stage = Path(self.config.runs_dir) / self.stage.name
        for digits in (8, 16):
            tail = f"-{self.fingerprint[:digits]}"
            places = [*sorted(stage.glob(f"*{tail}")), stage / f"{self.name}{tail}"]
            owners = [read_record(place).get("fingerprint") for place in places]
            for owner in (self.fingerprint, None):  # one that says nothing was begun, or its record is damaged
                if owner in owners:
                    return places[owners.index(owner)]
        raise UserError(f"{places[-1] / RECORD}: of another run; move its folder away")

    @property
    def lock(self) -> Path:
        """The file that whoever makes the run holds a lock on."""
        return lock_of(self.folder.parent, self.fingerprint)

    @property
    def model(self) -> Path:
        """The model folder, all that later stages and inference read."""
        return self.folder / "model"

    @property
    def model_digest(self) -> str:
        """SHA-256 of the model: of its description, which holds the weights'."""
        return sha256((self.model / "config.json").read_bytes())

    def record(self) -> dict[str, Any]:
        """Return ``run.json``, empty where the run was never started, or the file is damaged."""
        return read_record(self.folder)

    @property
    def finished(self) -> bool:
        """Whether the result is there, as it was made."""
        return self.record().get("status") == "finished" and self.flaw is None

    @property
    def flaw(self) -> str | None:
        """What of the run is missing or damaged, for which it is made again, and which file it is."""
        folder, record = self.folder, self.record()
        if (folder / RECORD).is_file() and not record:
            return f"{folder / RECORD}: damaged"
        if record.get("status") == "finished":
            # Those of runs from before they were listed: by name alone.
            files = {MEASURES: None} | dict.fromkeys(_MODEL if self.stage.trains else ())
            files |= {REPORT: None} if self.stage.reports else {}
            for name, digest in (files | record.get("files", {})).items():
                if not (folder / name).is_file():
                    return f"{folder / name}: missing"
                if digest is not None and sha256((folder / name).read_bytes()) != digest:
                    return f"{folder / name}: changed since it was written"
        elif (folder / _LAST).is_file() and not is_intact(folder / _LAST):
            return f"{folder / _LAST}: changed since it was written, or damaged; the training starts over"
        return None

    @property
    def action(self) -> str:
        """What making the run will do: reuse, resume, train or, where nothing is trained, make.

        Raises:
            UserError: A folder lies where a file belongs.
        """
        if self.finished:
            return "reuse"
        for name in (RECORD, MEASURES, METRICS_FILE, REPORT, _BEST, _LAST):
            refuse_folder(self.folder / name)
        if is_intact(self.folder / _LAST):
            return "resume"
        return "train" if self.stage.trains else "make"

    def work(self) -> Work | None:
        """Return what the run has to do; None where that cannot be told, whatever the reason."""
        try:
            return self.stage.work(self)
        except Exception:  # no reason to stop: what is wrong is said where the run is made
            return None

    def cost(self, known: dict[str, Cost | None]) -> Cost | None:
        """Return what making the run, or going on with it, will cost; None where that cannot be told.

        Args:
            known: Costs that were measured already, by the run's kind and amount of work; the run's is added.
        """
        work = self.work()
        if work is None:
            return None
        cost = earlier(self.folder.parent, work, _hardware())
        if cost is None:
            key = f"{work.digest} {work.amount}"
            if key not in known:
                try:
                    with torch.random.fork_rng(devices=[]):
                        known[key] = work.trial()
                except Exception:  # as above
                    known[key] = None
            cost = known[key]
        if cost is None or self.action != "resume":
            return cost
        return Cost(max(cost.seconds - self.record().get("seconds", 0.0), _LEFT * cost.seconds), cost.size)

    def begin(self) -> None:
        """Make the folder and say what is being made in it; nobody else may be at it."""
        remove_leftovers(self.folder)
        config = OmegaConf.to_yaml(OmegaConf.structured(self.config))
        write_atomically(self.folder / "config.yaml", config)
        self._write("running")

    def stop(self, status: str, seconds: float) -> None:
        """Record that the run ended early.

        Args:
            status: ``failed`` or ``interrupted``.
            seconds: Duration of this attempt.
        """
        self._write(status, seconds)

    def finish(self, measures: dict[str, float], seconds: float) -> None:
        """Record that the result is complete, and which files belong to it. Nothing counts as a result before.

        Small files that later stages read are listed with their digests; the digest of a model's description covers its
        weights, whose digest it contains. Other files are listed by name: each of them can tell by itself whether it
        was changed.

        Args:
            measures: Measures of the result, by name.
            seconds: Duration of this attempt.
        """
        write_atomically(self.folder / MEASURES, json.dumps(measures, indent=2) + "\n")
        files: dict[str, str | None] = {}
        for pattern in (MEASURES, METRICS_FILE, REPORT, "model/[!.]*", "labels/[!.]*"):
            for path in sorted(self.folder.glob(pattern)):
                digest = sha256(path.read_bytes()) if path.suffix in (".json", ".csv") else None
                files[path.relative_to(self.folder).as_posix()] = digest
        work = self.work()
        more = {} if work is None else {"work": work.to_json(self.folder)}
        self._write("finished", seconds, files=files, **more)

    def measures(self) -> dict[str, float]:
        """Return the result's measures.

        Raises:
            UserError: Their file is damaged.
        """
        return self._parsed(MEASURES, lambda path: json.loads(path.read_text(encoding="utf-8")))

    def history(self) -> pd.DataFrame:
        """Return the measures of a training, a row per epoch.

        Raises:
            UserError: Their file is damaged.
        """
        return self._parsed(METRICS_FILE, pd.read_csv)

    @cached_property
    def store(self) -> Store:
        """What runs share: results by what made them. The run's record lists those that it asked for."""
        return Store(Path(self.config.runs_dir) / "store")

    def summary(self) -> dict[str, Any]:
        """Return what identifies the run."""
        return {
            "stage": self.stage.name,
            "fingerprint": self.fingerprint,
            "parents": {role: str(parent.folder) for role, parent in self.parents.items()},
            "settings": self.settings,
        }

    def _parsed(self, name: str, parse: Callable[[Path], Any]) -> Any:
        try:
            return parse(self.folder / name)
        except ValueError:
            raise UserError(
                f"{self.folder / name}: damaged; delete {self.folder / RECORD}, and the same command makes it again"
            ) from None

    def _write(self, status: str, seconds: float = 0.0, **more: Any) -> None:
        before, now = self.record(), time.strftime("%Y-%m-%dT%H:%M:%S%z")
        used = sorted({*before.get("uses", []), *self.store.used})  # an interrupted run's, too
        record = {
            **self.summary(),
            "id": before.get("id") or uuid4().hex,
            "status": status,
            "seconds": round(before.get("seconds", 0.0) + seconds, 2),
            "begun": before.get("begun") or now,
            "updated": now,
            "git": _git_state(),
            "versions": {package: version(package) for package in _PACKAGES},
            "hardware": _hardware(),
            **({"uses": used} if used else {}),
            **more,
        }
        write_atomically(self.folder / RECORD, json.dumps(record, indent=2) + "\n")


def lock_of(stage: Path, fingerprint: str) -> Path:
    """Return the file that is locked while a run is made. It lies beside the run's folder, whose name may change.

    Args:
        stage: Folder of the stage's runs.
        fingerprint: Fingerprint of the run.
    """
    return stage / f".{fingerprint[:8]}.lock"


@cache
def _git_state() -> dict[str, Any]:
    """Return commit and cleanliness of the working copy that the package runs from, if it is one."""
    here = Path(__file__)
    tracked = ("ls-files", "--error-unmatch", here.name)  # an environment may lie in somebody's working copy
    try:
        _, commit, changes = (
            subprocess.run(["git", *words], cwd=here.parent, capture_output=True, text=True, check=True).stdout.strip()
            for words in (tracked, ("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": commit, "clean": not changes}


def _hardware() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"machine": platform.machine(), "threads": torch.get_num_threads(), "gpus": gpus}
