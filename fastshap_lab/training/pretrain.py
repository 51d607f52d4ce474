"""Pretraining of classifiers as masked autoencoders."""

import torch
from torch import Tensor

from fastshap_lab.config import TrainingConfig
from fastshap_lab.models import MaskedAutoencoder
from fastshap_lab.training.training import Training


class PretrainTraining(Training):
    """Trains a masked autoencoder. Batches hold ``image`` (B, C, H, W).

    Args:
        network: Autoencoder to train.
        config: Settings of the stage.
        seed: Seed of the run.
    """

    network: MaskedAutoencoder

    def __init__(self, network: MaskedAutoencoder, config: TrainingConfig, seed: int) -> None:
        super().__init__(network, config.optim, seed, monitor="val/loss")

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the reconstruction error, in which each image has a newly drawn set of hidden patches."""
        return self._step("train", batch["image"], self.step_generator(batch_idx))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the reconstruction error with hidden patches that are the same in every epoch."""
        self._step("val", batch["image"], torch.Generator(self.device).manual_seed(batch_idx))

    def _step(self, split: str, image: Tensor, generator: torch.Generator) -> Tensor:
        loss = self.network.loss(image, self.network.draw(len(image), generator)).mean()
        self.log_epoch({f"{split}/loss": loss}, len(image))
        return loss
