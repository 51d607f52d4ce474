"""The explainer stage: train a network that predicts the Shapley values of a surrogate's game."""

from typing import Any

import torch
from torch import Tensor

from fastshap_lab.checkpoints import read_description, save_model
from fastshap_lab.config import ExplainerConfig, lookup
from fastshap_lab.errors import UserError
from fastshap_lab.inference import AmortizedExplainer, load_classifier, load_surrogate
from fastshap_lab.metrics import AdditiveFit
from fastshap_lab.models import Explainer, SurrogateGame, build_explainer, takes_backbone
from fastshap_lab.shapley import (
    LINKS,
    NORMALIZATIONS,
    Sampler,
    ShapleyKernelSampler,
    efficiency_gap,
    efficiency_penalty,
    shapley_regression_loss,
)
from fastshap_lab.stages.common import Training, batches, check_images, device_of, fit, network_description
from fastshap_lab.stages.runs import Run


class ExplainerTraining(Training):
    """Fit an explainer to the game of a frozen surrogate. Batches hold ``image`` (B, C, H, W).

    Reference: Jethani et al., FastSHAP, ICLR 2022, arXiv:2107.07436; normalized while training, as in Covert et al.,
    ICLR 2023, arXiv:2206.05282.
    """

    network: Explainer

    def __init__(self, network: Explainer, game: SurrogateGame, config: ExplainerConfig, seed: int) -> None:
        super().__init__(network, config.optim, seed, monitor="val/loss")
        self.game, self.sampler = game, ShapleyKernelSampler(game.num_players, config.paired)
        self.paired = ShapleyKernelSampler(game.num_players)
        self.normalize, self.num_coalitions = NORMALIZATIONS[config.normalization], config.num_coalitions
        self.penalty = config.efficiency_penalty
        self.fit_of_validation = AdditiveFit()

    def on_fit_start(self) -> None:
        """Bring the game along."""
        self.game.to(self.device)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of each image under fresh coalitions."""
        return self._step("train", batch["image"], self.sampler, self.step_generator(batch_idx))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the loss over pairs of coalitions that are the same every epoch, so that epochs can be compared."""
        self._step("val", batch["image"], self.paired, torch.Generator(self.device).manual_seed(batch_idx))

    def _step(self, split: str, image: Tensor, sampler: Sampler, generator: torch.Generator) -> Tensor:
        coalitions, weights = sampler(len(image), self.num_coalitions, generator, self.device)
        values, grand, null = self.game(image, coalitions)
        raw = self.network(image)
        phi = self.normalize(raw, grand, null)
        loss = shapley_regression_loss(phi, coalitions, values, null, weights)
        if self.penalty:
            loss = loss + self.penalty * efficiency_penalty(raw, grand, null)
        gap = efficiency_gap(raw, grand, null).abs().mean()
        self.log_epoch({f"{split}/loss": loss, f"{split}/efficiency_gap": gap}, len(image))
        if split == "val":
            self.fit_of_validation.update(phi, coalitions, values, grand, null)
            self.log("val/additive_r2", self.fit_of_validation, on_step=False, on_epoch=True)
        return loss


def check(run: Run) -> None:
    """Raise a ``UserError`` where the explainer cannot be built or trained."""
    config = run.config.explainer
    lookup(LINKS, "explainer.link", config.link)
    lookup(NORMALIZATIONS, "explainer.normalization", config.normalization)
    if config.num_coalitions % 2:
        raise UserError(f"explainer.num_coalitions={config.num_coalitions}: must be even, coalitions come in pairs")
    network = build_explainer(**_describe(run, network_description(run, config)))
    check_images(network, "explainer", torch.zeros(2, 3, *run.data.image_size))


def train(run: Run) -> tuple[AmortizedExplainer, dict[str, Any]]:
    """Return the trained explainer of a run, whose parents are finished, and what describes it."""
    config, classifier, surrogate = run.config.explainer, run.parents["classifier"], run.parents["surrogate"]
    game = read_description(surrogate.model, "surrogate")["surrogate"]
    description = {
        "network": _describe(run, network_description(run, config, game["classifier"])),
        "surrogate": game,
        "classifier": read_description(classifier.model, "classifier")["network"] if config.bundle_classifier else None,
        "link": config.link,
        "normalization": config.normalization,
        "class_names": list(run.data.class_names),
    }
    network, loaded = build_explainer(**description["network"]), load_surrogate(surrogate.model)
    network.start_from(loaded.classifier.network)
    values = SurrogateGame(loaded, config.link, run.config.trainer.max_batch)
    fit(ExplainerTraining(network, values, config, run.config.seed), run, config)
    original = load_classifier(classifier.model) if config.bundle_classifier else None
    explainer = AmortizedExplainer(
        network, loaded, original, config.link, config.normalization, description["class_names"]
    )
    return explainer.eval(), description


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
    """Return how much of the game the explanations of test images account for, and what they missed of its total."""
    device = device_of(run)
    explainer = explainer.to(device)
    game, sampler = explainer.game(run.config.trainer.max_batch), ShapleyKernelSampler(explainer.grid.num_players)
    generator, additive_fit, gaps = torch.Generator().manual_seed(0), AdditiveFit(), []
    for image, _ in batches(run, "test"):
        coalitions, _ = sampler(len(image), 16, generator, device)
        values, grand, null = game(image, coalitions)
        raw = explainer.network(image)
        phi = NORMALIZATIONS[explainer.normalization](raw, grand, null)
        additive_fit.update(*(tensor.cpu() for tensor in (phi, coalitions, values, grand, null)))
        gaps.append(efficiency_gap(raw, grand, null).abs().cpu())
    return {"test/additive_r2": additive_fit.compute().item(), "test/efficiency_gap": torch.cat(gaps).mean().item()}
