"""The surrogate stage, which trains a model to imitate the classifier on images with absent players."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from fastshap_lab.checkpoints import read_spec, save_model
from fastshap_lab.config import Config, SurrogateConfig
from fastshap_lab.errors import UserError
from fastshap_lab.inference import load_classifier
from fastshap_lab.metrics import Imitation
from fastshap_lab.models import IMPORT, TASKS, Classifier, ModelGame, Surrogate
from fastshap_lab.models.freezing import frozen_copy, load_matching
from fastshap_lab.models.specs import ClassifierSpec, NetworkSpec, SurrogateNetworkSpec, SurrogateSpec
from fastshap_lab.runs.costs import Work
from fastshap_lab.runs.run import Run, Stage
from fastshap_lab.shapley import UniformSizeSampler
from fastshap_lab.stages.base import (
    check_images,
    fit_run,
    network_description,
    network_params,
    settings_of,
    training_work,
)
from fastshap_lab.stages.classifier import untrained
from fastshap_lab.stages.imported import identity
from fastshap_lab.stages.judgements import far_surrogate
from fastshap_lab.training.optim import check_optimizer
from fastshap_lab.training.surrogate import SurrogateTraining


def settings(config: Config, _: str) -> dict[str, Any]:
    """Return everything that can change the result; ``_`` is the digest of the data, which the parents cover."""
    own = {"surrogate": _content(config.surrogate), "grid": config.data.grid, "precision": config.trainer.precision}
    return settings_of(config, own)


def _content(config: SurrogateConfig) -> dict[str, Any]:
    """Return the settings of the surrogate, with completed arguments of its network.

    A network of the user's own code counts by its content.
    """
    plain = asdict(config) | {"params": network_params(config)}
    if config.name == IMPORT:
        plain["params"] = identity(str(config.params.get("path")), "surrogate.params.path")
    return plain


def check(run: Run) -> None:
    """Raise a ``UserError`` if the surrogate cannot be built, or its loss is not one of the task."""
    task, loss = run.data.task, run.config.surrogate.loss
    if loss not in task.surrogate_losses:
        raise UserError(
            f"surrogate.loss={loss}: is no loss for the task {task.name}, must be one of "
            f"{', '.join(task.surrogate_losses)}"
        )
    check_optimizer(run.config.surrogate.optim, "surrogate")
    with torch.device("cpu" if run.config.surrogate.name == IMPORT else "meta"):  # a user's code may not work on "meta"
        surrogate = untrained_surrogate(run).eval()
        nobody = torch.zeros(2, 1, surrogate.grid.num_players, dtype=torch.bool)
        image = torch.zeros(2, 3, *run.data.image_size)
        check_images(surrogate, "surrogate", (2, 1, run.data.num_classes), image, nobody)


def make(run: Run) -> dict[str, float]:
    """Train the surrogate, write its model folder, and return its measures on the test images."""
    config, parent = run.config.surrogate, run.parents["classifier"].model
    pixels = vars(read_spec(parent, ClassifierSpec).network)
    spec = SurrogateSpec(_describe(run, network_description(run, config, pixels)), run.data.class_names)
    classifier, network = load_classifier(parent), spec.surrogate.build()
    if config.from_classifier:
        load_matching(network.classifier, classifier.state_dict())
    fit_run(run, SurrogateTraining(network, classifier, config, run.config.seed), config, "surrogate")
    save_model(run.model, network, spec.to_json())
    return {f"test/{name}": value for name, value in _measure(run, classifier, network).items()}


def work(run: Run) -> Work:
    """Return the work of a run."""
    config = run.config.surrogate
    passes = 5 * run.data.count("test")

    def module() -> SurrogateTraining:
        return SurrogateTraining(untrained_surrogate(run), untrained(run), config, run.config.seed)

    return training_work(run, config, module, passes=passes, game=lambda: untrained_game(run, "logits"))


def untrained_surrogate(run: Run) -> Surrogate:
    """Return the surrogate of a run's configuration, without training it."""
    return _describe(run, network_description(run, run.config.surrogate)).build()


def untrained_game(run: Run, link: str) -> ModelGame:
    """Return the game of an untrained surrogate.

    Args:
        run: Run whose configuration describes the surrogate.
        link: Link of the game, a name in ``LINKS``.
    """
    return frozen_copy(untrained_surrogate(run)).game(link, run.config.trainer.max_batch)


def _describe(run: Run, network: NetworkSpec) -> SurrogateNetworkSpec:
    return SurrogateNetworkSpec(network, run.config.surrogate.masking, list(run.config.data.grid))


@torch.inference_mode()
def _measure(run: Run, classifier: Classifier, surrogate: Surrogate) -> dict[str, float]:
    """Return the task's measures and divergence on whole and on masked test images, with reproducible coalitions.

    The result includes the divergence of the best answer that is the same for all images, as a scale for the others.
    """
    task, device, targets = surrogate.task, run.data.device, []
    whole, masked = Imitation(task), Imitation(task)
    classifier = frozen_copy(classifier).to(device)
    game = frozen_copy(surrogate).game("logits", run.config.trainer.max_batch).to(device)
    sampler, generator = UniformSizeSampler(game.num_players), torch.Generator().manual_seed(0)
    for image, label in run.data.batches("test"):
        coalitions, _ = sampler(len(image), 4, generator, device)
        logits, grand, _ = game(image, coalitions)
        label, target = label.cpu(), classifier(image).cpu()
        whole.update(grand.unsqueeze(1).cpu(), label, target)
        masked.update(logits.cpu(), label, target)
        targets.append(target)
    constant = {f"{task.imitation}_constant": task.constant_divergence(torch.cat(targets)).item()}
    return whole.compute() | constant | {f"masked_{name}": value for name, value in masked.compute().items()}


def _warnings(run: Run, measures: Mapping[str, float]) -> list[str]:
    line = far_surrogate(measures, run.parents["classifier"].measures(), run.data.task)
    return [] if line is None else [line]


STAGE = Stage(
    "surrogate",
    settings,
    check,
    make,
    group="surrogate",
    parents=("pretrain", "classifier"),
    part=lambda config: f"-by-{config.surrogate.name}",
    trains=True,
    work=work,
    headline={
        **{f"test/{task.measure_names[0]}": ".4f" for task in TASKS.values()},
        **{f"test/{masked}{task.imitation}": ".4f" for task in TASKS.values() for masked in ("", "masked_")},
    },
    warnings=_warnings,
)
