"""Feeders, which compute the inputs of the metrics that compare attribution methods, one class for each kind of input.

A metric names its feeder in ``PerImage.feed``. The arguments of its ``update`` have the names of the feeder's inputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fastshap_lab.attribution import upsample
from fastshap_lab.components import Component, Share, in_words
from fastshap_lab.errors import UserError
from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.methods import ImageChunk
from fastshap_lab.evaluation.pipeline import Pipeline, check_removal, removal_key
from fastshap_lab.evaluation.references import reference_key
from fastshap_lab.evaluation.statistics import player_values
from fastshap_lab.metrics import coalition_values, sensitivity_coalitions
from fastshap_lab.models import ModelGame, Task
from fastshap_lab.models.maskings import removals
from fastshap_lab.runs.store import content_digest
from fastshap_lab.shapley import LINKS, PlayerGrid

_SURROGATE = "surrogate"
_OBJECT = 1  # value of an object's pixels in a region

Links = Literal["softmax", "log_softmax", "log_odds", "logits", "centred_logits", "sigmoid", "identity"]
Inputs = dict[str, Any]


@dataclass
class EvaluationBatch:
    """A few evaluated images of a pipeline with their explained classes, and values that all methods share.

    Attributes:
        evaluation: The evaluation.
        pipeline: Pipeline whose classifier is explained.
        start: Position of the first image among the evaluated ones.
        indices: Indices of the images among the test images (B,).
        chunk: The images.
        classes: Explained classes of each image, the target first (B, E).
        shared: Values that a feeder has computed for one method and reuses for the others.
    """

    evaluation: Evaluation
    pipeline: Pipeline
    start: int
    indices: Tensor
    chunk: ImageChunk
    classes: Tensor
    shared: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def image(self) -> Tensor:
        """The images in [0, 1] (B, 3, H, W)."""
        return self.chunk.images.float() / 255

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return a value that is the same for all methods. It is computed at the first call.

        Args:
            key: What the value is stored under for the batch.
            make: Function that computes it.
        """
        if key not in self.shared:
            self.shared[key] = make()
        return self.shared[key]

    def summed(self, maps: Tensor) -> Tensor:
        """Return the sums of maps (B, E, rows, columns) over the cells of each player (B, P, E)."""
        grid = self.pipeline.grid
        return player_values(maps, grid) * (maps[0, 0].numel() / grid.num_players)

    def to_image(self, maps: Tensor) -> Tensor:
        """Return maps (B, E, rows, columns), enlarged to image size."""
        height, width = self.image.shape[-2:]
        return maps if maps.shape[-2:] == (height, width) else upsample(maps, (height, width))


class Feeder(ABC):
    """Computes the inputs of a metric. Arguments of its constructor come from ``evaluate.metrics.<name>.params``.

    Attributes:
        link: Configured space of the values, a name in ``shapley.game.LINKS``. None: the pipeline's own, or the inputs
            contain no values.
    """

    link: str | None = None

    def space(self, pipeline: Pipeline) -> str:
        """Return the space of the values: the configured one, or else that of the pipeline's explainer."""
        return self.link or pipeline.link

    def check(self, task: Task, key: str) -> None:
        """Raise a ``UserError`` if Shapley values are not determined in the configured space.

        Args:
            task: Task of the data.
            key: Key of the metric in the configuration, for error lines.
        """
        if self.link is not None:
            task.check_link(self.link, f"{key}.params.link")

    def refusal(self, evaluation: Evaluation, pipeline: Pipeline) -> str | None:
        """Return the reason why this feeder does not apply to a pipeline, or None if it does.

        Args:
            evaluation: The evaluation.
            pipeline: Pipeline to be measured.
        """
        return None

    @abstractmethod
    def key(self, batch: EvaluationBatch) -> Any:
        """Return what the inputs depend on beside maps, classes and images, as values that JSON can represent."""

    @abstractmethod
    def inputs(self, batch: EvaluationBatch, maps: Tensor, in_units: Callable[[str], bool]) -> Inputs | None:
        """Return the arguments of a metric's ``update``, by name, or None if none of the images can be measured.

        Args:
            batch: The images.
            maps: Maps of a method (B, E, rows, columns), on the device of the images.
            in_units: Function that returns whether the maps' values are differences of values in a space, by its link.
        """


