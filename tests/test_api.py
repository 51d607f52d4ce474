"""Any module and any images become an explainer, by the stages of ``train.py``."""

import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torchvision
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

import fastshap_lab as fsl
from fastshap_lab.api import train_explainer
from fastshap_lab.data import DATASETS
from fastshap_lab.data.synthetic import Synthetic
from fastshap_lab.errors import UserError
from fastshap_lab.inference import AmortizedExplainer
from fastshap_lab.models.foreign import is_handed_over
from fastshap_lab.runs.run import Run
from fastshap_lab.shapley import ESTIMATORS

SIZE, PIXELS = 16, {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
SHORT = ["explainer.labels={evaluations: 14, copies: 1}", "references.val=2", "explainer.optim.lr=5e-3"]
FAST = [*SHORT, "surrogate.epochs=6", "explainer.epochs=12"]
FASTEST = [*SHORT, "surrogate.epochs=1", "explainer.epochs=1", "surrogate.params.channels=[8,8,8,8]"]


class Own(nn.Module):
    """A network of nobody's library; what it answers with is wrapped if it is asked for that."""

    def __init__(self, wrapped: bool = False, num_classes: int = 3, channels: int = 3) -> None:
        super().__init__()
        self.wrapped = wrapped
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.first, self.head = nn.Conv2d(channels, channels, 1), nn.Linear(16 * channels, num_classes)
            nn.init.normal_(self.head.weight, std=2.0)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor | SimpleNamespace:
        logits = self.head(nn.functional.adaptive_avg_pool2d(self.first(pixels), 4).flatten(1))
        return SimpleNamespace(logits=logits) if self.wrapped else logits


@pytest.fixture(scope="module")
def synthetic() -> tuple[torch.Tensor, torch.Tensor]:
    split = Synthetic(num_classes=3, image_size=SIZE, num_train=160, num_val=8, num_test=8).dataset("train")
    return split.images, split.labels


@pytest.fixture(autouse=True)
def leaves_nothing_behind():
    tables = set(DATASETS)
    yield
    assert set(DATASETS) == tables
    assert not is_handed_over(f":{Own.__module__}.{Own.__qualname__}")


def fitted(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Return a network that answers about as ``Own`` does, so that its answers depend on what is in each place."""
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    pixels = (images.float() / 255 - 0.5) / 0.25
    target = Own()(pixels).softmax(dim=1).detach()
    for part in torch.arange(len(images)).repeat(12).split(32):
        optimizer.zero_grad()
        answer = model(pixels[part])
        nn.functional.cross_entropy(getattr(answer, "logits", answer), target[part]).backward()
        optimizer.step()
    return model


def library(kind: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "timm":
            return timm.create_model("test_vit", num_classes=3, img_size=2 * SIZE)
        if kind == "torchvision":
            return torchvision.models.resnet18(num_classes=3)
        transformers = pytest.importorskip("transformers")
        sizes = {"hidden_sizes": [8, 8], "depths": [1, 1], "embedding_size": 8, "layer_type": "basic"}
        config = transformers.ResNetConfig(num_labels=3, **sizes)
        return transformers.ResNetForImageClassification(config)


def error_beside_the_equal_split(explainer: AmortizedExplainer, images: torch.Tensor) -> float:
    """Return the squared error against exact values, in units of the equal split's."""
    shown = images[:16].float() / 255
    found = explainer.explain(shown).values.flatten(2).mT.double()
    exact = ESTIMATORS["exact"](explainer.game(512), shown, 0)
    exact.advance(16)
    truth = exact.estimate().phi.double()
    equal = truth.mean(dim=1, keepdim=True)
    return float((found - truth).square().sum() / (equal - truth).square().sum())


@pytest.mark.parametrize(
    "kind",
    [
        "own",
        *(pytest.param(kind, marks=pytest.mark.extended) for kind in ("logits", "timm", "torchvision", "transformers")),
    ],
)
def test_values_are_nearer_to_the_exact_ones_than_the_equal_split(kind, synthetic, tmp_path, monkeypatch, capsys):
    images = synthetic[0]
    if kind in ("timm", "torchvision"):  # of which the smallest networks have large patches and strides
        images = images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    own = kind in ("own", "logits")
    model = Own(kind == "logits") if own else fitted(library(kind), images)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    given = {**PIXELS, "players": (2, 2), "runs_dir": tmp_path, "overrides": FAST, "device": "cpu"}
    explainer = train_explainer(model, images, **given)
    assert error_beside_the_equal_split(explainer, images) < 0.5
    assert "accuracy unknown" in capsys.readouterr().out
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    elsewhere = fsl.load_explainer(explainer.run)
    torch.testing.assert_close(elsewhere.explain(images[:4]).values, explainer.explain(images[:4]).values)
    surrogate, network = {"timm": ("timm", "vit"), "torchvision": ("torchvision", "unet")}.get(kind, ("resnet", "unet"))
    assert f"-by-{surrogate}-{network}-" in explainer.run.name
    with torch.no_grad():  # probabilities are the model's own
        logits = model.eval()((images[:4].float() / 255 - 0.5) / 0.25)
    answer = getattr(logits, "logits", logits).softmax(dim=1)
    torch.testing.assert_close(explainer.explain(images[:4]).probabilities, answer, rtol=1e-3, atol=1e-4)

    made = []
    monkeypatch.setattr(Run, "begin", lambda self: made.append(self.stage.name))
    assert train_explainer(model, images, **given).run == explainer.run
    assert made == []


@pytest.mark.extended
def test_a_change_of_weights_of_an_attribute_or_of_an_image_makes_another(synthetic, tmp_path):
    images, given = synthetic[0][:20], {"normalized": True, "players": (2, 2), "runs_dir": tmp_path, "device": "cpu"}
    given["overrides"] = FASTEST
    changed, other = Own(), images.clone()
    with torch.no_grad():
        changed.head.bias.add_(1)
    other[3] += 1
    models = [(Own(), images), (Own(wrapped=True), images), (changed, images), (Own(), other), (Own(), images)]
    runs = [train_explainer(model, pictures, **given).run for model, pictures in models]
    assert len(set(runs)) == 4
    assert runs[0] == runs[4]


def saved(images: torch.Tensor, folder, labels=None) -> list:
    """Write images as files, in a folder per label if there are any."""
    paths = []
    for index, image in enumerate(images):
        place = folder / (f"class {labels[index]}" if labels is not None else "")
        place.mkdir(parents=True, exist_ok=True)
        paths.append(place / f"{index}.png")
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(paths[-1])
    return paths


def test_folders_name_the_classes_and_measure_accuracy(synthetic, tmp_path, capsys):
    saved(synthetic[0][:24], tmp_path / "images", synthetic[1][:24].tolist())
    settings = {"normalized": True, "players": (2, 2), "runs_dir": tmp_path / "runs", "device": "cpu"}
    explainer = train_explainer(Own(), str(tmp_path / "images"), overrides=FASTEST, **settings)
    assert explainer.class_names == ["class 0", "class 1", "class 2"]
    assert "accuracy 0." in capsys.readouterr().out


@pytest.mark.extended
def test_the_readme_runs(synthetic, tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    program = re.search(r"## Your own model\n\n```python\n(.*?)```", text, re.DOTALL)[1]
    assert program.count("\n") <= 15
    saved(synthetic[0][:12], tmp_path / "photos")
    (tmp_path / "photos" / "0.png").rename(tmp_path / "photos" / "cat.png")
    monkeypatch.chdir(tmp_path)
    for found, instead in (('weights="DEFAULT"', "weights=None"), ("(224, 224)", "(32, 32)"), ("(7, 7)", "(2, 2)")):
        assert program.count(found) == 1  # nothing is downloaded here, and large pictures take long
        program = program.replace(found, instead)
    short = [*SHORT, "surrogate.epochs=1", "explainer.epochs=1"]
    monkeypatch.setattr(fsl, "train_explainer", partial(train_explainer, overrides=short), raising=False)
    exec(program, {})
    assert (tmp_path / "cat.svg").is_file()


def test_a_surrogate_may_be_the_model_itself(synthetic, tmp_path):
    model, images = Own(), synthetic[0][:20]
    given = {"normalized": True, "runs_dir": tmp_path, "device": "cpu", "class_names": ["a", "b", "c"]}
    short = [*SHORT, "surrogate.epochs=1", "explainer.epochs=1"]
    GlobalHydra.instance().clear()
    state = torch.get_rng_state()
    explainer = train_explainer(model, images, surrogate="import", overrides=short, **given)
    assert torch.equal(torch.get_rng_state(), state)
    assert explainer.class_names == ["a", "b", "c"]
    assert explainer.grid.shape == (8, 8)
    with pytest.raises(UserError, match="hand the module over"):
        fsl.load_explainer(explainer.run)
    assert fsl.load_explainer(explainer.run, surrogate=Own()).explain(images[:1]).source == "surrogate"


def nothing_but(output) -> nn.Module:
    model = Own()
    model.forward = lambda pixels: output(pixels)
    return model


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"normalized": False}, "mean, std: how are pixels normalized for this model"),
        ({"mean": (0.5,)}, "mean, std: the model normalizes pixels itself"),
        ({"model": nn.Linear(3, 3)}, "model: does not take images of 16×16"),
        ({"model": nn.Identity()}, r"model: returns a tensor of shape \(2, 3, 16, 16\); must return logits"),
        (
            {"model": Own(num_classes=1)},
            r"model: returns a tensor of shape \(2, 1\); must return logits .* of two or more classes",
        ),
        ({"model": nothing_but(lambda pixels: {"out": pixels})}, "model: returns a dict; must return logits"),
        ({"model": nothing_but(lambda pixels: pixels[:, :2, 0, 0] * torch.nan)}, "numbers that are not finite"),
        ({"images": torch.zeros(9, 3, 16, 16)}, "images: there are 9, must be at least 10"),
        ({"images": "nosuch"}, "images=nosuch: no such folder"),
        ({"images": 5}, "images: a int; a folder"),
        ({"images": [object()] * 12}, "images: number 0 is a object"),
        ({"images": torch.full((12, 3, 16, 16), 2.0)}, "images: number 0: an image tensor: must be uint8, or float"),
        (
            {"images": [torch.zeros(3, 16, 16 + number) for number in range(12)]},
            "images: are tensors of different sizes",
        ),
        (
            {"images": TensorDataset(torch.zeros(12, 3, 16, 16), torch.full((12,), 7))},
            "labels go from 7 to 7, and .* 3",
        ),
        ({"players": (3, 3)}, "players: 3×3 players do not divide an image of 16×16"),
        ({"class_names": ["a"]}, "class_names: 1 names for the model's 3 classes"),
        ({"surrogate": "resnet19"}, "surrogate=resnet19: unknown, did you mean resnet18"),
        ({"overrides": ["explainer.epoch=5"]}, "explainer.epoch: unknown key of explainer, did you mean epochs"),
        ({"overrides": ["stage=surrogate"]}, "stage=surrogate trains no explainer"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_made(changes, line, tmp_path):
    given = {"model": Own(), "images": torch.zeros(12, 3, 16, 16), "normalized": True, "runs_dir": tmp_path / "runs"}
    with pytest.raises(UserError, match=line):
        train_explainer(**given | changes)
    assert not (tmp_path / "runs").exists()


def test_pictures_of_several_sizes_need_one(tmp_path):
    for side in range(12):
        Image.fromarray(np.zeros((20, 20 + side, 3), np.uint8)).save(tmp_path / f"{side}.png")
    with pytest.raises(UserError, match="images: have different sizes; give the height and width"):
        train_explainer(Own(), tmp_path, normalized=True)
