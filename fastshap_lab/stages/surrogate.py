"""The surrogate stage: train a model that imitates the classifier when players are absent."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from fastshap_lab.checkpoints import read_description, save_model
from fastshap_lab.config import SurrogateConfig
from fastshap_lab.inference import load_classifier
from fastshap_lab.metrics import Imitation, constant_kl
from fastshap_lab.models import IMPORT, Classifier, Surrogate, build_surrogate
from fastshap_lab.models.freezing import frozen, load_matching
from fastshap_lab.runs.run import Run
from fastshap_lab.shapley import UniformSizeSampler, reverse_surrogate_kl, surrogate_kl
from fastshap_lab.stages.imported import identity
from fastshap_lab.training.training import (
    Training,
    batches,
    check_images,
    device_of,
    fit,
    network_description,
    network_params,
)


class SurrogateTraining(Training):
    """Fit a surrogate to a frozen classifier. Batches hold ``image`` (B, C, H, W)."""

    network: Surrogate

    def __init__(self, network: Surrogate, classifier: Classifier, config: SurrogateConfig, seed: int) -> None:
        super().__init__(network, config.optim, seed, monitor="val/kl")
        self.num_coalitions, self.loss = config.num_coalitions, config.loss
        self.sampler = UniformSizeSampler(network.grid.num_players)
        self._classifier = [frozen(classifier)]  # in a list: neither trained nor saved with this module

    def on_fit_start(self) -> None:
        """Bring the classifier along."""
        self._classifier[0].to(self.device)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the divergence of classifier and surrogate, each image under fresh coalitions."""
        return self._step("train", batch["image"], self.step_generator(batch_idx))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log it over coalitions that are the same every epoch."""
        self._step("val", batch["image"], torch.Generator(self.device).manual_seed(batch_idx))

    def _step(self, split: str, image: Tensor, generator: torch.Generator) -> Tensor:
        coalitions, _ = self.sampler(len(image), self.num_coalitions, generator, self.device)
        with torch.no_grad():
            target = self._classifier[0](image)
        logits = self.network(image, coalitions)
        kl = surrogate_kl(target, logits).mean()
        self.log_epoch({f"{split}/kl": kl}, len(image))  # whatever the loss, so that runs can be compared
        return kl if self.loss == "kl" else reverse_surrogate_kl(target, logits).mean()


def content(config: SurrogateConfig) -> dict[str, Any]:
    """Return what a configuration says about the result: a library's model in full, one's own by its content."""
    plain = asdict(config) | {"params": network_params(config)}
    if config.name == IMPORT:
        plain["params"] = identity(str(config.params.get("path")), "surrogate.params.path")
    return plain


def check(run: Run) -> None:
    """Raise a ``UserError`` where the surrogate cannot be built."""
    with torch.device("cpu" if run.config.surrogate.name == IMPORT else "meta"):
        surrogate = build_surrogate(**_describe(run, network_description(run, run.config.surrogate))).eval()
        nobody = torch.zeros(2, 1, surrogate.grid.num_players, dtype=torch.bool)
        image = torch.zeros(2, 3, *run.data.image_size)
        check_images(surrogate, "surrogate", (2, 1, run.data.num_classes), image, nobody)


def make(run: Run) -> dict[str, float]:
    """Train, export, and return measures on the test images."""
    config, parent = run.config.surrogate, run.parents["classifier"].model
    pixels = read_description(parent, "classifier")["network"]
    description = _describe(run, network_description(run, config, pixels))
    classifier, network = load_classifier(parent), build_surrogate(**description)
    if config.from_classifier:
        load_matching(network.classifier, classifier.state_dict())
    fit(SurrogateTraining(network, classifier, config, run.config.seed), run, config)
    save_model(run.model, network, {"kind": "surrogate", "surrogate": description, "class_names": run.data.class_names})
    return {f"test/{name}": value for name, value in _measure(run, classifier, network).items()}


def _describe(run: Run, network: dict[str, Any]) -> dict[str, Any]:
    return {"classifier": network, "masking": run.config.surrogate.masking, "grid": list(run.config.data.grid)}


@torch.inference_mode()
def _measure(run: Run, classifier: Classifier, surrogate: Surrogate) -> dict[str, float]:
    """Return accuracy, cross-entropy and KL on whole and on masked test images; coalitions are always the same.

    Beside them the KL of an answer that is the same for all images, by which the others can be judged.
    """
    whole, masked, device, targets = Imitation(), Imitation(), device_of(run), []
    classifier = frozen(classifier).to(device)
    game = frozen(surrogate).game("logits", run.config.trainer.max_batch).to(device)
    sampler, generator = UniformSizeSampler(game.num_players), torch.Generator().manual_seed(0)
    for image, label in batches(run, "test"):
        coalitions, _ = sampler(len(image), 4, generator, device)
        logits, grand, _ = game(image, coalitions)
        label, target = label.cpu(), classifier(image).cpu()
        whole.update(grand.unsqueeze(1).cpu(), label, target)
        masked.update(logits.cpu(), label, target)
        targets.append(target)
    constant = {"kl_constant": constant_kl(torch.cat(targets)).item()}
    return whole.compute() | constant | {f"masked_{name}": value for name, value in masked.compute().items()}