class _OfCoalitions(Feeder):
    """A feeder that evaluates coalitions.

    Args:
        removal: How absent players are removed: ``surrogate`` evaluates the surrogate with its masking, a name in
            ``maskings.removals`` evaluates the classifier itself.

    Raises:
        UserError: The removal is unknown.
    """

    def __init__(self, removal: Component) -> None:
        if removal != _SURROGATE:
            check_removal(removal, "params.removal")
        self.removal = removal

    def refusal(self, evaluation: Evaluation, pipeline: Pipeline) -> str | None:
        """Return why a pipeline cannot be measured so, or None if it can."""
        if self.removal == _SURROGATE and pipeline.surrogate is None:
            return f"it has no surrogate; params.removal={', '.join(removals())} need none"
        return None

    def game(self, pipeline: Pipeline, grid: PlayerGrid) -> ModelGame:
        """Return the game of the logits whose players are those of a grid.

        Args:
            pipeline: Pipeline whose surrogate or classifier is evaluated.
            grid: The players; with a removal by the surrogate, they are always the pipeline's own.
        """
        if self.removal != _SURROGATE:
            return pipeline.removal_game(grid, self.removal)
        return pipeline.game("logits")

    def key(self, batch: EvaluationBatch) -> Any:
        """Return what the inputs depend on."""
        pipeline = batch.pipeline
        model = "surrogate" if self.removal == _SURROGATE else "classifier"
        removal = None if self.removal == _SURROGATE else removal_key(self.removal)
        return {"model": pipeline.digests[model], "grid": pipeline.grid.shape, "removal": removal}


class RemovalFeeder(_OfCoalitions):
    """Computes inputs for metrics that delete or insert units in the order of their values.

    Args:
        units: ``players`` or ``pixels``.
        removal: How absent units are removed: ``surrogate`` evaluates the surrogate, whose units must be players, a
            name in ``maskings.removals`` evaluates the classifier itself.

    Raises:
        UserError: Pixels cannot be removed by the surrogate, or the removal is unknown.
    """

    def __init__(self, units: Literal["players", "pixels"] = "players", removal: Component = _SURROGATE) -> None:
        super().__init__(removal)
        if units == "pixels" and removal == _SURROGATE:
            raise UserError("params.units=pixels: a surrogate can remove players only; choose another params.removal")
        self.units = units

    def key(self, batch: EvaluationBatch) -> Any:
        """Return what the inputs depend on."""
        return super().key(batch) | {"units": self.units}

    def inputs(self, batch: EvaluationBatch, maps: Tensor, in_units: Callable[[str], bool]) -> Inputs:
        """Return ``value_fn``, ``image``, ``phi`` and ``classes``."""
        grid = batch.pipeline.grid
        grid = grid if self.units == "players" else PlayerGrid(grid.image_size, grid.image_size)
        values = batch.once(
            ("game", in_words(self.removal), self.units), lambda: self.game(batch.pipeline, grid)
        ).values
        return {"value_fn": values, "image": batch.image, "phi": player_values(maps, grid), "classes": batch.classes}


