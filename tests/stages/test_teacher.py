"""A classifier that learns from another one's answers."""

import shutil
from math import exp, log
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.models.deit import VisionTransformerDistilled

from fastshap_lab.checkpoints import save_model
from fastshap_lab.config import ClassifierConfig
from fastshap_lab.errors import UserError
from fastshap_lab.models import Classifier
from fastshap_lab.models.freezing import frozen_copy
from fastshap_lab.training.classifier import ClassifierTraining
from tests import small
from tests.small_runs import executed, planned

LABEL = torch.tensor([0, 1, 2, 0])


def log_softmax(logits: list[float]) -> list[float]:
    total = log(sum(exp(value) for value in logits))
    return [value - total for value in logits]


def by_hand(labelled: torch.Tensor, taught: torch.Tensor, teacher: torch.Tensor, smoothing: float) -> float:
    """Return the mean of two cross-entropies, of which the one with the label alone is smoothed."""
    total = 0.0
    for first, second, answer, label in zip(
        labelled.tolist(), taught.tolist(), teacher.tolist(), LABEL.tolist(), strict=True
    ):
        own, imitated = log_softmax(first), log_softmax(second)
        total -= 0.5 * sum(((1 - smoothing) * (k == label) + smoothing / 3) * own[k] for k in range(3))
        total -= 0.5 * imitated[answer.index(max(answer))]
    return total / len(LABEL)


def training(network: Classifier, teacher: Classifier, monkeypatch: pytest.MonkeyPatch) -> ClassifierTraining:
    monkeypatch.setattr(ClassifierTraining, "log_epoch", lambda *_: None)
    return ClassifierTraining(network, ClassifierConfig(label_smoothing=0.1), 0, teacher)


def test_one_head_learns_from_label_and_teacher_alike(monkeypatch):
    image, network, teacher = small.images(4), small.classifier("resnet"), small.classifier("resnet", seed=1)
    loss = training(network, teacher, monkeypatch).training_step({"image": image, "label": LABEL}, 0)
    assert loss.item() == pytest.approx(by_hand(network(image), network(image), teacher(image), 0.1), rel=1e-5)


def test_of_two_heads_each_has_its_own(monkeypatch):
    image, teacher = small.images(4), small.classifier("resnet", seed=1)
    inner = small.scrambled(
        lambda: VisionTransformerDistilled(
            img_size=small.IMAGE_SIZE, patch_size=2, embed_dim=12, depth=1, num_heads=3, num_classes=3
        )
    )
    network = Classifier(inner, **small.PIXELS, image_size=small.IMAGE_SIZE, num_classes=3)
    whole = training(network, teacher, monkeypatch).train()
    loss = whole.training_step({"image": image, "label": LABEL}, 0)
    features = inner.forward_features(network.normalize(image))
    first, second = inner.head(features[:, 0]), inner.head_dist(features[:, 1])
    assert (first - second).abs().min() > 1e-3
    assert loss.item() == pytest.approx(by_hand(first, second, teacher(image), 0.1), rel=1e-5)
    whole.eval()
    torch.testing.assert_close(network(image), (first + second) / 2)
    torch.testing.assert_close(frozen_copy(network)(image), (first + second) / 2)


def test_the_teacher_is_neither_trained_nor_saved(monkeypatch):
    network, teacher = small.classifier("resnet"), small.classifier("resnet", seed=1)
    whole = training(network, teacher, monkeypatch)
    assert whole.state_dict().keys() == {f"network.{name}" for name in network.state_dict()}
    assert [name for name, _ in whole.named_parameters()] == [
        f"network.{name}" for name, _ in network.named_parameters()
    ]


def exported(folder: Path, side: int = 16, seed: int = 0) -> Path:
    """Export a teacher of the synthetic data."""
    names = planned("stage=classifier")[0].data.class_names
    described = {"kind": "classifier", "network": small.network("resnet", (side, side)), "class_names": names}
    save_model(folder, small.classifier("resnet", seed, image_size=(side, side)), described)
    return folder


def test_a_teacher_counts_by_content_and_not_by_place(tmp_path):
    def fingerprint(*overrides: str) -> str:
        return planned("stage=classifier", *overrides)[0].fingerprint

    first, other = (exported(tmp_path / f"teacher{seed}", seed=seed) for seed in (0, 1))
    copy = shutil.copytree(first, tmp_path / "copy")
    assert fingerprint(f"classifier.teacher={first}") == fingerprint(f"classifier.teacher={copy}")
    assert (
        len({fingerprint(), fingerprint(f"classifier.teacher={first}"), fingerprint(f"classifier.teacher={other}")})
        == 3
    )


def test_a_teacher_changes_what_is_learned(tmp_path):
    teacher = exported(tmp_path / "teacher")
    settings = ["stage=classifier", f"runs_dir={tmp_path}", "classifier.epochs=1"]
    (taught,), (alone,) = executed(*settings, f"classifier.teacher={teacher}"), executed(*settings)
    first, second = (load_file(run.model / "model.safetensors") for run in (taught, alone))
    assert first.keys() == second.keys()
    assert not torch.equal(first["network.fc.weight"], second["network.fc.weight"])


@pytest.mark.parametrize(
    ("side", "override", "line"),
    [
        (16, "classifier.teacher=nowhere", "nowhere: no model folder"),
        (8, "classifier.teacher={}", r"classifier.teacher=.*: is for images of 8×8, and those of the data have"),
        (16, "classifier.teacher={} data.params.num_classes=4", r"classifier.teacher=.*: has 3 classes"),
        (16, "classifier.teacher={0} classifier=checkpoint classifier.path={0}", "classifier.teacher=.*: this"),
        (16, "classifier.teacher={0} classifier.epochs=0", "classifier.teacher=.*: this classifier is not"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_in_the_plan(tmp_path, side, override, line):
    folder = exported(tmp_path / "teacher", side)
    with pytest.raises(UserError, match=f"^{line}"):
        planned("stage=classifier", *override.format(folder).split())
