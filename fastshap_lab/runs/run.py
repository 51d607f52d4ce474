"""Declarations of stages, and runs: a run is a stage with one configuration; it has a fingerprint and a folder."""

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
_LEFT = 0.05  # smallest fraction of the whole cost that is estimated for resuming a run
_PACKAGES = ("fastshap-lab", "torch", "lightning", "timm", "numpy")


@dataclass(frozen=True)
class Stage:
    """Declaration of a stage; the code that plans and makes runs knows stages by their declarations only.

    Args:
        name: Name of the stage; runs lie in a folder of this name.
        settings: Function that returns everything that can change the result and nothing else, as plain values, from
            the configuration and the digest of the data. Settings of parents are left out: their fingerprints count.
        check: Function that raises a ``UserError`` if a run cannot be made; it is called on the meta device before any
            run starts.
        make: Function that makes the result in a run's folder, when its parents are finished, and returns its measures.
        group: Group of the configuration that the stage belongs to; a pipeline that chooses nothing there ends before.
        parents: Names of the stages that it builds on, as far as the pipeline has them.
        joins: Whether it builds on the last runs of all pipelines instead of ``parents``.
        wanted: Function that returns whether a configuration needs the stage.
        classes: Function that returns the class names of a model that is used as it is, if they are not the data's;
            else None.
        part: Function that returns the part that the stage adds to the readable name of folders.
        trains: Whether the result is a model.
        reports: Whether the result is a report.
        work: Function that returns the work of a run, for estimates of its cost, or None if it cannot tell.
        headline: Measures to print when the run is finished, with their formats.
        warnings: Function that returns warnings about the result, one line each, from the run and its measures.
        loading: Line of Python that loads the result from ``{place}``, for users to copy.
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
    """A stage with one configuration, whose result is made or will be.

    Args:
        stage: Declaration of the stage.
        name: Readable part of the folder's name.
        settings: Everything that can change the result, and nothing else, as plain values.
        parents: Runs that it builds on, by the names of their stages or pipelines.
        config: The whole configuration; the stage reads its own part.
        data: The data set.
        pipeline: Name of the pipeline; runs that several pipelines share have the name of the last one.
        tracker: The W&B run while it is open, else None.
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
        """The run's folder; its fingerprint identifies it, even if it was made under another name.

        The first 8 digits of the fingerprint are part of the folder's name, and ``run.json`` contains all of them. If
        two runs share the first 8 digits, the folder of the second has 16 in its name.

        Raises:
            UserError: All folders that this run could have belong to other runs.
        """
        stage = Path(self.config.runs_dir) / self.stage.name
        for digits in (8, 16):
            tail = f"-{self.fingerprint[:digits]}"
            places = [*sorted(stage.glob(f"*{tail}")), stage / f"{self.name}{tail}"]
            owners = [read_record(place).get("fingerprint") for place in places]
            for owner in (self.fingerprint, None):  # None: there is no record yet, or it is damaged
                if owner in owners:
                    return places[owners.index(owner)]
        raise UserError(f"{places[-1] / RECORD}: belongs to another run; move its folder away")

    @property
    def lock(self) -> Path:
        """Path of the file that a process locks while it makes the run."""
        return lock_of(self.folder.parent, self.fingerprint)

    @property
    def model(self) -> Path:
        """The model folder, which is all that later stages and inference read."""
        return self.folder / "model"

    @property
    def model_digest(self) -> str:
        """SHA-256 of the model's description, which contains the digest of the weights."""
        return sha256((self.model / "config.json").read_bytes())

    def record(self) -> dict[str, Any]:
        """Return the content of ``run.json``, empty if the run was never started or the file is damaged."""
        return read_record(self.folder)

    @property
    def finished(self) -> bool:
        """Whether the result is complete and unchanged."""
        return self.record().get("status") == "finished" and self.flaw is None

    @property
    def flaw(self) -> str | None:
        """The file that is missing or damaged, and why, in words, so that the run is made again; None if none is."""
        folder, record = self.folder, self.record()
        if (folder / RECORD).is_file() and not record:
            return f"{folder / RECORD}: damaged"
        if record.get("status") == "finished":
            # Records of older versions list no files; these are checked by their names only.
            files = {MEASURES: None} | dict.fromkeys(_MODEL if self.stage.trains else ())
            files |= {REPORT: None} if self.stage.reports else {}
            for name, digest in (files | record.get("files", {})).items():
                if not (folder / name).is_file():
                    return f"{folder / name}: missing"
                if digest is not None and sha256((folder / name).read_bytes()) != digest:
                    return f"{folder / name}: changed since it was written"
        elif (folder / _LAST).is_file() and not is_intact(folder / _LAST):
            return f"{folder / _LAST}: changed since it was written, or damaged; the training starts again"
        return None

    @property
    def action(self) -> str:
        """The action that ``execute`` takes: ``reuse``, ``resume``, ``train``, or ``make`` if the stage trains nothing.

        Raises:
            UserError: There is a folder in the place of a file.
        """
        if self.finished:
            return "reuse"
        for name in (RECORD, MEASURES, METRICS_FILE, REPORT, _BEST, _LAST):
            refuse_folder(self.folder / name)
        if is_intact(self.folder / _LAST):
            return "resume"
        return "train" if self.stage.trains else "make"

    def work(self) -> Work | None:
        """Return the work of the run, or None if the stage cannot tell or fails."""
        try:
            return self.stage.work(self)
        except Exception:  # an estimate must not stop a plan; what is wrong is reported when the run is made
            return None

    def cost(self, known: dict[str, Cost | None]) -> Cost | None:
        """Return the estimated cost of making or resuming the run, or None if it cannot be estimated.

        Args:
            known: Costs that were measured before, by kind and amount of work; the run's own cost is added.
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
                except Exception:  # as in `work`
                    known[key] = None
            cost = known[key]
        if cost is None or self.action != "resume":
            return cost
        return Cost(max(cost.seconds - self.record().get("seconds", 0.0), _LEFT * cost.seconds), cost.size)

    def begin(self) -> None:
        """Create the folder with the configuration and a record; the caller must hold the lock."""
        remove_leftovers(self.folder)
        config = OmegaConf.to_yaml(OmegaConf.structured(self.config))
        write_atomically(self.folder / "config.yaml", config)
        self._write("running")

    def stop(self, status: str, seconds: float) -> None:
        """Record that the run ended early.

        Args:
            status: ``failed`` or ``interrupted``.
            seconds: Wall time of this attempt in seconds.
        """
        self._write(status, seconds)

    def finish(self, measures: dict[str, float], seconds: float) -> None:
        """Record that the result is complete, with the list of its files; before that, nothing counts as a result.

        JSON and CSV files are listed with their digests; a model's description contains the digest of its weights.
        Other files are listed by name: labels contain a digest of their own, and a changed report does no harm.

        Args:
            measures: Measures of the result, by name.
            seconds: Wall time of this attempt in seconds.
        """
        write_atomically(self.folder / MEASURES, json.dumps(measures, indent=2) + "\n")
        files: dict[str, str | None] = {}
        for pattern in (MEASURES, METRICS_FILE, REPORT, "*.jsonl", "model/[!.]*", "labels/[!.]*", "explanations/[!.]*"):
            for path in sorted(self.folder.glob(pattern)):
                digest = sha256(path.read_bytes()) if path.suffix in (".json", ".csv") else None
                files[path.relative_to(self.folder).as_posix()] = digest
        work = self.work()
        more = {} if work is None else {"work": work.to_json(self.folder)}
        self._write("finished", seconds, files=files, **more)

    def measures(self) -> dict[str, float]:
        """Return the measures of the result, by name.

        Raises:
            UserError: The file is damaged.
        """
        return self._parsed(MEASURES, lambda path: json.loads(path.read_text(encoding="utf-8")))

    def history(self) -> pd.DataFrame:
        """Return the measures of a training, with a row for each epoch.

        Raises:
            UserError: The file is damaged.
        """
        return self._parsed(METRICS_FILE, pd.read_csv)

    @cached_property
    def store(self) -> Store:
        """The cache of results that runs share; the run's record lists the entries that it used."""
        return Store(Path(self.config.runs_dir) / "store")

    def summary(self) -> dict[str, Any]:
        """Return stage, fingerprint, folders of the parents and settings of the run."""
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
        used = sorted({*before.get("uses", []), *self.store.used})  # including those of interrupted attempts
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
    """Return the path of the file that is locked while a run is made; it does not depend on the folder's readable name.

    Args:
        stage: Folder of the stage's runs.
        fingerprint: Fingerprint of the run.
    """
    return stage / f".{fingerprint[:8]}.lock"


@cache
def _git_state() -> dict[str, Any]:
    """Return commit and cleanliness of the git repository that the package runs from; empty if there is none."""
    here = Path(__file__)
    tracked = ("ls-files", "--error-unmatch", here.name)  # fails if the package is merely installed below a repository
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
