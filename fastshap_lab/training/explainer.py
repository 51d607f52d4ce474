"""Training of explainers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastshap_lab.config import ExplainerConfig
from fastshap_lab.data.splits import TensorImages
from fastshap_lab.metrics import AdditiveFit
from fastshap_lab.models import Explainer, ModelGame
from fastshap_lab.models.tasks import Multiclass, Task
from fastshap_lab.shapley import (
    NORMALIZATIONS,
    SAMPLERS,
    Estimate,
    Sampler,
    efficiency_gap,
    efficiency_penalty,
    pair_regression_loss,
    shapley_regression_loss,
)
from fastshap_lab.training.training import Training

# Number of coalitions per image in the validation loss; a constant, so that the losses of all trainings are comparable.
_VALIDATED = 32
_KEPT = 2**28  # largest size in bytes of the validation's values, which are then computed once instead of every epoch

GameValues = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Coalitions (B, M, P), their weights (B, M), their values (B, M, K), grand values (B, K), null values (B, K)."""


@dataclass(frozen=True)
class Labels:
    """Values of the game for all training images, which explainers learn from.

    Images share a few designs of coalitions, the blocks.

    Attributes:
        images: N images, which include augmented copies.
        differences: Value of one coalition of each pair minus that of its complement, float16 (N, M, K).
        total: Value of the grand coalition minus that of the null coalition (N, K).
        coalitions: One coalition of each pair, bool (blocks, M, P).
        weights: Weights of the pairs, with mean 1 (blocks, M).
        block: Index into ``coalitions`` of the design that image n was evaluated with, int64 (N,).
    """

    images: TensorImages
    differences: Tensor
    total: Tensor
    coalitions: Tensor
    weights: Tensor
    block: Tensor


@dataclass
class ValidationReferences:
    """Validation images with reference values.

    Attributes:
        image: Images (B, C, H, W).
        estimate: Their Shapley values with standard errors.
    """

    image: Tensor
    estimate: Estimate


class ExplainerTraining(Training):
    """Trains an explainer on the game of a frozen surrogate, or on labels: values of the game evaluated beforehand.

    Batches hold ``image`` (B, C, H, W) and, for labels, ``index`` (B,).

    Reference: Jethani et al., FastSHAP, ICLR 2022, arXiv:2107.07436; normalization during training as in Covert et al.,
    ICLR 2023, arXiv:2206.05282; on labels: Covert et al., NeurIPS 2024, arXiv:2401.15866.

    Args:
        network: Explainer to train.
        game: Game to explain, in units in which classes are comparable (``Task.in_units``).
        config: Settings of the stage.
        seed: Seed of the run.
        labels: Labels to learn from, in the same units; None for the FastSHAP loss.
        references: Validation images with reference values in the same units, or None.
        task: Task that defines the units; ``Multiclass`` if None, which leaves values unchanged.
    """

    network: Explainer

    def __init__(
        self,
        network: Explainer,
        game: ModelGame,
        config: ExplainerConfig,
        seed: int,
        labels: Labels | None = None,
        references: ValidationReferences | None = None,
        task: Task | None = None,
    ) -> None:
        super().__init__(network, config.optim, seed, monitor=f"val/{config.monitor}")
        self.game, self.sampler = game, SAMPLERS[config.sampler](game.num_players)
        self.paired = SAMPLERS["paired"](game.num_players)
        self.normalize, self.num_coalitions = NORMALIZATIONS[config.normalization], config.num_coalitions
        self.penalty = config.efficiency_penalty
        self.labels, self.references, self.task = labels, references, task or Multiclass()
        self.fit_of_validation = AdditiveFit()
        self._validated: dict[int, GameValues] = {}

    def on_fit_start(self) -> None:
        """Move the game to the training device."""
        self.game.to(self.device)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss against the labels or, without labels, the FastSHAP loss over new coalitions."""
        if self.labels is None:
            game_values = self._evaluate_game(
                batch["image"], self.sampler, self.num_coalitions, self.step_generator(batch_idx)
            )
            return self._step("train", batch["image"], game_values)
        labels, index, raw = self.labels, batch["index"], self._raw(batch["image"])
        total, block = labels.total[index], labels.block[index]
        nothing = torch.zeros_like(total[:1])
        phi = self.normalize(raw, total, nothing)
        loss = pair_regression_loss(
            phi, labels.coalitions[block], labels.differences[index].float(), labels.weights[block]
        )
        return self._logged("train", loss, raw, total, nothing)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the loss over pairs of coalitions; they are the same in every epoch, so that epochs are comparable."""
        image, game_values = batch["image"], self._validated.get(batch_idx)
        if game_values is None:
            generator = torch.Generator(self.device).manual_seed(batch_idx)
            game_values = self._evaluate_game(image, self.paired, _VALIDATED, generator)
            every = [*self._validated.values(), game_values]
            if sum(tensor.nbytes for one in every for tensor in one) <= _KEPT:
                self._validated[batch_idx] = game_values
        self._step("val", image, game_values)

    def on_validation_epoch_end(self) -> None:
        """Log R² and the relative squared error against the reference values."""
        if self.references is not None:
            image, truth = self.references.image, self.references.estimate.phi
            phi = self.normalize(self._raw(image), self.game.grand(image), self.game.null(image)).cpu().double()
            error = float((phi - truth).square().sum() / (truth - truth.mean()).square().sum())
            self.log_dict({"val/shapley_r2": 1 - error, "val/shapley_error": error})
        super().on_validation_epoch_end()

    def _raw(self, image: Tensor) -> Tensor:
        return self.task.in_units(self.network(image))

    def _evaluate_game(
        self, image: Tensor, sampler: Sampler, num_coalitions: int, generator: torch.Generator
    ) -> GameValues:
        coalitions, weights = sampler(len(image), num_coalitions, generator, self.device)
        return coalitions, weights, *self.game(image, coalitions)

    def _step(self, split: str, image: Tensor, game_values: GameValues) -> Tensor:
        coalitions, weights, values, grand, null = game_values
        raw = self._raw(image)
        phi = self.normalize(raw, grand, null)
        if split == "val":
            self.fit_of_validation.update(phi, coalitions, values, grand, null)
            self.log("val/additive_r2", self.fit_of_validation, on_step=False, on_epoch=True)
        loss = shapley_regression_loss(phi, coalitions, values, null, weights)
        return self._logged(split, loss, raw, grand, null)

    def _logged(self, split: str, loss: Tensor, raw: Tensor, grand: Tensor, null: Tensor) -> Tensor:
        """Add the penalty to the loss, log it with the efficiency gap, and return it."""
        if self.penalty:
            loss = loss + self.penalty * efficiency_penalty(raw, grand, null)
        gap = efficiency_gap(raw, grand, null).abs().mean()
        self.log_epoch({f"{split}/loss": loss, f"{split}/efficiency_gap": gap}, len(raw))
        return loss
