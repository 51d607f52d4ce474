"""Maps made comparable, targets, colours."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastshap_lab.attribution import METHODS, AttributionMethod, upsample
from fastshap_lab.attribution.attention_method import Rows
from fastshap_lab.attribution.base import baseline_colour, colour_scale, mean_colour, one_of, target_logits
from fastshap_lab.errors import UserError
from fastshap_lab.images import normalize_map
from fastshap_lab.models import ModelGame
from fastshap_lab.models.maskings import Constant
from fastshap_lab.shapley import PlayerGrid
from tests import small
from tests.attribution.families import NUM_CLASSES, family, images


def test_upsampling_interpolates_between_the_centres_of_cells():
    maps = torch.rand(2, 3, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.empty(2, 3, 5, 7, dtype=torch.float64)
    for y in range(5):
        for x in range(7):
            row, column = max((y + 0.5) * 2 / 5 - 0.5, 0), max((x + 0.5) * 3 / 7 - 0.5, 0)
            top, left = int(row), int(column)
            down, right = min(top + 1, 1), min(left + 1, 2)
            a, b = row - top, column - left
            upper = (1 - b) * maps[..., top, left] + b * maps[..., top, right]
            lower = (1 - b) * maps[..., down, left] + b * maps[..., down, right]
            expected[..., y, x] = (1 - a) * upper + a * lower
    torch.testing.assert_close(upsample(maps, (5, 7)), expected)


def test_each_map_is_stretched_by_itself_and_a_constant_one_is_zero():
    maps = torch.tensor([[[-1.0, 0], [1, 3]], [[5, 5], [5, 5]], [[0, 0], [0, 0]]])
    expected = torch.tensor([[[0.0, 0.25], [0.5, 1]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]])
    assert torch.equal(normalize_map(maps), expected)
    assert torch.equal(normalize_map(maps.unsqueeze(0)), expected.unsqueeze(0))


def test_colours_of_absence_and_units_of_noise():
    image = images()
    classifier = family("vit")
    assert mean_colour(classifier, image).flatten().tolist() == pytest.approx(small.PIXELS["mean"])
    assert colour_scale(classifier, image).flatten().tolist() == pytest.approx(small.PIXELS["std"])
    torch.testing.assert_close(classifier.normalize(mean_colour(classifier, image)), torch.zeros(3, 1, 1))
    assert torch.equal(mean_colour(nn.Identity(), image), torch.zeros(3, 1, 1))
    assert torch.equal(colour_scale(nn.Identity(), image), torch.ones(3, 1, 1))
    assert torch.equal(baseline_colour(classifier, image, None), mean_colour(classifier, image))
    assert torch.equal(baseline_colour(classifier, image, [0.0, 1.0, 2.0]), torch.tensor([0.0, 1, 2]).view(3, 1, 1))
    with pytest.raises(UserError, match=r"baseline=\[0.5\]: must have 3 numbers"):
        baseline_colour(classifier, image, [0.5])


def test_an_unknown_choice_is_named():
    assert one_of("rows", "class", Rows) == "class"
    with pytest.raises(UserError, match="rows=clas: unknown; must be one of class, prefix_mean, query_mean"):
        one_of("rows", "clas", Rows)


class Logit(AttributionMethod):
    """Return the logit explained, and keep how many images came at once."""

    kind = "attribution"

    def __init__(self, model: nn.Module, max_batch: int = 32) -> None:
        super().__init__(model, max_batch)
        self.sizes: list[int] = []

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        self.sizes.append(len(image))
        return target_logits(self.model(image), target).view(-1, 1, 1)


def test_targets_are_one_class_of_each_image_or_of_all_or_the_highest_logit():
    model, image = family("resnet"), images(5)
    method = Logit(model, max_batch=2)
    with torch.no_grad():
        logits = model(image)
    target = torch.tensor([3, 0, 2, 1, 3])
    expected = {2: logits[:, 2], None: logits.amax(dim=1), target: logits[range(5), target]}
    for given, found in expected.items():
        torch.testing.assert_close(method.attribute(image, given).flatten(), found)
    assert method.sizes == [2, 2, 1] * 3
    torch.testing.assert_close(method.attribute_all(image)[:, :, 0, 0], logits)
    assert not method.attribute(image).requires_grad
    with pytest.raises(
        UserError, match=r"target of shape \(2,\): must be one class for all images, or one for each of 5"
    ):
        method.attribute(image, torch.tensor([0, 1]))


@pytest.mark.parametrize("name", ["rise", "leave_one_out", "saliency", "grad_cam", "cam", "score_cam"])
def test_what_is_no_class_is_refused_whatever_is_asked(name):
    method, image = METHODS[name](family("resnet")), images(2)
    with pytest.raises(UserError, match="target of type float32: must be whole numbers"):
        AttributionMethod.attribute.__wrapped__(method, image, 1.7)
    for ask in (method.attribute, lambda image, k: method.attribute_classes(image, torch.tensor([[0, 1], [1, k]]))):
        with pytest.raises(UserError, match="target=-1: classes are numbered from 0"):
            ask(image, -1)
        with pytest.raises(UserError, match=f"target={NUM_CLASSES}: classes are numbered 0 to {NUM_CLASSES - 1}"):
            ask(image, NUM_CLASSES)
    with pytest.raises(UserError, match="target of type float32"):
        method.attribute_classes(image, torch.zeros(2, 1))
    with pytest.raises(UserError, match=r"classes of shape \(2,\): must be \(B, E\), E classes for each"):
        method.attribute_classes(image, [0, 1])


class Answers(nn.Module):
    """Answers with what is made of its logits."""

    def __init__(self, of: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.features, self.head, self.of = nn.Conv2d(3, 6, 4, stride=4), nn.Linear(6, NUM_CLASSES), of

    def forward(self, pixels: Tensor) -> Any:
        return self.of(self.head(self.features(pixels).mean(dim=(2, 3))))


@pytest.mark.parametrize("name", ["rise", "leave_one_out", "kernel_shap", "saliency", "grad_cam", "score_cam"])
@pytest.mark.parametrize(
    ("of", "line"),
    [
        (lambda logits: SimpleNamespace(logits=logits), "a SimpleNamespace: must be a tensor, the logits"),
        (lambda logits: (logits, None), "a tuple: must be a tensor, the logits"),
        (lambda logits: logits[:, 0], r"must be \(B, K\), one logit per class"),
    ],
)
def test_answers_that_are_no_logits_are_one_line(name, of, line):
    method = METHODS[name](Answers(of))
    for ask in (method.attribute, method.attribute_all, lambda image: method.attribute(image, 0)):
        with pytest.raises(UserError, match=line) as raised:
            ask(images(2))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["rise", "leave_one_out", "kernel_shap", "saliency", "grad_cam"])
def test_a_single_logit_is_explained_where_it_excludes_nothing(name):
    model, image = Answers(lambda logits: logits[:, :1]), images(2)
    if name in ("rise", "leave_one_out", "kernel_shap"):
        with pytest.raises(UserError, match="link=softmax: needs two classes or more, and the model has one logit"):
            METHODS[name](model).attribute(image)
        method = METHODS[name](model, link="sigmoid")
    else:
        method = METHODS[name](model)
    maps = method.attribute(image)
    assert maps.std() > 0
    torch.testing.assert_close(method.attribute_all(image)[:, 0], maps)


@pytest.mark.parametrize("max_batch", [0, -1, 1.5, True])
def test_a_pass_has_a_row_or_more(max_batch):
    line, grid = f"max_batch={max_batch}: must be a whole number of 1 or more", PlayerGrid(small.IMAGE_SIZE, (2, 3))
    model = family("resnet")
    for make in (
        lambda: AttributionMethod.__init__.__wrapped__(Logit.__new__(Logit), family("resnet"), max_batch),
        lambda: ModelGame.__init__.__wrapped__(
            ModelGame.__new__(ModelGame), model, Constant(model, grid), "softmax", max_batch
        ),
    ):
        with pytest.raises(UserError, match=line):
            make()


class Views(nn.Module):
    """As in many a tutorial: takes features for what lies in memory channel after channel."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 4, 2, stride=2), nn.Linear(4 * 4 * 6, NUM_CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        self.given = pixels
        return self.head(self.features(pixels).view(-1, 4 * 4 * 6))


def test_several_images_come_channels_last_where_every_module_takes_them_so():
    model, kept = family("resnet"), []
    model.network.conv1.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    many = images().repeat(4, 1, 1, 1)
    Logit(model).attribute(many[:4])
    Logit(model).attribute(many[:1])  # faster so on a processor
    assert [each.is_contiguous(memory_format=torch.channels_last) for each in kept] == [len(each) > 1 for each in kept]
    assert {len(each) for each in kept} == {1, 4}
    views = Views()
    Logit(views).attribute(many)
    assert views.given.is_contiguous()
