"""A run: one stage under one configuration, its fingerprint and its folder."""

import hashlib
import json
import platform
import subprocess
import time
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from omegaconf import OmegaConf

from fastshap_lab.config import TRAINED, Config
from fastshap_lab.data import ImageDataModule
from fastshap_lab.files import remove_leftovers, write_atomically

_PACKAGES = ("fastshap-lab", "torch", "lightning", "timm", "numpy")


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
        tracker: The W&B run, while one is open.
    """

    stage: str
    name: str
    settings: dict[str, Any]
    parents: dict[str, "Run"]
    config: Config
    data: ImageDataModule = field(repr=False)
    tracker: Any = field(default=None, repr=False)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the settings and of the parents' fingerprints."""
        parents = {role: parent.fingerprint for role, parent in self.parents.items()}
        content = json.dumps({"stage": self.stage, "settings": self.settings, "parents": parents}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def folder(self) -> Path:
        """The run folder; one that was made under another name is found by its fingerprint."""
        stage, tail = Path(self.config.runs_dir) / self.stage, f"-{self.fingerprint[:8]}"
        return next(stage.glob(f"*{tail}"), stage / f"{self.name}{tail}")

    @property
    def model(self) -> Path:
        """The model folder, all that later stages and inference read."""
        return self.folder / "model"

    def record(self) -> dict[str, Any]:
        """Return ``run.json``, empty where the run was never started."""
        path = self.folder / "run.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @property
    def finished(self) -> bool:
        """Whether the result is there."""
        return self.record().get("status") == "finished" and (not self.trains or self.model.is_dir())

    @property
    def trains(self) -> bool:
        """Whether the result is a model."""
        return self.stage in TRAINED

    @property
    def plan(self) -> str:
        """What making the run will do: reuse, resume, train or, where nothing is trained, make."""
        if self.finished:
            return "reuse"
        if (self.folder / "checkpoints" / "last.ckpt").is_file():
            return "resume"
        return "train" if self.trains else "make"

    def begin(self) -> None:
        """Make the folder and say what is being made in it; nobody else may be at it."""
        remove_leftovers(self.folder)
        config = OmegaConf.to_yaml(OmegaConf.structured(self.config))
        write_atomically(self.folder / "config.yaml", config)
        self._write("running")

    def stop(self, status: str, seconds: float) -> None:
        """Say that the run ended early, and how."""
        self._write(status, seconds)

    def finish(self, measures: dict[str, float], seconds: float) -> None:
        """Say that the result is complete; nothing counts as a result before."""
        write_atomically(self.folder / "metrics.json", json.dumps(measures, indent=2) + "\n")
        self._write("finished", seconds)

    def measures(self) -> dict[str, float]:
        """Return the result's measures."""
        return json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))

    def summary(self) -> dict[str, Any]:
        """Return what identifies the run."""
        return {
            "stage": self.stage,
            "fingerprint": self.fingerprint,
            "parents": {role: str(parent.folder) for role, parent in self.parents.items()},
            "settings": self.settings,
        }

    def _write(self, status: str, seconds: float = 0.0) -> None:
        before = self.record()
        record = {
            **self.summary(),
            "id": before.get("id") or uuid4().hex,
            "status": status,
            "seconds": round(before.get("seconds", 0.0) + seconds, 2),
            "updated": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "git": _git_state(),
            "versions": {package: version(package) for package in _PACKAGES},
            "hardware": _hardware(),
        }
        write_atomically(self.folder / "run.json", json.dumps(record, indent=2) + "\n")


@cache
def _git_state() -> dict[str, Any]:
    """Return commit and cleanliness of the working copy that the package runs from, if it is one."""
    here = Path(__file__).parent
    try:
        commit, changes = (
            subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": commit, "clean": not changes}


def _hardware() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"machine": platform.machine(), "threads": torch.get_num_threads(), "gpus": gpus}
