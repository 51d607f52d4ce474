"""Four stages of two pipelines through ``train.py``, as a user runs it."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from fastshap_lab.choices import CONFIGS
from fastshap_lab.cli import main
from fastshap_lab.inference import load_explainer
from fastshap_lab.stages import STAGES as DECLARED
from tests.small_runs import RESNET, TINY, TRAIN, UNET

STAGES = [stage.name for stage in DECLARED if stage.name != "explain"]  # which is asked for alone
TRAINED = [stage.name for stage in DECLARED if stage.trains]
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


def without_warnings(output: str) -> list[str]:
    """Return the lines but for what is said of trainings that are as short as these, and the total of a plan."""
    return [line for line in output.splitlines() if line.split()[1] not in ("warning", "total:")]


def test_everything_is_made_and_said_quietly(two_pipelines):
    _, _, done = two_pipelines
    assert (done.returncode, done.stderr) == (0, "")
    said = without_warnings(done.stdout)
    lines = [line.split() for line in said[:-4]]
    stages = 2 * ["classifier", "surrogate", "labels", "explainer"] + ["evaluate"]
    verbs = dict.fromkeys(TRAINED, ("train", "trained"))
    assert [words[:2] for words in lines[:9]] == [[stage, verbs.get(stage, ("make",))[0]] for stage in stages]
    assert [words[:2] for words in lines[9:]] == [[stage, verbs.get(stage, ("make", "made"))[1]] for stage in stages]
    assert all(len(line) <= 80 for line in said if "runs/" not in line)
    for measure in ("accuracy", "masked_kl", "additive_r2"):
        assert f"  {measure} " in done.stdout


def test_the_end_says_how_true_the_values_are_and_what_to_paste(two_pipelines):
    folder, _, done = two_pipelines
    said, lines = done.stdout.splitlines()[-4:], []
    (metrics,) = (folder / "runs" / "evaluate").glob("*/metrics.json")
    measures = json.loads(metrics.read_text())
    for name in [key.removesuffix("/r2") for key in measures if key.endswith("/r2")]:
        r2, low, high = (measures[f"{name}/r2{end}"] for end in ("", "_low", "_high"))
        assert low <= r2 <= high
        lines.append(f"{name}: R² {r2:.3f} [{low:.3f}, {high:.3f}] against true values")
    assert said[::2] == lines
    for line in said[1::2]:
        place = re.fullmatch(r'explainer = fsl\.load_explainer\("(runs/explainer/[^"]+)"\)', line)[1]
        assert load_explainer(folder / place).explain(torch.rand(1, 3, 16, 16)).values.shape == (1, 3, 2, 2)


def test_the_files_are_there(two_pipelines):
    folder, _, _ = two_pipelines
    assert {path.name for path in folder.iterdir()} == {"runs"}
    for stage, count in (dict.fromkeys(STAGES[1:], 2) | {"evaluate": 1}).items():
        runs = [path for path in (folder / "runs" / stage).iterdir() if path.is_dir()]
        assert len(runs) == count
        for run in runs:
            record = json.loads((run / "run.json").read_text())
            assert record["status"] == "finished"
            assert record["seconds"] > 0
            assert run.name.endswith(record["fingerprint"][:8])
            assert yaml.safe_load((run / "config.yaml").read_text())["data"]["name"] == "synthetic"
            assert json.loads((run / "metrics.json").read_text())
            if stage in TRAINED:
                assert {path.name for path in (run / "model").iterdir()} == {"config.json", "model.safetensors"}
                assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
                history = pd.read_csv(run / "metrics.csv")
                assert history["epoch"].tolist() == [0, 1]
                assert not history.isna().any(axis=None)
    assert (run / "report.html").is_file()
    for kind, suffixes in {"tables": {".csv", ".md"}, "figures": {".png"}}.items():
        assert {path.suffix for path in (run / kind).iterdir()} == suffixes


@pytest.mark.parametrize("path", sorted((CONFIGS / "sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_sweep_compares_what_its_stage_measures(two_pipelines, path):
    folder, _, _ = two_pipelines
    sweep = yaml.safe_load(path.read_text(encoding="utf-8"))
    history = next((folder / "runs" / sweep["parameters"]["stage"]["value"]).glob("*/metrics.csv"))
    assert sweep["metric"]["name"] in pd.read_csv(history)
    assert sweep["metric"]["goal"] == ("maximize" if sweep["metric"]["name"].endswith("r2") else "minimize")


def test_again_nothing_is_made(two_pipelines, monkeypatch, capsys):
    folder, words, _ = two_pipelines
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    main()
    said = capsys.readouterr()
    assert [line.split()[1] for line in without_warnings(said.out)[:-4]] == ["reuse"] * 9 + ["reused"] * 9
    assert not said.err
    assert before == {path: path.stat().st_mtime_ns for path in before}


def train_in_child(words: list[str], folder: Path) -> None:
    """Run ``train.py`` in a process whose errors go to a file."""
    os.chdir(folder)
    for stream, name in ((1, "out"), (2, "errors")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    sys.argv = ["train.py", *words]
    main()


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(signal.SIGKILL,), (signal.SIGINT, signal.SIGTERM)], ids=["kill -9", "signals"])
@pytest.mark.parametrize("stage", STAGES[1:])
def test_ten_ends_at_any_moment_change_nothing(tmp_path, record_property, stage, numbers):
    longer = ["data.params.num_train=480"]
    if stage in TRAINED:
        longer.append(f"{stage}.epochs=8")
    if stage == "evaluate":
        longer = ["references.test=24"]
    words = [*TINY, *RESNET, *UNET, *longer, f"stage={stage}"]
    statuses = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["fastshap_lab.stages", __name__])  # imports once what takes seconds

    def start() -> BaseProcess:
        process = processes.Process(target=train_in_child, args=(words, tmp_path))
        process.start()
        return process

    def train_to_the_end() -> None:
        process = start()
        process.join()
        assert (process.exitcode, (tmp_path / "errors").read_text()) == (0, "")

    def record() -> dict[str, Any]:
        return json.loads((folder / "run.json").read_text())

    def written() -> int:
        return (folder / "run.json").stat().st_mtime_ns if (folder / "run.json").exists() else 0

    train_to_the_end()
    (folder,) = (path for path in (tmp_path / "runs" / stage).iterdir() if path.is_dir())
    seconds, uninterrupted = record()["seconds"], folder.rename(tmp_path / "uninterrupted")
    references = list((tmp_path / "runs").glob("surrogate/*/references/test-*"))  # of the evaluation, that is
    for path in references:
        path.rename(uninterrupted / "references")
    hits, finished = 0, 0
    while hits < 10:
        before, process = written(), start()
        while process.is_alive() and written() == before:
            time.sleep(0.005)
        time.sleep(random.uniform(0, seconds / 6))
        number = random.choice(numbers)
        if process.is_alive():
            os.kill(process.pid, number)
        process.join()
        if process.exitcode == 0:  # too late
            finished += 1
            assert finished < 10
            shutil.rmtree(folder)
            continue
        hits += 1
        assert process.exitcode == statuses[number]
        if number != signal.SIGKILL:
            said = (tmp_path / "errors").read_text()
            assert said.startswith("interrupted; the same command goes on from ")
            assert said.count("\n") == 1
        assert record()["status"] in {"running", "interrupted", "finished"}
    train_to_the_end()
    for name in ("metrics.json", "metrics.csv", "model/*", "tables/*", "labels/*"):
        for path in uninterrupted.glob(name):
            assert (folder / path.relative_to(uninterrupted)).read_bytes() == path.read_bytes(), path.name
    for again in references:
        for path in uninterrupted.glob("references/*"):
            assert (again / path.relative_to(uninterrupted / "references")).read_bytes() == path.read_bytes(), path.name
    assert not list(folder.rglob(".*"))  # leftovers
    record_property("hits", hits)
    record_property("finished_before", finished)
    record_property("undisturbed_seconds", seconds)
