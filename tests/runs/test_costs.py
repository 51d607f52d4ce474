"""What a plan says it will cost: from earlier runs where there are some, else from a measurement."""

import dataclasses
import json
import math
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from fastshap_lab.runs.costs import Cost, Work, earlier, in_words, total
from fastshap_lab.runs.plan import show
from fastshap_lab.runs.run import Run
from fastshap_lab.stages import base
from tests.small_runs import PRETRAIN, UNET, executed, planned


def shown(runs: list[Run]) -> list[str]:
    out = StringIO()
    show(runs, Console(file=out, width=80))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("loss", ["labels", "fastshap"])
def test_every_stage_that_is_to_be_made_has_an_estimate(tmp_path, loss):
    base = [word for word in PRETRAIN if word != "stage=pretrain"] + UNET
    runs = planned(f"runs_dir={tmp_path}", f"explainer.loss={loss}", base=base)
    assert len(runs) == (6 if loss == "labels" else 5)
    for run in runs:
        cost = run.cost({})
        assert cost is not None, run.stage.name
        assert 0 < cost.seconds < math.inf
        assert 0 < cost.size < math.inf


def test_an_estimate_comes_from_an_earlier_run_of_like_work_and_nothing_is_measured(tmp_path, monkeypatch):
    settings = ["stage=surrogate", f"runs_dir={tmp_path}"]
    finished = executed(*settings)[-1]
    for name in ("seconds_of_step", "seconds_of_pass"):
        monkeypatch.setattr(base, name, lambda *_: pytest.fail("measured"))
    assert all("~" not in line for line in shown(planned(*settings)))
    assert len(shown(planned(*settings))) == 2  # no total
    record = json.loads((finished.folder / "run.json").read_text())
    (finished.folder / "run.json").write_text(json.dumps(record | {"seconds": 1000.0}))
    *_, run = planned(*settings, "surrogate.epochs=6", "surrogate.optim.lr=1e-4", "seed=1")
    cost = run.cost({})
    assert cost.seconds == 2000  # of twice as many epochs
    files = sum(path.stat().st_size for path in finished.folder.rglob("*"))
    assert cost.size == pytest.approx(files, rel=0.5)
    monkeypatch.setattr(base, "seconds_of_step", lambda *_: 1 / 0)  # an estimate never raises
    *_, other = planned(*settings, "surrogate.batch_size=8")
    assert other.cost({}) is None
    lines = shown(planned(*settings, "surrogate.batch_size=8"))
    assert lines[1].endswith("  not estimated")
    assert lines[2] == "in total: ~1 s, 0 kB, and 1 not estimated"


def test_a_plan_shows_its_costs_and_their_total_in_a_real_start_too(tmp_path):
    runs = planned("stage=surrogate", f"runs_dir={tmp_path}")
    lines = shown(runs)
    for run, line in zip(runs, lines, strict=False):
        assert re.fullmatch(rf"{run.stage.name} +train +{run.folder}  ~\d+ s, [\d.]+ (k|M)B", line)
    assert re.fullmatch(r"in total: ~\d+ s, [\d.]+ (k|M)B", lines[-1])


def record(folder: Path, **values: object) -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"seconds": 10.0, "hardware": {"gpus": []}} | values))


def test_the_nearest_run_of_the_same_kind_and_hardware_counts(tmp_path):
    work = Work({"net": "a"}, 6, trial=lambda: None)
    like = {"kind": work.digest, "amount": 4, "size": 300}
    assert earlier(tmp_path, work, {"gpus": []}) is None
    record(tmp_path / "far", work=like | {"amount": 100})
    record(tmp_path / "near", work=like)
    record(tmp_path / "another", work={"kind": "b", "amount": 6, "size": 1})
    record(tmp_path / "elsewhere", work=like | {"amount": 6}, hardware={"gpus": ["H100"]})
    record(tmp_path / "unfinished", status="running")
    assert earlier(tmp_path, work, {"gpus": []}) == Cost(15.0, 300)
    assert earlier(tmp_path, dataclasses.replace(work, grows=True), {"gpus": []}) == Cost(15.0, 450)


@pytest.mark.parametrize(
    ("cost", "words"),
    [
        (Cost(0.2, 900), "~1 s, 1 kB"),
        (Cost(40.4, 25_300_000), "~40 s, 25.3 MB"),
        (Cost(150.0, 10**6), "~2.5 min, 1.0 MB"),
        (Cost(18000.0, 2 * 10**9), "~5 h, 2.0 GB"),
        (Cost(259200.0, 0), "~3 d, 0 kB"),
        (None, "not estimated"),
    ],
)
def test_costs_in_words(cost, words):
    assert in_words(cost) == words


def test_a_total_says_what_is_not_in_it():
    assert total([Cost(100.0, 10**6), None, Cost(20.0, 10**6)]) == "~2 min, 2.0 MB, and 1 not estimated"
