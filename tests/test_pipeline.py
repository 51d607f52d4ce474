"""Four stages of two pipelines through ``train.py``, as a user runs it."""

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from fastshap_lab.cli import main
from tests.runs import CONFIGS, TINY

TRAIN = str(CONFIGS.parent / "train.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


def train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, TRAIN, *arguments]
    return subprocess.run(words, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def two_pipelines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    small = [f"{stage}.epochs=2" for stage in ("classifier", "surrogate", "explainer")]
    words = ["experiment=digits_ab", *TINY, *small]
    return folder, words, train(*words, cwd=folder)


def test_everything_is_made_and_said_quietly(two_pipelines):
    _, _, done = two_pipelines
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    stages = ["classifier", "surrogate", "explainer"] * 2 + ["evaluate"]
    assert [words[:2] for words in lines[:7]] == [[stage, "train"] for stage in stages[:6]] + [["evaluate", "make"]]
    assert [words[:2] for words in lines[7:]] == [[stage, "trained"] for stage in stages[:6]] + [["evaluate", "made"]]
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if "runs/" not in line)
    for measure in ("accuracy", "masked_kl", "additive_r2"):
        assert f"  {measure} " in done.stdout


def test_the_files_are_there(two_pipelines):
    folder, _, _ = two_pipelines
    assert {path.name for path in folder.iterdir()} == {"runs"}
    for stage, count in {"classifier": 2, "surrogate": 2, "explainer": 2, "evaluate": 1}.items():
        runs = [path for path in (folder / "runs" / stage).iterdir() if path.is_dir()]
        assert len(runs) == count
        for run in runs:
            record = json.loads((run / "run.json").read_text())
            assert record["status"] == "finished"
            assert record["seconds"] > 0
            assert run.name.endswith(record["fingerprint"][:8])
            assert yaml.safe_load((run / "config.yaml").read_text())["data"]["name"] == "synthetic"
            assert json.loads((run / "metrics.json").read_text())
            if stage != "evaluate":
                assert {path.name for path in (run / "model").iterdir()} == {"config.json", "model.safetensors"}
                assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
                history = pd.read_csv(run / "metrics.csv")
                assert history["epoch"].tolist() == [0, 1]
                assert not history.isna().any(axis=None)
    assert (run / "report.html").is_file()
    for kind, suffixes in {"tables": {".csv", ".md"}, "figures": {".png"}}.items():
        assert {path.suffix for path in (run / kind).iterdir()} == suffixes


@pytest.mark.parametrize("stage", ["surrogate", "explainer"])
def test_a_sweep_compares_what_its_stage_measures(two_pipelines, stage):
    folder, _, _ = two_pipelines
    metric = yaml.safe_load((CONFIGS / "sweep" / f"{stage}.yaml").read_text())["metric"]
    history = next((folder / "runs" / stage).glob("*/metrics.csv"))
    assert metric["goal"] == "minimize"
    assert metric["name"] in pd.read_csv(history)


def test_again_nothing_is_made(two_pipelines, monkeypatch, capsys):
    folder, words, _ = two_pipelines
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    main(CONFIGS)
    said = capsys.readouterr()
    assert [line.split()[1] for line in said.out.splitlines()] == ["reuse"] * 7 + ["reused"] * 7
    assert not said.err
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["classifier", "surrogate", "explainer"])
def test_kill_9_changes_nothing(tmp_path, stage):
    words = [*TINY, f"stage={stage}", f"{stage}.epochs=40"]

    def weights() -> str:
        (model,) = (tmp_path / "runs" / stage).glob("*/model/model.safetensors")
        return hashlib.sha256(model.read_bytes()).hexdigest()

    assert train(*words, cwd=tmp_path).returncode == 0
    undisturbed = weights()
    (folder,) = (tmp_path / "runs" / stage).glob("*-*/")
    moved = folder.rename(tmp_path / "undisturbed")
    last, written = folder / "checkpoints" / "last.ckpt", 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, TRAIN, *words], cwd=tmp_path, env=ENVIRONMENT)
        while process.poll() is None and not (last.is_file() and last.stat().st_mtime_ns > written):
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.3))  # at any moment of an epoch
        process.kill()
        process.wait()
        written = last.stat().st_mtime_ns
    assert json.loads((folder / "run.json").read_text())["status"] == "running"
    assert train(*words, cwd=tmp_path).returncode == 0
    assert weights() == undisturbed
    assert (folder / "metrics.csv").read_bytes() == (moved / "metrics.csv").read_bytes()
