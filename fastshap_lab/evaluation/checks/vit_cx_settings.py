"""The effect of ViT-CX's settings and of each of its parts."""

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

    One setting changes at a time; the others are those of the first chosen method that is ViT-CX, or else its defaults.

    Reference: Xie et al., ViT-CX, IJCAI 2023, arXiv:2211.03064, table 2 on the parts; δ is the threshold, σ the noise.

    Args:
        thresholds: Values of δ, the distance below which masks are merged.
        noises: Values of σ, the standard deviation of the noise in the model's normalized space.
        units: Units that are deleted and inserted, ``players`` or ``pixels``.
        step: Number of units that are deleted or inserted in a step.
        deletion: How deleted units are removed, a name in ``maskings.removals``.
        insertion: How units that are not inserted yet are removed, a name in ``maskings.removals``.
        images: Maximum number of evaluated images.
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
        """Add a table for each setting, curves, and a table of variants without one part."""
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
            f"The tables show means over {min(self.images, len(evaluation.evaluated))} test images: areas under the "
            f"curves of the target's {evaluation.data.task.answer} while {self.units} are deleted (lower is better) or "
            f"inserted (higher is better), {self.step} in each step; numbers of masks and of passes through the "
            "classifier; and seconds. Absent units are removed by "
            + ", ".join(f"{in_words(removal).replace('_', ' ')} in {curve}" for curve, removal in self.removals.items())
            + ". δ is the distance below which masks are merged, σ the noise in the model's normalized space. "
            "Intervals are 95 % bootstrap intervals over images."
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
        """Return means over images of ViT-CX with some arguments changed."""
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
