"""All stages for the tasks beside multiclass: what the tables of their reports say."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch

from fastshap_lab.errors import UserError
from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.models.tasks import TASKS
from fastshap_lab.runs.run import Run
from fastshap_lab.shapley import PlayerGrid
from fastshap_lab.stages import evaluate
from tests.small_runs import RESNET, TINY, UNET, executed, planned

OTHERS = [name for name in TASKS if name != "multiclass"]
MODELS = "classifier: resnet_slim, surrogate: resnet_slim, explainer: unet_slim"
ASKED = [
    *(f"{stage}.epochs=1" for stage in ("classifier", "surrogate", "explainer")),
    "method=[explainer,integrated_gradients,leave_one_out,rise,score_cam]",
    "evaluate.methods.rise.params.num_masks=8",
    "evaluate.methods.integrated_gradients.params.steps=2",
    "evaluate.methods={loss: {name: saliency, params: {output: loss}}}",
    "evaluate.methods={odds: {name: leave_one_out, params: {link: log_odds, players: [2, 2]}}}",
    "evaluate.methods.leave_one_out.params.players=[2,2]",
    "metric=[deletion,insertion,infidelity,pointing_game,shapley_distance]",
    "check=[masked_accuracy,overdetermined]",
    "evaluate={images: 8, classes: 2}",
]
PIPELINES = [f"A: {{{MODELS}}}", f"B: {{{MODELS}, overrides: ['seed=1']}}"]
PIPELINES.append(f"A by another: {{{MODELS}, classifier_name: A, overrides: ['surrogate.optim.lr=3e-3']}}")


@dataclass
class Evaluated:
    """A finished evaluation, loaded again, with its tables and its page."""

    task: str
    run: Run
    evaluation: Evaluation
    tables: dict[str, pd.DataFrame]
    page: str


@pytest.fixture(scope="module", params=OTHERS)
def evaluated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    pipelines = PIPELINES[: {"multilabel": 3, "binary": 1, "regression": 2}[request.param]]
    own = f"data.task={request.param}", f"evaluate.pipelines={{{', '.join(pipelines)}}}"
    if len(pipelines) > 1:  # the other sections look at each pipeline for itself
        own += ("evaluate.sections=[models,shapley_errors,maps,methods,subsets,surrogates]",)
    runs_dir = f"runs_dir={tmp_path_factory.mktemp(request.param)}"
    *_, run = executed(runs_dir, *own, *ASKED, base=[*TINY, *RESNET, *UNET])
    tables = {path.stem: pd.read_csv(path) for path in (run.folder / "tables").glob("*.csv")}
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    return Evaluated(request.param, run, evaluate.evaluation_of(run), tables, page)


def test_models_are_measured_by_the_names_of_their_task(evaluated):
    task = evaluated.evaluation.data.task
    titles = [task.title(name) for name in task.measure_names]
    assert list(evaluated.tables["classifiers"]) == ["classifier", *titles, "parameters"]
    measured = [*titles, task.title(task.imitation)]
    expected = ["surrogate", "players", "masking", *measured, *(f"masked {title}" for title in measured)]
    assert list(evaluated.tables["surrogates"]) == expected
    rows = evaluated.tables["surrogates"].to_dict("records")
    for pipeline, row in zip(evaluated.evaluation.pipelines, rows, strict=True):
        assert row[titles[0]] == pytest.approx(pipeline.runs["surrogate"].measures()[f"test/{task.measure_names[0]}"])


def test_who_is_right_is_what_the_task_says(evaluated):
    if len(evaluated.evaluation.pipelines) == 1:
        pytest.skip("nobody to compare")
    labels = evaluated.evaluation.test.labels.double().numpy()
    a, b = (one.outputs.double().numpy() for one in evaluated.evaluation.distinct("classifier"))
    if evaluated.task == "regression":
        spread = evaluated.evaluation.data.dataset("train").labels.double().std(correction=0).item()

        def same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
            return (np.abs(one - other) <= spread / 2).all(axis=1)
    else:

        def same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
            return ((one > 0) == (other > 0)).all(axis=1)

        labels = labels - 0.5
    right = same(a, labels), same(b, labels)
    found = evaluated.tables["subsets-A-B"].set_index("subset")
    assert found.loc["both right", "images"] == (right[0] & right[1]).sum()
    assert found.loc["only A right", "images"] == (right[0] & ~right[1]).sum()
    assert found.loc["both wrong", "images"] == (~right[0] & ~right[1]).sum()
    assert found.loc["all", "agreement"] == pytest.approx(same(a, b).mean())
    if "subset_correlations-A-B" in evaluated.tables:
        assert set(evaluated.tables["subset_correlations-A-B"]["class"]) == {"predicted"}


def test_errors_are_in_units_common_to_all_targets(evaluated):
    evaluation = evaluated.evaluation
    pipeline, indices = evaluation.pipelines[0], evaluation.order[:2]
    truth = evaluation.reference_values(pipeline, indices, pipeline.link).phi
    phi = evaluation.explainer_maps(pipeline, evaluation.order, 2).flatten(2).transpose(1, 2).double()
    unit = evaluation.data.dataset("train").labels.double().std(dim=0, correction=0)
    errors = (phi - truth) / (unit if evaluated.task == "regression" else 1)
    rows = evaluated.tables["shapley_errors"].set_index(["pipeline", "explanation", "classes"])
    assert rows.loc[("A", "explainer", "all"), "mse"] == pytest.approx(errors.square().mean().item(), rel=1e-4)
    several = len(evaluation.class_names) > 1
    assert set(evaluated.tables["shapley_errors"]["classes"]) == {"target", "all"} | ({"others"} if several else set())
    foremost = pipeline.outputs.argmax(dim=1)[indices]  # of a single target the only one
    of_target = errors[torch.arange(2), :, foremost].square().mean().item()
    assert rows.loc[("A", "explainer", "target"), "mse"] == pytest.approx(of_target, rel=1e-4)


def test_every_method_that_can_explains_it_and_removal_is_measured_in_its_terms(evaluated):
    refused = evaluated.tables["methods-refused"].set_index(["model", "method"])["not applicable"]
    assert "output=loss" in refused["A", "loss"]
    single = len(evaluated.evaluation.class_names) == 1
    assert refused.xs("A").index.tolist() == ["loss", *(["odds"] if single else [])]
    units = evaluated.tables["methods"].set_index(["model", "method"])["unit"]["A"]
    link = evaluated.evaluation.pipelines[0].link
    assert units[["explainer", "leave_one_out"]].tolist() == [link] * 2
    measures = evaluated.evaluation.data.task.class_measures
    for name in ("deletion", "insertion"):
        found = evaluated.tables[f"methods-{name}"]
        assert set(found["method"]) >= {"explainer", "rise", "score_cam", "random"}
        columns = [*measures, "agreement", *([] if single else [f"others_{measure}" for measure in measures])]
        assert found[columns].notna().all(axis=None)
    # What is measured of values in the answers' own units also counts for methods that explain logits.
    distances = evaluated.tables["methods-shapley_distance"].set_index(["model", "method"])["target"]["A"]
    assert np.isnan(distances["integrated_gradients"]) == (evaluated.task != "regression")
    assert distances[["explainer", "leave_one_out"]].notna().all()
    pointing = "methods-pointing_game" in evaluated.tables
    assert pointing == (evaluated.task != "regression")
    refusal = "regions are of objects, and the outputs of a regression are no classes of objects"
    assert (refusal in evaluated.page) != pointing


def test_maps_point_at_the_object_only_where_it_is_all_that_the_label_names(evaluated):
    if evaluated.task == "regression":
        pytest.skip("refused, see above")
    evaluation = evaluated.evaluation
    labels = evaluation.test.labels[evaluation.evaluated]
    targets = evaluation.classes(evaluation.pipelines[0])[:, 0]
    alone = (labels.sum(dim=1) == 1) & (labels[torch.arange(len(labels)), targets] == 1)
    found = evaluated.tables["methods-pointing_game"].set_index(["model", "method"])["images"]
    assert set(found["A"]) == {int(alone.sum())}
    assert 0 < alone.sum() < len(labels)


def test_checks_ask_the_task_what_is_right(evaluated):
    evaluation = evaluated.evaluation
    pipeline, chosen = evaluation.pipelines[0], evaluation.evaluated
    found = evaluated.tables["masked_accuracy-shares"].set_index(["model", "method", "players"])
    images = evaluation.images(chosen)
    outputs = pipeline.game("logits").grand(images).unsqueeze(1)
    right = pipeline.task.right(outputs, evaluation.test.labels[chosen]).double().mean().item()
    assert found.loc[("A", "random", "deletion"), "0%"] == pytest.approx(right)
    assert found.loc[("A", "random", "insertion"), "100%"] == pytest.approx(right)
    grid = PlayerGrid(evaluation.data.image_size, (2, 2))
    null = pipeline.removal_game(grid, "constant").null(images)
    whole = pipeline.task.decide(pipeline.outputs[chosen])
    kept = pipeline.task.right(null.expand(len(images), -1).unsqueeze(1), whole)
    rows = evaluated.tables["overdetermined"].set_index("model")
    assert set(rows.loc["A", "images"]) == {int((~kept).sum())}


def test_reports_speak_of_the_task(evaluated):
    said = {
        "multilabel": ("3 labels", "Exact match is the share", "probability of the label"),
        "binary": ("1 label", "Accuracy and cross-entropy", "probability of the label"),
        "regression": ("1 target", "off by 0.5 spreads", "answer of the target", "Values are in spreads"),
    }[evaluated.task]
    for words in said:
        assert words in evaluated.page
    figures = {path.stem for path in (evaluated.run.folder / "figures").glob("*.png")}
    assert {"maps-A", "exact-A", "gallery-A"} <= figures
    assert {"curves-classifier", "curves-surrogate", "shifts"} <= figures or evaluated.task != "binary"
    assert {"surrogates", "surrogates-A"} <= figures or evaluated.task != "multilabel"


@pytest.mark.parametrize(
    ("task", "metric", "said"),
    [
        ("regression", "{name: infidelity, params: {link: softmax}}", "a regression's values have its targets' units"),
        ("binary", "{name: shapley_distance, params: {link: softmax}}", "unknown to the task binary"),
        ("multilabel", "{name: sensitivity_n, params: {link: log_odds, removal: constant}}", "choose logits"),
        ("multiclass", "{name: efficiency_gap, params: {link: sigmoid}}", "is for the tasks multilabel and binary"),
    ],
)
def test_a_metric_in_a_space_that_the_task_has_not_is_one_line(task, metric, said):
    with pytest.raises(UserError, match=rf"evaluate\.metrics\.mine\.params\.link=.*{said}"):
        planned(f"data.task={task}", f"evaluate.metrics={{mine: {metric}}}")


def test_a_classifiers_own_logits_are_determined_whatever_the_task():
    for task in TASKS:
        planned(
            f"data.task={task}",
            "evaluate.metrics={mine: {name: infidelity, params: {link: logits, removal: constant}}}",
        )
