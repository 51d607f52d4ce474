"""What is said of a stage that went wrong: by numbers, and by runs that do."""

import json
import math
from io import StringIO

import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file

from fastshap_lab.config import ClassifierConfig
from fastshap_lab.models.tasks import Multiclass, Regression
from fastshap_lab.runs.execute import execute
from fastshap_lab.stages.judgements import (
    failed_explainer,
    far_surrogate,
    further_than_equal_split,
    weights_without_pixels,
)
from tests.small_runs import executed, planned

IMAGENET = [0.485, 0.456, 0.406]
SPREAD = [0.229, 0.224, 0.225]


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({}, None),
        ({"weights": "w.pt", "mean": IMAGENET, "std": SPREAD}, None),
        ({"weights": "w.pt"}, "classifier.weights=w.pt without classifier.mean and classifier.std: pixels are"),
        ({"weights": "w.pt", "mean": IMAGENET}, "classifier.weights=w.pt without classifier.std: pixels are"),
    ],
)
def test_weights_say_how_their_pixels_were_normalized(settings, missing):
    line = weights_without_pixels(ClassifierConfig(**settings))
    assert (line is None) if missing is None else line.startswith(missing)


def surrogate(kl: float, masked_kl: float, kl_constant: float | None, accuracy: float = 0.9) -> dict[str, float]:
    measures = {"test/kl": kl, "test/masked_kl": masked_kl, "test/accuracy": accuracy}
    return measures if kl_constant is None else measures | {"test/kl_constant": kl_constant}


@pytest.mark.parametrize(
    ("measures", "said"),
    [
        (surrogate(0.035, 0.323, 1.769), None),  # the demo's
        (surrogate(0.415, 0.464, 1.02, 0.367), None),  # the furthest of the small first paper's
        (
            surrogate(1.21, 1.2, 1.55, 0.30),
            "KL is 1.210 on whole images, and 1.550 for the best answer that ignores the image (accuracy 0.300",
        ),
        (surrogate(0.2, 1.8, 1.7), "KL is 1.800 on masked images, and 1.700 for the best answer"),
        (surrogate(math.nan, 0.2, 1.7), "KL is nan on whole images"),
        (surrogate(0.008, 0.009, 0.001), None),  # of a classifier that says the same of all images
        (surrogate(1.2, 1.2, None), None),  # of an older run
    ],
)
def test_a_surrogate_answers_as_its_classifier_does(measures, said):
    line = far_surrogate(measures, {"test/accuracy": 0.75}, Multiclass())
    assert (line is None) if said is None else said in line
    assert line is None or ("the classifier's is 0.750" in line and "surrogate.epochs" in line)


def test_a_surrogate_of_a_regression_is_judged_in_its_own_words():
    measures = {
        "test/imitation_error": 0.5,
        "test/imitation_error_constant": 0.8,
        "test/masked_imitation_error": 0.7,
        "test/within_tolerance": 0.5,
    }
    said = "imitation error is 0.500 on whole images, and 0.800 for the best answer that ignores the image (within tol"
    assert said in far_surrogate(measures, {"test/within_tolerance": 0.9}, Regression())
    assert far_surrogate(measures | {"test/imitation_error": 0.3}, {"test/within_tolerance": 0.9}, Regression()) is None


@pytest.mark.parametrize(
    ("fit", "variation", "said"),
    [
        (0.390, 0.965, None),  # the demo's
        (0.051, 0.9, None),  # the lowest of the small first paper's
        (0.390, None, None),  # of an older run
        (
            -462196.0,
            0.9,
            "the explainer diverged: its additive R² is -462,196.0, that of the equal split is 0; lower expl",
        ),
        (math.nan, math.nan, "the explainer diverged: its additive R² is nan"),
        (0.12, 0.004, "the explainer collapsed: its maps are almost the same for all images, which explain 0.40% of"),
        (0.0, 0.0, "the explainer collapsed: its maps are almost the same for all images, which explain 0.00%"),
        (-0.3, 0.5, "the explainer is no better than the equal split: its additive R² is -0.3000; raise"),
        (0.002, 0.5, "the explainer is no better than the equal split: its additive R² is 0.0020"),
    ],
)
def test_an_explainer_knows_more_than_nothing(fit, variation, said):
    measures = {"test/additive_r2": fit} | ({} if variation is None else {"test/variation": variation})
    line = failed_explainer(measures)
    assert (line is None) if said is None else line.startswith(said)


def test_an_explainer_is_nearer_to_the_truth_than_the_equal_split():
    assert further_than_equal_split("A", {"r2": 0.893, "r2_beyond_equal": 0.850}) is None  # the demo's
    line = further_than_equal_split("A", {"r2": -0.442, "r2_beyond_equal": -1.0})
    assert "further from the true values than the equal split: R² is -0.442, that of the equal split 0.279" in line


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """Return a file of weights that answer something, as those of a training do."""
    folder = tmp_path_factory.mktemp("given")
    (run,) = executed("stage=classifier", "classifier.epochs=8", f"runs_dir={folder / 'runs'}")
    state = load_file(run.model / "model.safetensors")
    state = {name.removeprefix("network."): value for name, value in state.items()}
    save_file(state | {"fc.weight": 30 * state["fc.weight"]}, folder / "given.safetensors")
    return str(folder / "given.safetensors")


def test_what_went_wrong_is_said_at_the_end_of_each_stage_again_on_reuse_and_on_top_of_the_report(weights, tmp_path):
    never = "optim={lr: 1e-9, schedule: constant, warmup: 0.0}"  # so that nothing is learned
    settings = [f"runs_dir={tmp_path}", f"classifier.weights={weights}", "classifier.epochs=0"]
    settings += [f"surrogate.{never}", "surrogate.from_classifier=false", f"explainer.{never}"]
    said = []
    for _ in range(2):
        runs, out = planned(*settings), StringIO()
        execute(runs, Console(file=out, width=80))
        said.append([line.split(maxsplit=2) for line in out.getvalue().splitlines()])
    expected = {
        "classifier": f"classifier.weights={weights} without classifier.mean and classifier.std: ",
        "surrogate": "the surrogate is far from its classifier: ",
        "explainer": "the explainer is no better than the equal split: ",
    }
    for lines, verbs in zip(said, (("trained", "made"), ("reused", "reused")), strict=True):
        order = [tuple(line[:2]) for line in lines]
        for stage, start in expected.items():
            place = order.index((stage, verbs[0]))
            assert order[place + 1] == (stage, "warning")
            assert lines[place + 1][2].startswith(start)
        assert ("labels", "warning") not in order
    page = (runs[-1].folder / "report.html").read_text(encoding="utf-8")
    top = page[: page.index("<nav")]
    for start in expected.values():
        assert start.partition(":")[0] in top
    assert json.loads((runs[1].folder / "metrics.json").read_text())["test/kl_constant"] > 0
