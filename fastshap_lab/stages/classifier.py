"""The classifier stage: train the model that will be explained."""

import torch.nn.functional as F
from torch import Tensor

from fastshap_lab.checkpoints import save_model
from fastshap_lab.config import ClassifierConfig
from fastshap_lab.metrics import Imitation
from fastshap_lab.models import Classifier, build_classifier
from fastshap_lab.models.freezing import frozen
from fastshap_lab.stages.common import Training, batches, device_of, fit, network_description
from fastshap_lab.stages.runs import Run


class ClassifierTraining(Training):
    """Fit a classifier to labels. Batches hold ``image`` (B, C, H, W) and ``label`` (B,)."""

    network: Classifier

    def __init__(self, network: Classifier, config: ClassifierConfig, seed: int) -> None:
        super().__init__(network, config.optim, seed, monitor="val/cross_entropy")
        self.label_smoothing = config.label_smoothing

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the cross-entropy against smoothed labels."""
        logits = self.network(batch["image"])
        loss = F.cross_entropy(logits, batch["label"], label_smoothing=self.label_smoothing)
        self.log_epoch({"train/loss": loss, "train/accuracy": _accuracy(logits, batch["label"])}, len(logits))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log plain cross-entropy and accuracy."""
        logits, label = self.network(batch["image"]), batch["label"]
        logged = {"val/cross_entropy": F.cross_entropy(logits, label), "val/accuracy": _accuracy(logits, label)}
        self.log_epoch(logged, len(logits))


def check(run: Run) -> None:
    """Raise a ``UserError`` where the network cannot be built."""
    build_classifier(**network_description(run, run.config.classifier))


def make(run: Run) -> dict[str, float]:
    """Train, export, and return measures on the test images."""
    config = run.config.classifier
    description = network_description(run, config, pixels=True)
    network = build_classifier(**description)
    fit(ClassifierTraining(network, config, run.config.seed), run, config)
    save_model(run.model, network, {"kind": "classifier", "network": description, "class_names": run.data.class_names})
    metric, classifier = Imitation(), frozen(network).to(device_of(run))
    for image, label in batches(run, "test"):
        logits = classifier(image)
        metric.update(logits.unsqueeze(1).cpu(), label.cpu(), logits.cpu())
    measures = metric.compute()
    return {"test/accuracy": measures["accuracy"], "test/cross_entropy": measures["cross_entropy"]}


def _accuracy(logits: Tensor, label: Tensor) -> Tensor:
    return (logits.argmax(dim=-1) == label).float().mean()
