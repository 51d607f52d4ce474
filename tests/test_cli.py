"""The command line: what it prints, its exit status, and one line for every mistake."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fastshap_lab.checkpoints import save_model
from fastshap_lab.cli import main
from tests import small

ROOT = Path(__file__).parents[1]


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
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_help_shows_what_to_type_and_what_to_choose(monkeypatch, capsys):
    assert in_process(monkeypatch, "--help") == 0
    said = capsys.readouterr()
    assert "python train.py stage=surrogate" in said.out
    assert "explainer: unet, unet_slim, unet_small, vit, vit_slim, vit_small" in said.out
    assert "method: ag_cam, all, attention_grad_cam" in said.out
    assert "check: attention_layers, coverage" in said.out
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
    *plan, total = [line.split() for line in done.stdout.splitlines()]
    assert total[:2] == ["in", "total:"]
    assert [words[:2] for words in plan] == [
        ["classifier", "train"],
        ["surrogate", "train"],
        ["labels", "make"],
        ["explainer", "train"],
        ["evaluate", "make"],
    ]
    assert plan[0][2].startswith("runs/classifier/digits-resnet-")
    assert all(re.search(r" ~\d\S* (s|min|h), \S+ (k|M)B$", " ".join(words)) for words in [*plan, total])
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


LONG = "n" * 300
TIMM = "classifier=timm classifier.params.model"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        # A word that nobody knows, and the nearest one somebody does.
        ("stage=surogate", "stage=surogate: unknown, did you mean surrogate? known: pretrain, classifier, surr"),
        ("data=digit", "data=digit: unknown, did you mean digits?"),
        ("method=[nosuch]", "method=nosuch: unknown, known: ag_cam, all, attention_grad_cam"),
        ("method=[explainer,rize]", "method=rize: unknown, did you mean rise? known: ag_cam, all"),
        ("check=[nosuch]", "check=nosuch: unknown, known: attention_layers"),
        ("experiment=nope", "experiment=nope: unknown, known: "),
        ("clasifier=vit", "clasifier: unknown key, did you mean classifier?"),
        ("classifier.optim.lrr=1", "classifier.optim.lrr: unknown key of classifier.optim, did you mean lr?"),
        ("+classifier.foo=1", "classifier.foo: unknown key of classifier"),
        ("classifier.name=vgg", "classifier.name=vgg: unknown, known: resnet, vit"),
        ("classifier.params.dept=3", "classifier.params.dept: unknown to resnet, did you mean depths?"),
        ("data.params.image_sze=8", "data.params.image_sze: unknown to digits, did you mean image_size?"),
        ("classifier.optim.name=lion", "classifier.optim.name=lion: unknown, known: adamw"),
        ("surrogate.optim.schedule=linear", "surrogate.optim.schedule=linear: unknown"),
        ("surrogate.masking=foo", "surrogate.masking=foo: unknown, known: mask_channel, zero, mean, blur, attention"),
        (
            "surrogate.masking={name:blur,params:{widht:3}}",
            "surrogate.masking.params.widht: unknown to blur, did you mean width?",
        ),
        ("surrogate.masking.params.width=3", "surrogate.masking={'params': {'width': 3}}: must be a name, or {name: …"),
        ("explainer.link=tanh", "explainer.link=tanh: unknown to the task multiclass, known: softmax"),
        ("explainer.link=logits", "explainer.link=logits: softmax determines a surrogate's logits only up"),
        (
            "stage=labels explainer.link=logits",
            "explainer.link=logits: softmax determines a surrogate's logits only up",
        ),
        ("explainer.normalization=add", "explainer.normalization=add: unknown, did you mean additive?"),
        ("classifier.augment.padding_mode=mirror", "classifier.augment.padding_mode=mirror: unknown, known: zeros"),
        ("logger=tensorboard", "logger=tensorboard: unknown, known: csv, wandb"),
        ("logger.mode=off", "logger.mode=off: unknown, did you mean offline?"),
        # Types and ranges.
        ("classifier.epochs=many", "classifier.epochs: Value 'many' of type 'str' could not be converted to Integer"),
        ("classifier.epochs=-1", "classifier.epochs=-1: must be greater than or equal to 0"),
        ("surrogate.epochs=0", "surrogate.epochs=0: must be greater than or equal to 1"),
        ("classifier.optim.lr=0", "classifier.optim.lr=0.0: must be greater than 0"),
        ("classifier.optim.lr=inf", "classifier.optim.lr=inf: must be a finite number"),
        ("explainer.optim.lr=nan", "explainer.optim.lr=nan: must be a finite number"),
        ("surrogate.optim.weight_decay=inf", "surrogate.optim.weight_decay=inf: must be a finite number"),
        ("explainer.patience=0", "explainer.patience=0: must be"),
        ("references.val_evaluations=0", "references.val_evaluations=0: must be"),
        ("classifier.params.channels=[16,wide,3,4]", "classifier.params.channels=[16, 'wide', 3, 4]: must be"),
        ("classifier.params.channels=[16,16]", "classifier.params.channels=[16, 16]: too short"),
        ("classifier.params.channels=[0,0,0,0]", "classifier.params.channels=[0, 0, 0, 0]: must be greater than"),
        ("classifier.params.strides=[1,0,2,2,2]", "classifier.params.strides=[1, 0, 2, 2, 2]: must be greater than"),
        ("classifier=vit_slim classifier.params.num_heads=0", "classifier.params.num_heads=0: must be greater than"),
        ("surrogate=vit_slim surrogate.params.drop_path=1", "surrogate.params.drop_path=1: must be less than 1"),
        ("classifier.mean=[128,128,128]", "classifier.mean.0=128.0: must be less than or equal to 1"),
        ("data.params.image_size=-4", "data.params.image_size=-4: must be at least 1"),
        ("data=synthetic data.params.num_test=0", "data.params.num_test=0: must be greater than or equal to 1"),
        ("name=a/b", "name=a/b: must match"),
        (f"name={LONG}", f"name={LONG}: too long, at most 64 bytes"),
        (f"runs_dir={LONG}", f"{LONG}/classifier: File name too long; choose a shorter name"),
        (f"classifier.weights={LONG}", f"{LONG}: File name too long; choose a shorter name"),
        (f"evaluate.methods={{{LONG}:{{name:rise}}}}", f"evaluate.methods.{LONG}={LONG}: too long, at most 64"),
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
        ("data=synthetic data.params.num_classes=20", "data.params.num_classes=20: must be from 2 to 8"),
        # Models of others.
        ("classifier=timm", "classifier.params.model: missing"),
        (f"{TIMM}=resnet81", "classifier.params.model=resnet81: no model of timm"),
        (f"{TIMM}=hf-hub:timm/resnet18", "classifier.params.model=hf-hub:timm/resnet18: no model of timm"),
        (f"{TIMM}=local-dir:/tmp", "classifier.params.model=local-dir:/tmp: no model of timm"),
        (f"{TIMM}=resnet18 classifier.params.checkpoint_path=x", "classifier.params.checkpoint_path: unknown to timm"),
        (f"{TIMM}=resnet18 classifier.params.pretrained=1", "classifier.params.pretrained=1: must be true"),
        (f"{TIMM}=resnet18 classifier.params.patch_size=4", "classifier.params.model=resnet18: cannot be built for"),
        (f"{TIMM}=vit_tiny_patch16_224 classifier.params.patch_size=5", "classifier.params.model=vit_tiny_patch16_224"),
        (f"{TIMM}=vgg11", "classifier: its network does not accept images of 16×16 pixels: "),
        ("surrogate=timm surrogate.params.model=resnet10t explainer=vit", "explainer=vit: the backbone must be"),
        (
            "surrogate=timm surrogate.params.model=resnet10t surrogate.masking=attention",
            "surrogate.masking=attention: ",
        ),
        ("classifier.epochs=0", "classifier.epochs=0: an untrained classifier needs weights"),
        ("classifier.weights=nowhere.pt", "classifier.weights=nowhere.pt: no such file"),
        ("classifier.weights=.", "classifier.weights=.: no such file"),
        ("classifier=checkpoint", "classifier.path: missing"),
        ("classifier.teacher=nowhere", "nowhere: no model folder"),
        ("classifier.pretrain.epochs=3", "classifier.pretrain: this classifier is not pretrained; "),
        ("classifier.pretrain.optim.lr=1", "classifier.pretrain: this classifier is not pretrained; "),
        ("classifier.mean.red=1", "classifier.mean.red: classifier.mean is null; set it as a whole, classifier.mean=…"),
        ("evaluate.sections.x=1 seed=1", "evaluate.sections.x: evaluate.sections is null; set it as a whole, eval"),
        ("classifier.pretrain.name=mae classifier=vit_slim", "classifier.pretrain: this classifier is not pretrained"),
        ("stage=pretrain", "stage=pretrain: this classifier has no pretraining; classifier=mae_vit has"),
        ("classifier=mae_vit network@classifier=resnet_slim", "classifier.pretrain.name=mae: ResNet is no plain"),
        ("classifier=checkpoint classifier.path=nowhere", "nowhere: no model folder"),
        # The machine.
        ("trainer.precision=8-bit", "trainer: Precision '8-bit' is invalid"),
        ("trainer.max_batch=0", "trainer.max_batch=0: must be greater than or equal to 1"),
        ("evaluate.methods={m:{name:rise,params:{max_batch:0}}}", "evaluate.methods.m.params.max_batch=0: must be"),
        ("trainer.accelerator=tpu", "trainer: Requirement 'torch_xla"),
        ("trainer.accelerator=abacus", "trainer: You selected an invalid accelerator name"),
        ("trainer.accelerator=cpu trainer.devices=many", "trainer: `devices` selected with `CPUAccelerator`"),
        ("trainer.accelerator=cpu trainer.devices=2", "trainer.devices=2, trainer.num_nodes=1: a stage runs in one"),
        # Flags, and keys that were Hydra's.
        ("--multirun seed=1,2", "--multirun: unknown; train.py --help lists the options"),
        ("--config-dir nowhere", "--config-dir nowhere: no such folder"),
        ("--cfg all", "argument -c/--cfg: invalid choice: 'all' (choose from "),
        ("hydra.run.dir=x", "hydra.run.dir: unknown key, known: stage, name"),
        # Grammar.
        ("classifier.optim.lr", "classifier.optim.lr: cannot be read as key=value"),
        ("classifier.params=[1,", "classifier.params=[1,: cannot be read as key=value"),
        ("=3", "'=3': names no key; must be key=value"),
        ("+=3", "'+=3': names no key; must be key=value"),
        ("~", "'~': names no key; must be key=value"),
        ("seed=1,2", "Ambiguous value for argument 'seed=1,2' 1. To use it as a list, use key=[value1,value2] 2. "),
    ],
)
def test_every_mistake_is_one_line_and_status_2(monkeypatch, capsys, overrides, expected):
    assert in_process(monkeypatch, "dry_run=true", *overrides.split()) == 2  # the plan says it
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {expected}")
    assert said.err.count("\n") == 1
    assert not said.out
    assert not list(Path().iterdir())


def pictures(**counts: int) -> None:
    """Write so many pictures of each class into ``photos/<class>``."""
    for name, count in counts.items():
        (Path("photos") / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (16, 16), (index, 0, 0)).save(Path("photos") / name / f"{index}.png")


def model(kind: str = "classifier", side: int = 16, names: Sequence[str] = "0123456789") -> None:
    """Export a model to ``model``; by default the digits' classifier."""
    network = small.network("resnet", (side, side), len(names))
    exported = small.classifier("resnet", image_size=(side, side), num_classes=len(names))
    save_model(Path("model"), exported, {"kind": kind, "network": network, "class_names": list(names)})


