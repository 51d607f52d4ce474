"""What metrics of attribution methods are fed with in an evaluation, one class per kind of metric."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fastshap_lab.attribution import upsample
from fastshap_lab.components import Component, Count, Share, in_words
from fastshap_lab.errors import UserError
from fastshap_lab.evaluation.base import Evaluation, Pipeline, check_removal
from fastshap_lab.evaluation.references import reference_values
from fastshap_lab.evaluation.statistics import player_values
from fastshap_lab.metrics import (
    Deletion,
    EfficiencyGap,
    FaithfulnessCorrelation,
    Infidelity,
    Insertion,
    PerImage,
    PointingGame,
    Segmentation,
    SensitivityN,
    ShapleyCorrelation,
    ShapleyDistance,
    coalition_values,
    sensitivity_coalitions,
)
from fastshap_lab.models import ModelGame
from fastshap_lab.models.game import check_determined
from fastshap_lab.models.maskings import removals
from fastshap_lab.shapley import LINKS, PlayerGrid

_SURROGATE = "surrogate"
_EVERYTHING = 1  # the label of objects in a region

Links = Literal["softmax", "log_softmax", "log_odds", "logits", "centred_logits", "sigmoid"]


@dataclass
class Scene:
    """A few judged images of a pipeline, with what is explained of them, and what measures share between methods.

    Attributes:
        evaluation: It belongs to.
        pipeline: Whose classifier is explained.
        place: Of its images among the judged ones.
        image: In [0, 1] (B, 3, H, W).
        classes: Explained of each, the target first (B, E).
        shared: Whatever a measure keeps from one method to the next.
    """

    evaluation: Evaluation
    pipeline: Pipeline
    place: slice
    image: Tensor
    classes: Tensor
    shared: dict[Any, Any] = field(default_factory=dict)

    @property
    def indices(self) -> Tensor:
        """The images' numbers among the test images (B,)."""
        return self.evaluation.judged[self.place]

    def summed(self, maps: Tensor) -> Tensor:
        """Return what maps (B, E, rows, columns) add up to over each player (B, P, E)."""
        grid = self.pipeline.grid
        return player_values(maps, grid) * (maps[0, 0].numel() / grid.num_players)

    def to_image(self, maps: Tensor) -> Tensor:
        """Return maps at image size."""
        height, width = self.image.shape[-2:]
        return maps if maps.shape[-2:] == (height, width) else upsample(maps, (height, width))


class Measure(ABC):
    """A metric, and how to feed it. Constructors take ``evaluate.metrics.<name>.params``.

    Attributes:
        note: What the report says of it, beside the metric's own summary and the arguments.
        link: Entry of ``shapley.game.LINKS`` that was asked for, if values have a space to choose.
        column: Of the metric, by which methods are ranked and tested; its first one if None.
    """

    note: str = ""
    column: str | None = None
    link: str | None = None

    def space(self, pipeline: Pipeline) -> str:
        """Return the space of the values: that asked for, else the explainer's, of a pipeline without one softmax."""
        return self.link or ("softmax" if pipeline.explainer is None else pipeline.explainer.link)

    @abstractmethod
    def metric(self) -> PerImage:
        """Return the metric, empty."""

    @abstractmethod
    def update(self, metric: PerImage, scene: Scene, maps: Tensor, unit: str | None) -> None:
        """Add a method's maps (B, E, rows, columns) of a scene's images, in its unit (``AttributionMethod.unit``)."""

    def refusal(self, evaluation: Evaluation, pipeline: Pipeline) -> str | None:
        """Return why a pipeline cannot be measured so, or None if it can."""
        return None


class _ByCoalitions(Measure):
    """A measure that asks what coalitions are worth.

    Args:
        removal: How players are removed: as the ``surrogate`` is shown it, or by one of ``maskings.removals`` before
            the classifier itself.

    Raises:
        UserError: It is neither.
    """

    def __init__(self, removal: Component) -> None:
        if removal != _SURROGATE:
            check_removal(removal, "params.removal")
        self.removal = removal

    def refusal(self, evaluation: Evaluation, pipeline: Pipeline) -> str | None:
        """Return why a pipeline cannot be measured so, or None if it can."""
        if self.removal == _SURROGATE and pipeline.surrogate is None:
            return f"no surrogate; a params.removal of {', '.join(removals())} needs none"
        return None

    def game(self, scene: Scene, grid: PlayerGrid) -> ModelGame:
        """Return the game of logits among the grid's players."""
        most = scene.evaluation.run.config.trainer.max_batch
        if self.removal != _SURROGATE:
            return scene.pipeline.removal_game(grid, self.removal, most)
        return scene.pipeline.game("logits", most)


