"""Tasks beside multiclass through all stages up to the explainer, checked against exact Shapley values."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastshap_lab.errors import UserError
from fastshap_lab.inference import AmortizedExplainer, Explanation, load_classifier, load_explainer
from fastshap_lab.models.tasks import TASKS, build_task
from fastshap_lab.runs.run import Run
from fastshap_lab.shapley import all_coalitions
from tests.oracles import subset_shapley_values
from tests.small_runs import RESNET, TINY, UNET, executed, planned

OTHERS = [name for name in TASKS if name != "multiclass"]
SMALL = [
    "data=synthetic",
    "data.params={num_classes: 2, image_size: 12, num_train: 768, num_val: 32, num_test: 32}",
    "data.grid=[2,2]",
    *(
        f"{stage}.{one}"
        for stage in ("classifier", "surrogate", "explainer")
        for one in ("batch_size=64", "optim.lr=1e-2")
    ),
    *(f"{stage}.augment={{rotation: 0, scale: 0, translate: 0}}" for stage in ("classifier", "surrogate")),
    *(f"{stage}.params.channels=[8,8,8,8]" for stage in ("classifier", "surrogate")),
    *("classifier.epochs=8", "surrogate.epochs=4", "explainer.epochs=6", "explainer.params.channels=[8,8]"),
    "explainer.labels={evaluations: 14, copies: 0}",
    "explainer.optim.lr=5e-3",
    "references={val: 8, test: 2}",
]


@dataclass
class Trained:
    """A finished pipeline, and the exact values (B, P, K) of its test images."""

    task: str
    runs: dict[str, Run]
    explainer: AmortizedExplainer
    image: Tensor
    exact: Tensor


@pytest.fixture(scope="module", params=OTHERS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp(request.param)
    runs = executed("stage=explainer", f"data.task={request.param}", f"runs_dir={folder}", base=SMALL)
    explainer = load_explainer(runs[-1].folder)
    image = runs[-1].data.dataset("test").images.float() / 255
    coalitions = all_coalitions(4)  # in the order of the oracle's tables: bit i is player i
    numbers = (coalitions.long() << torch.arange(4)).sum(dim=1)
    with torch.no_grad():
        outputs = explainer.surrogate(image, coalitions[numbers.argsort()].expand(len(image), -1, -1)).double()
    table = outputs if request.param == "regression" else 1 / (1 + (-outputs).exp())
    return Trained(request.param, {run.stage.name: run for run in runs}, explainer, image, subset_shapley_values(table))


def test_an_explainer_learns_and_refinement_ends_at_the_exact_values(trained, record_property):
    with torch.no_grad():
        phi = trained.explainer(trained.image).double()
    spread = (trained.exact - trained.exact.mean()).square().sum()
    equal = trained.exact.mean(dim=1, keepdim=True)  # they are efficient, all of them
    r2, of_equal = (float(1 - (one - trained.exact).square().sum() / spread) for one in (phi, equal))
    record_property("r2", r2)
    record_property("r2_of_the_equal_split", of_equal)
    assert r2 > of_equal + 0.1
    torch.testing.assert_close(phi.sum(dim=1), trained.exact.sum(dim=1), rtol=1e-3, atol=1e-3)
    refined = trained.explainer.explain(trained.image, refine=14)
    scale = trained.exact.abs().max()
    assert (refined.values.flatten(2).transpose(1, 2) - trained.exact).abs().max() < 1e-4 * scale
    some = trained.explainer.explain(trained.image, refine=4)
    assert (some.stderr < 10 * scale).all()  # calibrated, also where there are no other classes


def test_descriptions_hold_the_task_and_measures_have_its_names(trained):
    task = build_task(trained.task)
    described = {
        stage: json.loads((run.model / "config.json").read_text())
        for stage, run in trained.runs.items()
        if run.stage.trains
    }
    networks = [
        described["classifier"]["network"],
        described["surrogate"]["surrogate"]["classifier"],
        *(described["explainer"][part] for part in ("network", "classifier")),
        described["explainer"]["surrogate"]["classifier"],
    ]
    learned = [build_task(network["task"]) for network in networks]
    assert {one.name for one in learned} == {trained.task}
    assert all(one == learned[0] for one in learned)
    assert described["explainer"]["link"] == task.links[0]
    assert {network["num_classes"] for network in networks} == {len(described["explainer"]["class_names"])}
    of_classifier, of_surrogate = (trained.runs[stage].measures() for stage in ("classifier", "surrogate"))
    assert list(of_classifier) == [f"test/{name}" for name in task.measure_names]
    imitation = [f"test/{prefix}{task.imitation}" for prefix in ("", "masked_")]
    assert {*of_classifier, *imitation, f"test/{task.imitation}_constant"} <= of_surrogate.keys()
    assert of_surrogate[imitation[0]] < of_surrogate[f"test/{task.imitation}_constant"]
    history = pd.read_csv(trained.runs["classifier"].folder / "metrics.csv")
    assert history["train/loss"].iloc[-1] < history["train/loss"].iloc[0]
    assert {f"train/{task.measure_names[0]}", f"val/{task.measure_names[0]}", f"val/{task.minimized}"} <= set(history)


def test_test_measures_are_those_of_the_exported_classifier(trained):
    classifier, test = (
        load_classifier(trained.runs["classifier"].model),
        trained.runs["classifier"].data.dataset("test"),
    )
    with torch.no_grad():
        outputs = classifier(trained.image).double().numpy()
    labels, found = test.labels.double().numpy(), trained.runs["classifier"].measures()
    if trained.task == "regression":
        spread = float(np.std(trained.runs["classifier"].data.dataset("train").labels.double().numpy()))
        errors = np.abs(outputs - labels)
        expected = [(errors <= spread / 2).mean(), errors.mean(), (errors**2).mean() / spread**2]
        assert 20 < outputs.mean() < 60  # pixels of 144
    else:
        p = 1 / (1 + np.exp(-outputs))
        hits, entropy = (p > 0.5) == labels, -np.log(np.where(labels == 1, p, 1 - p)).mean()
        expected = [hits.all(axis=1).mean(), *([hits.mean()] if trained.task == "multilabel" else []), entropy]
    assert list(found.values()) == pytest.approx(expected, rel=1e-4)


def test_explanations_say_what_their_task_predicts(trained, tmp_path):
    explanation = trained.explainer.explain(trained.image[:3])
    with torch.no_grad():
        outputs = trained.explainer.classifier(trained.image[:3])
    expected = outputs if trained.task == "regression" else outputs.sigmoid()
    torch.testing.assert_close(explanation.predictions, expected, rtol=1e-4, atol=1e-5)
    explanation.save(tmp_path / "it.npz")
    loaded = Explanation.load(tmp_path / "it.npz")
    assert loaded.task == explanation.task == trained.explainer.task
    assert torch.equal(loaded.predictions, explanation.predictions)
    assert ("predictions" in np.load(tmp_path / "it.npz")) == (trained.task == "regression")
    words = {"multilabel": "2 labels (disk, square)", "binary": "1 label (disk)", "regression": "1 target (area)"}
    assert words[trained.task] in repr(explanation)
    explanation.plot(tmp_path / "it.png")
    values = trained.explainer.attribute(trained.image[:3])
    first = explanation.predictions.argmax(dim=1)  # of a single target the only one
    torch.testing.assert_close(values, explanation.values[torch.arange(3), first])
    if trained.task == "regression":
        with pytest.raises(UserError, match=r"a regression has none; its answers are its \.predictions"):
            _ = explanation.probabilities
    else:
        assert torch.equal(explanation.probabilities, explanation.predictions)


QUICK = [*(f"{stage}.epochs=1" for stage in ("classifier", "surrogate", "explainer")), "explainer.num_coalitions=4"]
OF_TOKENS = [
    *(f"{stage}={choice}" for stage, choice in (("classifier", "mae_vit_small"), ("surrogate", "vit_slim"))),
    *("explainer=vit_slim", "surrogate.masking=token_drop", "classifier.pretrain.epochs=1"),
    *(
        f"{stage}.params={{patch_size: 4, width: 12, depth: 1, num_heads: 2, mlp_width: 16}}"
        for stage in ("classifier", "surrogate")
    ),
]


@pytest.mark.parametrize(
    ("task", "words"),
    [("multilabel", OF_TOKENS), ("regression", OF_TOKENS), *((task, ["explainer.loss=fastshap"]) for task in OTHERS)],
    ids=["tokens-multilabel", "tokens-regression", *(f"fastshap-{task}" for task in OTHERS)],
)
def test_other_losses_networks_and_maskings_take_every_task(task, words, tmp_path):
    small = [*TINY, *RESNET, *UNET] if words != OF_TOKENS else TINY
    settings = [*words, *QUICK, f"data.task={task}", "explainer.bundle_classifier=false", f"runs_dir={tmp_path}"]
    *_, run = executed("stage=explainer", *settings, base=small)
    explainer = load_explainer(run.folder)
    assert explainer.task.name == task
    explanation = explainer.explain(run.data.dataset("test").images[:2], refine=14)
    assert explanation.source == "surrogate"
    total = explanation.values.sum(dim=(2, 3))
    game, image = explainer.game(), run.data.dataset("test").images[:2].float() / 255
    torch.testing.assert_close(total, game.grand(image) - game.null(image), rtol=1e-3, atol=1e-4)


def test_a_teacher_and_given_weights_serve_a_regression(tmp_path):
    settings = ["stage=classifier", "data.task=regression", f"runs_dir={tmp_path}"]
    (first,) = executed(*settings)
    assert load_classifier(first.model).task.spread[0] > 10  # pixels
    (taught,) = executed(*settings, f"classifier.teacher={first.model}", "classifier.epochs=1")
    assert taught.measures().keys() == first.measures().keys()
    # Somebody's weights answer in units already.
    state = {
        name.removeprefix("network."): value for name, value in load_file(first.model / "model.safetensors").items()
    }
    save_file(state, tmp_path / "given.safetensors")
    (given,) = executed(*settings, f"classifier.weights={tmp_path / 'given.safetensors'}", "classifier.epochs=0")
    image = given.data.dataset("test").images[:4].float() / 255
    ours, task = load_classifier(first.model), load_classifier(first.model).task
    with torch.no_grad():
        expected = (ours(image) - torch.tensor(task.mean)) / torch.tensor(task.spread)  # as a plain head answers
        torch.testing.assert_close(load_classifier(given.model)(image), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match="is for the task regression, and that of the data is multiclass"):
        planned("stage=classifier", "classifier=checkpoint", f"classifier.path={first.model}", base=TINY)
    (again,) = executed(*settings, "classifier=checkpoint", f"classifier.path={first.model}", base=TINY)
    assert again.measures() == first.measures()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.task=multilabel", "explainer.link=softmax"], "explainer.link=softmax: unknown to the task multilabel"),
        (["data.task=regression", "explainer.link=softmax"], "explainer.link=softmax: a regression's values have"),
        (["explainer.link=sigmoid"], "explainer.link=sigmoid: is for the tasks multilabel and binary"),
        (["data.task=regression", "surrogate.loss=kl"], "surrogate.loss=kl: is no loss for"),
        (
            ["data.task=binary", "surrogate.loss=squared_error"],
            "surrogate.loss=squared_error: is no loss for the task bi",
        ),
        (
            ["data=digits", "data.params={}", "data.task=binary"],
            "data.task=binary: digits has one label of several clas",
        ),
        (["data.task=nosuch"], "data.task=nosuch: unknown"),
    ],
)
def test_what_does_not_go_with_a_task_is_one_line(words, said):
    with pytest.raises(UserError, match=f"^{said}"):
        planned("stage=explainer", *words)


def test_a_tasks_defaults_are_what_would_be_given(tmp_path: Path):
    def fingerprints(*words: str) -> list[str]:
        return [run.fingerprint for run in planned("stage=explainer", *words)]

    assert fingerprints() == fingerprints("explainer.link=softmax", "surrogate.loss=kl", "data.task=multiclass")
    regression = fingerprints("data.task=regression")
    assert regression == fingerprints("data.task=regression", "explainer.link=identity", "surrogate.loss=squared_error")
    assert not set(regression) & set(fingerprints())
