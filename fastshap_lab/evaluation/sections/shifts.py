"""A test with shifted images: are maps in the centre because objects are, or because explainers prefer it?"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.methods import ImageChunk
from fastshap_lab.evaluation.pipeline import Pipeline
from fastshap_lab.evaluation.section import Section
from fastshap_lab.evaluation.statistics import with_intervals
from fastshap_lab.metrics.map_statistics import central_share, centroid
from fastshap_lab.report import subset_maps

# Shifts down and to the right, in quarters of the image's height and width.
_STILL = (0, 0)
_SHIFTS = ((1, 0), (-1, 0), (0, 1), (0, -1))
_SHOWN = {_STILL: "", (0, 1): "shifted right", (1, 0): "shifted down"}
_IMAGES_SHOWN = 4

Maps = Mapping[tuple[int, int], Tensor]  # by shift


class Shifts(Section):
    """Change of the maps when the image is shifted."""

    kind = "shifts"

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add a table and a figure."""
        _shifts(evaluation)


def _shifts(evaluation: Evaluation) -> None:
    if not evaluation.explained:
        return
    rows, shown = [], {}
    for pipeline in evaluation.explained:
        maps = _maps(evaluation, pipeline)
        columns = map_columns(maps, evaluation.data.image_size)
        means = with_intervals(columns, evaluation.settings.bootstrap)
        rows.append({"pipeline": pipeline.name, "images": len(evaluation.evaluated)} | means)
        shown[pipeline.name] = {shift: maps[shift][:_IMAGES_SHOWN] for shift in _SHOWN}
    evaluation.report.add(
        "Shifted images",
        "Are maps in the centre because objects are, or because the explainer prefers the centre? Images are shifted "
        "by a quarter of their side up, down, left and right, mirrored at the border, and explained for the target of "
        f"the unshifted image, which is {evaluation.data.task.target_in_words}.\n\n"
        "How to read the table: the central share is the fraction of a map's absolute values in the middle half of "
        "rows and columns, 0.25 for an even map. The slope is the shift of the centroid of the absolute values, "
        "divided by the shift of the image: 1 if the map follows the object, 0 if it stays. Values that are spread "
        "evenly, or mirrored at the border, do not move; so the last two columns show central share and slope of the "
        "unshifted map after the same shift. An explainer that follows the object has values near these; one that "
        "prefers the centre keeps its central share and has a slope near 0. All are means over images and the four "
        "shifts; intervals are 95 % bootstrap intervals over images.\n\n"
        "Above each unshifted image is its label, under its maps the explained class, and under the maps of shifted "
        "images their slopes.",
        {("shifts", "Maps of unshifted and shifted images"): pd.DataFrame(rows)},
        {("shifts", "Unshifted and shifted images"): _figure(evaluation, shown)},
    )


def shifted(images: Tensor, shift: tuple[int, int]) -> Tensor:
    """Return images shifted down and to the right, mirrored at the border.

    Args:
        images: Images (..., H, W).
        shift: Shift down and to the right, in quarters of the image's height and width.
    """
    height, width = images.shape[-2:]
    rows, columns = (
        _mirrored(torch.arange(side) - quarters * (side // 4), side)
        for side, quarters in zip((height, width), shift, strict=True)
    )
    return images[..., rows.unsqueeze(1), columns]


def map_columns(maps: Maps, image_size: tuple[int, int]) -> dict[str, Tensor]:
    """Return the columns of the table, a value for each image (N,).

    Args:
        maps: Maps (N, rows, columns) of the images under every shift, by the shift.
        image_size: Height and width in pixels.
    """
    still = maps[_STILL]
    patch = [side // cells for side, cells in zip(image_size, still.shape[1:], strict=True)]
    pixels = still.abs().repeat_interleave(patch[0], dim=1).repeat_interleave(patch[1], dim=2)
    along = {shift: shifted(pixels, shift) for shift in _SHIFTS}

    def share(of: Maps) -> Tensor:
        return torch.stack([central_share(of[shift]) for shift in _SHIFTS]).mean(dim=0)

    def slope(of: Maps) -> Tensor:
        return torch.stack([_slope(still, of[shift], shift, image_size) for shift in _SHIFTS]).mean(dim=0)

    return {
        "central share": central_share(still),
        "central share, shifted": share(maps),
        "slope": slope(maps),
        "central share, map shifted": share(along),
        "slope, map shifted": slope(along),
    }


def _slope(before: Tensor, after: Tensor, shift: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """Return the shift of the maps' centroids along the image's shift, divided by the image's shift (N,)."""
    way = torch.tensor(
        [quarters * (side // 4) / side for quarters, side in zip(shift, image_size, strict=True)], dtype=torch.float64
    )
    return (centroid(after) - centroid(before)) @ way / way.square().sum()


def _mirrored(places: Tensor, side: int) -> Tensor:
    return side - 1 - (side - 1 - places.abs()).abs()


def _maps(evaluation: Evaluation, pipeline: Pipeline) -> dict[tuple[int, int], Tensor]:
    """Return the maps (N, rows, columns) of the target of the evaluated images, by shift."""
    classes, explainer = pipeline.foremost[evaluation.evaluated].unsqueeze(1), evaluation.amortized(pipeline)
    chunks = evaluation.chunks(evaluation.evaluated)

    def moved(shift: tuple[int, int]) -> list[ImageChunk]:
        return [ImageChunk(lambda chunk=chunk: shifted(chunk.images, shift)) for chunk in chunks]

    return {shift: explainer.maps(moved(shift), classes)[:, 0] for shift in (_STILL, *_SHIFTS)}


def _figure(evaluation: Evaluation, shown: Mapping[str, Maps]) -> Figure:
    """Return a figure of a few images, unshifted and shifted, with the maps of all pipelines."""
    indices, names = evaluation.evaluated[:_IMAGES_SHOWN], evaluation.class_names
    labels = evaluation.labels_of(indices)
    pictures = np.moveaxis(evaluation.pictures(indices), 3, 1).copy()
    turned = [shifted(torch.from_numpy(pictures), shift) for shift in _SHOWN]
    titles = [title or label for label in labels for title in _SHOWN.values()]
    maps, captions = {}, {}
    for pipeline in evaluation.explained:
        of = shown[pipeline.name]
        maps[pipeline.name] = torch.stack([of[shift] for shift in _SHOWN], dim=1).flatten(0, 1).numpy()
        moved = {
            shift: _slope(of[_STILL], of[shift], shift, evaluation.data.image_size).tolist()
            for shift in _SHOWN
            if shift != _STILL
        }
        explained = [names[target] for target in pipeline.foremost[indices].tolist()]
        captions[pipeline.name] = [
            explained[place] if shift == _STILL else f"slope {moved[shift][place]:.2f}"
            for place in range(len(indices))
            for shift in _SHOWN
        ]
    images = torch.stack(turned, dim=1).flatten(0, 1).permute(0, 2, 3, 1).numpy()
    return subset_maps(images, maps, captions, titles)
