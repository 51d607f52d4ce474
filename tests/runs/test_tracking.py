"""Weights & Biases without account or network."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from fastshap_lab.errors import UserError
from tests.small_runs import TINY, TRAIN, executed


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("offline")
    for name in ("home", "work"):
        (folder / name).mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "XDG"))}
    environment |= {"HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    words = [sys.executable, TRAIN, *TINY, "logger=wandb", "logger.mode=offline"]
    done = subprocess.run(words, cwd=folder / "work", env=environment, capture_output=True, text=True, check=False)
    return folder, done


def test_it_works_and_says_nothing(offline):
    _, done = offline
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if "  warning  " not in line]
    assert len(lines) == 14
    assert lines[-1] == "wandb sync runs/*/*/wandb/offline-run-*"


def test_it_leaves_nothing_outside_of_the_run_folders(offline):
    folder, _ = offline
    assert [path.name for path in (folder / "work").iterdir()] == ["runs"]
    assert not [path for path in (folder / "home").rglob("*wandb*") if path.is_file()]


def written(path: Path) -> Iterator[Record]:
    """Yield the records of an offline run: blocks of LevelDB's log format, behind a header of 7 bytes."""
    data, place = path.read_bytes(), 7
    parts = b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def test_it_logs_curves_settings_and_parents(offline):
    folder, _ = offline
    (run,) = (folder / "work" / "runs" / "explainer").glob("*/")
    (path,) = run.glob("wandb/offline-run-*/*.wandb")
    records = list(written(path))
    (begun,) = (one.run for one in records if one.WhichOneof("record_type") == "run")
    settings = {item.key: json.loads(item.value_json) for item in begun.config.update}
    record = json.loads((run / "run.json").read_text())
    assert (begun.display_name, begun.job_type) == (f"explainer/{run.name}", "explainer")
    assert begun.run_group == "synthetic/resnet-resnet-unet"
    assert settings["fingerprint"] == record["fingerprint"]
    assert settings["parents"] == record["parents"]
    assert settings["explainer"]["num_coalitions"] == 4
    rows = [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in one.history.item}
        for one in records
        if one.WhichOneof("record_type") == "history"
    ]
    history, measures = pd.read_csv(run / "metrics.csv"), json.loads((run / "metrics.json").read_text())
    assert [row["val/loss"] for row in rows if "val/loss" in row] == pytest.approx(history["val/loss"].tolist())
    assert {name: rows[-1][name] for name in measures} == pytest.approx(measures)


def test_it_holds_the_record_of_the_finished_run(offline):
    folder, _ = offline
    for record in (folder / "work" / "runs").glob("*/*/run.json"):
        (copied,) = record.parent.glob("wandb/offline-run-*/files/run.json")
        assert copied.read_bytes() == record.read_bytes()


def test_it_logs_tables_and_figures(offline):
    folder, _ = offline
    (media,) = (folder / "work" / "runs" / "evaluate").glob("*/wandb/offline-run-*/files/media")
    assert any(path.name.startswith("classifiers") for path in (media / "table").iterdir())
    assert any(path.name.startswith("curves-explainer") for path in (media / "images").iterdir())


def test_without_an_account_it_says_what_to_do(tmp_path, monkeypatch, capfd):
    def refuse(**_: object) -> None:
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.\nand more")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match=r"^logger=wandb: No API key .*; logger\.mode=offline needs no account$"):
        executed("stage=classifier", "logger=wandb", f"runs_dir={tmp_path}")


def test_a_trial_of_a_sweep_is_the_run_of_the_stage_that_is_swept(tmp_path, monkeypatch):
    begun: list[dict] = []

    def init(**settings: object) -> object:
        begun.append(settings)
        raise wandb.errors.UsageError("enough")

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    with pytest.raises(UserError, match="enough"):
        executed("stage=surrogate", "logger=wandb", f"runs_dir={tmp_path}")
    assert [(one["name"].split("/")[0], one["id"]) for one in begun] == [("surrogate", None)]  # the id is the agent's


class Online:
    """In the place of a W&B run with a connection: what it was given."""

    offline = False

    def __init__(self, folder: Path) -> None:
        self.dir, self.rows, self.saved, self.used, self.made = str(folder), [], [], [], []
        self.summary: dict[str, float] = {}
        self.define_metric = lambda *_, **__: None
        self.log, self.save = self.rows.append, lambda path, **_: self.saved.append(Path(path).name)
        self.use_artifact, self.log_artifact = self.used.append, self.made.append

    def __enter__(self) -> "Online":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_online_models_and_the_report_are_artifacts_with_lineage(tmp_path, monkeypatch):
    trackers: dict[str, Online] = {}

    def init(**settings: object) -> Online:
        return trackers.setdefault(str(settings["job_type"]), Online(tmp_path))

    monkeypatch.setattr(wandb, "init", init)
    runs = {run.stage.name: run for run in executed("logger=wandb", f"runs_dir={tmp_path / 'runs'}")}
    names = {stage: f"{stage}-{run.folder.name}" for stage, run in runs.items()}
    made = {stage: [(one.name, one.type) for one in tracker.made] for stage, tracker in trackers.items()}
    assert made.pop("evaluate") == [(names["evaluate"], "report")]
    assert made.pop("labels") == []
    assert made == {stage: [(names[stage], "model")] for stage in ("classifier", "surrogate", "explainer")}
    used = {stage: {one.name for one in tracker.used} for stage, tracker in trackers.items()}
    assert used["classifier"] == set()
    assert used["surrogate"] == {names["classifier"]}
    assert used["explainer"] == {names["classifier"], names["surrogate"]}
    (artifact,) = trackers["explainer"].made
    assert {"config.json", "model.safetensors"} <= set(artifact.manifest.entries)
    assert all(tracker.saved == ["run.json"] for tracker in trackers.values())


def test_a_trial_whose_stage_was_finished_already_is_a_point_of_the_sweep_too(tmp_path, monkeypatch):
    words = "stage=classifier", "logger=wandb", f"runs_dir={tmp_path / 'runs'}"
    (run,) = executed(*words[::2])
    tracker = Online(tmp_path)
    monkeypatch.setattr(wandb, "init", lambda **_: tracker)
    executed(*words)
    assert tracker.rows == []  # outside of a sweep nothing is missing
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    executed(*words)
    *curves, measures = tracker.rows
    assert measures == run.measures()
    assert [row["val/cross_entropy"] for row in curves] == run.history()["val/cross_entropy"].tolist()
