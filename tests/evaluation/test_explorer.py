"""A report's images to look into: what they hold, and that a browser shows the run's numbers."""

from typing import Any

import numpy as np
import pytest
import torch

from fastshap_lab.report import Explorer
from fastshap_lab.runs.run import Run
from fastshap_lab.stages import evaluate
from tests.browsing import number_in, opened, until
from tests.small_runs import executed


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    models = "classifier: resnet_slim, surrogate: resnet_slim, explainer: unet_slim"
    # The second one ends before a surrogate, so that it has no explainer, nor true values.
    pipelines = f"evaluate.pipelines={{A: {{{models}}}, B: {{classifier: resnet_slim, overrides: ['seed=1']}}}}"
    methods = ["method=[explainer,saliency,leave_one_out]", "metric=[deletion]", "evaluate.images=8", "data.grid=[2,4]"]
    quick = [f"{stage}.epochs=1" for stage in ("classifier", "surrogate", "explainer")]
    return executed(pipelines, f"runs_dir={tmp_path_factory.mktemp('runs')}", *methods, *quick)[-1]


@pytest.fixture(scope="module")
def evaluation(run):
    """Make the evaluation once more, from what it has stored."""
    found = evaluate.evaluation_of(run)
    measures: dict[str, float] = {}
    for name, section in evaluate._sections(run.config.evaluate).items():
        measures |= section(found, name) or {}
    return found


@pytest.fixture(scope="module")
def explorer(evaluation) -> Explorer:
    return evaluation.report.explorer


def test_images_are_those_that_maps_were_made_of_and_some_of_each_subset(evaluation, explorer):
    shown = [int(name.rpartition(" ")[2]) for name in explorer.names]
    assert shown[:8] == evaluation.order[:8].tolist()
    assert len(set(shown)) == len(shown)
    labels = evaluation.test.labels
    right = [pipeline.outputs.argmax(dim=1) == labels for pipeline in evaluation.pipelines]
    names = {(True, True): "all right", (True, False): "only A right", (False, True): "only B right"}
    found = [names.get(tuple(one[index].item() for one in right), "all wrong") for index in range(len(labels))]
    assert explorer.groups == [found[index] for index in shown]
    assert set(explorer.groups) == set(found)


def test_maps_are_those_of_the_evaluation(evaluation, explorer):
    (pipeline, other), (view, without) = evaluation.pipelines, explorer.views
    panels = {panel.name: panel for panel in view.panels}
    assert list(panels) == ["explainer", "refined", "exact", "random", "saliency", "leave one out"]
    assert [panel.name for panel in without.panels] == ["random", "saliency", "leave one out"]
    indices = torch.tensor([int(name.rpartition(" ")[2]) for name in explorer.names])
    for shown, of in ((view, pipeline), (without, other)):
        logits = of.outputs[indices]
        assert shown.classes.tolist() == logits.argsort(dim=1, descending=True).tolist()
        assert shown.answers == pytest.approx(logits.softmax(dim=1).sort(dim=1, descending=True).values.numpy())
        assert shown.right.tolist() == (logits.argmax(dim=1) == evaluation.test.labels[indices]).tolist()
    network = pipeline.explainer.explain(evaluation.images(indices)).values.flatten(2).numpy()
    expected = np.take_along_axis(network, view.classes[..., None], axis=1)
    assert panels["explainer"].values == pytest.approx(expected, abs=1e-5)
    exact = evaluation.reference_values(pipeline, indices[:2], pipeline.link).phi.numpy()
    for image in range(2):
        assert panels["exact"].values[image] == pytest.approx(exact[image][:, view.classes[image]].T)
    errors = [np.square(panels[name].values[:2] - panels["exact"].values).sum() for name in ("explainer", "refined")]
    assert errors[1] < errors[0]
    assert panels["refined"].stderr.shape == (2, 3, 8)
    method = evaluation.methods(pipeline)["leave_one_out"]
    maps = torch.cat(
        [method.explain(chunk, asked)["maps"] for _, chunk, asked in evaluation.evaluated_chunks(pipeline)]
    )
    assert panels["leave one out"].values == pytest.approx(
        maps.view(8, 2, 2, 4, 4, 2).sum(dim=(3, 5)).flatten(2).numpy(), abs=1e-6
    )
    assert panels["leave one out"].values.shape == panels["saliency"].values.shape == (8, 2, 8)


