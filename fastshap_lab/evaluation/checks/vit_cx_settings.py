"""What ViT-CX owes to its settings and to each of its parts."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pandas as pd
import torch
from pydantic import Field
from torch import Tensor

from fastshap_lab.components import Component, Count, NotNegative, in_words
from fastshap_lab.evaluation.checks.by_image import of_images, vit_cx, vit_cx_key, with_vit_cx
from fastshap_lab.evaluation.cost import metered
from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.pipeline import Pipeline, check_removal, removal_key
from fastshap_lab.evaluation.section import Section
from fastshap_lab.evaluation.statistics import player_values, with_intervals
from fastshap_lab.metrics import Deletion, Insertion
from fastshap_lab.report import setting_curves
from fastshap_lab.shapley import PlayerGrid

Values = Annotated[Sequence[NotNegative], Field(min_length=1)]

ABLATIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no clustering": {"masks": "features"},
    "random masks": {"masks": "random"},
    "plain score": {"score": "plain"},
    "no coverage correction": {"coverage": False},
}


class ViTCXSettings(Section):
    """Deletion, insertion and seconds of ViT-CX for values of its threshold and noise, and without each of its parts.

    One setting changes at a time; the others are those of the method ``vit_cx`` if that is chosen, else its defaults.

    Reference: Xie et al., ViT-CX, IJCAI 2023, arXiv:2211.03064, table 2 on the parts, δ the threshold and σ the noise.

    Args:
        thresholds: Values of δ.
        noises: Values of σ, in the model's normalized space.
        units: What is deleted and inserted, players or pixels.
        step: Units at a time.
        deletion: One of ``maskings.removals``, which shows deleted units.
        insertion: The same of units that are yet to be inserted.
        images: Most evaluated images.
    """

    kind = "vit_cx_settings"
    uncounted = ("images", "varied")

    def __init__(
        self,
        thresholds: Values = (0.02, 0.05, 0.1, 0.2, 0.3),
        noises: Values = (0.0, 0.05, 0.1, 0.2, 0.4),
        units: Literal["players", "pixels"] = "players",
        step: Count = 1,
        deletion: Component = "constant",
        insertion: Component = "rise_blur",
        images: Count = 32,
    ) -> None:
        self.varied = {"δ": ("threshold", thresholds), "σ": ("noise", noises)}
        self.units, self.step, self.images = units, step, images
        self.removals = {"deletion": deletion, "insertion": insertion}
        for curve, removal in self.removals.items():
            check_removal(removal, f"params.{curve}")

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add a table per setting, their curves, and a table of variants."""
        applicable, refused = with_vit_cx(evaluation)
        by_setting = {
            setting: pd.DataFrame(
                [
                    {"model": pipeline.name, setting: value} | self._row(evaluation, pipeline, **{argument: value})
                    for pipeline in applicable
                    for value in values
                ]
            )
            for setting, (argument, values) in self.varied.items()
        }
        variants = [
            {"model": pipeline.name, "variant": variant} | self._row(evaluation, pipeline, **changes)
            for pipeline in applicable
            for variant, changes in ABLATIONS.items()
        ]
        text = (
            f"Of {min(self.images, len(evaluation.evaluated))} test images, {self.step} of their {self.units} at a "
            f"time: areas under the curves of the target's {evaluation.data.task.answer} when they are deleted, lower "
            "is better, and inserted, higher is better; masks, passes through the classifier and seconds per image. "
            + ", ".join(f"{curve}: {in_words(removal).replace('_', ' ')}" for curve, removal in self.removals.items())
            + " where units are absent. δ: distance at which masks are no longer merged; σ: noise, in the model's "
            "normalized space. Intervals: 95 %, from resampling images."
        )
        tables, figures = {}, {}
        if applicable:
            tables = {
                (f"{name}-{argument}", f"Values of {setting}"): by_setting[setting]
                for setting, (argument, _) in self.varied.items()
            }
            tables[f"{name}-variants", "Without each of its parts"] = pd.DataFrame(variants)
            figures[name, "Deletion and insertion"] = setting_curves(by_setting, list(self.removals))
        evaluation.report.add(self.titled("Settings of ViT-CX", name), "\n\n".join([text, *refused]), tables, figures)

    def _row(self, evaluation: Evaluation, pipeline: Pipeline, **changes: Any) -> dict[str, float]:
        """Return means over images; made with some arguments of the method changed."""
        grid = pipeline.grid if self.units == "players" else PlayerGrid(*[pipeline.grid.image_size] * 2)
        most = pipeline.max_batch
        games = {curve: pipeline.removal_game(grid, removal) for curve, removal in self.removals.items()}

        def make(place: slice) -> dict[str, Tensor]:
            method, rows = vit_cx(evaluation, pipeline.classifier, **changes), []
            images = evaluation.images(evaluation.evaluated[place])
            for image, target in zip(images.split(1), evaluation.classes(pipeline)[place, :1].split(1), strict=True):
                with metered(pipeline.classifier) as cost:
                    maps = method.attribute_classes(image, target)
                row: dict[str, float] = {}
                for metric in (Deletion(self.step, most, pipeline.task), Insertion(self.step, most, pipeline.task)):
                    curve = "insertion" if metric.insert else "deletion"
                    metric.update(games[curve].values, image, player_values(maps, grid), target.to(image.device))
                    row[curve] = metric.compute()[metric.columns[0]]
                spent = {"passes": cost.forward, "seconds": cost.seconds}
                masks = method.num_masks if method.masks == "random" else len(method.image_masks(image[0]))
                rows.append(row | {"masks": masks} | spent)
            return {key: torch.tensor([row[key] for row in rows], dtype=torch.float64) for key in rows[0]}

        key = {"vit_cx": vit_cx_key(evaluation, **changes)}
        key["removals"] = {curve: removal_key(removal) for curve, removal in self.removals.items()}
        found = of_images(self, evaluation, pipeline, self.images, key, make)
        means = {key: found[key].mean().item() for key in ("masks", "passes", "seconds")}
        curves = {curve: found[curve] for curve in self.removals}
        return with_intervals(curves, evaluation.settings.bootstrap) | means
