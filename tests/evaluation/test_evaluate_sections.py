"""Sections of an evaluation that compare explained pipelines: subsets, surrogates, shifted pictures."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from fastshap_lab.data import ImageDataModule
from fastshap_lab.data.base import Split
from fastshap_lab.data.splits import NO_LABEL, TensorImages
from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.pipeline import Pipeline
from fastshap_lab.evaluation.report import Report
from fastshap_lab.evaluation.sections.shifts import Shifts, shifted
from fastshap_lab.evaluation.sections.subsets import Subsets, _table
from fastshap_lab.evaluation.sections.surrogates import Surrogates
from fastshap_lab.inference import AmortizedExplainer
from fastshap_lab.metrics.map_statistics import central_share
from fastshap_lab.models.explainers import Explainer
from fastshap_lab.runs.run import Run
from fastshap_lab.runs.store import Store
from fastshap_lab.shapley import PlayerGrid
from fastshap_lab.stages import evaluate
from tests.small import IMAGE_SIZE, surrogate
from tests.small_runs import configured, executed, planned

TINY = "classifier: resnet_slim, surrogate: resnet_slim"
SETTINGS = "classifier_name: B, overrides: ['seed=1', 'data.grid=[4,4]']"
PIPELINES = ", ".join(
    [
        f"A: {{{TINY}, explainer: unet_slim}}",
        f"B by one: {{{TINY}, explainer: unet_slim, {SETTINGS}}}",
        f"B by two: {{{TINY}, explainer: unet_slim, {SETTINGS}}}",  # the same by another name
        f"B by three: {{{TINY}, classifier_name: B, overrides: ['seed=1', 'surrogate.epochs=2']}}",
    ]
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    quick = ["evaluate.images=6", "evaluate.images_shown=1", "references={val: 0, test: 0}"]
    quick += [f"{stage}.epochs=1" for stage in ("classifier", "surrogate", "explainer")]
    return executed(f"evaluate.pipelines={{{PIPELINES}}}", f"runs_dir={folder}", *quick)[-1]


def evaluation_of(run: Run, folder, *names: str) -> Evaluation:
    found = evaluate.evaluation_of(run)
    pipelines = [pipeline for pipeline in found.pipelines if pipeline.name in names]
    return replace(found, pipelines=pipelines, report=Report(folder), store=Store(folder / "store"))


@pytest.fixture(scope="module")
def compared(finished, tmp_path_factory) -> Evaluation:
    """Subsets of 24 test images, of which A is right on every second, B on every third."""
    evaluation = evaluation_of(finished, tmp_path_factory.mktemp("subsets"), "A", "B by one", "B by two")
    labels, number = evaluation.test.labels, torch.arange(24)
    for pipeline, step, wrong in zip(evaluation.pipelines, (2, 3, 3), (1, 2, 2), strict=True):
        said = torch.where(number % step == 0, labels, (labels + wrong) % 3)
        pipeline.outputs = F.one_hot(said, 3).float()
    Subsets()(evaluation, "subsets")
    return evaluation


def test_subsets_are_counted(compared):
    counts = compared.report.tables["subsets-A-B"].set_index("subset")
    assert counts["images"].to_dict() == {
        "both right": 4,
        "only A right": 8,
        "only B right": 4,
        "both wrong": 8,
        "all": 24,
    }
    assert counts["share"].tolist() == pytest.approx([1 / 6, 1 / 3, 1 / 6, 1 / 3, 1])
    assert counts["agreement"].tolist() == pytest.approx([1, 0, 0, 0, 1 / 6])
    assert compared.report.figures.keys() == {
        f"subset-A-B-{subset}" for subset in ("both_right", "only_A_right", "only_B_right", "both_wrong")
    }


def test_statistics_of_subsets_are_those_of_their_first_images(compared):
    (a, b, _), labels, order = compared.pipelines, compared.test.labels, compared.order
    places = compared.report.tables["subset_maps-A-B"].set_index(["pipeline", "subset"])
    pairs = compared.report.tables["subset_correlations-A-B"].set_index(["pipelines", "class", "subset"])
    for subset, members in {"both right": order % 6 == 0, "only A right": (order % 2 == 0) & (order % 3 > 0)}.items():
        indices = order[members][:6]
        rows = torch.arange(len(indices))
        maps_a, maps_b = (compared.explainer_maps(one, indices, len(indices)) for one in (a, b))
        predicted = maps_a[rows, a.foremost[indices]]
        assert places.loc[("A", subset), "images"] == len(indices)
        assert places.loc[("A", subset), "central share"] == pytest.approx(central_share(predicted).mean().item())
        label_a, label_b = (maps[rows, labels[indices]] for maps in (maps_a, maps_b))
        label_b = label_b.unflatten(1, (2, 2)).unflatten(3, (2, 2)).sum(dim=(2, 4))  # 4×4 players to 2×2
        alike = [(x.flatten().numpy(), y.flatten().numpy()) for x, y in zip(label_a, label_b, strict=True)]
        row = pairs.loc[("A and B by one", "label", subset)]
        assert row["pearson"] == pytest.approx(np.mean([pearsonr(*pair).statistic for pair in alike]), abs=1e-4)
        assert row["spearman"] == pytest.approx(np.mean([spearmanr(*pair).statistic for pair in alike]))
        assert row["pearson_low"] <= row["pearson"] <= row["pearson_high"]


def test_subsets_are_tested_against_both_right(compared):
    found = compared.report.tables["subset_maps-A-B"]
    reference = found["subset"] == "both right"
    p_values = found.filter(like=", p")
    assert p_values[reference].isna().all(axis=None)
    assert p_values[~reference].map(lambda p: 0 < p <= 1).all(axis=None)
    # The same by another name: the same answers.
    one, two = (found[found["pipeline"] == f"B by {name}"].drop(columns="pipeline") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one.reset_index(drop=True), two.reset_index(drop=True))
    [pair] = [
        rows
        for key, rows in compared.report.tables["subset_correlations-A-B"].groupby("pipelines")
        if key == "B by one and B by two"
    ]
    assert pair["pearson"].tolist() == pytest.approx([1] * 8)


def test_a_difference_between_subsets_is_found():
    generator = torch.Generator().manual_seed(0)
    found = {
        subset: {("A",): {"same": torch.randn(20, generator=generator), "other": place + torch.rand(20)}}
        for place, subset in enumerate(("both right", "only A right", "both wrong"))
    }
    rows = _table(found, ("pipeline",), 50)
    assert rows["subset"].tolist() == list(found)
    # Four tests of 100 relabellings each: the smallest of p-values, times the four that it is corrected for, or fewer.
    assert rows["other, p"].tolist()[1:] == pytest.approx([4 / 401, 4 / 401])
    assert (rows["same, p"][1:] > 0.05).all()


def test_equal_surrogates_explain_alike(finished):
    similarity = pd.read_csv(finished.folder / "tables" / "surrogate_similarity.csv")
    row = similarity.set_index("pipelines").loc["B by one and B by two"]
    assert row["images"] == 6
    for measure in ("pearson", "spearman", "cosine"):
        assert [row[measure], row[f"{measure}_low"], row[f"{measure}_high"]] == pytest.approx([1, 1, 1])
    assert {"surrogates-B.png", "surrogates.png"} <= {path.name for path in (finished.folder / "figures").iterdir()}


def test_ranks_are_of_distinct_surrogates(finished, tmp_path):
    evaluation = evaluation_of(finished, tmp_path, "A", "B by one", "B by two", "B by three")
    Surrogates()(evaluation, "surrogates")
    text = evaluation.report.sections[-1].text
    measured = [
        finished.parents[name].parents.get("surrogate", finished.parents[name]).measures()
        for name in ("A", "B by one", "B by three")
    ]
    ranks = spearmanr(*[[one[f"test/{key}"] for one in measured] for key in ("masked_kl", "cross_entropy")]).statistic
    assert f"over 3 surrogates are: masked KL and cross-entropy {ranks:.2f}" in text
    fewer = evaluation_of(finished, tmp_path, "A", "B by one", "B by two")
    Surrogates()(fewer, "surrogates")
    assert [section.title for section in fewer.report.sections] == ["Explanations by different surrogates"]


def test_what_does_not_apply_adds_nothing(finished, tmp_path):
    one, unexplained = evaluation_of(finished, tmp_path, "A"), evaluation_of(finished, tmp_path, "B by three")
    for section in (Subsets, Surrogates):
        section()(one, section.kind)
    for section in (Subsets, Surrogates, Shifts):
        section()(unexplained, section.kind)
    assert one.report.sections == unexplained.report.sections == []
    assert list(tmp_path.iterdir()) == []


def test_without_explainers_subsets_are_counted_only(finished, tmp_path):
    evaluation = evaluation_of(finished, tmp_path, "A", "B by three")
    evaluation.pipelines[0].explainer = None
    Subsets()(evaluation, "subsets")
    assert list(evaluation.report.tables) == ["subsets-A-B"]
    assert evaluation.report.figures == {}


class Blobs(ImageDataModule):
    """A bright square in the middle of black images."""

    def __init__(self) -> None:
        super().__init__(["cat", "dog", "eel"], IMAGE_SIZE)

    def load(self, split: Split) -> TensorImages:
        images = torch.zeros(5, 3, *IMAGE_SIZE, dtype=torch.uint8)
        images[:, :, 3:5, 5:7] = 200
        return TensorImages(images, torch.zeros(5, dtype=torch.int64))

    def content(self) -> Iterator[bytes]:
        yield b""


class Brightness(Explainer):
    """A player is worth its brightness."""

    def predict(self, pixels: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(pixels, self.grid.shape).flatten(2).mT  # as many classes as channels


class Centre(Explainer):
    """Players in the middle are worth most, whatever the image."""

    def predict(self, pixels: Tensor) -> Tensor:
        rows, columns = (torch.hann_window(side, periodic=False) for side in self.grid.shape)
        return torch.outer(rows, columns).flatten().view(1, -1, 1).expand(len(pixels), -1, self.num_classes)


def test_slopes_tell_who_follows_the_object(tmp_path):
    config, data, pipelines = configured("evaluate.images=4"), Blobs(), []
    names = data.class_names
    for name, kind in {"follows": Brightness, "stays": Centre}.items():
        network = kind(PlayerGrid(IMAGE_SIZE, IMAGE_SIZE), 3, [0.0] * 3, [1.0] * 3)
        imitation = surrogate("zero", IMAGE_SIZE)
        explainer = AmortizedExplainer(network, imitation, None, "softmax", "none", names)
        pipelines.append(
            Pipeline(
                name=name,
                classifier_name=name,
                runs={},
                digests={"classifier": "same", "explainer": name},
                grid=network.grid,
                max_batch=8,
                classifier=imitation.classifier,
                surrogate=imitation,
                explainer=explainer,
                outputs=torch.eye(5)[:, :3],
            )
        )
    evaluation = Evaluation(
        settings=config.evaluate,
        references=config.references,
        trainer=config.trainer,
        data=data,
        device=torch.device("cpu"),
        pipelines=pipelines,
        store=Store(tmp_path / "store"),
        report=Report(tmp_path),
    )
    evaluation.test.labels[0] = NO_LABEL
    assert evaluation.labels_of(torch.arange(2)) == ["", names[evaluation.test.labels[1]]]
    Shifts()(evaluation, "shifts")
    found = evaluation.report.tables["shifts"].set_index("pipeline")
    assert found["images"].tolist() == [4, 4]
    # The square fits into the middle half; shifted by a quarter, half of it is inside.
    follows = found.loc["follows"]
    assert follows["slope"] == follows["slope, map shifted"] == pytest.approx(1)
    assert follows["central share"] == pytest.approx(1)
    assert follows["central share, shifted"] == follows["central share, map shifted"] == pytest.approx(0.5)
    stays = found.loc["stays"]
    assert stays["slope"] == pytest.approx(0, abs=1e-12)
    assert stays["central share"] == pytest.approx(stays["central share, shifted"])
    assert 0.2 < stays["slope, map shifted"] < 1  # what is mirrored comes back
    assert (tmp_path / "figures" / "shifts.png").is_file()


def test_pictures_are_shifted_by_a_quarter_and_mirrored():
    image = torch.arange(8.0).expand(1, 3, 8, 8)
    assert shifted(image, (0, 1))[0, 0, 0].tolist() == [2, 1, 0, 1, 2, 3, 4, 5]
    assert shifted(image, (0, -1))[0, 0, 0].tolist() == [2, 3, 4, 5, 6, 7, 6, 5]
    assert torch.equal(shifted(image, (0, 0)), image)
    assert torch.equal(shifted(image.mT, (-1, 0)), shifted(image, (0, -1)).mT)
    assert all(not torch.equal(*pair) for pair in pairwise([shifted(image, (0, step)) for step in (-1, 0, 1)]))


def test_what_the_first_paper_publishes_of_surrogates_has_a_place_in_our_table():
    evaluation = planned("experiment=roldan2022", "data=synthetic", base=[])[-1]
    names = set()
    for name, end in evaluation.parents.items():
        config = (end.parents | {end.stage.name: end})["surrogate"].config
        names.add("{}, {}×{}, {}".format(name, *config.data.grid, config.surrogate.masking))
    assert evaluation.config.evaluate.published["surrogates"].keys() <= names
