"""Shapley values of anybody's module: against exact ones, whatever the module is made of; and mistakes in one line."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import fastshap_lab as fsl
from fastshap_lab.errors import UserError
from fastshap_lab.models import Classifier, ModelGame
from fastshap_lab.models.maskings import MASKINGS
from fastshap_lab.shapley import PlayerGrid, Segments, exact_shapley_values
from tests import small

IMAGES = small.images(3)
PLAYERS = (2, 3)
VIT = small.classifier("vit")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


class Own(nn.Module):
    """A module of one's own, which ``view`` shows to need channels first, and which returns an object or not."""

    def __init__(self, wrapped: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        height, width = small.IMAGE_SIZE
        self.convolution, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head, self.wrapped = nn.Linear(4 * height * width, 3), wrapped

    def forward(self, pixels: Tensor) -> Tensor | SimpleNamespace:
        features = self.norm(self.convolution(pixels)).relu()
        logits = self.head(features.view(len(pixels), -1))
        return SimpleNamespace(logits=logits) if self.wrapped else logits


def known() -> nn.Module:
    """A network whose modules are all PyTorch's."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    return nn.Sequential(*layers).train()


@pytest.mark.parametrize("removal", ["constant", "mean", {"name": "blur", "params": {"width": 2.0}}])
@pytest.mark.parametrize("make", [Own, lambda: Own(wrapped=True), known], ids=["own", "object", "known"])
def test_all_evaluations_give_the_exact_values_of_the_removal(make, removal):
    model, grid = make().train(), PlayerGrid(small.IMAGE_SIZE, PLAYERS)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = fsl.shapley_values(model, IMAGES, PLAYERS, evaluations=62, removal=removal, mean=MEAN, std=STD, max_batch=5)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    def logits(pixels: Tensor) -> Tensor:
        answer = model(pixels.contiguous())
        return getattr(answer, "logits", answer)

    model.eval()
    behind = Classifier(model, MEAN, STD, small.IMAGE_SIZE, 3)
    colour = {"colour": list(MEAN)} if removal == "constant" else {}
    name, params = (removal, colour) if isinstance(removal, str) else (removal["name"], removal["params"])
    seen = MASKINGS[name](lambda image: logits(behind.normalize(image)), grid, **params)
    game = ModelGame(lambda image: logits(behind.normalize(image)), seen)
    exact = exact_shapley_values(game, IMAGES)
    torch.testing.assert_close(found.values, grid.to_grid(exact).float(), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.probabilities, game.grand(IMAGES), rtol=0, atol=1e-5)
    assert not found.stderr.any()
    assert found.classes == ["0", "1", "2"]


def test_some_evaluations_come_with_errors_and_neighbours_change_nothing():
    model = known()
    given = {"evaluations": 40, "normalized": True, "class_names": ["a", "b", "c"]}
    together, exact = (fsl.shapley_values(model, IMAGES, PLAYERS, **given | more) for more in ({}, {"evaluations": 62}))
    assert ((together.values - exact.values).abs() <= 4 * together.stderr).double().mean() > 0.9
    assert (together.evaluations == 40).all()
    alone = fsl.shapley_values(model, IMAGES[1], PLAYERS, **given, max_batch=7)
    torch.testing.assert_close(alone.values[0], together.values[1], rtol=0, atol=1e-5)
    assert together.classes == ["a", "b", "c"]
    assert together.source == "classifier"


def test_a_timm_model_states_how_its_pixels_are_normalized():
    model = timm.create_model("resnet10t", num_classes=4).eval()
    stated = model.pretrained_cfg
    told = fsl.shapley_values(model, torch.rand(1, 3, 64, 64), (2, 2), evaluations=14)
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 64)
    told, given = (
        fsl.shapley_values(model, image, (2, 2), evaluations=14, **pixels)
        for pixels in ({}, {"mean": stated["mean"], "std": stated["std"]})
    )
    assert torch.equal(told.values, given.values)


@pytest.mark.parametrize(
    ("task", "link", "classes"),
    [("multilabel", "sigmoid", 3), ("binary", "sigmoid", 1), ("binary", "logits", 1), ("regression", "identity", 1)],
)
def test_models_of_other_tasks_are_explained_in_their_own_space(task, link, classes):
    model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(18, classes))
    words = {"evaluations": 62, "normalized": True, "removal": {"name": "constant", "params": {"colour": [0.0] * 3}}}
    given = {} if link == "logits" else {"link": None}
    found = fsl.shapley_values(model, IMAGES, PLAYERS, task=task, **words | (given or {"link": link}))
    space = {"sigmoid": torch.sigmoid}.get(link, lambda outputs: outputs)
    with torch.no_grad():
        outputs = model(IMAGES)
        total = space(outputs) - space(model(torch.zeros_like(IMAGES[:1])))
    torch.testing.assert_close(found.values.sum(dim=(2, 3)), total, rtol=1e-4, atol=1e-5)
    if link != "sigmoid":  # a linear game: a player is worth what its pixels add
        weights = model[2].weight.detach().view(classes, 3, 2, 3)
        alone = (nn.functional.avg_pool2d(IMAGES, 4).unsqueeze(1) * weights).sum(dim=2)
        torch.testing.assert_close(found.values, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.predictions, outputs if task == "regression" else outputs.sigmoid())
    assert (found.task.name, found.link) == (task, link)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("make", [Own, known], ids=["own", "known"])
def test_a_models_precision_is_its_own(make, dtype):
    model = make().to(dtype)
    found = fsl.shapley_values(model, IMAGES, PLAYERS, evaluations=30, mean=MEAN, std=STD)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    single = fsl.shapley_values(make(), IMAGES, PLAYERS, evaluations=30, mean=MEAN, std=STD)
    tolerance = 1e-5 if dtype == torch.float64 else 0.05
    torch.testing.assert_close(found.values, single.values, rtol=0, atol=tolerance)


def test_a_label_map_of_the_grids_patches_has_the_grids_values():
    model, labels = known(), torch.arange(6).view(PLAYERS).repeat_interleave(4, 0).repeat_interleave(4, 1)
    for removal in ("constant", "blur"):
        given = {"evaluations": 40, "mean": MEAN, "std": STD, "removal": removal, "estimator": "kernel_shap"}
        expected, found = (fsl.shapley_values(model, IMAGES, players, **given) for players in (PLAYERS, labels))
        torch.testing.assert_close(found.values, expected.values.flatten(2), rtol=0, atol=1e-6)
        torch.testing.assert_close(found.stderr, expected.stderr.flatten(2), rtol=0, atol=1e-6)
        torch.testing.assert_close(found.maps(), expected.maps(), rtol=0, atol=1e-6)
    assert found.segments.shape == (3, 8, 12)
    assert expected.segments is None


@pytest.mark.parametrize("removal", ["constant", "blur"])
def test_each_image_may_have_its_own_segments_and_as_many_as_it_likes(removal, tmp_path):
    model, counts = known(), (4, 6, 3)
    own = [small.label_map(number, seed=number) for number in counts]
    given = {"evaluations": 62, "mean": MEAN, "std": STD, "removal": removal, "class_names": ["a", "b", "c"]}
    found = fsl.shapley_values(model, IMAGES, own, **given)
    assert found.values.shape == found.stderr.shape == (3, 3, 6)
    behind = Classifier(model.eval(), MEAN, STD, small.IMAGE_SIZE, 3)
    for image, labels, number, values in zip(IMAGES.split(1), own, counts, found.values, strict=True):
        game = ModelGame(behind, MASKINGS[removal](behind, Segments(labels)))
        exact = exact_shapley_values(game, image)[0].T.float()
        torch.testing.assert_close(values[:, :number], exact, rtol=0, atol=1e-5)
        assert values[:, number:].isnan().all()
    maps = found.maps()
    for index, labels in enumerate(own):
        assert torch.equal(maps[index], found.values[index][:, labels])
    alone = fsl.shapley_values(model, IMAGES[1], own[1].numpy(), **given)
    torch.testing.assert_close(alone.values, found.values[1:2], rtol=0, atol=1e-6)
    same = fsl.shapley_values(model, IMAGES[1:], torch.stack([own[1], own[1].flip(0)]), **given)
    torch.testing.assert_close(same.values[0], found.values[1], rtol=0, atol=1e-6)

    assert "Shapley values of 3 to 6 segments for 3 classes" in repr(found)
    assert "Shapley values of 6 segments for 3 classes" in repr(found[1])
    drawn = [axes.images[0].get_array() for axes in found[2].plot(tmp_path / "it.png", ["b"]).axes if axes.images]
    assert np.array_equal(drawn[1], maps[2, 1])
    assert "of each segment." in found._drawn().texts[0].get_text().replace("\n", " ")
    found.save(tmp_path / "it.npz")
    loaded = fsl.Explanation.load(tmp_path / "it.npz")
    assert torch.equal(loaded.segments, found.segments)
    assert torch.equal(loaded.maps(), maps)
    found.save(tmp_path / "page.html")  # which shows segments, too
    assert '"grid":null' in (tmp_path / "page.html").read_text(encoding="utf-8")
    for broken in (found.segments + 1, found.segments[:, :4], found.segments.float()):
        replace(found, segments=broken).save(tmp_path / "broken.npz")
        with pytest.raises(UserError, match="its segments"):
            fsl.Explanation.load(tmp_path / "broken.npz")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"mean": None}, "mean, std: how are pixels normalized"),
        ({"std": (0.1, 0.0, 0.1)}, "each must have three numbers"),
        ({"normalized": True}, "mean, std: the model normalizes pixels itself"),
        ({"players": (3, 3)}, "3×3 players do not divide an image of 8×12"),
        (
            {"players": small.label_map(5, (12, 8))},
            "players: are for images of 12×8 pixels, but these images have 8×12",
        ),
        ({"players": small.label_map(5) + 1}, "a label map from 1 to 5 without 0"),
        ({"players": [small.label_map(5)] * 2}, "players: 2 label maps for 3 images; must be one, or one for each"),
        ({"players": []}, "players: none given"),
        ({"estimator": "exact", "players": [small.label_map(4), small.label_map(24)]}, "estimator=exact: 24 players"),
        (
            {"removal": "attention", "model": VIT, "players": small.label_map(5), "mean": None, "std": None},
            "tokens belong",
        ),
        ({"evaluations": 1}, "evaluations=1: too few for 6 players; must be 2 or more"),
        ({"estimator": "kernel_shap", "evaluations": 19}, "evaluations=19: too few for 6 players; must be 20 or more"),
        ({"estimator": "nosuch"}, "estimator=nosuch: unknown"),
        ({"link": "nosuch"}, "link=nosuch: unknown"),
        ({"link": "sigmoid"}, "link=sigmoid: is for the tasks multilabel and binary"),
        ({"task": "regression", "link": "softmax"}, "link=softmax: a regression's values have"),
        ({"task": "binary"}, r"model: returns a tensor of shape \(1, 3\); must return logits \(images, 1\)"),
        ({"task": "nosuch"}, "task=nosuch: unknown"),
        ({"estimator": "exact", "players": (4, 6)}, "estimator=exact: 24 players; must be 20 or less"),
        ({"std": (1e-45, 0.1, 0.1)}, "model: returns numbers that are not finite"),
        ({"removal": "nosuch"}, "removal=nosuch: unknown"),
        ({"removal": "mask_channel"}, "removal=mask_channel: "),
        ({"class_names": ["a"]}, "class_names: 1 names for the model's 3 classes"),
        ({"model": nn.Flatten(0)}, r"model: returns a tensor of shape \(288,\)"),
        ({"model": nn.LSTM(12, 3)}, "model: does not take images of 8×12: LSTM"),
        ({"images": ["missing.png"]}, "image_size: missing; give the height and width"),
    ],
)
def test_mistakes_are_one_line(changes, line):
    given = {"model": known(), "images": IMAGES, "players": PLAYERS, "evaluations": 30, "mean": MEAN, "std": STD}
    with pytest.raises(UserError, match=line):
        fsl.shapley_values(**given | changes)
