"""Change of explanations when the image changes little."""

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
    """Largest relative change of the target's map under small random changes of the image.

    Reference: Yeh et al., On the (in)fidelity and sensitivity of explanations, NeurIPS 2019, arXiv:1901.09392,
    section 4. As in the paper, changed pixels are not clipped to their range, and the class stays that of the original
    image. Differs from the paper: the change is divided by the norm of the original map, as in captum, since maps have
    different units.

    Args:
        draws: Number of random changes of each image.
        radius: Largest absolute change of a value in the model's normalized space; changes are uniform.
        images: Number of evaluated images, the first ones.
    """

    kind = "max_sensitivity"
    uncounted = ("images",)

    def __init__(self, draws: Count = 10, radius: Positive = 0.02, images: Count = 16) -> None:
        self.draws, self.radius, self.images = draws, radius, images

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add a table of the changes, and curves of the largest change by the number of draws."""
        resamples = evaluation.settings.bootstrap
        rows, curves = [], {}
        for pipeline in evaluation.pipelines:
            largest, key = {}, evaluation.result_key(pipeline, slice(self.images))
            key |= {"indices": evaluation.evaluated[: self.images].tolist()}  # the noise depends on them
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
            f"The table shows the largest relative change of the target's map over {self.draws} draws of noise, "
            f"uniform within ±{self.radius:g} in the normalized space. A smaller change is not better in itself: a map "
            "that ignores the image does not change. Random maps are drawn independently for every image; the norm of "
            f"their difference is √2 times that of a map. {INTERVALS} The column images counts those whose map is not "
            "zero, so that the change is defined.",
            {(name, "Largest relative change"): pd.DataFrame(rows)},
            {(name, "Largest relative change by the number of draws"): figure},
        )

    def _changes(self, evaluation: Evaluation, pipeline: Pipeline, applied: AppliedMethod) -> dict[str, Tensor]:
        """Return the relative change of the maps for each draw (draws, B)."""
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
