"""The explainer stage: train a network that predicts the Shapley values of a surrogate's game."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastshap_lab.checkpoints import read_description, save_model
from fastshap_lab.config import Config, ExplainerConfig, lookup
from fastshap_lab.errors import UserError
from fastshap_lab.inference import AmortizedExplainer, load_classifier, load_surrogate
from fastshap_lab.metrics import AdditiveFit
from fastshap_lab.models import Explainer, ModelGame, build_explainer, takes_backbone
from fastshap_lab.models.freezing import frozen
from fastshap_lab.models.tasks import Multiclass, Task
from fastshap_lab.shapley import (
    NORMALIZATIONS,
    SAMPLERS,
    Estimate,
    Kriging,
    Refinement,
    Sampler,
    calibrated_refinement,
    efficiency_gap,
    efficiency_penalty,
    pair_regression_loss,
    shapley_regression_loss,
)
from fastshap_lab.stages.common import Training, batches, check_images, device_of, fit, network_description
from fastshap_lab.stages.labels import Labels, load_labels
from fastshap_lab.stages.references import check_references, reference_order, reference_settings, reference_values
from fastshap_lab.stages.runs import Run

# Coalitions per image of the validation loss: always the same, so that all trainings' losses can be compared.
_VALIDATED = 32
_KEPT = 2**28  # bytes of these and their values, which are asked for once, instead of after every epoch

Asked = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Coalitions (B, M, P), their weights (B, M), values (B, M, K), grand and null."""


@dataclass
class ValidationReferences:
    """Validation images whose Shapley values are known, and how well."""

    image: Tensor
    estimate: Estimate


