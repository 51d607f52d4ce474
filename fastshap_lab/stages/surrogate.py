"""The surrogate stage: train a model that imitates the classifier when players are absent."""

from typing import Any

import torch
from torch import Tensor

from fastshap_lab.checkpoints import read_description, save_model
from fastshap_lab.config import SurrogateConfig
from fastshap_lab.errors import UserError
from fastshap_lab.inference import load_classifier
from fastshap_lab.metrics import Imitation
from fastshap_lab.models import Classifier, Surrogate, build_surrogate
from fastshap_lab.models.freezing import frozen, load_matching
from fastshap_lab.shapley import UniformSizeSampler
from fastshap_lab.stages.common import Training, batches, check_images, device_of, fit, network_description
from fastshap_lab.stages.runs import Run


class SurrogateTraining(Training):
    """Fit a surrogate to a frozen classifier. Batches hold ``image`` (B, C, H, W)."""

    network: Surrogate

    def __init__(self, network: Surrogate, classifier: Classifier, config: SurrogateConfig, seed: int) -> None:
        task, imitation = network.task, network.task.surrogate_losses[0]
        super().__init__(network, config.optim, seed, monitor=f"val/{task.imitation}")
        self.num_coalitions = config.num_coalitions
        # The first is logged whatever is minimized, so that runs can be compared.
        self.divergence, self.loss = task.divergence(imitation), task.divergence(config.loss or imitation)
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
        self.log_epoch({f"{split}/{self.network.task.imitation}": self.divergence(target, logits).mean()}, len(image))
        return self.loss(target, logits).mean()


def check(run: Run) -> None:
    """Raise a ``UserError`` where the surrogate cannot be built, or its loss is another task's."""
    task, loss = run.data.task, run.config.surrogate.loss
    if loss not in task.surrogate_losses:
        raise UserError(
            f"surrogate.loss={loss}: not a loss of the task {task.name}; known: {', '.join(task.surrogate_losses)}"
        )
    surrogate = build_surrogate(**_describe(run, network_description(run, run.config.surrogate)))
    nobody = torch.zeros(2, 1, surrogate.grid.num_players, dtype=torch.bool)
    check_images(surrogate, "surrogate", (2, 1, run.data.num_classes), torch.zeros(2, 3, *run.data.image_size), nobody)


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
    """Return the task's measures and divergence on whole and on masked test images; coalitions are always the same.

    Beside them the divergence of an answer that is the same for all images, by which the others can be judged.
    """
    task, device, targets = surrogate.task, device_of(run), []
    whole, masked = Imitation(task), Imitation(task)
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
    constant = {f"{task.imitation}_constant": task.constant_divergence(torch.cat(targets)).item()}
    return whole.compute() | constant | {f"masked_{name}": value for name, value in masked.compute().items()}