class CoalitionFeeder(_OfCoalitions):
    """Computes inputs for metrics that compare sums of attributions to values of random coalitions.

    Args:
        coalitions: Number of coalitions.
        share: Fraction of the players that are present. None: coalition sizes are drawn uniformly.
        seed: Seed for drawing coalitions.
        link: Space of the values, a name in ``shapley.game.LINKS``. None: that of the pipeline's explainer or, without
            an explainer, the first of the task.
        removal: How absent players are removed, as for ``RemovalFeeder``.
    """

    def __init__(
        self,
        coalitions: Annotated[int, Field(ge=2)] = 256,
        share: Share | None = None,
        seed: int = 0,
        link: Links | None = None,
        removal: Component = _SURROGATE,
    ) -> None:
        super().__init__(removal)
        self.coalitions, self.share, self.seed, self.link = coalitions, share, seed, link

    def check(self, task: Task, key: str) -> None:
        """Raise a ``UserError`` if values are not determined in the space; logits of a classifier always are."""
        if self.removal == _SURROGATE or self.link != "logits":
            super().check(task, key)

    def key(self, batch: EvaluationBatch) -> Any:
        """Return what the inputs depend on."""
        drawn = {"coalitions": self.coalitions, "share": self.share, "seed": self.seed}
        return super().key(batch) | drawn | {"link": self.space(batch.pipeline)}

    def inputs(self, batch: EvaluationBatch, maps: Tensor, in_units: Callable[[str], bool]) -> Inputs:
        """Return ``phi``, ``coalitions``, ``values``, ``grand``, ``classes`` and ``in_units``."""
        pipeline = batch.pipeline
        players, link = pipeline.grid.num_players, self.space(pipeline)
        size = None if self.share is None else max(1, round(self.share * players))
        coalitions = sensitivity_coalitions(players, self.coalitions, size, self.seed)

        def evaluate() -> Tensor:
            everyone = torch.ones(1, 1, players, dtype=torch.bool)
            game = self.game(pipeline, pipeline.grid)
            both = torch.cat([coalitions, everyone], dim=1)
            return LINKS[link](coalition_values(game.values, batch.image, both, pipeline.max_batch))

        values = batch.once(("values", in_words(self.removal), self.coalitions, size, self.seed, link), evaluate)
        return {
            "phi": batch.summed(maps),
            "coalitions": coalitions,
            "values": values[:, :-1],
            "grand": values[:, -1],
            "classes": batch.classes,
            "in_units": in_units(link),
        }


class _OfSurrogate(Feeder):
    """A feeder that evaluates the surrogate's game.

    Args:
        link: Space of the values, a name in ``shapley.game.LINKS``. None: that of the pipeline's explainer or, without
            an explainer, the first of the task.
    """

    def __init__(self, link: Links | None = None) -> None:
        self.link = link

    def refusal(self, evaluation: Evaluation, pipeline: Pipeline) -> str | None:
        """Return why a pipeline cannot be measured so, or None if it can."""
        return "it has no surrogate, whose game defines Shapley values" if pipeline.surrogate is None else None

    def key(self, batch: EvaluationBatch) -> Any:
        """Return what the inputs depend on."""
        return {"surrogate": batch.pipeline.digests["surrogate"], "link": self.space(batch.pipeline)}


class ReferenceFeeder(_OfSurrogate):
    """Computes inputs for metrics that compare attributions to reference Shapley values, for the images that have them.

    Args:
        link: Space of the values, as for ``CoalitionFeeder``.
    """

    def refusal(self, evaluation: Evaluation, pipeline: Pipeline) -> str | None:
        """Return why a pipeline cannot be measured so, or None if it can."""
        if not evaluation.references.test:
            return "references.test is 0"
        return super().refusal(evaluation, pipeline)

    def key(self, batch: EvaluationBatch) -> Any:
        """Return what the inputs depend on."""
        asked = reference_key(batch.evaluation.references, "test", batch.pipeline.grid.num_players)
        return super().key(batch) | {"references": len(self._known(batch))} | asked

    def inputs(self, batch: EvaluationBatch, maps: Tensor, in_units: Callable[[str], bool]) -> Inputs | None:
        """Return ``phi``, ``reference`` and ``in_units``."""
        known, link = self._known(batch), self.space(batch.pipeline)
        if not len(known):
            return None

        def truth() -> Tensor:
            found = batch.evaluation.reference_values(batch.pipeline, known, link)
            classes = batch.classes[: len(known)].cpu().unsqueeze(1).expand(-1, found.phi.shape[1], -1)
            return found.phi.gather(2, classes)

        reference = batch.once(("reference", link), truth)
        phi = batch.summed(maps)[: len(known)].to(reference)
        return {"phi": phi, "reference": reference, "in_units": in_units(link)}

    @staticmethod
    def _known(batch: EvaluationBatch) -> Tensor:
        return batch.indices[: max(0, batch.evaluation.references.test - batch.start)]


