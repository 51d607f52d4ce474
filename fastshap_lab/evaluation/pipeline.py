"""A pipeline that is evaluated: its models, loaded, and the games that they play."""

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

_BLOCK = 128  # images whose predictions are made at once


def check_removal(removal: str | Mapping[str, Any], key: str) -> None:
    """Raise a ``UserError`` where a removal cannot be applied to the images of any classifier.

    Args:
        removal: Name of a removal, or ``{name, params}``.
        key: Configuration key that it stands under.
    """
    name, params = name_and_params(removal, key)
    lookup(removals(), key, name)
    arguments(removals(), key, name, params, "classifier", "players")


def data_key(data: ImageDataModule) -> list[str | None]:
    """Return what the images and labels of a data set depend on: its content and, of one's own class, its code."""
    return [data.digest(), source("data", type(data))]


def removal_key(removal: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return what units that are removed so depend on, for keys of the store."""
    return identity(removals(), *name_and_params(removal, "params.removal"))


@dataclass
class Pipeline:
    """A finished pipeline, loaded.

    Attributes:
        name: What it is called in tables and figures.
        classifier_name: What its classifier is called there, which pipelines may share.
        runs: Those of its stages.
        digests: Of the stages' models, weights and descriptions.
        grid: The players.
        max_batch: Most images, copies among them, in a pass.
        classifier: What is explained.
        surrogate: What imitates it, if the pipeline goes so far.
        explainer: With its surrogate, if the pipeline goes so far.
        outputs: The classifier's, of all test images (N, K).
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
        """Return a pipeline, given the last of its runs.

        Args:
            name: What it is called.
            end: Its last run, whose parents are the others.
            data: Its images.
            device: Where models and images are.
            store: Keeps the classifier's answers to the test images.
            max_batch: Most images in a pass.
            classifier_name: What its classifier is called; by default as the pipeline.
        """
        runs = end.parents | {end.stage.name: end}
        classifier = load_classifier(runs["classifier"].model).to(device)
        surrogate, explainer = None, None
        if "explainer" in runs:  # which brings its surrogate along
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
        """Return the classifier's logits (B, K) of images in [0, 1]."""
        return self._frozen_classifier(image)

    @property
    def task(self) -> Task:
        """What the classifier's outputs mean."""
        return self.classifier.task

    def predictions(self, indices: Tensor) -> Tensor:
        """Return what the classifier predicts of test images (N, K): probabilities, or a regression's answers."""
        return self.task.predict(self.outputs[indices])

    @property
    def foremost(self) -> Tensor:
        """The class of each test image that is explained before others (N,)."""
        return self.task.foremost(self.outputs)

    @property
    def link(self) -> str:
        """The space of the explainer's values, of a pipeline without one the task's first."""
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
        """Return the surrogate's game, the same one at every call."""
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
