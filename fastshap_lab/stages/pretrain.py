"""The pretrain stage: teach a vision transformer to complete images, before it sees a label."""

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from fastshap_lab.checkpoints import save_model
from fastshap_lab.config import ClassifierConfig, TrainingConfig, build
from fastshap_lab.errors import UserError
from fastshap_lab.models import PRETRAININGS, MaskedAutoencoder, build_classifier
from fastshap_lab.report import image_rows, save_figure
from fastshap_lab.stages.classifier import pixel_statistics
from fastshap_lab.stages.common import Training, batches, check_images, device_of, fit, network_description
from fastshap_lab.stages.runs import Run
from fastshap_lab.stages.tracking import log_results

_SHOWN = 8  # images in the figure


class PretrainTraining(Training):
    """Fit an autoencoder to images. Batches hold ``image`` (B, C, H, W)."""

    network: MaskedAutoencoder

    def __init__(self, network: MaskedAutoencoder, config: TrainingConfig, seed: int) -> None:
        super().__init__(network, config.optim, seed, monitor="val/loss")

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the reconstruction error, each image under fresh masks."""
        return self._step("train", batch["image"], self.step_generator(batch_idx))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the same under masks that are the same every epoch."""
        self._step("val", batch["image"], torch.Generator(self.device).manual_seed(batch_idx))

    def _step(self, split: str, image: Tensor, generator: torch.Generator) -> Tensor:
        loss = self.network.loss(image, self.network.draw(len(image), generator)).mean()
        self.log_epoch({f"{split}/loss": loss}, len(image))
        return loss


def content(config: ClassifierConfig) -> dict[str, Any]:
    """Return what a configuration says about the result: nothing of what the classifier is then trained with."""
    encoder = {"name": config.name, "params": config.params, "mean": config.mean, "std": config.std}
    return asdict(config.pretrain) | {"encoder": encoder}


def check(run: Run) -> None:
    """Raise a ``UserError`` where the autoencoder cannot be built, or what it learns would be of no use."""
    if run.config.classifier.weights is not None:
        raise UserError(
            f"classifier.weights={run.config.classifier.weights}: would replace what classifier.pretrain learns; "
            "set one of them to null"
        )
    network = _autoencoder(run, _describe(run))
    patches = torch.zeros(2, network.num_patches, dtype=torch.long)
    answer = 2, network.num_patches, 3 * math.prod(network.patch_size)
    check_images(network, "classifier.pretrain", answer, torch.zeros(2, 3, *run.data.image_size), patches)


def make(run: Run) -> dict[str, float]:
    """Train, export the encoder, and return measures on the test images."""
    description, settings = _describe(run, pixel_statistics(run)), run.config.classifier.pretrain
    network = _autoencoder(run, description)
    fit(PretrainTraining(network, settings, run.config.seed), run, settings)
    save_model(run.model, network.encoder, {"kind": "encoder", "network": description})
    return _measure(run, network)


def _describe(run: Run, *pixels: dict[str, list[float]]) -> dict[str, Any]:
    """Return the description of the classifier's network, without its head."""
    described = network_description(run, run.config.classifier, *pixels) | {"num_classes": 0}
    described.pop("task", None)  # which its head would have
    return described


def _autoencoder(run: Run, description: dict[str, Any]) -> MaskedAutoencoder:
    settings, encoder = run.config.classifier.pretrain, build_classifier(**description)
    return build(PRETRAININGS, "classifier.pretrain", settings.name, settings.params, encoder=encoder)


@torch.inference_mode()
def _measure(run: Run, network: MaskedAutoencoder) -> dict[str, float]:
    """Return the error on the test images, under masks that are always the same; draw some of them."""
    network, generator = network.to(device_of(run)), torch.Generator().manual_seed(0)
    losses: list[Tensor] = []
    for image, _ in batches(run, "test"):
        order = network.draw(len(image), generator).to(image.device)
        if not losses:
            shown = image[:_SHOWN]
            masked, completed = network.reconstruct(shown, order[:_SHOWN])
        losses.append(network.loss(image, order))
    rows = {"Image": shown, "Seen by the encoder": masked, "Reconstruction": completed}
    pictures = {name: images.permute(0, 2, 3, 1).cpu().numpy() for name, images in rows.items()}
    path = run.folder / "figures" / "reconstructions.png"
    key = "Test images, patches hidden at random. Reconstructed patches have their true mean and contrast."
    save_figure(image_rows(pictures, key), path)
    log_results(run, {}, {"reconstructions": path})
    return {"test/loss": torch.cat(losses).mean().item()}
