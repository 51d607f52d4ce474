"""The command line: what it prints, its exit status, and one line for every mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastshap_lab.cli import main
from tests.runs import CONFIGS

ROOT = CONFIGS.parent


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``train.py`` as a user would, its output going to a pipe."""
    words = [sys.executable, "-W", "error::UserWarning:fastshap_lab", str(ROOT / "train.py"), *arguments]
    return subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}
    )


def in_process(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Return the exit status of ``train.py`` run in this process."""
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    try:
        main(CONFIGS)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_help_shows_what_to_type_and_what_to_choose(monkeypatch, capsys):
    assert in_process(monkeypatch, "--help") == 0
    said = capsys.readouterr()
    assert "python train.py stage=surrogate" in said.out
    assert "explainer: unet, unet_slim, vit, vit_slim" in said.out
    assert not said.err
    assert not list(Path().iterdir())


def test_cfg_job_shows_the_whole_configuration(monkeypatch, capsys):
    assert in_process(monkeypatch, "--cfg", "job", "surrogate.optim.lr=0.5") == 0
    said = capsys.readouterr()
    assert "    lr: 0.5\n" in said.out
    assert "hydra" not in said.out
    assert not said.err
    assert not list(Path().iterdir())


def test_a_real_dry_run_prints_the_plan_and_makes_nothing():
    done = command("dry_run=true")
    assert (done.returncode, done.stderr) == (0, "")
    plan = [line.split() for line in done.stdout.splitlines()]
    assert [words[:2] for words in plan] == [
        ["classifier", "train"],
        ["surrogate", "train"],
        ["explainer", "train"],
        ["evaluate", "make"],
    ]
    assert plan[0][2].startswith("runs/classifier/digits-resnet-")
    assert not list(Path().iterdir())


def test_a_real_mistake_is_one_line_and_status_2():
    done = command("surrogate=resnet18", "surrogate.masking=attention")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: surrogate.masking=attention: ResNet is not of")


def pipeline(overrides: str = "", **members: str) -> str:
    chosen = {"classifier": "resnet_slim", "surrogate": "resnet_slim", "explainer": "unet_slim"} | members
    inside = ", ".join(f"{group}: {choice}" for group, choice in chosen.items() if choice)
    return f"evaluate.pipelines={{A: {{{inside}, overrides: [{overrides}]}}}}"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        # A word that nobody knows, and the nearest one somebody does.
        ("stage=surogate", "stage=surogate: unknown, did you mean surrogate? known: classifier, surrogate"),
        ("data=digit", "data=digit: unknown, did you mean digits?"),
        ("experiment=nope", "experiment=nope: unknown, known: "),
        ("clasifier=vit", "clasifier: unknown key, did you mean classifier?"),
        ("classifier.optim.lrr=1", "classifier.optim.lrr: unknown key of classifier.optim, did you mean lr?"),
        ("+classifier.foo=1", "classifier.foo: unknown key of classifier"),
        ("classifier.name=vgg", "classifier.name=vgg: unknown, known: resnet, vit"),
        ("classifier.params.dept=3", "classifier.params.dept: unknown to resnet, did you mean depths?"),
        ("data.params.image_sze=8", "data.params.image_sze: unknown to digits, did you mean image_size?"),
        ("classifier.optim.name=lion", "classifier.optim.name=lion: unknown, known: adamw"),
        ("surrogate.optim.schedule=linear", "surrogate.optim.schedule=linear: unknown"),
        ("surrogate.masking=blur", "surrogate.masking=blur: unknown, known: mask_channel"),
        ("explainer.link=tanh", "explainer.link=tanh: unknown, known: softmax"),
        ("explainer.normalization=add", "explainer.normalization=add: unknown, did you mean additive?"),
        ("classifier.augment.padding_mode=mirror", "classifier.augment.padding_mode=mirror: unknown, known: zeros"),
        ("logger=tensorboard", "logger=tensorboard: unknown, known: csv, wandb"),
        ("logger.mode=off", "logger.mode=off: unknown, did you mean offline?"),
        # Types and ranges.
        ("classifier.epochs=many", "classifier.epochs: Value 'many' of type 'str' could not be converted to Integer"),
        ("classifier.epochs=-1", "classifier.epochs=-1: must be greater than or equal to 0"),
        ("surrogate.epochs=0", "surrogate.epochs=0: must be greater than or equal to 1"),
        ("classifier.optim.lr=0", "classifier.optim.lr=0.0: must be greater than 0"),
        ("explainer.patience=0", "explainer.patience=0: must be"),
        ("evaluate.references=0", "evaluate.references=0: must be"),
        ("classifier.params.channels=[16,wide,3,4]", "classifier.params.channels=[16, 'wide', 3, 4]: must be"),
        ("classifier.params.channels=[16,16]", "classifier.params.channels=[16, 16]: too short"),
        ("name=a/b", "name=a/b: must match"),
        # What does not go together.
        ("data.grid=[3,3]", "data.grid: 3×3 players do not divide an image of 16×16 pixels; rows must be one of [1, 2"),
        ("data.grid=[4]", "data.grid=[4]: must have at least 2 items"),
        ("surrogate=vit_slim data.grid=[8,8]", "surrogate.masking=attention: a player must own whole patches"),
        ("classifier=vit_slim classifier.params.num_heads=5", "classifier.params.num_heads=5: does not divide"),
        ("explainer=vit_slim", "explainer=vit: the backbone must be"),
        ("explainer.num_coalitions=7", "explainer.num_coalitions=7: must be even"),
        # Data.
        ("data=hub", "data.params.path: missing"),
        ("data=hub data.params.path=/no/such/folder", "data.params.path=/no/such/folder: neither a folder with images"),
        ("data=synthetic data.params.num_classes=20", "data.params.num_classes=20: there are 8 shapes"),
        # The machine.
        ("trainer.precision=8-bit", "trainer: Precision '8-bit' is invalid"),
        ("trainer.accelerator=abacus", "trainer: You selected an invalid accelerator name"),
        ("trainer.accelerator=cpu trainer.devices=many", "trainer: `devices` selected with `CPUAccelerator`"),
        ("trainer.accelerator=cpu trainer.devices=2", "trainer.devices=2, trainer.num_nodes=1: a stage runs in one"),
        # Grammar.
        ("classifier.optim.lr", "classifier.optim.lr: cannot be read as key=value"),
        ("classifier.params=[1,", "classifier.params=[1,: cannot be read as key=value"),
        ("seed=1,2", "Ambiguous value for argument 'seed=1,2'"),
    ],
)
def test_every_mistake_is_one_line_and_status_2(monkeypatch, capsys, overrides, expected):
    assert in_process(monkeypatch, *overrides.split()) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {expected}")
    assert said.err.count("\n") == 1
    assert not said.out
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (pipeline(explainer=""), "evaluate.pipelines.A.explainer: missing"),
        (pipeline(explainer="unett"), "explainer=unett: unknown, did you mean unet?"),
        (pipeline("'explainer.foo=1'"), "explainer.foo: unknown key of explainer"),
        (pipeline("'data.grid=[2,2]'"), "evaluate.pipelines.A.overrides: data.grid=[2,2]: pipelines differ in"),
        (pipeline().replace("A:", "A/B:"), "evaluate.pipelines.A/B=A/B: must match"),
        (pipeline().replace("overrides", "overides"), "evaluate.pipelines.A.overides: Key 'overides' not in"),
    ],
)
def test_so_is_a_mistake_in_a_pipeline(monkeypatch, capsys, override, expected):
    assert in_process(monkeypatch, override) == 2
    assert capsys.readouterr().err.startswith(f"error: {expected}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_not_there(monkeypatch, capsys):
    assert in_process(monkeypatch, "trainer.accelerator=gpu") == 2
    assert "No supported gpu backend found" in capsys.readouterr().err


def test_debug_adds_the_traceback(monkeypatch, capsys):
    assert in_process(monkeypatch, "data.grid=[3,3]", "debug=true") == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("error: data.grid: 3×3 players")


def test_a_bug_keeps_its_traceback(monkeypatch):
    def bug(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("fastshap_lab.stages.pipeline.plan", bug)
    with pytest.raises(RuntimeError, match="a bug"):
        in_process(monkeypatch, "dry_run=true")


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastshap_lab.stages.pipeline.execute", interrupt)
    assert in_process(monkeypatch, "stage=classifier") == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on from the last complete epoch\n"


def test_parameters_need_no_plus_and_none_is_null(monkeypatch, capsys):
    words = [
        "data=synthetic",
        "data.params.num_train=50",
        "classifier.patience=None",
        "explainer.params.channels=[8,8]",
    ]
    assert in_process(monkeypatch, "--cfg", "job", *words) == 0
    said = capsys.readouterr().out
    assert "num_train: 50" in said
    assert "patience: null" in said