def test_answers_are_the_games(evaluation, explorer):
    pipeline, view = evaluation.pipelines[0], explorer.views[0]
    assert explorer.views[1].answers_of_game is None
    answers = view.answers_of_game
    coalitions = torch.from_numpy(answers.coalitions)
    values = pipeline.game(pipeline.link).values(evaluation.images(evaluation.order[:2]), coalitions).numpy()
    for image in range(2):
        assert answers.values[image] == pytest.approx(values[image][:, view.classes[image]], abs=1e-6)
    assert coalitions.sum(dim=2).tolist() == [[8, 0, *[1] * 8, *[7] * 8, 6, 5, 4, 3, 2, 1]] * 2
    strongest = view.panels[0].values[:2, 0].argmax(axis=1)
    assert not coalitions[[0, 1], -6, strongest].any()


def test_the_verdict_says_how_true_the_values_are(run, evaluation):
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    top, measures = page[: page.index("<nav")], run.measures()
    said = top.split("A: one pass explains ")[1].split("True values")[0].replace("−", "-")
    for key in ("r2_beyond_equal", "r2"):
        share, _, said = said.partition(" % [")
        ends, _, said = said.partition("]")
        found = [float(share.split()[-1]), *map(float, ends.split(","))]
        assert found == pytest.approx([100 * measures[f"A/{key}{end}"] for end in ("", "_low", "_high")], abs=0.51)
    refined = evaluation.report.tables["refinement"].set_index("evaluations")["explainer"]
    assert said.split("; ")[-1].split()[:2] == [str(refined.index.max()), "evaluations"]
    assert float(said.split()[-2]) == pytest.approx(100 * refined.iloc[-1], abs=0.51)
    assert "B: one pass" not in top
    accuracy = evaluation.pipelines[0].runs["classifier"].measures()["test/accuracy"]
    assert f"A, accuracy {accuracy:.3f}" in top
    assert "fsl.load_explainer(" in top
    assert "seed 0" in top


@pytest.fixture(scope="module")
def expected(evaluation) -> dict[str, Any]:
    """Return what a browser must show of the second image; computed before one runs."""
    pipeline, index = evaluation.pipelines[0], evaluation.order[1:2]
    answers = pipeline.predictions(index)[0]
    classes = answers.argsort(descending=True)
    maps = evaluation.explainer_maps(pipeline, evaluation.order, 2)[1].flatten(1)[classes[0]]
    without = int(maps.argmax())
    coalition = torch.ones(1, 1, pipeline.grid.num_players, dtype=torch.bool)
    coalition[0, 0, without] = False
    value = pipeline.game(pipeline.link).values(evaluation.images(index), coalition)[0, 0, classes[0]].item()
    return {"answers": answers[classes].tolist(), "maps": maps.tolist(), "without": without, "value": value}


@pytest.mark.browser
def test_a_browser_shows_the_runs_numbers(run, expected, browser):
    with opened(browser, run.folder / "report.html") as page:
        until(page, "explorer.owner")
        page.locator("#strip label").nth(1).click()
        shown = [number_in(text) for text in page.locator("#classes .amount").all_inner_texts()]
        assert shown == pytest.approx(expected["answers"], rel=0.005)
        largest = max(map(abs, expected["maps"]))
        assert page.evaluate("[...explorer.values(explorer.panel)]") == pytest.approx(
            expected["maps"], abs=largest / 200
        )
        page.locator("#strongest").click()
        until(page, "document.querySelector('#answer').textContent.includes('(evaluated)')")
        assert page.evaluate("[...explorer.state.removed]") == [expected["without"]]
        assert number_in(page.locator("#answer").inner_text(), "is ") == pytest.approx(expected["value"], rel=0.006)
        page.locator("#views label").nth(1).click()  # of which there is less to see
        assert page.locator("#panels label").all_inner_texts() == ["random", "saliency", "leave one out"]