class Removal(_ByCoalitions):
    """Deletion or insertion.

    Args:
        step: Units at a time.
        units: Players, or pixels.
        removal: As ``_ByCoalitions``; of pixels the surrogate knows nothing.

    Raises:
        UserError: Pixels shall be removed by the surrogate, or the removal is unknown.
    """

    kind: type[Deletion]

    def __init__(
        self, step: Count = 1, units: Literal["players", "pixels"] = "players", removal: Component = _SURROGATE
    ) -> None:
        super().__init__(removal)
        if units == "pixels" and removal == _SURROGATE:
            raise UserError("params.units=pixels: a surrogate knows players only; choose another params.removal")
        self.step, self.units = step, units

    def metric(self) -> PerImage:
        """Return the metric, empty."""
        return self.kind(self.step)

    def update(self, metric: PerImage, scene: Scene, maps: Tensor, unit: str | None) -> None:
        """Add a method's maps of a scene's images."""
        assert isinstance(metric, Deletion)
        metric.max_batch = scene.evaluation.run.config.trainer.max_batch
        grid = scene.pipeline.grid if self.units == "players" else PlayerGrid(*[scene.pipeline.grid.image_size] * 2)
        metric.update(self.game(scene, grid).values, scene.image, player_values(maps, grid), scene.classes)


class DeletionMeasure(Removal):
    """Deletion; arguments as ``Removal``."""

    kind = Deletion


class InsertionMeasure(Removal):
    """Insertion; arguments as ``Removal``."""

    kind = Insertion


class Faithfulness(_ByCoalitions):
    """What compares sums of attributions to values of random coalitions.

    Args:
        coalitions: Of each image.
        share: Of the players that are present; None: any number, uniformly.
        seed: Of the coalitions.
        link: As ``_OfSurrogate``.
        removal: As ``_ByCoalitions``.
    """

    kind: type[SensitivityN | FaithfulnessCorrelation | Infidelity]

    def __init__(
        self,
        coalitions: Annotated[int, Field(ge=2)] = 256,
        share: Share | None = None,
        seed: int = 0,
        link: Links | None = None,
        removal: Component = _SURROGATE,
    ) -> None:
        super().__init__(removal)
        if removal == _SURROGATE and link is not None:
            check_determined(link, "params.link")
        self.coalitions, self.share, self.seed, self.link = coalitions, share, seed, link

    def metric(self) -> PerImage:
        """Return the metric, empty."""
        return self.kind()

    def update(self, metric: PerImage, scene: Scene, maps: Tensor, unit: str | None) -> None:
        """Add a method's maps of a scene's images."""
        grid = scene.pipeline.grid
        size = None if self.share is None else max(1, round(self.share * grid.num_players))
        coalitions = sensitivity_coalitions(grid.num_players, self.coalitions, size, self.seed)
        link = self.space(scene.pipeline)
        key = "values", in_words(self.removal), self.coalitions, size, self.seed, link
        if key not in scene.shared:
            most = scene.evaluation.run.config.trainer.max_batch
            everyone = torch.ones(1, 1, grid.num_players, dtype=torch.bool)
            asked = torch.cat([coalitions, everyone], dim=1)
            logits = coalition_values(self.game(scene, grid).values, scene.image, asked, most)
            scene.shared[key] = LINKS[link](logits)
        values, phi = scene.shared[key], scene.summed(maps)
        self.add(metric, (phi, coalitions, values[:, :-1]), values[:, -1], scene.classes, unit == link)

    def add(self, metric: Any, known: tuple[Tensor, ...], grand: Tensor, classes: Tensor, in_units: bool) -> None:
        """Hand it to the metric."""
        metric.update(*known, classes)


