"""Training of surrogates."""

import torch
from torch import Tensor

from fastshap_lab.config import SurrogateConfig
from fastshap_lab.models import Classifier, Surrogate
from fastshap_lab.models.freezing import frozen_copy
from fastshap_lab.shapley import UniformSizeSampler
from fastshap_lab.training.training import Training


class SurrogateTraining(Training):
    """Trains a surrogate to imitate a classifier under random coalitions. Batches hold ``image`` (B, C, H, W).

    Args:
        network: Surrogate to train.
        classifier: Classifier to imitate; a frozen copy is used.
        config: Settings of the stage.
        seed: Seed of the run.
    """

    network: Surrogate

    def __init__(self, network: Surrogate, classifier: Classifier, config: SurrogateConfig, seed: int) -> None:
        task, imitation = network.task, network.task.surrogate_losses[0]
        super().__init__(network, config.optim, seed, monitor=f"val/{task.imitation}")
        self.num_coalitions = config.num_coalitions
        # The first divergence is logged whatever the loss is, so that runs are comparable.
        self.divergence, self.loss = task.divergence(imitation), task.divergence(config.loss or imitation)
        self.sampler = UniformSizeSampler(network.grid.num_players)
        self._classifier = [frozen_copy(classifier)]  # a list, so that it is neither trained nor saved with this module

    def on_fit_start(self) -> None:
        """Move the classifier to the training device."""
        self._classifier[0].to(self.device)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of the surrogate under newly drawn coalitions."""
        return self._step("train", batch["image"], self.step_generator(batch_idx))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the divergence under coalitions that are the same in every epoch."""
        self._step("val", batch["image"], torch.Generator(self.device).manual_seed(batch_idx))

    def _step(self, split: str, image: Tensor, generator: torch.Generator) -> Tensor:
        coalitions, _ = self.sampler(len(image), self.num_coalitions, generator, self.device)
        with torch.no_grad():
            target = self._classifier[0](image)
        logits = self.network(image, coalitions)
        self.log_epoch({f"{split}/{self.network.task.imitation}": self.divergence(target, logits).mean()}, len(image))
        return self.loss(target, logits).mean()
