"""How much explanations change where the image hardly does."""

from functools import partial

import pandas as pd
import torch
from torch import Tensor

from fastshap_lab.components import Count, Positive
from fastshap_lab.evaluation.checks.by_method import (
    INTERVALS,
    difference_from_random,
    lowest_first,
)
from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.methods import AppliedMethod
from fastshap_lab.evaluation.pipeline import Pipeline
from fastshap_lab.evaluation.section import Section
from fastshap_lab.evaluation.statistics import with_intervals
from fastshap_lab.progress import track
from fastshap_lab.report import method_curves
from fastshap_lab.seeding import derive_seed


class MaxSensitivity(Section):
    """Largest relative change of the target's map over random changes of the image that are hardly seen.

    Reference: Yeh et al., On the (in)fidelity and sensitivity of explanations, NeurIPS 2019, arXiv:1901.09392,
    section 4. As there, what leaves the range of pixels is not brought back, and the class stays that of the original.
    Differs from the paper: relative to the norm of the original's map, as in captum, since maps have different units.

    Args:
        draws: Changes tried on each image.
        radius: Of the ball they are uniform in, by the largest absolute value, in the model's normalized space.
        images: Of the evaluated ones, the first so many.
    """

    kind = "max_sensitivity"
    uncounted = ("images",)

    def __init__(self, draws: Count = 10, radius: Positive = 0.02, images: Count = 16) -> None:
        self.draws, self.radius, self.images = draws, radius, images

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add a table of the changes, and how they grow with the number of draws."""
        resamples = evaluation.settings.bootstrap
        rows, curves = [], {}
        for pipeline in evaluation.pipelines:
            largest, key = {}, evaluation.result_key(pipeline, slice(self.images))
            key |= {"indices": evaluation.evaluated[: self.images].tolist()}  # which the noise depends on
            for method, applied in track(evaluation.methods(pipeline).items(), f"max-sensitivity on {pipeline.name}"):
                make = partial(self._changes, evaluation, pipeline, applied)
                changes = self.stored(evaluation, key | {"method": applied.key}, make)["changes"]
                largest[method] = changes.cummax(dim=0).values
            change = {method: growing[-1] for method, growing in largest.items()}
            for method in lowest_first(change):
                rows.append(
                    {"model": pipeline.name, "method": method}
                    | with_intervals({"change": change[method]}, resamples)
                    | difference_from_random("minus random", change[method], change[evaluation.baseline], resamples)
                    | {"images": int(change[method].isfinite().sum())}
                )
            means = {method: growing.nanmean(dim=1).numpy() for method, growing in largest.items()}
            curves[pipeline.name] = pd.DataFrame(means, index=range(1, self.draws + 1))
        figure = method_curves(curves, "draws", "change", evaluation.baseline)
        evaluation.report.add(
            self.titled("Max-sensitivity", name),
            f"Largest relative change of the target's map over {self.draws} draws of noise, uniform within "
            f"±{self.radius:g} of the normalized space. Less is steadier, which is not better in itself: a map that "
            "ignores the image has none; Random is drawn anew for every image, and two such maps differ by √2 times "
            f"their size. {INTERVALS} Images: those on which it is defined, the map not being zero.",
            {(name, "Largest relative change"): pd.DataFrame(rows)},
            {(name, "Largest relative change so far, by draws"): figure},
        )

    def _changes(self, evaluation: Evaluation, pipeline: Pipeline, applied: AppliedMethod) -> dict[str, Tensor]:
        """Return the relative change (draws, B) under each draw."""
        indices = evaluation.evaluated[: self.images]
        image, target = evaluation.images(indices), evaluation.classes(pipeline)[: self.images, 0]
        explain = applied.method.attribute
        original, changes = evaluation.target_maps(pipeline, applied, slice(self.images)), []
        for draw in range(self.draws):
            noise = torch.stack([_noise(image.shape[1:], index, draw) for index in indices.tolist()]).to(image)
            near = explain(image + self.radius * noise * pipeline.classifier.std_rgb, target)
            changes.append(relative_change(original, near))
        return {"changes": torch.stack(changes)}


def relative_change(before: Tensor, after: Tensor) -> Tensor:
    """Return the norm of the change of each map over the norm of the first map (B,), NaN where that norm is zero.

    Args:
        before: Maps (B, rows, columns).
        after: Maps of the disturbed images (B, rows, columns).
    """
    size = before.double().flatten(1).norm(dim=1)
    return torch.where(size == 0, torch.nan, (after.double() - before.double()).flatten(1).norm(dim=1) / size)


def _noise(shape: torch.Size, index: int, draw: int) -> Tensor:
    generator = torch.Generator().manual_seed(derive_seed("max-sensitivity", index, draw))
    return 2 * torch.rand(shape, generator=generator) - 1
