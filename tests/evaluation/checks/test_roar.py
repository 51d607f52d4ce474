from dataclasses import replace

import pytest
import torch
from skimage.filters import sobel
from torch import Tensor

from fastshap_lab.attribution import METHODS, AttributionMethod
from fastshap_lab.config import ComponentConfig
from fastshap_lab.data.splits import TensorImages
from fastshap_lab.errors import UserError
from fastshap_lab.evaluation.checks import roar
from fastshap_lab.evaluation.checks.roar import ROAR, edges
from fastshap_lab.runs.store import Store
from fastshap_lab.training.classifier import ClassifierTraining
from tests.small_runs import pretend_cross_entropies


@pytest.fixture
def count(monkeypatch):
    """Count trainings that are made, and return what each gets right."""
    made = []

    def pretend(self, evaluation, pipeline, data, seed, folder):
        made.append((pipeline.name, seed))
        return torch.rand(24, generator=torch.Generator().manual_seed(len(made))) < 0.5

    monkeypatch.setattr(ROAR, "_trained_right", pretend)
    return made


def test_every_method_share_and_seed_is_trained_once_whatever_interrupts(evaluation, count, monkeypatch):
    check = ROAR(methods=["saliency"], fractions=(0.25, 0.5), seeds=2)
    pretend, calls = ROAR._trained_right, []

    def dies(*args):
        calls.append(args)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return pretend(*args)

    with monkeypatch.context() as patch:
        patch.setattr(ROAR, "_trained_right", dies)
        with pytest.raises(KeyboardInterrupt):
            check(evaluation, "roar")
    assert len(count) == 5
    check(evaluation, "roar")
    # On whole images once for all methods; Sobel, Random and saliency at two shares; two seeds.
    assert len(count) == (1 + 3 * 2) * 2 * 2
    table = evaluation.report.tables["roar"]
    assert table[["model", "method"]].to_numpy().tolist() == [
        ["A", "sobel"],
        ["A", "random"],
        ["A", "saliency"],
        ["B", "sobel"],
        ["B", "random"],
        ["B", "saliency"],
    ]
    assert table["0%"].groupby(table["model"]).nunique().eq(1).all()
    assert (table["25%_low"] < table["25%"]).all()
    assert (table["25%"] < table["25%_high"]).all()
    check(evaluation, "roar")
    assert len(count) == 28
    assert evaluation.report.tables["roar"].equals(table)


def test_the_highest_players_of_all_splits_become_the_mean_colour(evaluation, monkeypatch):
    seen = {}

    def keep(self, evaluation, pipeline, data, seed, folder):
        seen[len(seen)] = data
        return torch.zeros(24, dtype=torch.bool)

    monkeypatch.setattr(ROAR, "_trained_right", keep)
    ROAR(methods=["saliency"], fractions=(0.75,), seeds=1, epochs=2)(evaluation, "roar")
    whole, _, _, masked = (seen[number] for number in (0, 1, 2, 3))  # nothing removed, Sobel, Random, saliency
    mean, _ = evaluation.data.dataset("train").pixel_statistics()
    colour = (255 * torch.tensor(mean)).round().to(torch.uint8)
    classifier = evaluation.pipelines[0].classifier
    for split in ("train", "val", "test"):
        original = evaluation.data.dataset(split)
        assert torch.equal(whole[split].images, original.images)
        assert torch.equal(masked[split].labels, original.labels)
        image = original.images.float() / 255
        with torch.no_grad():
            maps = METHODS["saliency"](classifier).attribute(image, classifier(image).argmax(dim=1))
        kept = maps.view(-1, 2, 8, 2, 8).mean(dim=(2, 4)).flatten(1).argmin(dim=1)
        for one, before, player in zip(masked[split].images, original.images, kept.tolist(), strict=True):
            cells = one.view(3, 2, 8, 2, 8).transpose(2, 3).flatten(1, 2)
            for place in range(4):
                expected = before.view(3, 2, 8, 2, 8).transpose(2, 3).flatten(1, 2)[:, place]
                assert torch.equal(
                    cells[:, place], expected if place == player else colour.view(3, 1, 1).expand(3, 8, 8)
                )


