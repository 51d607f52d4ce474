"""What the parts of an evaluation share: its pipelines, loaded, and the report they write to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fastshap_lab.config import arguments, lookup, name_and_params
from fastshap_lab.data.splits import ImageSplit
from fastshap_lab.inference import AmortizedExplainer, load_classifier, load_explainer, load_surrogate
from fastshap_lab.models import Classifier, ModelGame, Surrogate
from fastshap_lab.models.freezing import frozen
from fastshap_lab.models.maskings import build_masking, removals
from fastshap_lab.report import Section, save_figure, write_table
from fastshap_lab.shapley import PlayerGrid
from fastshap_lab.stages.common import batches, device_of
from fastshap_lab.stages.references import reference_order
from fastshap_lab.stages.runs import Run

EXPLAINER, RANDOM = "explainer", "random"  # methods that are more than entries of a table


def check_removal(removal: str | Mapping[str, Any], key: str) -> None:
    """Raise a ``UserError`` where units cannot be removed so from the images of any classifier."""
    name, params = name_and_params(removal, key)
    lookup(removals(), key, name)
    arguments(removals(), key, name, params, "classifier", "players")


@dataclass
class Pipeline:
    """A finished pipeline, loaded.

    Attributes:
        name: What it is called in tables and figures.
        runs: Those of its stages.
        classifier: What is explained.
        surrogate: What imitates it, if the pipeline goes so far.
        explainer: With its surrogate, if the pipeline goes so far.
        probabilities: The classifier's, of all test images (N, K).
    """

    name: str
    runs: dict[str, Run]
    classifier: Classifier
    surrogate: Surrogate | None
    explainer: AmortizedExplainer | None
    probabilities: Tensor
    _games: dict[tuple[str, int], ModelGame] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def load(cls, evaluation: Run, name: str, end: Run) -> "Pipeline":
        """Return a pipeline, given the last of its runs."""
        runs, device = end.parents | {end.stage: end}, device_of(evaluation)
        classifier = load_classifier(runs["classifier"].model).to(device)
        surrogate, explainer = None, None
        if "explainer" in runs:  # which brings its surrogate along
            explainer = load_explainer(runs["explainer"].model).to(device)
            surrogate = explainer.surrogate
        elif "surrogate" in runs:
            surrogate = load_surrogate(runs["surrogate"].model).to(device)
        loaded = cls(name, runs, classifier, surrogate, explainer, torch.empty(0))
        logits = torch.cat([loaded.logits(image) for image, _ in batches(evaluation, "test")]).cpu()
        loaded.probabilities = logits.softmax(dim=-1)
        return loaded

    @torch.inference_mode()
    def logits(self, image: Tensor) -> Tensor:
        """Return the classifier's logits (B, K) of images in [0, 1]."""
        return self._asked(image)

    @property
    def original(self) -> str:
        """What the classifier is called: pipelines that share one are named "<classifier> by <surrogate>"."""
        return self.name.partition(" by ")[0]

    @property
    def predictions(self) -> Tensor:
        """The classifier's classes of all test images (N,)."""
        return self.probabilities.argmax(dim=-1)

    @property
    def grid(self) -> PlayerGrid:
        """The players."""
        run = self.runs["classifier"]
        rows, columns = run.config.data.grid
        return PlayerGrid(run.data.image_size, (rows, columns))

    def game(self, link: str, max_batch: int) -> ModelGame:
        """Return the surrogate's game, the same one at every call."""
        if (link, max_batch) not in self._games:
            self._games[link, max_batch] = self._imitation.game(link, max_batch)
        return self._games[link, max_batch]

    def removal_game(self, grid: PlayerGrid, removal: str | Mapping[str, Any], max_batch: int) -> ModelGame:
        """Return the game of the classifier's own logits, whose absent units one of ``maskings.removals`` shows."""
        masking = build_masking(removal, self._asked, grid, "params.removal")
        return ModelGame(self._asked, masking, "logits", max_batch).to(self.classifier.mean.device)

    @torch.inference_mode()
    def amortized(self, image: Tensor, classes: Tensor) -> Tensor:
        """Return the explainer's maps (B, E, rows, columns) of images in [0, 1] for classes (B, E) of each."""
        assert self.explainer is not None
        maps = self.explainer.grid.to_grid(self.explainer(image))
        return maps[torch.arange(len(image), device=image.device).unsqueeze(1), classes.to(image.device)]

    @cached_property
    def _asked(self) -> Classifier:
        return frozen(self.classifier)

    @cached_property
    def _imitation(self) -> Surrogate:
        assert self.surrogate is not None
        return frozen(self.surrogate)