PHOTOS = "data=folder data.params.path=photos data.params.image_size=16 data.grid=[4,4]"
GIVEN = "classifier=checkpoint classifier.path=model"


@pytest.mark.parametrize(
    ("prepare", "overrides", "expected"),
    [
        # Folders of images.
        (lambda: None, PHOTOS, "data.params.path=photos: no such folder"),
        (lambda: pictures(cat=4), PHOTOS, "photos: needs a folder of images for each of two classes or more, has ['c"),
        (lambda: pictures(cat=9, dog=0), PHOTOS, "photos/dog: no image in it; remove it, or put in some (.bmp"),
        (lambda: pictures(cat=9, dog=1), PHOTOS, "data.params.test_fraction=0.2: The least populated class"),
        (lambda: pictures(cat=4, dog=2), PHOTOS, "data.params.test_fraction=0.2: The test_size = 1 should be greater"),
        (lambda: pictures(cat=20, dog=20), f"{PHOTOS} data.params.val_fraction=1", "data.params.val_fraction=1.0: "),
        (lambda: pictures(cat=20, dog=20), f"{PHOTOS} data.params.limit_test=0", "data.params.limit_test=0: must be"),
        (lambda: pictures(cat=20, dog=20), f"{PHOTOS} data.params.resize=zoom", "data.params.resize=zoom: must be"),
        (
            lambda: pictures(cat=9, dog=9),
            "data=hub data.params.path=photos",
            "data.params.test_split=test: photos has train",
        ),
        # Weights.
        (
            lambda: Path("cut.safetensors").write_bytes(b"\x08"),
            "classifier.weights=cut.safetensors",
            "cut.safetensors: not a file of weights",
        ),
        (
            lambda: torch.save([1], "list.pt"),
            "classifier.weights=list.pt",
            "list.pt: not a state dict: must map names to tensors",
        ),
        (
            lambda: save_file({"neck": torch.zeros(1)}, "other.safetensors"),
            "classifier.weights=other.safetensors",
            "other.safetensors: holds weights of another network: bn1.bias is missing",
        ),
        # Model folders.
        (lambda: Path("model").touch(), GIVEN, "model: no model folder (config.json and model.safetensors, as a fin"),
        (lambda: model("surrogate"), GIVEN, "model: holds a surrogate, not a classifier"),
        (lambda: model(side=32), GIVEN, "classifier.path=model: is for images of 32×32, and those of"),
        (lambda: model(names="abc"), GIVEN, "classifier.path=model: has 3 classes ['a', 'b', 'c'], and the data has"),
        (lambda: (model(), Path("model/config.json").write_text("{")), GIVEN, "model/config.json: damaged or not a"),
        (
            lambda: (model(), Path("model/config.json").write_text('{"kind": "classifier", "network": {}}')),
            GIVEN,
            "model/config.json: damaged (network.name: missing); delete the folder and run the command",
        ),
        (lambda: Path("empty.pt").touch(), "classifier.weights=empty.pt", "empty.pt: not a file of weights"),
    ],
)
def test_so_is_one_in_data_or_models_that_were_given(monkeypatch, capsys, prepare: Callable, overrides, expected):
    prepare()
    capsys.readouterr()
    before = sorted(Path().rglob("*"))
    assert in_process(monkeypatch, "dry_run=true", *overrides.split()) == 2  # the plan says it
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {expected}")
    assert said.err.count("\n") == 1
    assert not said.out
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("broken", ["photos/cat/3.png", "model/model.safetensors"])
def test_what_is_found_damaged_on_the_way_is_named(monkeypatch, capsys, broken):
    pictures(cat=20, dog=20)
    model(names=["cat", "dog"])
    Path(broken).write_bytes(Path(broken).read_bytes()[:40])
    assert in_process(monkeypatch, *PHOTOS.split(), *GIVEN.split(), "stage=surrogate") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {broken}: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (pipeline(classifier=""), "evaluate.pipelines.A.classifier: missing"),
        (pipeline(surrogate=""), "evaluate.pipelines.A.explainer=unet_slim: needs evaluate.pipelines.A.surrogate, too"),
        (pipeline(explainer="unett"), "explainer=unett: unknown, did you mean unet?"),
        (pipeline("'explainer.foo=1'"), "explainer.foo: unknown key of explainer"),
        (pipeline("'data.name=digits'"), "evaluate.pipelines.A.overrides: data.name=digits: pipelines may differ in"),
        (pipeline("'data.grid=[3,3]'"), "data.grid: 3×3 players do not divide"),
        (pipeline().replace("A:", "A/B:"), "evaluate.pipelines.A/B=A/B: must match"),
        (
            pipeline().replace("overrides", "overides"),
            "evaluate.pipelines.A.overides: unknown key of evaluate.pipelines.A, did you mean o",
        ),
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

    monkeypatch.setattr("fastshap_lab.runs.plan.plan", bug)
    with pytest.raises(RuntimeError, match="a bug"):
        in_process(monkeypatch, "dry_run=true")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("step", ["plan.plan", "execute.execute"])
def test_a_signal_between_trainings_is_one_line(monkeypatch, capsys, step, number, status):
    before = signal.getsignal(number)

    def interrupt(*_: object) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(f"fastshap_lab.runs.{step}", interrupt)
    assert in_process(monkeypatch, "stage=classifier") == status
    assert capsys.readouterr().err == "interrupted; the same command goes on from what is saved\n"
    assert signal.getsignal(number) == before


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
