"""A pipeline that is evaluated, with its models and their games."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fastshap_lab.components import arguments, lookup, name_and_params
from fastshap_lab.data import ImageDataModule
from fastshap_lab.inference import AmortizedExplainer, load_classifier, load_explainer, load_surrogate
from fastshap_lab.models import Classifier, ModelGame, Surrogate, Task
from fastshap_lab.models.freezing import frozen_copy
from fastshap_lab.models.maskings import build_masking, removals
from fastshap_lab.runs.run import Run
from fastshap_lab.runs.sources import identity, source
from fastshap_lab.runs.store import Store
from fastshap_lab.shapley import PlayerGrid

_BLOCK = 128  # number of images in a batch of predictions


def check_removal(removal: str | Mapping[str, Any], key: str) -> None:
    """Raise a ``UserError`` if a removal is unknown, has wrong arguments, or is not for any classifier's images.

    Args:
        removal: Name of a removal, or ``{name, params}``.
        key: Configuration key that it stands under.
    """
    name, params = name_and_params(removal, key)
    lookup(removals(), key, name)
    arguments(removals(), key, name, params, "classifier", "players")


def data_key(data: ImageDataModule) -> list[str | None]:
    """Return what images and labels of a data set depend on: its digest and, if its class is a user's, its code."""
    return [data.digest(), source("data", type(data))]


def removal_key(removal: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return what the images under a removal depend on, for keys of the store."""
    return identity(removals(), *name_and_params(removal, "params.removal"))


@dataclass
class Pipeline:
    """A finished pipeline, whose models are loaded.

    Attributes:
        name: Name in tables and figures.
        classifier_name: Name of the classifier in tables and figures; pipelines may share a classifier.
        runs: Runs by the names of their stages.
        digests: SHA-256 of the stages' models, by the names of the stages.
        grid: Grid of the players.
        max_batch: Maximum number of images in a pass; masked copies of an image count one each.
        classifier: The model that is explained.
        surrogate: The surrogate, or None if the pipeline has none.
        explainer: The trained explainer, or None if the pipeline has none.
        outputs: Outputs of the classifier for all test images (N, K).
    """

    name: str
    classifier_name: str
    runs: dict[str, Run]
    digests: dict[str, str]
    grid: PlayerGrid
    max_batch: int
    classifier: Classifier
    surrogate: Surrogate | None
    explainer: AmortizedExplainer | None
    outputs: Tensor
    _games: dict[str, ModelGame] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def load(
        cls,
        name: str,
        end: Run,
        data: ImageDataModule,
        device: torch.device,
        store: Store,
        max_batch: int,
        classifier_name: str | None = None,
    ) -> "Pipeline":
        """Return a pipeline from the last of its runs.

        Args:
            name: Name in tables and figures.
            end: The last run, whose parents are the other runs.
            data: The data set.
            device: Device of models and images.
            store: Cache of the classifier's outputs for the test images.
            max_batch: Maximum number of images in a pass.
            classifier_name: Name of the classifier. None: the name of the pipeline.
        """
        runs = end.parents | {end.stage.name: end}
        classifier = load_classifier(runs["classifier"].model).to(device)
        surrogate, explainer = None, None
        if "explainer" in runs:  # its model folder contains the surrogate
            explainer = load_explainer(runs["explainer"].model).to(device)
            surrogate = explainer.surrogate
        elif "surrogate" in runs:
            surrogate = load_surrogate(runs["surrogate"].model).to(device)
        rows, columns = end.config.data.grid
        grid = PlayerGrid(data.image_size, (rows, columns))
        digests = {
            stage: runs[stage].model_digest for stage in ("classifier", "surrogate", "explainer") if stage in runs
        }
        called = classifier_name or name
        loaded = cls(name, called, runs, digests, grid, max_batch, classifier, surrogate, explainer, torch.empty(0))

        def answers() -> dict[str, Tensor]:
            images = data.dataset("test")
            blocks = images.blocks(torch.arange(len(images)).split(_BLOCK))
            return {"logits": torch.cat([loaded.logits(block.float() / 255).cpu() for block in blocks])}

        key = {"classifier": digests["classifier"], "data": data_key(data), "split": "test"}
        loaded.outputs = store.get("predictions", key, answers)["logits"]
        return loaded

    @torch.inference_mode()
    def logits(self, image: Tensor) -> Tensor:
        """Return the classifier's logits (B, K) for images in [0, 1] (B, 3, H, W)."""
        return self._frozen_classifier(image)

    @property
    def task(self) -> Task:
        """Task of the classifier."""
        return self.classifier.task

    def predictions(self, indices: Tensor) -> Tensor:
        """Return the classifier's predictions for test images (N, K): probabilities, or values of a regression."""
        return self.task.predict(self.outputs[indices])

    @property
    def foremost(self) -> Tensor:
        """Target of each test image, the class with the highest rank (N,)."""
        return self.task.foremost(self.outputs)

    @property
    def link(self) -> str:
        """Space of the explainer's values, a name in ``LINKS``; without an explainer, the first of the task."""
        return self.task.links[0] if self.explainer is None else self.explainer.link

    def in_words(self, classes: Tensor, predictions: Tensor, class_names: Sequence[str]) -> list[str]:
        """Return, for each image, its class and what the prediction says of that class, as printed under its map.

        Args:
            classes: Class of each image (B,).
            predictions: Predictions (B, K), as ``Task.predict`` returns them.
            class_names: Names of all K classes.
        """
        said = predictions.gather(1, classes.to(predictions.device).unsqueeze(1)).squeeze(1)
        pairs = zip(classes.tolist(), said.tolist(), strict=True)
        return [f"{class_names[k]}: {self.task.answer_format.format(value)}" for k, value in pairs]

    def game(self, link: str) -> ModelGame:
        """Return the surrogate's game with a link; it is the same object at every call."""
        if link not in self._games:
            self._games[link] = self._frozen_surrogate.game(link, self.max_batch)
        return self._games[link]

    def removal_game(self, grid: PlayerGrid, removal: str | Mapping[str, Any]) -> ModelGame:
        """Return the game of the classifier's own logits under a removal.

        Args:
            grid: The players.
            removal: Entry of ``maskings.removals``, which shows absent players.
        """
        masking = build_masking(removal, self._frozen_classifier, grid, "params.removal")
        game = ModelGame(self._frozen_classifier, masking, "logits", self.max_batch)
        return game.to(self.classifier.mean.device)

    @cached_property
    def _frozen_classifier(self) -> Classifier:
        return frozen_copy(self.classifier)

    @cached_property
    def _frozen_surrogate(self) -> Surrogate:
        assert self.surrogate is not None
        return frozen_copy(self.surrogate)
