"""The explainer stage, which trains a network to predict the Shapley values of a surrogate's game."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from fastshap_lab.checkpoints import read_spec, save_model
from fastshap_lab.components import lookup
from fastshap_lab.config import Config
from fastshap_lab.errors import UserError
from fastshap_lab.evaluation.references import check_references, reference_order, reference_settings, reference_values
from fastshap_lab.inference import AmortizedExplainer, load_classifier, load_surrogate
from fastshap_lab.metrics import AdditiveFit
from fastshap_lab.models import ModelGame, takes_backbone
from fastshap_lab.models.freezing import frozen_copy
from fastshap_lab.models.specs import ClassifierSpec, ExplainerNetworkSpec, ExplainerSpec, NetworkSpec, SurrogateSpec
from fastshap_lab.models.tasks import Task
from fastshap_lab.runs.costs import Work
from fastshap_lab.runs.run import Run, Stage
from fastshap_lab.shapley import (
    NORMALIZATIONS,
    SAMPLERS,
    Kriging,
    Refinement,
    calibrated_refinement,
    efficiency_gap,
)
from fastshap_lab.stages.base import (
    check_images,
    fit_run,
    network_description,
    network_params,
    random_images,
    settings_of,
    training_work,
)
from fastshap_lab.stages.classifier import untrained
from fastshap_lab.stages.judgements import failed_explainer
from fastshap_lab.stages.labels import load_labels
from fastshap_lab.stages.surrogate import untrained_game, untrained_surrogate
from fastshap_lab.training.explainer import ExplainerTraining, Labels, ValidationReferences
from fastshap_lab.training.optim import check_optimizer


def settings(config: Config, _: str) -> dict[str, Any]:
    """Return everything that can change the result; ``_`` is the digest of the data, which the parents cover."""
    plain = asdict(config.explainer)
    of_coalitions = ("sampler", "num_coalitions", "augment")
    # With labels, the settings of coalitions belong to the stage that makes the labels.
    for key in ("labels", *(of_coalitions if config.explainer.loss == "labels" else ())):
        del plain[key]
    own = {"explainer": plain | {"references": reference_settings(config, "val")}}
    return settings_of(config, own | {"precision": config.trainer.precision})


def check(run: Run) -> None:
    """Raise a ``UserError`` if the explainer cannot be built or trained."""
    config = run.config.explainer
    check_optimizer(config.optim, "explainer")
    lookup(SAMPLERS, "explainer.sampler", config.sampler)
    run.data.task.check_link(config.link, "explainer.link")
    lookup(NORMALIZATIONS, "explainer.normalization", config.normalization)
    if config.num_coalitions % 2:
        raise UserError(
            f"explainer.num_coalitions={config.num_coalitions}: must be even, as coalitions are drawn in pairs"
        )
    if (config.loss, config.normalization) == ("labels", "none") and not config.efficiency_penalty:
        raise UserError(
            "explainer.normalization=none: labels do not determine the sum of the values; set "
            "explainer.efficiency_penalty or explainer.loss=fastshap"
        )
    if config.monitor == "shapley_error" and not run.config.references.val:
        raise UserError("explainer.monitor=shapley_error: references.val must be at least 1")
    check_references(run.config, "val")
    network = _describe(run, network_description(run, config)).build()
    answer = 2, network.grid.num_players, run.data.num_classes
    check_images(network, "explainer", answer, torch.zeros(2, 3, *run.data.image_size))


def train(run: Run) -> tuple[AmortizedExplainer, ExplainerSpec]:
    """Return the trained explainer of a run whose parents are finished, and its description."""
    config, classifier, surrogate = run.config.explainer, run.parents["classifier"], run.parents["surrogate"]
    imitator = read_spec(surrogate.model, SurrogateSpec).surrogate
    spec = ExplainerSpec(
        network=_describe(run, network_description(run, config, vars(imitator.classifier))),
        surrogate=imitator,
        classifier=read_spec(classifier.model, ClassifierSpec).network if config.bundle_classifier else None,
        link=config.link,
        normalization=config.normalization,
        class_names=list(run.data.class_names),
        resize=run.data.resize,
    )
    network, loaded = spec.network.build(), load_surrogate(surrogate.model)
    network.start_from(loaded.classifier.network)
    game, task = frozen_copy(loaded).game(config.link, run.config.trainer.max_batch).to(run.data.device), loaded.task
    references, game = _references(run, game, task), game.in_units(task.in_units)
    labels = load_labels(run.parents["labels"], run.data.device) if "labels" in run.parents else None
    training = ExplainerTraining(network, game, config, run.config.seed, labels, references, task)
    fit_run(run, training, config, "explainer", labels and labels.images)
    original = load_classifier(classifier.model) if config.bundle_classifier else None
    explainer = AmortizedExplainer(
        network, loaded, original, config.link, config.normalization, spec.class_names, resize=spec.resize
    ).eval()
    if references is not None:
        explainer.refinement = _calibrated(run, explainer.to(run.data.device), game, references)
        spec = replace(spec, refinement=explainer.refinement.to_json())
    return explainer, spec


def _references(run: Run, game: ModelGame, task: Task) -> ValidationReferences | None:
    """Return some validation images with their Shapley values in the task's units, or None if none are configured."""
    config, images = run.config.references, run.data.dataset("val")
    indices = reference_order(len(images))[: config.val]
    if not len(indices):
        return None
    link = run.config.explainer.link
    chosen = images.images_at(indices)
    values = reference_values(run.store, run.parents["surrogate"].model_digest, game, chosen, "val", link, config)
    values = replace(values, phi=task.in_units(values.phi), stderr=task.in_units(values.stderr))
    return ValidationReferences(chosen.float() / 255, values)


