"""Weights & Biases without account or network."""

import json
import os
import subprocess
import sys

import pytest

from fastshap_lab.errors import UserError
from tests.small_runs import TINY, TRAIN, executed

wandb = pytest.importorskip("wandb")


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
    assert "wandb" not in done.stdout
    assert len([line for line in done.stdout.splitlines() if "  warning  " not in line]) == 13


def test_it_leaves_nothing_outside_of_the_run_folders(offline):
    folder, _ = offline
    assert [path.name for path in (folder / "work").iterdir()] == ["runs"]
    assert not [path for path in (folder / "home").rglob("*wandb*") if path.is_file()]


def test_it_logs_curves_settings_and_parents(offline):
    folder, _ = offline
    (run,) = (folder / "work" / "runs" / "explainer").glob("*/")
    (content,) = (path.read_bytes() for path in run.glob("wandb/offline-run-*/*.wandb"))  # protobuf, not compressed
    record = json.loads((run / "run.json").read_text())
    for word in ("val/loss", "test/additive_r2", "num_coalitions", record["fingerprint"], f"explainer/{run.name}"):
        assert word.encode() in content
    for parent in record["parents"].values():
        assert parent.encode() in content


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