@dataclass
class Report:
    """Sections of the page; their tables and figures are files of their own, too.

    Attributes:
        folder: Of the run.
        published: Numbers of a paper by table, row and column, that stand beside ours; a row is called by the text in
            its columns, joined by commas.
    """

    folder: Path
    published: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    sections: list[Section] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: dict[str, Path] = field(default_factory=dict)

    def add(
        self,
        title: str,
        text: str,
        tables: dict[tuple[str, str], pd.DataFrame] | None = None,
        figures: dict[tuple[str, str], Figure] | None = None,
    ) -> None:
        """Write tables and figures, given by file name and caption, and add a section that shows them."""
        tables = {
            (name, caption): self._beside_published(name, table) for (name, caption), table in (tables or {}).items()
        }
        figures = figures or {}
        for (name, _), table in tables.items():
            self.tables[name] = table
            write_table(table, self.folder / "tables" / name)
        for (name, _), figure in figures.items():
            self.figures[name] = self.folder / "figures" / f"{name}.png"
            save_figure(figure, self.figures[name])
        shown = {caption: table for (_, caption), table in tables.items()}
        drawn = {caption: self.figures[name] for name, caption in figures}
        self.sections.append(Section(title, text, shown, drawn))

    def _beside_published(self, name: str, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table with the published numbers, if there are any, each to the right of ours."""
        published = self.published.get(name, {})
        called = table.select_dtypes(include=["object", "string"]).agg(", ".join, axis=1) if published else []
        for column in dict.fromkeys(column for row in published.values() for column in row):
            values = [published.get(row, {}).get(column, float("nan")) for row in called]
            after = [place for place, name in enumerate(table) if name == column or name.startswith(f"{column}_")]
            table.insert(max(after, default=len(table.columns) - 1) + 1, f"{column}, published", values)
        return table


@dataclass
class Evaluation:
    """An evaluation under way.

    Attributes:
        run: Its run.
        pipelines: What is evaluated.
        report: Where results go.
    """

    run: Run
    pipelines: list[Pipeline]
    report: Report

    @property
    def judged(self) -> Tensor:
        """The test images that methods are judged on."""
        return self.order[: self.run.config.evaluate.images]

    def classes(self, pipeline: Pipeline) -> Tensor:
        """Return the classes (N, E) that methods explain of each judged image: its most probable ones, in turn."""
        number = min(self.run.config.evaluate.classes, len(self.class_names))
        return pipeline.probabilities[self.judged].topk(number, dim=1).indices

    def kept(self, *place: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """As ``Run.kept``."""
        return self.run.kept(*place, make=make)

    @property
    def explained(self) -> list[Pipeline]:
        """The pipelines that have an explainer."""
        return [pipeline for pipeline in self.pipelines if pipeline.explainer is not None]

    def firsts(self, stage: str) -> list[Pipeline]:
        """Return the first pipeline of each run of a stage, in order."""
        firsts: dict[str, Pipeline] = {}
        for pipeline in self.pipelines:
            if stage in pipeline.runs:
                firsts.setdefault(pipeline.runs[stage].fingerprint, pipeline)
        return list(firsts.values())

    @property
    def test(self) -> ImageSplit:
        """The test images."""
        return self.run.data.dataset("test")

    @property
    def class_names(self) -> list[str]:
        """K class names."""
        return self.run.data.class_names

    @cached_property
    def order(self) -> Tensor:
        """All test images in a fixed random order, in which they are shown, and get references."""
        return reference_order(len(self.test))

    def caption(self, index: int, target: int) -> str:
        """Return what to print beside a test image: what it shows, where the data say so, and what is explained."""
        label, explained = int(self.test.labels[index]), f"explained: {self.class_names[target]}"
        return f"label: {self.class_names[label]}\n{explained}" if label >= 0 else explained

    def labels_of(self, indices: Tensor) -> list[str]:
        """Return what test images show, nothing of those of which the data do not say it."""
        return [self.class_names[label] if label >= 0 else "" for label in self.test.labels[indices].tolist()]

    @property
    def labelled(self) -> bool:
        """Whether the data say what test images show."""
        return bool((self.test.labels >= 0).all())

    def images(self, indices: Tensor) -> Tensor:
        """Return test images in [0, 1], on the device."""
        return self.test.images_at(indices).float() / 255

    def pictures(self, indices: Tensor) -> np.ndarray:
        """Return test images as figures take them (B, H, W, 3)."""
        return self.images(indices).cpu().permute(0, 2, 3, 1).numpy()

    def maps(self, pipeline: Pipeline, indices: Tensor) -> Tensor:
        """Return the explainer's maps (B, K, rows, columns) of test images."""
        assert pipeline.explainer is not None
        images = self.test.images_at(indices).cpu()
        return pipeline.explainer.explain(images, self.run.config.trainer.max_batch).values