class ExplainerTraining(Training):
    """Fit an explainer to the game of a frozen surrogate, or to labels that were estimated from it.

    Batches hold ``image`` (B, C, H, W) and, of labels, ``index`` (B,).

    Reference: Jethani et al., FastSHAP, ICLR 2022, arXiv:2107.07436; normalized while training, as in Covert et al.,
    ICLR 2023, arXiv:2206.05282; on labels: Covert et al., NeurIPS 2024, arXiv:2401.15866.

    Args:
        network: What is trained.
        game: What it explains, in units in which all classes count alike (``Task.in_units``).
        config: Of the stage.
        seed: Of the run.
        labels: To learn from, by index; none for the FastSHAP loss. In the same units.
        references: Of some validation images, if any. In the same units.
        task: Gives the units; ``multiclass`` if None, which leaves values as they are.
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
        self._validated: dict[int, Asked] = {}

    def on_fit_start(self) -> None:
        """Bring the game along."""
        self.game.to(self.device)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss against the labels, or of each image under fresh coalitions."""
        if self.labels is None:
            asked = self._ask(batch["image"], self.sampler, self.num_coalitions, self.step_generator(batch_idx))
            return self._step("train", batch["image"], asked)
        labels, index, raw = self.labels, batch["index"], self._raw(batch["image"])
        total, block = labels.total[index], labels.block[index]
        nothing = torch.zeros_like(total[:1])
        phi = self.normalize(raw, total, nothing)
        loss = pair_regression_loss(
            phi, labels.coalitions[block], labels.differences[index].float(), labels.weights[block]
        )
        return self._logged("train", loss, raw, total, nothing)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the loss over pairs of coalitions that are the same every epoch, so that epochs can be compared."""
        image, asked = batch["image"], self._validated.get(batch_idx)
        if asked is None:
            generator = torch.Generator(self.device).manual_seed(batch_idx)
            asked = self._ask(image, self.paired, _VALIDATED, generator)
            kept = [*self._validated.values(), asked]
            if sum(tensor.nbytes for one in kept for tensor in one) <= _KEPT:
                self._validated[batch_idx] = asked
        self._step("val", image, asked)

    def on_validation_epoch_end(self) -> None:
        """Log how far the values are from true ones."""
        if self.references is not None:
            image, truth = self.references.image, self.references.estimate.phi
            phi = self.normalize(self._raw(image), self.game.grand(image), self.game.null(image)).cpu().double()
            error = float((phi - truth).square().sum() / (truth - truth.mean()).square().sum())
            self.log_dict({"val/shapley_r2": 1 - error, "val/shapley_error": error})
        super().on_validation_epoch_end()

    def _raw(self, image: Tensor) -> Tensor:
        return self.task.in_units(self.network(image))

    def _ask(self, image: Tensor, sampler: Sampler, num_coalitions: int, generator: torch.Generator) -> Asked:
        coalitions, weights = sampler(len(image), num_coalitions, generator, self.device)
        return coalitions, weights, *self.game(image, coalitions)

    def _step(self, split: str, image: Tensor, asked: Asked) -> Tensor:
        coalitions, weights, values, grand, null = asked
        raw = self._raw(image)
        phi = self.normalize(raw, grand, null)
        if split == "val":
            self.fit_of_validation.update(phi, coalitions, values, grand, null)
            self.log("val/additive_r2", self.fit_of_validation, on_step=False, on_epoch=True)
        loss = shapley_regression_loss(phi, coalitions, values, null, weights)
        return self._logged(split, loss, raw, grand, null)

    def _logged(self, split: str, loss: Tensor, raw: Tensor, grand: Tensor, null: Tensor) -> Tensor:
        """Return the loss with the penalty, logged."""
        if self.penalty:
            loss = loss + self.penalty * efficiency_penalty(raw, grand, null)
        gap = efficiency_gap(raw, grand, null).abs().mean()
        self.log_epoch({f"{split}/loss": loss, f"{split}/efficiency_gap": gap}, len(raw))
        return loss


def content(config: Config) -> dict[str, Any]:
    """Return what a configuration says about the result, beside what it is made from."""
    plain = asdict(config.explainer)
    of_coalitions = ("sampler", "num_coalitions", "augment")
    for key in ("labels", *(of_coalitions if config.explainer.loss == "labels" else ())):  # labels are a stage
        del plain[key]
    return plain | {"references": reference_settings(config, "val")}


def check(run: Run) -> None:
    """Raise a ``UserError`` where the explainer cannot be built or trained."""
    config = run.config.explainer
    lookup(SAMPLERS, "explainer.sampler", config.sampler)
    run.data.task.check_link(config.link, "explainer.link")
    lookup(NORMALIZATIONS, "explainer.normalization", config.normalization)
    if config.num_coalitions % 2:
        raise UserError(f"explainer.num_coalitions={config.num_coalitions}: must be even, coalitions come in pairs")
    if (config.loss, config.normalization) == ("labels", "none") and not config.efficiency_penalty:
        raise UserError(
            "explainer.normalization=none: labels do not say what the values add up to; set "
            "explainer.efficiency_penalty or explainer.loss=fastshap"
        )
    if config.monitor == "shapley_error" and not run.config.references.val:
        raise UserError("explainer.monitor=shapley_error: needs references.val of 1 or more")
    check_references(run.config, "val")
    network = build_explainer(**_describe(run, network_description(run, config)))
    answer = 2, network.grid.num_players, run.data.num_classes
    check_images(network, "explainer", answer, torch.zeros(2, 3, *run.data.image_size))


def train(run: Run) -> tuple[AmortizedExplainer, dict[str, Any]]:
    """Return the trained explainer of a run, whose parents are finished, and what describes it."""
    config, classifier, surrogate = run.config.explainer, run.parents["classifier"], run.parents["surrogate"]
    described = read_description(surrogate.model, "surrogate")["surrogate"]
    description = {
        "network": _describe(run, network_description(run, config, described["classifier"])),
        "surrogate": described,
        "classifier": read_description(classifier.model, "classifier")["network"] if config.bundle_classifier else None,
        "link": config.link,
        "normalization": config.normalization,
        "class_names": list(run.data.class_names),
    }
    network, loaded = build_explainer(**description["network"]), load_surrogate(surrogate.model)
    network.start_from(loaded.classifier.network)
    game, task = frozen(loaded).game(config.link, run.config.trainer.max_batch).to(device_of(run)), loaded.task
    references, game = _references(run, game, task), game.in_units(task.in_units)
    labels = load_labels(run.parents["labels"], device_of(run)) if "labels" in run.parents else None
    training = ExplainerTraining(network, game, config, run.config.seed, labels, references, task)
    fit(training, run, config, labels and labels.images)
    original = load_classifier(classifier.model) if config.bundle_classifier else None
    explainer = AmortizedExplainer(
        network, loaded, original, config.link, config.normalization, description["class_names"]
    ).eval()
    if references is not None:
        explainer.refinement = _calibrated(run, explainer.to(device_of(run)), game, references)
        description["refinement"] = explainer.refinement.to_json()
    return explainer, description


def _references(run: Run, game: ModelGame, task: Task) -> ValidationReferences | None:
    """Return some validation images with their Shapley values in the task's units, if there are to be any."""
    config, images = run.config.references, run.data.dataset("val")
    indices = reference_order(len(images))[: config.val]
    if not len(indices):
        return None
    link = run.config.explainer.link
    values = reference_values(run.parents["surrogate"], game, "val", indices.tolist(), link, config)
    values = replace(values, phi=task.in_units(values.phi), stderr=task.in_units(values.stderr))
    return ValidationReferences(images.images_at(indices).float() / 255, values)