class TotalFeeder(_OfSurrogate):
    """Computes inputs for metrics that compare the sum of attributions to the game's grand and null values.

    Args:
        link: Space of the values, as for ``CoalitionFeeder``.
    """

    def inputs(self, batch: EvaluationBatch, maps: Tensor, in_units: Callable[[str], bool]) -> Inputs:
        """Return ``phi``, ``grand``, ``null``, ``target`` (0, the first of the explained classes) and ``in_units``."""
        link = self.space(batch.pipeline)

        def ends() -> tuple[Tensor, Tensor]:
            game = batch.pipeline.game(link)
            return game.grand(batch.image), game.null(batch.image).expand(len(batch.image), -1)

        grand, null = (values.gather(1, batch.classes) for values in batch.once(("ends", link), ends))
        target = torch.zeros(len(maps), dtype=torch.long, device=maps.device)
        phi = batch.summed(maps)
        return {"phi": phi, "grand": grand, "null": null, "target": target, "in_units": in_units(link)}


class RegionFeeder(Feeder):
    """Computes inputs for metrics that compare maps to the regions of objects.

    Images with labels other than the target have no object in ``regions``.
    """

    def refusal(self, evaluation: Evaluation, pipeline: Pipeline) -> str | None:
        """Return why a pipeline cannot be measured so, or None if it can."""
        if not pipeline.task.names_classes:
            return f"regions are of objects, and the outputs of a {pipeline.task.name} are no classes of objects"
        return None if evaluation.test.has_regions else "the data have no regions of objects"

    def key(self, batch: EvaluationBatch) -> Any:
        """Return what the inputs depend on."""
        regions, right = self._regions(batch)
        return {"regions": content_digest(regions, right), "classifier": batch.pipeline.digests["classifier"]}

    def inputs(self, batch: EvaluationBatch, maps: Tensor, in_units: Callable[[str], bool]) -> Inputs:
        """Return ``maps`` of the target at image size, ``regions``, ``labels``, ``target`` and ``probability``."""
        regions, right = self._regions(batch)
        sure = batch.pipeline.predictions(batch.indices).amax(dim=1).to(maps.device)
        return {
            "maps": batch.to_image(maps)[:, 0],
            "regions": (regions == _OBJECT) & right[:, None, None],
            "labels": regions.long(),
            "target": torch.full((len(regions),), _OBJECT, device=regions.device),
            "probability": sure.where(right.to(sure.device), 0),
        }

    @staticmethod
    def _regions(batch: EvaluationBatch) -> tuple[Tensor, Tensor]:
        """Return regions (B, H, W), and whether the target is the only label or there is no label (B,)."""
        test, task, number = batch.evaluation.test, batch.pipeline.task, len(batch.evaluation.class_names)
        regions = batch.once("regions", lambda: test.regions_at(batch.indices))
        labels = test.labels[batch.indices]
        target = torch.nn.functional.one_hot(batch.classes[:, 0].to(labels.device), number).bool()
        shown = (task.label_classes(labels, number) == target).all(dim=1)
        return regions, ~task.labelled(labels) | shown


FEEDERS: dict[str, type[Feeder]] = {
    "removal": RemovalFeeder,
    "coalitions": CoalitionFeeder,
    "references": ReferenceFeeder,
    "totals": TotalFeeder,
    "regions": RegionFeeder,
}