class SensitivityNMeasure(Faithfulness):
    """Sensitivity-n; arguments as ``Faithfulness``."""

    kind = SensitivityN


class FaithfulnessCorrelationMeasure(Faithfulness):
    """Faithfulness correlation; arguments as ``Faithfulness``, but that the share of the players is fixed."""

    kind = FaithfulnessCorrelation

    def __init__(
        self,
        coalitions: Annotated[int, Field(ge=2)] = 256,
        share: Share = 0.75,
        seed: int = 0,
        link: Links | None = None,
        removal: Component = _SURROGATE,
    ) -> None:
        super().__init__(coalitions, share, seed, link, removal)


class InfidelityMeasure(Faithfulness):
    """Infidelity; arguments as ``Faithfulness``."""

    note = "Unscaled for methods whose attributions are differences of these values."
    column = "target_scaled"  # fair to maps without a unit
    kind = Infidelity

    def add(self, metric: Any, known: tuple[Tensor, ...], grand: Tensor, classes: Tensor, in_units: bool) -> None:
        """Hand it to the metric."""
        metric.update(*known, grand, classes, in_units)


class _OfSurrogate(Measure):
    """A measure against the surrogate's game.

    Args:
        link: Entry of ``shapley.game.LINKS``: the space of the values; by default the pipeline's explainer's, of a
            pipeline without one ``softmax``.
    """

    def __init__(self, link: Links | None = None) -> None:
        if link is not None:
            check_determined(link, "params.link")
        self.link = link

    def refusal(self, evaluation: Evaluation, pipeline: Pipeline) -> str | None:
        """Return why a pipeline cannot be measured so, or None if it can."""
        return "no surrogate, whose game has Shapley values" if pipeline.surrogate is None else None


class ShapleyMeasure(_OfSurrogate):
    """Correlation with reference Shapley values; arguments as ``_OfSurrogate``."""

    note = "Of as many of the images as have references (references.test)."

    def refusal(self, evaluation: Evaluation, pipeline: Pipeline) -> str | None:
        """Return why a pipeline cannot be measured so, or None if it can."""
        if not evaluation.run.config.references.test:
            return "references.test=0"
        return super().refusal(evaluation, pipeline)

    def metric(self) -> PerImage:
        """Return the metric, empty."""
        return ShapleyCorrelation()

    def update(self, metric: PerImage, scene: Scene, maps: Tensor, unit: str | None) -> None:
        """Add a method's maps of a scene's images."""
        link = self.space(scene.pipeline)
        if (truth := reference_phi(scene, link)) is not None:
            self.compare(metric, scene.summed(maps)[: len(truth)].to(truth), truth, unit == link)

    def compare(self, metric: Any, phi: Tensor, truth: Tensor, in_units: bool) -> None:
        """Hand it to the metric."""
        metric.update(phi, truth)


class ShapleyDistanceMeasure(ShapleyMeasure):
    """Distance from reference Shapley values; arguments as ``_OfSurrogate``."""

    note = f"{ShapleyMeasure.note} Defined for methods whose attributions are differences of these values."

    def metric(self) -> PerImage:
        """Return the metric, empty."""
        return ShapleyDistance()

    def compare(self, metric: Any, phi: Tensor, truth: Tensor, in_units: bool) -> None:
        """Hand it to the metric."""
        metric.update(phi if in_units else torch.full_like(phi, torch.nan), truth)


class EfficiencyMeasure(_OfSurrogate):
    """Efficiency gap; arguments as ``_OfSurrogate``."""

    note = "Defined for methods whose attributions are differences of these values."
    column = "target_absolute"

    def metric(self) -> PerImage:
        """Return the metric, empty."""
        return EfficiencyGap()

    def update(self, metric: PerImage, scene: Scene, maps: Tensor, unit: str | None) -> None:
        """Add a method's maps of a scene's images."""
        link = self.space(scene.pipeline)
        key = "total", link
        if key not in scene.shared:
            game = scene.pipeline.game(link, scene.evaluation.run.config.trainer.max_batch)
            scene.shared[key] = game.grand(scene.image), game.null(scene.image).expand(len(scene.image), -1)
        grand, null = (values.gather(1, scene.classes) for values in scene.shared[key])
        phi = scene.summed(maps)
        if unit != link:
            phi = torch.full_like(phi, torch.nan)
        metric.update(phi, grand, null, torch.zeros(len(phi), dtype=torch.long, device=phi.device))


