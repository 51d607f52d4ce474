"""The evaluation's comparison of methods: a tiny run once, looked at from all sides."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from fastshap_lab.attribution import METHODS
from fastshap_lab.errors import UserError
from fastshap_lab.evaluation.methods import AppliedMethod
from fastshap_lab.evaluation.metrics import comparable_metrics
from fastshap_lab.evaluation.references import reference_order
from fastshap_lab.inference import load_classifier, load_surrogate
from fastshap_lab.metrics import METRICS, Deletion
from fastshap_lab.models.freezing import frozen_copy
from fastshap_lab.runs.store import Store
from fastshap_lab.stages import evaluate
from tests.small_runs import TINY, UNET, executed, planned

BASE = [*TINY, *UNET]
ASKED = [
    "method=[explainer,grad_cam,leave_one_out,rise,rollout,kernel_shap]",
    "metric=all",
    "evaluate.methods.rise.params.num_masks=10",
    "evaluate.methods.leave_one_out.params.players=[2,2]",
    "evaluate.methods.kernel_shap.params.budget=2",
    "evaluate.metrics.segmentation.params.confidence=0",
    "evaluate.metrics={blurred: {name: insertion, params: {removal: {name: blur, params: {width: 2}}}}}",
    "evaluate.images=20",
    r"evaluate.published={methods-deletion: {A\, rise: {probability: 0.25}}}",
    "evaluate.pipelines={A: {classifier: resnet_slim, surrogate: resnet_slim, explainer: unet_slim}, "
    "B: {classifier: vit_slim}}",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return executed(f"runs_dir={tmp_path_factory.mktemp('runs')}", *ASKED, base=BASE)


@pytest.fixture(scope="module")
def tables(runs):
    return {path.stem: pd.read_csv(path) for path in (runs[-1].folder / "tables").glob("methods*.csv")}


def test_every_metric_has_a_table_with_every_method_and_random(tables):
    for metric in comparable_metrics():
        rows = tables[f"methods-{metric}"]
        assert set(rows[rows["model"] == "A"]["method"]) == {"explainer", "grad_cam", "leave_one_out", "rise", "random"}


def test_every_metric_of_attributions_can_be_measured():
    others = {"additive_fit", "imitation", "shapley_error", "similarity", "map_agreement", "map_statistics"}
    assert set(comparable_metrics()) == set(METRICS) - others


def test_what_does_not_apply_is_said(tables, runs):
    refused = tables["methods-refused"].set_index(["model", "method"])["not applicable"]
    assert "ResNet has no attention" in refused["A", "rollout"]
    assert "budget=2: too small" in refused["A", "kernel_shap"]  # which comes out when it is asked
    assert refused["B", "explainer"] == "no explainer was trained"
    assert "Not applicable to B: it has no surrogate" in (runs[-1].folder / "report.html").read_text(encoding="utf-8")
    assert set(tables["methods-pointing_game"]["model"]) == {"A", "B"}


def test_what_has_a_unit_is_measured_in_it_and_nothing_else(tables):
    units = tables["methods"].set_index(["model", "method"])["unit"]
    assert units["A"].dropna().to_dict() == {"explainer": "softmax", "leave_one_out": "softmax"}
    for metric, column in (
        ("efficiency_gap", "target_absolute"),
        ("shapley_distance", "target"),
        ("shapley_distance", "others_normalized"),
        ("infidelity", "target"),
    ):
        values = tables[f"methods-{metric}"].set_index(["model", "method"])[column]
        assert set(values["A"].dropna().index) == {"explainer", "leave_one_out"}
    assert tables["methods-infidelity"]["target_scaled"].notna().all()


def test_the_report_says_what_was_measured_and_how(runs, tables):
    page = (runs[-1].folder / "report.html").read_text(encoding="utf-8")
    assert "Settings: step=1, units=players, removal=surrogate." in page
    assert "Settings: step=1, units=players, removal=blur (width=2)." in page
    assert set(tables["methods-blurred"]["model"]) == {"A", "B"}  # the latter has no surrogate, and needs none
    assert "Settings: confidence=0, threshold=None." in page
    assert "Settings: link=softmax." in page
    assert "It covers images whose most probable class is their label, and images without a label." in page
    assert tables["methods"].set_index(["model", "method"]).loc[("A", "rise"), "settings"] == "num_masks=10"


def test_passes_are_counted(tables):
    costs = tables["methods"].set_index(["model", "method"])
    # Of two classes, each with a first pass that finds a single place in the last stage.
    assert costs.loc[("A", "grad_cam"), ["forward passes", "backward passes"]].tolist() == [4, 2]
    assert costs.loc[("A", "rise"), ["forward passes", "backward passes"]].tolist() == [10, 0]  # whatever the classes
    assert costs.loc[("A", "leave_one_out"), "forward passes"] == 5
    # Through itself and the surrogate, which is asked for the null value once in each of two parts.
    assert costs.loc[("A", "explainer"), "forward passes"] == pytest.approx(2 + 2 / 20)
    assert (costs["seconds"] > 0).all()


def test_a_number_is_that_of_the_metric_itself(runs, tables):
    surrogate, evaluation = next(run for run in runs if run.stage.name == "surrogate"), runs[-1]
    test = evaluation.data.dataset("test")
    image = test.images_at(reference_order(len(test))[:20]).float() / 255
    classifier = load_classifier(surrogate.parents["classifier"].model)
    classes = classifier(image).topk(2, dim=1).indices
    method, metric = METHODS["leave_one_out"](classifier, players=(2, 2)), Deletion()
    maps = torch.stack([method.attribute(image, classes[:, number]) for number in range(2)], dim=1)
    game = frozen_copy(load_surrogate(surrogate.model)).game("logits")
    metric.update(game.values, image, maps.flatten(2).mT, classes)
    ours = tables["methods-deletion"].set_index(["model", "method"]).loc[("A", "leave_one_out")]
    for column, value in metric.compute().items():
        assert ours[column] == pytest.approx(value, rel=1e-5)


def test_published_numbers_stand_beside_ours(tables):
    rows = tables["methods-deletion"].set_index(["model", "method"])
    assert rows.loc[("A", "rise"), "probability, published"] == 0.25
    assert rows["probability, published"].isna().sum() == len(rows) - 1
    columns = list(rows)
    assert columns.index("probability, published") == columns.index("probability_high") + 1


def test_tests_are_against_the_best_and_random(tables):
    tests = tables["methods-insertion-tests"]
    assert tests["minus the best"].iloc[0] == 0
    assert (tests["minus the best"] <= 0).all()  # more is better
    assert tests.set_index("method").loc["random", "minus random"] == 0


def test_an_interrupted_comparison_repeats_only_what_is_missing_or_changed(runs, tmp_path, monkeypatch):
    moved = tmp_path / "runs"
    shutil.copytree(runs[-1].config.runs_dir, moved)
    run = planned(f"runs_dir={moved}", *ASKED, base=BASE)[-1]
    evaluation = evaluate.evaluation_of(run)
    pipeline = evaluation.pipelines[0]
    rise, leave_one_out = (evaluation.methods(pipeline)[name] for name in ("rise", "leave_one_out"))

    def entry(method: AppliedMethod, chunk: slice) -> Path:
        """Return the file of a chunk's maps."""
        store = Store(moved / "store")
        [images] = evaluation.chunks(evaluation.evaluated[chunk])
        replace(method, store=store).explain(images, evaluation.classes(pipeline)[chunk])
        return store.folder / f"{store.used.pop()}.safetensors"

    last, first = entry(rise, slice(16, 20)), entry(leave_one_out, slice(0, 16))
    content, measures = last.read_bytes(), sorted((moved / "store" / "measures").iterdir())
    last.unlink()
    for path in measures[::3]:
        path.unlink()
    for path in [first, *measures[1::3]]:  # rotten since
        rotten = bytearray(path.read_bytes())
        rotten[-2] ^= 64
        path.write_bytes(rotten)
    explained = []
    for name in ("rise", "leave_one_out", "grad_cam"):
        original = METHODS[name].attribute_classes

        def spied(self, image, classes, original=original, name=name):
            explained.append((name, len(image)))
            return original(self, image, classes)

        monkeypatch.setattr(METHODS[name], "attribute_classes", spied)
    evaluate.make(planned(f"runs_dir={moved}", *ASKED, base=BASE)[-1])
    assert sorted(explained) == [("leave_one_out", 16), ("rise", 4)]
    assert last.read_bytes()[-64:] == content[-64:]
    assert sorted((moved / "store" / "measures").iterdir()) == measures
    for table in (run.folder / "tables").glob("methods-*.csv"):
        assert table.read_bytes() == (runs[-1].folder / "tables" / table.name).read_bytes()


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("method=[rise,rize]", "method=rize: unknown, did you mean rise?"),
        ("evaluate.methods={mine: {name: rize}}", "evaluate.methods.mine.name=rize: unknown, did you mean rise?"),
        ("evaluate.methods={mine: {name: rise, params: {masks: 3}}}", "evaluate.methods.mine.params.masks: unknown"),
        ("evaluate.methods={mine: {name: rise, params: {num_masks: few}}}", "evaluate.methods.mine.params.num_masks"),
        (
            "evaluate.methods={mine: {name: explainer, params: {a: 1}}}",
            "evaluate.methods.mine.params.a: unknown to explainer",
        ),
        ("evaluate.metrics={mine: {name: delition}}", "evaluate.metrics.mine.name=delition: unknown"),
        ("evaluate.metrics={mine: {name: deletion, params: {units: pixels}}}", "a surrogate can remove players only"),
        ("evaluate.metrics={mine: {name: deletion, params: {removal: black}}}", "mine.params.removal=black: unknown"),
        ("evaluate.metrics={mine: {name: deletion, params: {removal: token_drop}}}", "removal=token_drop: unknown"),
        (
            "evaluate.metrics={mine: {name: deletion, params: {removal: {name: blur, params: {sigma: 2}}}}}",
            "evaluate.metrics.mine.params.removal.params.sigma: unknown to blur",
        ),
        ("evaluate.metrics={mine: {name: deletion, params: {removal: {blur: 2}}}}", "must be a name, or {name: "),
        ("evaluate.metrics={mine: {name: infidelity, params: {link: logits}}}", "params.link=logits: a surrogate's"),
        ("evaluate.metrics={mine: {name: shapley_distance, params: {link: logits}}}", "choose centred_logits"),
        ("evaluate.checks={mine: {name: overdetermined, params: {removal: white}}}", "params.removal=white: unknown"),
        ("evaluate.checks={mine: {name: vit_cx_settings, params: {insertion: no}}}", "params.insertion"),
        ("evaluate.methods={a: {name: random}, b: {name: random, params: {seed: 1}}}", "a and b are both uninformed"),
        ("evaluate.sections=[models,map]", "evaluate.sections=map: unknown, did you mean maps?"),
        ("evaluate.checks={mine: {name: nothing}}", "evaluate.checks.mine.name=nothing: unknown"),
    ],
)
def test_mistakes_are_found_in_the_plan(tmp_path: Path, override, line):
    with pytest.raises(UserError) as raised:
        planned(f"runs_dir={tmp_path}", override)
    assert line in str(raised.value)
