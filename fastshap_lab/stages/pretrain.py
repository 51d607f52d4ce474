"""The pretrain stage, which trains a vision transformer to complete masked images, without labels."""

import math
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from fastshap_lab.checkpoints import save_model
from fastshap_lab.components import build
from fastshap_lab.config import Config
from fastshap_lab.errors import UserError
from fastshap_lab.models import PRETRAININGS, MaskedAutoencoder
from fastshap_lab.models.specs import EncoderSpec, NetworkSpec
from fastshap_lab.report import image_rows, save_figure
from fastshap_lab.runs.costs import Work
from fastshap_lab.runs.run import Run, Stage
from fastshap_lab.runs.tracking import log_results
from fastshap_lab.stages.base import check_images, fit_run, network_description, settings_of, training_work
from fastshap_lab.stages.classifier import pixel_statistics
from fastshap_lab.training.optim import check_optimizer
from fastshap_lab.training.pretrain import PretrainTraining

_SHOWN = 8  # number of images in the figure


def wanted(config: Config) -> bool:
    """Return whether the classifier is pretrained.

    Raises:
        UserError: It is not, and ``stage`` asks for a pretraining.
    """
    if config.classifier.pretrain is None and config.stage == STAGE.name:
        raise UserError("stage=pretrain: this classifier has no pretraining; classifier=mae_vit has one")
    return config.classifier.pretrain is not None


def settings(config: Config, digest: str) -> dict[str, Any]:
    """Return everything that can change the result, which settings of the classifier's training cannot.

    Args:
        config: The whole configuration.
        digest: Digest of the data.
    """
    classifier = config.classifier
    encoder = {"name": classifier.name, "params": classifier.params, "mean": classifier.mean, "std": classifier.std}
    own = {"pretrain": asdict(classifier.pretrain) | {"encoder": encoder}, "precision": config.trainer.precision}
    return settings_of(config, own, digest)


def check(run: Run) -> None:
    """Raise a ``UserError`` if the autoencoder cannot be built, or other weights would replace the ones it learns."""
    check_optimizer(run.config.classifier.pretrain.optim, "classifier.pretrain")
    if run.config.classifier.weights is not None:
        raise UserError(
            f"classifier.weights={run.config.classifier.weights}: would replace the weights of classifier.pretrain; "
            "set one of them to null"
        )
    network = _autoencoder(run, _describe(run))
    patches = torch.zeros(2, network.num_patches, dtype=torch.long)
    answer = 2, network.num_patches, 3 * math.prod(network.patch_size)
    check_images(network, "classifier.pretrain", answer, torch.zeros(2, 3, *run.data.image_size), patches)


def make(run: Run) -> dict[str, float]:
    """Train the autoencoder, write its encoder to the model folder, and return its loss on the test images."""
    description, config = _describe(run, pixel_statistics(run)), run.config.classifier.pretrain
    network = _autoencoder(run, description)
    fit_run(run, PretrainTraining(network, config, run.config.seed), config, "classifier.pretrain")
    save_model(run.model, network.encoder, EncoderSpec(description).to_json())
    return _measure(run, network)


def work(run: Run) -> Work:
    """Return the work of a run."""
    config = run.config.classifier.pretrain
    return training_work(
        run, config, lambda: PretrainTraining(_autoencoder(run, _describe(run)), config, run.config.seed)
    )


def _describe(run: Run, *pixels: dict[str, list[float]]) -> NetworkSpec:
    """Return the description of the classifier's network without its head, and so without a task."""
    return replace(network_description(run, run.config.classifier, *pixels), num_classes=0, task=None)


def _autoencoder(run: Run, description: NetworkSpec) -> MaskedAutoencoder:
    config, encoder = run.config.classifier.pretrain, description.build()
    return build(PRETRAININGS, "classifier.pretrain", config.name, config.params, encoder=encoder)


@torch.inference_mode()
def _measure(run: Run, network: MaskedAutoencoder) -> dict[str, float]:
    """Return the loss on the test images with reproducible masks, and draw the reconstructions of the first images."""
    network, generator = network.to(run.data.device), torch.Generator().manual_seed(0)
    losses: list[Tensor] = []
    for image, _ in run.data.batches("test"):
        order = network.draw(len(image), generator).to(image.device)
        if not losses:
            shown = image[:_SHOWN]
            masked, completed = network.reconstruct(shown, order[:_SHOWN])
        losses.append(network.loss(image, order))
    rows = {"Image": shown, "Seen by the encoder": masked, "Reconstruction": completed}
    pictures = {name: images.permute(0, 2, 3, 1).cpu().numpy() for name, images in rows.items()}
    path = run.folder / "figures" / "reconstructions.png"
    key = "Test images with random patches masked. Reconstructed patches are shown with their true mean and contrast."
    save_figure(image_rows(pictures, key), path)
    log_results(run, {}, {"reconstructions": path})
    return {"test/loss": torch.cat(losses).mean().item()}


STAGE = Stage(
    "pretrain",
    settings,
    check,
    make,
    group="classifier",
    wanted=wanted,
    trains=True,
    work=work,
    headline={"test/loss": ".4f"},
)
