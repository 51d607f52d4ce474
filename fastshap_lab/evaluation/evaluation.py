"""What the sections of an evaluation read: pipelines, methods, images, references and settings."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastshap_lab.attribution import METHODS
from fastshap_lab.config import ComponentConfig, EvaluateConfig, ReferencesConfig, TrainerConfig
from fastshap_lab.data import ImageDataModule
from fastshap_lab.data.splits import ImageSplit
from fastshap_lab.errors import UserError
from fastshap_lab.evaluation.methods import CHUNK, AppliedMethod, ImageChunk, apply_method, with_uncalled
from fastshap_lab.evaluation.pipeline import Pipeline, data_key
from fastshap_lab.evaluation.references import References, reference_order, reference_values
from fastshap_lab.evaluation.report import Report
from fastshap_lab.progress import track
from fastshap_lab.runs.store import Store


@dataclass
class Evaluation:
    """An evaluation under way.

    Attributes:
        settings: What to measure and draw.
        references: Which images have true values, and how these are found.
        trainer: How trainings of the evaluation's own are run.
        data: The images.
        device: Where models and images are.
        pipelines: What is evaluated.
        store: Keeps what took long.
        report: Where results go.
        refused: Methods that were chosen and do not apply.
    """

    settings: EvaluateConfig
    references: ReferencesConfig
    trainer: TrainerConfig
    data: ImageDataModule
    device: torch.device
    pipelines: list[Pipeline]
    store: Store
    report: Report
    refused: list[dict[str, str]] = field(default_factory=list)
    _chunks: dict[tuple[int, ...], ImageChunk] = field(default_factory=dict, init=False, repr=False)
    _loaded: tuple[tuple[int, ...], Tensor] | None = field(default=None, init=False, repr=False)
    _applied: dict[str, dict[str, AppliedMethod]] = field(default_factory=dict, init=False, repr=False)
    _amortized: dict[str, AppliedMethod] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def test(self) -> ImageSplit:
        """The test images."""
        return self.data.dataset("test")

    @cached_property
    def data_key(self) -> list[str | None]:
        """What the images and labels depend on, for keys of the store."""
        return data_key(self.data)

    @property
    def class_names(self) -> list[str]:
        """K class names."""
        return self.data.class_names

    @cached_property
    def order(self) -> Tensor:
        """All test images in a fixed random order, in which they are shown, and get references."""
        return reference_order(len(self.test))

    @property
    def evaluated(self) -> Tensor:
        """Indices of the test images that methods are evaluated on."""
        return self.order[: self.settings.images]

    def classes(self, pipeline: Pipeline) -> Tensor:
        """Return the classes (N, E) that methods explain of each evaluated image: the foremost ones, in turn."""
        number = min(self.settings.classes, len(self.class_names))
        return pipeline.task.ranks(pipeline.predictions(self.evaluated)).topk(number, dim=1).indices

    @property
    def explained(self) -> list[Pipeline]:
        """The pipelines that have an explainer."""
        return [pipeline for pipeline in self.pipelines if pipeline.explainer is not None]

    def distinct(self, stage: str) -> list[Pipeline]:
        """Return the first pipeline of each run of a stage, in order."""
        first: dict[str, Pipeline] = {}
        for pipeline in self.pipelines:
            if stage in pipeline.runs:
                first.setdefault(pipeline.runs[stage].fingerprint, pipeline)
        return list(first.values())

    def methods(self, pipeline: Pipeline) -> dict[str, AppliedMethod]:
        """Return the methods that apply to a pipeline, by name; each has explained all evaluated images.

        Those that do not apply are noted in ``refused``: ``model``, ``method`` and, under ``not applicable``, the
        reason.
        """
        if pipeline.name not in self._applied:
            self._applied[pipeline.name] = dict(self._apply_methods(pipeline))
        return self._applied[pipeline.name]

    @property
    def baseline(self) -> str:
        """The name of the method that knows nothing, against which others are tested."""
        return next(name for name, one in with_uncalled(self.settings.methods).items() if METHODS[one.name].uninformed)

    def amortized(self, pipeline: Pipeline) -> AppliedMethod:
        """Return a pipeline's trained explainer as a method."""
        if pipeline.name not in self._amortized:
            self._amortized[pipeline.name] = apply_method(
                "explainer", ComponentConfig("explainer"), pipeline, self.store
            )
        return self._amortized[pipeline.name]

    def explainer_maps(self, pipeline: Pipeline, indices: Tensor, number: int, classes: Tensor | None = None) -> Tensor:
        """Return the trained explainer's maps of the first test images of a list.

        They are made and kept in whole chunks of the list, so that a larger number later finds these.

        Args:
            pipeline: Whose explainer.
            indices: The list, indices of test images (N,).
            number: How many of them are wanted.
            classes: The classes explained of each of the list (N, E); all K if None.

        Returns:
            (number, E or K, rows, columns), on the CPU.
        """
        indices = indices[: math.ceil(number / CHUNK) * CHUNK]
        chosen = None if classes is None else classes[: len(indices)]
        return self.amortized(pipeline).maps(self.chunks(indices), chosen)[:number]

    def chunks(self, indices: Tensor) -> list[ImageChunk]:
        """Return test images in chunks, which are loaded one at a time."""
        return [self._chunk(tuple(part.tolist())) for part in indices.split(CHUNK)]

    def evaluated_chunks(self, pipeline: Pipeline) -> Iterator[tuple[int, ImageChunk, Tensor]]:
        """Yield the evaluated images in chunks: place of the first, images, classes explained (B, E)."""
        parts = zip(self.chunks(self.evaluated), self.classes(pipeline).split(CHUNK), strict=True)
        for number, (chunk, classes) in enumerate(parts):
            yield number * CHUNK, chunk, classes

    def target_maps(self, pipeline: Pipeline, method: AppliedMethod, chosen: slice) -> Tensor:
        """Return a method's maps (N, rows, columns) of the targets of some evaluated images, which are kept already.

        Args:
            pipeline: Whose models are explained.
            method: On it.
            chosen: Places of the images among the evaluated ones.
        """
        start, stop, _ = chosen.indices(len(self.evaluated))
        parts = [
            method.explain(chunk, classes)["maps"][max(start - place, 0) : stop - place, 0]
            for place, chunk, classes in self.evaluated_chunks(pipeline)
            if place < stop and start < place + len(classes)
        ]
        return torch.cat(parts).to(self.device)

    def reference_values(self, pipeline: Pipeline, indices: Tensor, link: str) -> References:
        """Return the true Shapley values of test images in a pipeline's surrogate's game.

        Args:
            pipeline: Its surrogate plays the game.
            indices: Of the test images (N,).
            link: The space of the values.
        """
        digest = pipeline.digests["surrogate"]
        images = self.test.images_at(indices)
        return reference_values(self.store, digest, pipeline.game(link), images, "test", link, self.references)

    def result_key(self, pipeline: Pipeline, chosen: slice, models: Sequence[str] = ("classifier",)) -> dict[str, Any]:
        """Return what results on some evaluated images depend on: models, players, images, targets.

        Args:
            pipeline: Whose models are asked.
            chosen: Places of the images among the evaluated ones.
            models: The stages whose models are asked.
        """
        return {
            "models": {stage: pipeline.digests[stage] for stage in models},
            "grid": pipeline.grid.shape,
            "images": [chunk.digest for chunk in self.chunks(self.evaluated[chosen])],
            "target": self.classes(pipeline)[chosen, 0].tolist(),
        }

    def caption(self, index: int, target: int) -> str:
        """Return the text beside a test image: its label, where there is one, and the class that is explained.

        Args:
            index: Index of the test image.
            target: Index of the explained class.
        """
        (label,), explained = self.labels_of(torch.tensor([index])), f"explained: {self.class_names[target]}"
        return f"label: {label}\n{explained}" if label else explained

    def labels_of(self, indices: Tensor) -> list[str]:
        """Return what test images show, nothing of those of which the data do not say it."""
        labels = self.test.labels.cpu()[indices]
        return [self.data.task.label_in_words(label, self.class_names) for label in labels]

    @property
    def labelled(self) -> bool:
        """Whether the data say what test images show."""
        return bool(self.data.task.labelled(self.test.labels).all())

    def images(self, indices: Tensor) -> Tensor:
        """Return test images in [0, 1], on the device."""
        return self.test.images_at(indices).float() / 255

    def pictures(self, indices: Tensor) -> np.ndarray:
        """Return test images as figures take them (B, H, W, 3)."""
        return self.images(indices).cpu().permute(0, 2, 3, 1).numpy()

    def _chunk(self, indices: tuple[int, ...]) -> ImageChunk:
        """Return a chunk of test images, the same one, and with it its digest, at every call."""

        def load() -> Tensor:
            if self._loaded is None or self._loaded[0] != indices:  # what was decoded last, serves all methods in turn
                self._loaded = indices, self.test.images_at(torch.tensor(indices))
            return self._loaded[1]

        return self._chunks.setdefault(indices, ImageChunk(load))

    def _apply_methods(self, pipeline: Pipeline) -> Iterator[tuple[str, AppliedMethod]]:
        """Explain all evaluated images by all methods; yield those that can, note the others."""
        if not (self.settings.methods or self.settings.checks):
            return
        chosen = with_uncalled(self.settings.methods)
        for name, component in track(list(chosen.items()), f"methods on {pipeline.name}"):
            try:
                applied = apply_method(name, component, pipeline, self.store)
                for _, chunk, classes in self.evaluated_chunks(pipeline):
                    applied.explain(chunk, classes)
            except UserError as error:
                if name in self.settings.methods:
                    row = {"model": pipeline.name, "method": name, "not applicable": str(error)}
                    self.refused.append(row)
                continue
            yield name, applied