@torch.no_grad()
def _calibrated(
    run: Run, explainer: AmortizedExplainer, game: ModelGame, references: ValidationReferences
) -> Refinement:
    """Return how to refine the explainer's answers, from those to validation images."""
    image, model, task = references.image, explainer.classifier, explainer.task
    outputs = explainer.surrogate.game().extremes(image)[0] if model is None else model(image)
    target = task.foremost(task.predict(outputs))
    # Fewer evaluations than the references had, and other ones: they take seeds 0 and 1.
    estimator, most = Kriging(game, image, seed=2), max(2, run.config.references.val_evaluations // 4)
    return calibrated_refinement(estimator, task.in_units(explainer(image)), references.estimate, target, most)


def make(run: Run) -> dict[str, float]:
    """Train, export, and return measures on the test images."""
    explainer, description = train(run)
    save_model(run.model, explainer, {"kind": "explainer", **description})
    return measure(run, explainer)


def _describe(run: Run, network: dict[str, Any]) -> dict[str, Any]:
    """Return what builds the network, around the surrogate's own architecture where it needs one and names none."""
    config, surrogate = run.config.explainer, run.config.surrogate
    network["grid"] = list(run.config.data.grid)
    if takes_backbone(config.name) and "backbone" not in config.params:
        network["params"]["backbone"] = {"name": surrogate.name, "params": dict(surrogate.params)}
    return network


@torch.inference_mode()
def measure(run: Run, explainer: AmortizedExplainer) -> dict[str, float]:
    """Return how much of the game the explanations of test images account for, and what they missed of its total.

    And how much their maps differ between images: which share of the mean square of what they are beyond the equal
    split is variance over images. 0 where every image gets the same map.
    """
    device = device_of(run)
    explainer = explainer.to(device)
    game, sampler = explainer.game(run.config.trainer.max_batch), SAMPLERS["paired"](explainer.grid.num_players)
    game = game.in_units(explainer.task.in_units)
    generator, additive_fit, gaps = torch.Generator().manual_seed(0), AdditiveFit(), []
    total = squares = torch.zeros(1, dtype=torch.float64)
    for image, _ in batches(run, "test"):
        coalitions, _ = sampler(len(image), 16, generator, device)
        values, grand, null = game(image, coalitions)
        raw = explainer.task.in_units(explainer.network(image))
        phi = NORMALIZATIONS[explainer.normalization](raw, grand, null)
        additive_fit.update(*(tensor.cpu() for tensor in (phi, coalitions, values, grand, null)))
        gaps.append(efficiency_gap(raw, grand, null).abs().cpu())
        beyond = (phi - phi.mean(dim=1, keepdim=True)).cpu().double()
        total, squares = total + beyond.sum(dim=0), squares + beyond.square().sum(dim=0)
    gap = torch.cat(gaps)
    alike = (total.square().sum() / len(gap) / squares.sum()).nan_to_num(1)  # all zero is the same for every image
    return {
        "test/additive_r2": additive_fit.compute().item(),
        "test/efficiency_gap": gap.mean().item(),
        "test/variation": 1 - alike.item(),
    }