class _OfRegions(Measure):
    note = "Of images whose most probable class is their label, where they have one."

    def refusal(self, evaluation: Evaluation, pipeline: Pipeline) -> str | None:
        """Return why a pipeline cannot be measured so, or None if it can."""
        return None if evaluation.test.has_regions else "the data do not say where objects are"

    def regions(self, scene: Scene) -> tuple[Tensor, Tensor]:
        """Return regions (B, H, W) and whether the explained class is the one that they show (B,)."""
        if "regions" not in scene.shared:
            regions = scene.evaluation.test.regions_at(scene.indices)
            assert regions is not None
            scene.shared["regions"] = regions
        labels = scene.evaluation.test.labels[scene.indices]
        return scene.shared["regions"], (labels < 0) | (labels == scene.classes[:, 0].to(labels.device))


class PointingMeasure(_OfRegions):
    """The pointing game, of images whose target is their label, where they have one.

    Args:
        most_cover: As ``PointingGame``.
    """

    def __init__(self, most_cover: Share | None = None) -> None:
        self.most_cover = most_cover

    def metric(self) -> PerImage:
        """Return the metric, empty."""
        return PointingGame(self.most_cover)

    def update(self, metric: PerImage, scene: Scene, maps: Tensor, unit: str | None) -> None:
        """Add a method's maps of a scene's images."""
        regions, right = self.regions(scene)
        metric.update(scene.to_image(maps)[:, 0], (regions == _EVERYTHING) & right[:, None, None])


class SegmentationMeasure(_OfRegions):
    """Otsu's segmentation, of images whose target is their label, where they have one.

    Args:
        confidence: As ``Segmentation``.
        threshold: As ``Segmentation``.
    """

    def __init__(self, confidence: Share = 0.85, threshold: Share | None = None) -> None:
        self.confidence, self.threshold = confidence, threshold

    def metric(self) -> PerImage:
        """Return the metric, empty."""
        return Segmentation(self.confidence, self.threshold)

    def update(self, metric: PerImage, scene: Scene, maps: Tensor, unit: str | None) -> None:
        """Add a method's maps of a scene's images."""
        regions, right = self.regions(scene)
        sure = scene.pipeline.probabilities[scene.indices].amax(dim=1).to(maps.device)
        target = torch.full((len(regions),), _EVERYTHING, device=regions.device)
        metric.update(scene.to_image(maps)[:, 0], regions.long(), target, sure.where(right.to(sure.device), 0))


MEASURES: dict[str, type[Measure]] = {
    "deletion": DeletionMeasure,
    "insertion": InsertionMeasure,
    "sensitivity_n": SensitivityNMeasure,
    "faithfulness_correlation": FaithfulnessCorrelationMeasure,
    "infidelity": InfidelityMeasure,
    "shapley_correlation": ShapleyMeasure,
    "shapley_distance": ShapleyDistanceMeasure,
    "efficiency_gap": EfficiencyMeasure,
    "pointing_game": PointingMeasure,
    "segmentation": SegmentationMeasure,
}


def reference_phi(scene: Scene, link: str) -> Tensor | None:
    """Return the reference Shapley values (B', P, E) of the scene's first images, None if none has any."""
    evaluation, pipeline = scene.evaluation, scene.pipeline
    config = evaluation.run.config.references
    known = scene.indices[: max(0, config.test - scene.place.start)]
    if not len(known):
        return None
    key = "reference", link
    if key not in scene.shared:
        game = pipeline.game(link, evaluation.run.config.trainer.max_batch)
        surrogate = pipeline.runs["surrogate"]
        found = reference_values(surrogate, game, "test", known.tolist(), link, config)
        classes = scene.classes[: len(known)].cpu().unsqueeze(1).expand(-1, found.phi.shape[1], -1)
        scene.shared[key] = found.phi.gather(2, classes)
    return scene.shared[key]