@torch.no_grad()
def _calibrated(
    run: Run, explainer: AmortizedExplainer, game: ModelGame, references: ValidationReferences
) -> Refinement:
    """Return the refinement of the explainer's predictions, calibrated on validation images."""
    image, model, task = references.image, explainer.classifier, explainer.task
    outputs = explainer.surrogate.game().extremes(image)[0] if model is None else model(image)
    target = task.foremost(task.predict(outputs))
    # These are fewer evaluations than those of the references, and other ones: references use seeds 0 and 1.
    estimator, most = Kriging(game, image, seed=2), max(2, run.config.references.val_evaluations // 4)
    return calibrated_refinement(estimator, task.in_units(explainer(image)), references.estimate, target, most)


def make(run: Run) -> dict[str, float]:
    """Train the explainer, write its model folder, and return its measures on the test images."""
    explainer, spec = train(run)
    save_model(run.model, explainer, spec.to_json())
    return error_measures(run, explainer)


def work(run: Run) -> Work:
    """Return the work of a run: the training, and evaluations of the game for references, validation and measures."""
    config, references = run.config.explainer, run.config.references
    players, (val, test) = math.prod(run.config.data.grid), (run.data.count(split) for split in ("val", "test"))
    labelled = config.loss == "labels"
    pairs, copies = config.labels.evaluations // 2, 1 + config.labels.copies
    passes = 33 * val + 17 * test
    passes += min(references.val, val) * (min(2**players, references.val_evaluations) + references.val_evaluations // 4)
    images = random_images(run, config.batch_size)

    def module() -> ExplainerTraining:
        network = _describe(run, network_description(run, config)).build()
        labels = None
        if labelled:
            number, classes, device = len(images), run.data.num_classes, run.data.device
            labels = Labels(
                images,
                torch.zeros(number, pairs, classes, dtype=torch.float16, device=device),
                torch.zeros(number, classes, device=device),
                torch.rand(1, pairs, players, device=device) < 0.5,
                torch.ones(1, pairs, device=device),
                torch.zeros(number, dtype=torch.long, device=device),
            )
        return ExplainerTraining(network, untrained_game(run, config.link), config, run.config.seed, labels)

    def bundled() -> int:
        parts = [untrained_surrogate(run), *([untrained(run)] if config.bundle_classifier else [])]
        return sum(tensor.nbytes for part in parts for tensor in part.state_dict().values())

    return training_work(
        run,
        config,
        module,
        images=(lambda: images) if labelled else None,
        number=run.data.count("train") * (copies if labelled else 1),
        passes=passes,
        game=lambda: untrained_game(run, config.link),
        more=bundled,
    )


def _describe(run: Run, network: NetworkSpec) -> ExplainerNetworkSpec:
    """Return the description of the explainer's network.

    An explainer that needs a backbone, and for which none is configured, gets the surrogate's architecture.
    """
    config, surrogate = run.config.explainer, run.config.surrogate
    params = dict(network.params)
    if takes_backbone(config.name) and "backbone" not in params:
        params["backbone"] = {"name": surrogate.name, "params": network_params(surrogate)}
    return ExplainerNetworkSpec(**vars(network) | {"params": params}, grid=list(run.config.data.grid))


@torch.inference_mode()
def error_measures(run: Run, explainer: AmortizedExplainer) -> dict[str, float]:
    """Return measures of the explanations of test images, by name.

    ``additive_r2`` is the R² of the additive game that the values define. ``efficiency_gap`` is the mean absolute gap
    before normalization. ``variation`` tells how much maps differ between images: after subtracting the equal split, it
    is the fraction of their mean square that is variance over images, 0 if every image has the same map.

    Args:
        run: Run of the explainer.
        explainer: The trained explainer.
    """
    device = run.data.device
    explainer = explainer.to(device)
    game, sampler = explainer.game(run.config.trainer.max_batch), SAMPLERS["paired"](explainer.grid.num_players)
    game = game.in_units(explainer.task.in_units)
    generator, additive_fit, gaps = torch.Generator().manual_seed(0), AdditiveFit(), []
    total = squares = torch.zeros(1, dtype=torch.float64)
    for image, _ in run.data.batches("test"):
        coalitions, _ = sampler(len(image), 16, generator, device)
        values, grand, null = game(image, coalitions)
        raw = explainer.task.in_units(explainer.network(image))
        phi = NORMALIZATIONS[explainer.normalization](raw, grand, null)
        additive_fit.update(*(tensor.cpu() for tensor in (phi, coalitions, values, grand, null)))
        gaps.append(efficiency_gap(raw, grand, null).abs().cpu())
        beyond = (phi - phi.mean(dim=1, keepdim=True)).cpu().double()
        total, squares = total + beyond.sum(dim=0), squares + beyond.square().sum(dim=0)
    gap = torch.cat(gaps)
    alike = (total.square().sum() / len(gap) / squares.sum()).nan_to_num(
        1
    )  # if all are zero, all images have the same map
    return {
        "test/additive_r2": additive_fit.compute().item(),
        "test/efficiency_gap": gap.mean().item(),
        "test/variation": 1 - alike.item(),
    }


def _warnings(_: Run, measures: Mapping[str, float]) -> list[str]:
    line = failed_explainer(measures)
    return [] if line is None else [line]


STAGE = Stage(
    "explainer",
    settings,
    check,
    make,
    group="explainer",
    parents=("pretrain", "classifier", "surrogate", "labels"),
    part=lambda config: f"-{config.explainer.name}",
    trains=True,
    work=work,
    headline={"test/additive_r2": ".4f", "test/efficiency_gap": ".4f"},
    warnings=_warnings,
    loading="explainer = fsl.load_explainer({place})",
)
