"""Training of classifiers."""

import torch
from torch import Tensor

from fastshap_lab.config import ClassifierConfig
from fastshap_lab.models import Classifier
from fastshap_lab.models.freezing import frozen_copy
from fastshap_lab.models.heads import freeze_features, keep_features_still
from fastshap_lab.training.training import Training


class ClassifierTraining(Training):
    """Trains a classifier on labels and, if there is a teacher, on the teacher's predictions.

    Batches hold ``image`` (B, C, H, W) and ``label``, which is (B,) or (B, K), depending on the classifier's task.

    Reference: Touvron et al., Training data-efficient image transformers & distillation through attention, ICML 2021,
    arXiv:2012.12877, section 4, on hard-label distillation.

    Args:
        network: Classifier to train.
        config: Settings of the stage.
        seed: Seed of the run.
        teacher: Classifier whose decisions are used as further labels; None without distillation.
    """

    network: Classifier

    def __init__(
        self, network: Classifier, config: ClassifierConfig, seed: int, teacher: Classifier | None = None
    ) -> None:
        super().__init__(network, config.optim, seed, monitor=f"val/{network.task.minimized}")
        self.label_smoothing = config.label_smoothing
        # A list, so that the teacher is neither trained nor saved with this module.
        self._teacher = [] if teacher is None else [frozen_copy(teacher)]
        self.two_heads = teacher is not None and hasattr(network.network, "set_distilled_training")
        self.freeze = config.freeze
        if config.freeze:
            freeze_features(network.network)
        if self.two_heads:
            network.network.set_distilled_training(True)  # two outputs in training mode, else their mean

        self.train()

    def train(self, mode: bool = True) -> "ClassifierTraining":
        """Set the mode; if all layers but the heads are frozen, they stay in evaluation mode."""
        super().train(mode)
        if self.freeze:
            keep_features_still(self.network.network)
        return self

    def on_fit_start(self) -> None:
        """Move the teacher to the training device."""
        for teacher in self._teacher:
            teacher.to(self.device)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the task's loss against smoothed labels; with a teacher, its mean with the loss against the decisions.

        In a network with two heads the first learns the labels, and the second the teacher's decisions.
        """
        image, label, task = batch["image"], batch["label"], self.network.task
        if self.two_heads:
            logits, distilled = self.network.network(self.network.normalize(image))
        else:
            logits = distilled = self.network(image)
        loss = task.loss(logits, label, self.label_smoothing)
        for teacher in self._teacher:
            with torch.no_grad():
                taught = task.decide(teacher(image))
            loss = (loss + task.loss(distilled, taught)) / 2
        self.log_epoch({"train/loss": loss, **self._right("train", (logits + distilled) / 2, label)}, len(label))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the loss against the labels without smoothing, and the share of right predictions."""
        logits, label = self.network(batch["image"]), batch["label"]
        logged = {self.monitor: self.network.task.loss(logits, label), **self._right("val", logits, label)}
        self.log_epoch(logged, len(logits))

    def _right(self, split: str, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        task = self.network.task
        return {f"{split}/{task.measure_names[0]}": task.right(logits.unsqueeze(1), label).float().mean()}
