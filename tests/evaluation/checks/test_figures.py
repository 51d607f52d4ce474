"""The checks that look into networks for figures of the papers, and the papers' recipes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from fastshap_lab.attribution import METHODS
from fastshap_lab.attribution.raw_attention import RawAttention
from fastshap_lab.attribution.vit_cx import ViTCX
from fastshap_lab.components import build
from fastshap_lab.config import ComponentConfig
from fastshap_lab.evaluation.checks import CHECKS, attention_layers, coverage, segmentation_overlay
from fastshap_lab.evaluation.checks.mask_similarity import MaskSimilarity, similarities
from fastshap_lab.evaluation.checks.overdetermined import Overdetermined
from fastshap_lab.evaluation.checks.vit_cx_settings import ViTCXSettings
from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.report import Report
from fastshap_lab.metrics import METRICS
from fastshap_lab.models import Classifier
from fastshap_lab.report import densities, layer_maps, overlays
from fastshap_lab.runs.execute import execute
from fastshap_lab.runs.store import Store
from fastshap_lab.stages.evaluate import evaluation_of
from tests.small_runs import TINY, configured, planned

ASKED = [
    "evaluate={images: 10, images_shown: 2, bootstrap: 20}",
    "method=[rollout]",  # which applies to the ViT alone
    "classifier.epochs=1",
    "evaluate.pipelines={ViT: {classifier: vit_slim, overrides: ['classifier.params.width=24']}, "
    "ResNet: {classifier: resnet_slim, overrides: ['classifier.params.strides=[1,1,2,2,2]']}}",  # leaves 2×2 places
]


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory) -> Evaluation:
    """Return the evaluation of a ViT and a ResNet, without surrogates."""
    runs = planned(f"runs_dir={tmp_path_factory.mktemp('runs')}", *ASKED, base=TINY)
    execute(runs[:-1], Console(quiet=True))
    return evaluation_of(runs[-1])


@pytest.fixture
def evaluation(pipelines, tmp_path):
    return replace(pipelines, report=Report(tmp_path), store=Store(tmp_path / "store"))


def test_masks_that_are_alike_have_similarity_one_and_masks_apart_zero():
    alike, apart = torch.rand(4, 5).expand(3, 4, 5), torch.eye(3).view(3, 1, 3)
    torch.testing.assert_close(similarities(alike), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(similarities(apart), torch.zeros(3, dtype=torch.float64))


def test_similar_masks_of_both_kinds_of_network_are_counted(evaluation):
    MaskSimilarity(images=9)(evaluation, "mask_similarity")
    table = evaluation.report.tables["mask_similarity"].set_index("model")
    image = evaluation.images(evaluation.evaluated[:9])
    vit = evaluation.pipelines[0].classifier
    clusters = [len(ViTCX(vit).image_masks(one)) for one in image]
    assert table.loc["ViT", "clusters"] == pytest.approx(np.mean(clusters))
    assert table.loc["ViT", "masks"] == 24  # its width
    assert 1 <= table.loc["ResNet", "clusters"] <= table.loc["ResNet", "masks"] <= 128
    assert list(table["images"]) == [9, 9]


class Presence(nn.Module):
    """Says class 1 if enough of the four quarters of an image are not black, else class 0."""

    def __init__(self, needed: list[list[int]]) -> None:
        super().__init__()
        self.needed, self.nothing = needed, nn.Parameter(torch.zeros(1))

    def forward(self, pixels: Tensor) -> Tensor:
        there = nn.functional.adaptive_avg_pool2d(pixels.mean(dim=1), 2).flatten(1) > 0
        enough = torch.stack([there[:, players].all(dim=1) for players in self.needed]).any(dim=0).float()
        return torch.stack([1 - enough, enough, -torch.ones_like(enough)], dim=1) + self.nothing


@pytest.mark.parametrize(
    ("needed", "expected", "images"),
    [
        ([[0], [1], [2], [3]], {"0.25": 1.0, "0.5": 1.0, "any": 1.0}, 10),  # every half says it
        ([[0]], {"0.25": 0.0, "0.5": 0.0, "any": 0.0}, 10),  # one quarter has to be there
        ([[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]], {"0.25": 0.0, "0.5": 1.0, "any": 1.0}, 10),  # any two
        ([[]], {"0.25": None, "0.5": None, "any": None}, 0),  # nothing has to be: it says so of a black image, too
    ],
)
def test_overdetermined_are_images_with_two_sufficient_parts(evaluation, needed, expected, images):
    classifier = Classifier(Presence(needed), [0.0] * 3, [1.0] * 3, (16, 16), 3).eval()
    name = f"needs {len(needed)} of {len(needed[0])}"
    built = replace(evaluation.pipelines[0], name=name, classifier=classifier)
    built.outputs = torch.tensor([0.0, 1.0, 0.0]).expand(24, 3)
    evaluation.pipelines = [built]
    Overdetermined(methods=["random", "vit_cx"], shares=[0.25, 0.5])(evaluation, "overdetermined")
    table = evaluation.report.tables["overdetermined"].set_index("share")
    found = {share: None if np.isnan(value) else value for share, value in table["overdetermined"].items()}
    assert found == expected
    assert set(table["images"]) == {images}


def test_coverage_is_the_sum_of_the_masks_and_what_the_map_is_divided_by(evaluation, monkeypatch):
    drawn = []
    monkeypatch.setattr(coverage, "gallery", lambda *given: drawn.append(given[1]))
    monkeypatch.setattr(evaluation.report, "add", lambda *given, **_: drawn.append(given[1]))
    coverage.Coverage()(evaluation, "coverage")
    columns, text = drawn
    vit = evaluation.pipelines[0]
    image, target = evaluation.images(evaluation.evaluated[:2]), evaluation.classes(vit)[:2, 0]
    sums = torch.stack([ViTCX(vit.classifier).image_masks(one).sum(dim=0) for one in image])
    np.testing.assert_allclose(columns["sum of masks"][0], sums.numpy())
    for name, corrected in (("map before", False), ("map after", True)):
        expected = ViTCX(vit.classifier, coverage=corrected).attribute(image, target)
        np.testing.assert_allclose(columns[name][0], expected.numpy(), rtol=1e-4, atol=1e-5)
    assert "Not applicable to ResNet" in text


def test_settings_of_vit_cx_change_one_at_a_time_and_cost_what_their_masks_do(evaluation):
    evaluation.settings = replace(evaluation.settings, methods={"mine": ComponentConfig("vit_cx", {"num_masks": 7})})
    ViTCXSettings(thresholds=[0.0, 0.1, 1.0], noises=[0.1], images=2)(evaluation, "vit_cx_settings")
    tables = evaluation.report.tables
    by_delta, variants = tables["vit_cx_settings-threshold"], tables["vit_cx_settings-variants"].set_index("variant")
    assert set(by_delta["model"]) == {"ViT"}
    same = ["deletion", "insertion", "masks", "passes"]
    usual = variants.loc["as it is", same].to_numpy(dtype=float)
    np.testing.assert_allclose(by_delta.loc[1, same].to_numpy(dtype=float), usual)
    np.testing.assert_allclose(tables["vit_cx_settings-noise"].loc[0, same].to_numpy(dtype=float), usual)
    assert by_delta["masks"].is_monotonic_decreasing
    assert by_delta["masks"].iloc[-1] == 1
    # One pass for the features, one for the whole image, two per mask, and without noise one.
    np.testing.assert_allclose(by_delta["passes"], 2 * by_delta["masks"] + 2)
    assert variants.loc["plain score", "passes"] == variants.loc["plain score", "masks"] + 2
    assert variants.loc["random masks", "masks"] == 7
    assert (variants["seconds"] > 0).all()


def test_every_block_has_its_map_and_final_maps_stand_beneath(evaluation, monkeypatch):
    drawn = []
    monkeypatch.setattr(attention_layers, "layer_maps", lambda *given: drawn.append(given) or layer_maps(*given))
    attention_layers.AttentionLayers(images=2)(evaluation, "attention_layers")
    assert len(drawn) == len(evaluation.report.figures) == 2
    vit, image = evaluation.pipelines[0].classifier, evaluation.images(evaluation.evaluated[:2])
    for place, (_, layers, final) in enumerate(drawn):
        expected = [RawAttention(vit, layer=number).attribute(image)[place].numpy() for number in range(4)]
        np.testing.assert_allclose(layers["ViT"], expected, rtol=1e-5)
        assert list(layers) == ["ViT"]
        assert {name: list(found) for name, found in final.items()} == {
            name: ["ViT"] for name in attention_layers._FINAL.values()
        }
    assert "Not applicable to ResNet" in evaluation.report.sections[-1].text


def test_every_method_has_its_map_and_what_otsu_makes_of_it(evaluation, monkeypatch):
    drawn = []
    monkeypatch.setattr(segmentation_overlay, "overlays", lambda *given: drawn.append(given) or overlays(*given))
    segmentation_overlay.SegmentationOverlay()(evaluation, "segmentation_overlay")
    (_, maps, cut, _), _ = drawn
    assert list(maps) == list(cut) == ["random", "rollout"]
    for name, values in maps.items():
        assert values.min() == 0
        assert values.max() == 1
        thresholds = [
            (values[place][~cut[name][place]].max(), values[place][cut[name][place]].min()) for place in (0, 1)
        ]
        assert all(below < above for below, above in thresholds)


def test_overlays_tint_the_foreground_alone():
    images, left = np.zeros((1, 4, 6, 3)), np.zeros((1, 4, 6), dtype=bool)
    left[:, :, :3] = True
    figure = overlays(images, {"some_method": np.zeros((1, 4, 6))}, {"some_method": left}, ["cat"])
    _, _, tinted = (axes.images[0].get_array() for axes in figure.axes)
    assert (tinted[:, :3] == tinted[0, 0]).all()
    assert tinted[0, 0, 0] > 0.4
    assert (tinted[:, 3:] == 0).all()


def test_models_may_differ_in_depth():
    layers = {"deep": np.zeros((3, 2, 2)), "shallow": np.zeros((1, 2, 2))}
    figure = layer_maps(np.zeros((4, 4, 3)), layers, {"rollout": {"deep": np.eye(2)}})
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["block 1", "block 2", "block 3", "block 1", "deep"]


def test_densities_have_area_one():
    figure = densities({"a": np.array([1.0, 3.0])}, np.array([0.0, 0.5, 1.0]), "similarity")
    (stairs,) = figure.axes[0].patches
    np.testing.assert_allclose(stairs.get_data().values, [0.5, 1.5])


@pytest.mark.parametrize("paper", ["hebbar2023", "xie2023", "coporan2024"])
def test_what_a_recipe_publishes_has_a_place_in_our_tables(paper):
    config = configured(f"experiment={paper}", "data.params.root=somewhere", base=[]).evaluate
    rows = {f"{model}, {method}" for model in config.pipelines for method in config.methods}
    for table, published in config.published.items():
        name = table.removeprefix("methods-")
        columns = METRICS[config.metrics[name].name]().columns
        assert published.keys() <= rows
        assert {column for row in published.values() for column in row} <= set(columns)
    for name, chosen in config.checks.items():
        build(CHECKS, f"evaluate.checks.{name}", chosen.name, chosen.params)
    for name, chosen in config.methods.items():
        assert chosen.name in METHODS, name
