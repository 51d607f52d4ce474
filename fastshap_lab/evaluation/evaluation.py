"""An evaluation, which the sections of the report read: pipelines, methods, images, references and settings."""

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
from fastshap_lab.report import num_classes_shown
from fastshap_lab.runs.store import Store
from fastshap_lab.shapley import Estimate


@dataclass(frozen=True)
class KnownValues:
    """What an evaluation knows of the first test images beside an explainer's answer, in a task's common units.

    Attributes:
        reference: Their true values, of all classes.
        refined: The explainer's answer with evaluations, of the classes that the page shows; None where there are none.
    """

    reference: References
    refined: Estimate | None


@dataclass
class Evaluation:
    """An evaluation of pipelines on the test images.

    Attributes:
        settings: Configured methods, metrics, checks and numbers of images.
        references: Settings of the reference Shapley values.
        trainer: Settings of trainings within the evaluation, such as those of ROAR.
        data: The data set.
        device: Device of models and images.
        pipelines: The pipelines that are evaluated.
        store: Cache of results that take long.
        report: Report that sections are added to.
        refused: Chosen methods that do not apply, as rows of a table.
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
    known_values: dict[str, KnownValues] = field(default_factory=dict)
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
        """Digests that images and labels depend on, for keys of the store."""
        return data_key(self.data)

    @property
    def class_names(self) -> list[str]:
        """Names of the K classes."""
        return self.data.class_names

    @cached_property
    def order(self) -> Tensor:
        """Indices of all test images in a fixed random order (N,); figures and references use the first ones."""
        return reference_order(len(self.test))

    @property
    def evaluated(self) -> Tensor:
        """Indices of the test images that methods are evaluated on, the first ``settings.images`` of ``order``."""
        return self.order[: self.settings.images]

    def classes(self, pipeline: Pipeline) -> Tensor:
        """Return the E classes that methods explain for each evaluated image (N, E), the highest-ranking ones first."""
        number = min(self.settings.classes, len(self.class_names))
        return pipeline.task.ranks(pipeline.predictions(self.evaluated)).topk(number, dim=1).indices

    def shown_classes(self, pipeline: Pipeline, indices: Tensor) -> Tensor:
        """Return the classes (N, E) of test images whose maps the page shows, the foremost first.

        Args:
            pipeline: Pipeline that predicts.
            indices: Indices of the test images (N,).
        """
        number = min(num_classes_shown(pipeline.grid.num_players), len(self.class_names))
        order = pipeline.task.ranks(pipeline.predictions(indices)).argsort(dim=1, descending=True, stable=True)
        return order[:, :number]

    @property
    def explained(self) -> list[Pipeline]:
        """The pipelines that have an explainer."""
        return [pipeline for pipeline in self.pipelines if pipeline.explainer is not None]

    def distinct(self, stage: str) -> list[Pipeline]:
        """Return one pipeline for each run of a stage, the first one that has it."""
        first: dict[str, Pipeline] = {}
        for pipeline in self.pipelines:
            if stage in pipeline.runs:
                first.setdefault(pipeline.runs[stage].fingerprint, pipeline)
        return list(first.values())

    def methods(self, pipeline: Pipeline) -> dict[str, AppliedMethod]:
        """Return the methods that apply to a pipeline, by name; all evaluated images have been explained by each.

        A row for each method that does not apply is added to ``refused``: ``model``, ``method`` and, under
        ``not applicable``, the reason.
        """
        if pipeline.name not in self._applied:
            self._applied[pipeline.name] = dict(self._apply_methods(pipeline))
        return self._applied[pipeline.name]

    def applied_methods(self, pipeline: Pipeline) -> dict[str, AppliedMethod]:
        """Return the methods that sections have applied to a pipeline, by name."""
        return self._applied.get(pipeline.name, {})

    @property
    def baseline(self) -> str:
        """Name of the uninformed method (Random), which other methods are tested against."""
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

        They are computed and cached in whole chunks of the list, so that a later call with a larger number reuses them.

        Args:
            pipeline: Pipeline whose explainer is used.
            indices: Indices of test images (N,).
            number: Number of images to return maps of, at most N.
            classes: Classes to explain for each image of the list (N, E). None: all K.

        Returns:
            Maps (number, E or K, rows, columns), on the CPU.
        """
        indices = indices[: math.ceil(number / CHUNK) * CHUNK]
        chosen = None if classes is None else classes[: len(indices)]
        return self.amortized(pipeline).maps(self.chunks(indices), chosen)[:number]

    def chunks(self, indices: Tensor) -> list[ImageChunk]:
        """Return test images with the given indices in chunks, which are loaded when they are used."""
        return [self._chunk(tuple(part.tolist())) for part in indices.split(CHUNK)]

    def evaluated_chunks(self, pipeline: Pipeline) -> Iterator[tuple[int, ImageChunk, Tensor]]:
        """Yield for each chunk of evaluated images the position of its first image, the chunk and classes (B, E)."""
        parts = zip(self.chunks(self.evaluated), self.classes(pipeline).split(CHUNK), strict=True)
        for number, (chunk, classes) in enumerate(parts):
            yield number * CHUNK, chunk, classes

    def target_maps(self, pipeline: Pipeline, method: AppliedMethod, chosen: slice) -> Tensor:
        """Return a method's maps (N, rows, columns) of the targets of some evaluated images, from the store.

        Args:
            pipeline: Pipeline whose models are explained.
            method: Method on that pipeline.
            chosen: Positions of the images among the evaluated ones.
        """
        start, stop, _ = chosen.indices(len(self.evaluated))
        parts = [
            method.explain(chunk, classes)["maps"][max(start - place, 0) : stop - place, 0]
            for place, chunk, classes in self.evaluated_chunks(pipeline)
            if place < stop and start < place + len(classes)
        ]
        return torch.cat(parts).to(self.device)

    def reference_values(self, pipeline: Pipeline, indices: Tensor, link: str) -> References:
        """Return the reference Shapley values of test images in the game of a pipeline's surrogate.

        Args:
            pipeline: Pipeline whose surrogate defines the game.
            indices: Indices of the test images (N,).
            link: Space of the values, a name in ``LINKS``.
        """
        digest = pipeline.digests["surrogate"]
        images = self.test.images_at(indices)
        return reference_values(self.store, digest, pipeline.game(link), images, "test", link, self.references)

    def result_key(self, pipeline: Pipeline, chosen: slice, models: Sequence[str] = ("classifier",)) -> dict[str, Any]:
        """Return models, players, images and targets that results on some evaluated images depend on, as a key.

        Args:
            pipeline: Pipeline whose models are used.
            chosen: Positions of the images among the evaluated ones.
            models: Names of the stages whose models are used.
        """
        return {
            "models": {stage: pipeline.digests[stage] for stage in models},
            "grid": pipeline.grid.shape,
            "images": [chunk.digest for chunk in self.chunks(self.evaluated[chosen])],
            "target": self.classes(pipeline)[chosen, 0].tolist(),
        }

    def caption(self, index: int, target: int) -> str:
        """Return the text beside a test image: its label, if it has one, and the class that is explained.

        Args:
            index: Index of the test image.
            target: Index of the explained class.
        """
        (label,), explained = self.labels_of(torch.tensor([index])), f"explained: {self.class_names[target]}"
        return f"label: {label}\n{explained}" if label else explained

    def labels_of(self, indices: Tensor) -> list[str]:
        """Return the labels of test images in words, empty for images without a label."""
        labels = self.test.labels.cpu()[indices]
        return [self.data.task.label_in_words(label, self.class_names) for label in labels]

    @property
    def labelled(self) -> bool:
        """Whether all test images have labels."""
        return bool(self.data.task.labelled(self.test.labels).all())

    def images(self, indices: Tensor) -> Tensor:
        """Return test images in [0, 1] (B, 3, H, W), on the device."""
        return self.test.images_at(indices).float() / 255

    def pictures(self, indices: Tensor) -> np.ndarray:
        """Return test images in [0, 1] as NumPy arrays (B, H, W, 3), for figures."""
        return self.images(indices).cpu().permute(0, 2, 3, 1).numpy()

    def _chunk(self, indices: tuple[int, ...]) -> ImageChunk:
        """Return a chunk of test images; it is the same object at every call, so that its digest is computed once."""

        def load() -> Tensor:
            if self._loaded is None or self._loaded[0] != indices:  # all methods in turn reuse the chunk decoded last
                self._loaded = indices, self.test.images_at(torch.tensor(indices))
            return self._loaded[1]

        return self._chunks.setdefault(indices, ImageChunk(load))

    def _apply_methods(self, pipeline: Pipeline) -> Iterator[tuple[str, AppliedMethod]]:
        """Explain all evaluated images by all methods; yield the methods that apply, add the others to ``refused``."""
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
