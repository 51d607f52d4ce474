import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import accuracy_score, log_loss

from fastshap_lab.metrics import Imitation

IMAGES, COALITIONS, CLASSES = 6, 4, 3
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 2 * torch.randn(IMAGES, COALITIONS, CLASSES, generator=GENERATOR)
CLASSIFIER = 2 * torch.randn(IMAGES, CLASSES, generator=GENERATOR)
LABEL = torch.tensor([0, 1, 2, 2, 1, 0])


def test_measures_are_those_of_other_libraries():
    metric = Imitation()
    metric.update(LOGITS, LABEL, CLASSIFIER)
    probabilities = softmax(LOGITS.double().numpy(), axis=-1).reshape(-1, CLASSES)
    label = np.repeat(LABEL.numpy(), COALITIONS)
    classifier = np.repeat(softmax(CLASSIFIER.double().numpy(), axis=-1), COALITIONS, axis=0)
    expected = {
        "accuracy": accuracy_score(label, probabilities.argmax(axis=1)),
        "cross_entropy": log_loss(label, probabilities),
        "kl": entropy(classifier, probabilities, axis=1).mean(),  # of the classifier's answer from the surrogate's
    }
    assert metric.compute() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("parts", [[1, 5], [2, 2, 2]])
def test_how_batches_are_split_does_not_matter(parts):
    whole, split = Imitation(), Imitation()
    whole.update(LOGITS, LABEL, CLASSIFIER)
    for batch in zip(*(tensor.split(parts) for tensor in (LOGITS, LABEL, CLASSIFIER)), strict=True):
        split.update(*batch)
    assert split.compute() == pytest.approx(whole.compute(), rel=1e-6)


def test_images_without_labels_leave_only_what_needs_none():
    metric, labelled = Imitation(), Imitation()
    metric.update(LOGITS, torch.full_like(LABEL, -100), CLASSIFIER)
    labelled.update(LOGITS, LABEL, CLASSIFIER)
    expected = {"accuracy": math.nan, "cross_entropy": math.nan, "kl": labelled.compute()["kl"]}
    assert metric.compute() == pytest.approx(expected, nan_ok=True)
    assert metric.nan_count() == {"accuracy": IMAGES, "cross_entropy": IMAGES, "kl": 0}


def test_the_classifier_imitates_itself():
    metric = Imitation()
    metric.update(CLASSIFIER.unsqueeze(1), CLASSIFIER.argmax(dim=1), CLASSIFIER)
    measures = metric.compute()
    assert measures["accuracy"] == 1
    assert measures["kl"] == pytest.approx(0, abs=1e-6)