def test_a_training_repeats_keeps_its_best_epoch_and_leaves_nothing(evaluation, tmp_path, monkeypatch):
    pipeline, check = evaluation.pipelines[0], ROAR(epochs=3)
    data = roar._without(evaluation, pipeline, None, 0)
    folder = tmp_path / "training"
    first, again, other = (check._trained_right(evaluation, pipeline, data, seed, folder) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert other.shape == (24,)
    judged = []
    monkeypatch.setattr(
        roar, "frozen_copy", lambda network: judged.append(network.network.fc.weight.clone()) or network.eval()
    )
    for values in ((1, 2, 3), (1, 3, 2), (3, 1, 2), (float("nan"), 1, 2)):
        pretend_cross_entropies(monkeypatch, *map(float, values))
        check._trained_right(evaluation, pipeline, data, 0, folder)
    assert torch.equal(judged[0], judged[1])
    assert not torch.equal(judged[0], judged[2])
    assert torch.equal(judged[2], judged[3])
    assert not folder.exists()


def test_a_training_goes_on_where_it_was_interrupted_and_says_when_it_diverges(evaluation, tmp_path, monkeypatch):
    pipeline, check = evaluation.pipelines[0], ROAR(epochs=3)
    data = roar._without(evaluation, pipeline, None, 0)
    uninterrupted = check._trained_right(evaluation, pipeline, data, 0, tmp_path / "uninterrupted")
    step, made = ClassifierTraining.training_step, []

    def dies(self, batch, batch_idx):
        made.append(batch_idx)
        if len(made) == 8:  # of three steps per epoch
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ClassifierTraining, "training_step", dies)
    with pytest.raises(KeyboardInterrupt):
        check._trained_right(evaluation, pipeline, data, 0, tmp_path / "training")
    again = check._trained_right(evaluation, pipeline, data, 0, tmp_path / "training")
    assert torch.equal(again, uninterrupted)
    assert len(made) == 8 + 3  # the last epoch
    monkeypatch.setattr(ClassifierTraining, "training_step", lambda *given: step(*given) * float("nan"))
    with pytest.raises(UserError, match="classifier: the loss is not a finite number at step 1, epoch 1"):
        check._trained_right(evaluation, pipeline, data, 0, tmp_path / "training")


def test_unknown_methods_and_classifiers_without_a_recipe_are_told(evaluation, count, monkeypatch):
    with pytest.raises(UserError, match=r"params\.methods=salience: .* did you mean saliency"):
        ROAR(methods=["salience"]).check(evaluation.settings, "roar")
    for pipeline in evaluation.pipelines:
        monkeypatch.setattr(pipeline.runs["classifier"].config.classifier, "path", "somewhere")
    ROAR()(evaluation, "roar")
    assert "Not applicable" in evaluation.report.sections[-1].text
    assert not count


def test_edges_are_scikit_images():
    image = torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([torch.from_numpy(sobel(one.mean(dim=0).double().numpy())) for one in image])
    torch.testing.assert_close(edges(image, torch.zeros(2)).double(), expected)
    constant = edges(torch.full((1, 3, 8, 8), 0.3), torch.zeros(1))
    torch.testing.assert_close(constant, torch.zeros(1, 8, 8))


class Colourful(AttributionMethod):
    """Knows what counts in the images of ``coloured``."""

    kind, class_specific = "saliency", False

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        return image.amax(dim=1) - image.amin(dim=1)


def coloured(number: int, seed: int) -> TensorImages:
    """Return grey noise in which one of four quarters, any of them, has the colour of the class."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (number, 1, 16, 16), dtype=torch.uint8, generator=generator).repeat(1, 3, 1, 1)
    labels, places = torch.arange(number) % 3, torch.randint(4, (number,), generator=generator)
    for image, label, place in zip(images, labels.tolist(), places.tolist(), strict=True):
        quarter = image[:, 8 * (place // 2) :, 8 * (place % 2) :][:, :8, :8]
        quarter[:] = 0
        quarter[label] = 255
    return TensorImages(images, labels)


def test_removing_what_counts_leaves_nothing_to_learn_and_removing_at_random_leaves_most(
    evaluation, monkeypatch, tmp_path
):
    data = {split: coloured(number, number) for split, number in (("train", 192), ("val", 48), ("test", 240))}
    monkeypatch.setattr(evaluation.data, "_splits", data)
    monkeypatch.setattr(evaluation.data, "digest", lambda: "coloured")
    monkeypatch.setattr(evaluation.pipelines[0].runs["classifier"].config.classifier.optim, "lr", 1e-2)
    monkeypatch.setitem(METHODS, "colourful", Colourful)
    settings = replace(evaluation.settings, methods={"truth": ComponentConfig("colourful")})
    pipeline = replace(evaluation.pipelines[0], outputs=torch.ones(240, 3) / 3)
    evaluation = replace(evaluation, settings=settings, pipelines=[pipeline], store=Store(tmp_path))
    ROAR(methods=["truth"], fractions=(0.25,), seeds=1, epochs=16)(evaluation, "roar")
    table = evaluation.report.tables["roar"].set_index("method")
    assert table.loc["truth"]["0%"] > 0.95
    assert table.loc["truth"]["25%"] == pytest.approx(1 / 3, abs=0.12)
    assert table.loc["random"]["25%"] == pytest.approx(3 / 4 + 1 / 4 / 3, abs=0.12)
