"""What the tasks promise, from slow definitions in float64."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fastshap_lab.errors import UserError
from fastshap_lab.models import TASKS, build_task
from fastshap_lab.models.heads import RescaledLinear, heads_of, take_over_heads
from fastshap_lab.models.tasks import Binary, Multiclass, Multilabel, Regression, Task, described
from fastshap_lab.shapley import LINKS
from tests import small

IMAGES, COALITIONS = 5, 3
MEAN, SPREAD, TOLERANCE = (100.0, -2.0), (50.0, 0.25), 2.5


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def example(name: str) -> tuple[Task, Tensor, Tensor, Tensor]:
    """Return a task, the outputs (B, M, K) of a surrogate and (B, K) of a classifier, and labels."""
    classes = {"multiclass": 4, "multilabel": 3, "binary": 1, "regression": 2}[name]
    outputs, classifier = 2 * randn(IMAGES, COALITIONS, classes), 2 * randn(IMAGES, classes, seed=1)
    if name == "multiclass":
        return Multiclass(), outputs, classifier, torch.tensor([3, 0, -100, 1, 2])
    if name == "regression":
        task = Regression(MEAN, SPREAD, TOLERANCE)
        units, mean = torch.tensor(SPREAD, dtype=torch.float64), torch.tensor(MEAN, dtype=torch.float64)
        return task, outputs * units + mean, classifier * units + mean, randn(IMAGES, 2, seed=2) * units + mean
    return TASKS[name](), outputs, classifier, (randn(IMAGES, classes, seed=2) > 0).double()


def cross_entropies(task: Task, outputs: list[float], label: list[float] | int) -> float:
    """Return -log of the probability of a label, a mean over labels where there are several."""
    if isinstance(task, Multiclass):
        assert isinstance(label, int)
        return math.log(math.fsum(math.exp(one) for one in outputs)) - outputs[label]
    assert isinstance(label, list)
    terms = [math.log(1 + math.exp(one if y == 0 else -one)) for one, y in zip(outputs, label, strict=True)]
    return math.fsum(terms) / len(terms)


def by_definition(task: Task, outputs: list[float], label: list[float] | int) -> dict[str, float]:
    """Return the measures of one answer."""
    if isinstance(task, Regression):
        errors = [abs(a - y) for a, y in zip(outputs, label, strict=True)]
        relative = [error / spread for error, spread in zip(errors, SPREAD, strict=True)]
        return {
            "within_tolerance": float(max(relative) <= TOLERANCE),
            "absolute_error": sum(errors) / 2,
            "squared_error": sum(one**2 for one in relative) / 2,
        }
    if isinstance(task, Multiclass):
        if label < 0:
            return {"accuracy": math.nan, "cross_entropy": math.nan}
        right = float(outputs.index(max(outputs)) == label)
        return {"accuracy": right, "cross_entropy": cross_entropies(task, outputs, label)}
    hits = [float((one > 0) == (y == 1)) for one, y in zip(outputs, label, strict=True)]
    found = {"cross_entropy": cross_entropies(task, outputs, label)}
    if isinstance(task, Binary):
        return {"accuracy": hits[0]} | found
    return {"exact_match": float(all(hits)), "label_accuracy": sum(hits) / len(hits)} | found


@pytest.mark.parametrize("name", TASKS)
def test_measures_right_answers_and_losses_follow_their_definitions(name):
    task, outputs, classifier, labels = example(name)
    rows = labels.tolist()
    expected = [
        [by_definition(task, answer, label) for answer in of_image]
        for of_image, label in zip(outputs.tolist(), rows, strict=True)
    ]
    found = task.measures(outputs, labels)
    assert tuple(found) == task.measure_names
    for measure, values in found.items():
        wanted = torch.tensor([[one[measure] for one in row] for row in expected], dtype=torch.float64)
        torch.testing.assert_close(values, wanted, equal_nan=True)
    right = found[task.measure_names[0]]
    assert torch.equal(task.right(outputs, labels), right.nan_to_num(0).bool())
    assert 0 < right.nanmean() < 1 or name == "binary"
    labelled = task.labelled(labels)
    assert labelled.tolist() == [name != "multiclass" or label >= 0 for label in rows]
    # What is minimized is the mean of the measure that chooses the best epoch.
    single = task.measures(classifier.unsqueeze(1), labels)[task.minimized]
    torch.testing.assert_close(task.loss(classifier, labels), single.nanmean())
    # A classifier's own decisions are right.
    assert bool(task.right(classifier.unsqueeze(1), task.decide(classifier)).all())


@pytest.mark.parametrize("name", ["multiclass", "multilabel", "binary"])
def test_smoothed_labels_are_shared_out(name):
    task, _, classifier, labels = example(name)
    labels = labels.clamp_min(0)
    classes = classifier.shape[1]
    if name == "multiclass":
        every = torch.tensor([[cross_entropies(task, row, k) for k in range(classes)] for row in classifier.tolist()])
        mixed = 0.8 * every.gather(1, labels.unsqueeze(1)).squeeze(1) + 0.2 * every.mean(dim=1)
    else:
        yes, no = (
            torch.tensor([[cross_entropies(task, [one], [y]) for one in row] for row in classifier.tolist()])
            for y in (1.0, 0.0)
        )
        smooth = 0.8 * labels + 0.1
        mixed = smooth * yes + (1 - smooth) * no
    torch.testing.assert_close(task.loss(classifier, labels, 0.2), mixed.double().mean())


@pytest.mark.parametrize("name", TASKS)
def test_divergences_are_zero_for_equal_answers_and_least_for_the_best_constant(name):
    task, outputs, classifier, _ = example(name)
    for kind in task.surrogate_losses:
        divergence = task.divergence(kind)
        torch.testing.assert_close(
            divergence(classifier, classifier.unsqueeze(1)), torch.zeros(IMAGES, 1, dtype=torch.float64)
        )
        assert (divergence(classifier, outputs) > 0).all()
    mean = task.predict(classifier).mean(dim=0)
    answer = {"multiclass": mean.log(), "regression": mean}.get(name, mean.logit())
    first = task.divergence(task.surrogate_losses[0])
    constant = first(classifier, answer.expand(IMAGES, 1, -1)).mean()
    torch.testing.assert_close(task.constant_divergence(classifier), constant)
    nearby = answer + 0.1 * task.in_units(torch.ones_like(answer)) ** -1 * torch.eye(len(answer))[0]
    assert first(classifier, nearby.expand(IMAGES, 1, -1)).mean() > constant


def test_a_regressions_divergence_is_in_units_of_the_spread():
    task = Regression(MEAN, SPREAD)
    target = torch.tensor([[100.0, 0.0]])
    error = task.divergence("squared_error")(target, torch.tensor([[[150.0, 0.5]]]))
    assert error.item() == pytest.approx((1 + 4) / 2)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_comes_back_from_its_description(name):
    task, *_ = example(name)
    assert build_task(described(task).get("task")) == task
    assert (described(task) == {}) == (name == "multiclass")
    assert task.links[0] == {"multiclass": "softmax", "regression": "identity"}.get(name, "sigmoid")
    for link in task.links:
        assert link in LINKS
        task.check_link(link, "explainer.link")
    assert all(build_task(other) != task for other in TASKS if other != name)


@pytest.mark.parametrize(
    ("name", "link", "said"),
    [
        ("multiclass", "logits", "only up to a constant"),
        ("multiclass", "sigmoid", "is for the tasks multilabel and binary"),
        ("multiclass", "nosuch", "unknown to the task multiclass"),
        ("multilabel", "softmax", "unknown to the task multilabel"),
        ("binary", "log_odds", "the log-odds of the task binary are its logits; choose logits"),
        ("binary", "identity", "unknown to the task binary"),
        ("regression", "softmax", "a regression's values have its targets' units; choose identity"),
    ],
)
def test_other_tasks_links_are_refused(name, link, said):
    with pytest.raises(UserError, match=rf"^explainer\.link={link}: .*{said}"):
        TASKS[name]().check_link(link, "explainer.link")


@pytest.mark.parametrize(
    ("component", "said"),
    [
        ("multilable", r"task=multilable: unknown, did you mean multilabel"),
        ({"name": "regression", "params": {"mean": [1.0], "spread": []}}, "each must have a finite number per target"),
        ({"name": "regression", "params": {"mean": [1.0], "spread": [0.0]}}, "must be greater than 0"),
        ({"name": "regression", "params": {"mean": [math.nan], "spread": [1.0]}}, "finite"),
        ({"name": "binary", "params": {"tolerance": 1}}, "task.params.tolerance: unknown to binary"),
    ],
)
def test_a_wrong_description_is_one_line(component, said):
    with pytest.raises(UserError, match=said):
        build_task(component)


def test_what_is_said_of_answers():
    cat, both, none = torch.tensor([0.7, 0.3]), torch.tensor([0.8, 0.6]), torch.tensor([0.1, 0.2])
    names = ["cat", "dog"]
    assert Multiclass().in_words(cat, names) == "cat"
    assert [Multilabel().in_words(one, names) for one in (cat, both, none)] == ["cat", "cat, dog", "none"]
    assert [Binary().in_words(one[:1], ["spam"]) for one in (both, none)] == ["spam", "not spam"]
    task = Regression(MEAN, SPREAD)
    prediction = torch.tensor([101.0, -2.5])  # the second is two spreads away from its mean
    assert task.in_words(prediction, ["age", "score"]) == "age 101, score -2.5"
    assert int(task.foremost(prediction)) == 1
    assert not task.marked(prediction).any()
    assert int(Multiclass().foremost(cat)) == 0
    assert Multiclass().label_in_words(torch.tensor(1), names) == "dog"
    assert Multiclass().label_in_words(torch.tensor(-100), names) == ""
    assert Multilabel().label_in_words(torch.tensor([0.0, 1.0]), names) == "dog"


def test_a_regression_learns_mean_and_spread_of_its_targets():
    labels = 5 * randn(50, 2).float() + torch.tensor([10.0, -3.0])
    labels = torch.cat([labels, torch.full((50, 1), 4.0)], dim=1)  # which never changes
    task = Regression(tolerance=0.1).fitted(labels)
    expected = labels.double().numpy()
    assert task.mean == pytest.approx(expected.mean(axis=0))
    assert task.spread == pytest.approx([*expected[:, :2].std(axis=0), 1.0])
    assert task.tolerance == 0.1
    assert task.fitted(labels + 1) is task
    assert Multilabel().fitted(labels) == Multilabel()


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_a_network_answers_in_units_of_the_targets_wherever_it_is_asked(name):
    learned = {"name": "regression", "params": {"mean": list(MEAN), "spread": list(SPREAD)}}
    plain = small.classifier(name, num_classes=2)
    rescaled = small.scrambled(lambda: small.build_classifier(**small.network(name, num_classes=2), task=learned))
    assert rescaled.state_dict().keys() == plain.state_dict().keys()
    image = small.images()
    expected = plain(image) * torch.tensor(SPREAD) + torch.tensor(MEAN)
    torch.testing.assert_close(rescaled(image), expected)
    torch.testing.assert_close(rescaled.network(rescaled.normalize(image)), expected)
    (head,) = heads_of(rescaled.network).values()
    assert isinstance(head, RescaledLinear)
    take_over_heads(rescaled.network)  # as if the weights were somebody's who knows nothing of units
    torch.testing.assert_close(rescaled(image), plain(image), rtol=1e-4, atol=1e-4)


def test_a_network_without_a_linear_head_has_no_units():
    with pytest.raises(UserError, match="task=regression: Identity has no linear head"):
        Regression().prepare(torch.nn.Identity(), 2)
    with pytest.raises(UserError, match="task: has mean and spread of 2 targets, but there are 3"):
        Regression(MEAN, SPREAD).prepare(small.classifier("resnet").network, 3)


@pytest.mark.parametrize("most", [1, 7, 20])
@pytest.mark.parametrize("name", ["multilabel", "binary", "regression"])
def test_strata_are_large_enough_to_be_split(name, most):
    random = np.random.default_rng(0)
    labels = random.random((100, 3)) if name == "regression" else (random.random((100, 3)) < 0.3).astype(float)
    strata = TASKS[name]().strata(labels[:, :1] if name == "binary" else labels, most)
    counts = np.unique(strata, return_counts=True)[1]
    assert strata.shape == (100,)
    assert len(counts) <= most
    assert counts.min() >= 2
    if name == "regression" and most > 1:  # parts in the order of the target
        ends = [labels[strata == part, 0].max() for part in range(len(counts))]
        assert ends == sorted(ends)
