"""Functions that several sections share: values of players, and means with intervals."""

import torch
from torch import Tensor

from fastshap_lab.attribution import upsample
from fastshap_lab.metrics import PerImage
from fastshap_lab.metrics.bootstrap import bootstrap_means, percentile_intervals
from fastshap_lab.shapley import PlayerGrid


def player_values(maps: Tensor, grid: PlayerGrid) -> Tensor:
    """Return the means (B, P, E) of maps over players. Maps that the players do not divide are enlarged first.

    Args:
        maps: Maps (B, E, rows, columns).
        grid: The players.
    """
    if any(side % players for side, players in zip(maps.shape[-2:], grid.shape, strict=True)):
        maps = upsample(maps, grid.image_size)
    return grid.pool(maps)


def columns_of(metric: PerImage, columns: tuple[str, ...], *maps: Tensor) -> dict[str, Tensor]:
    """Return columns of a metric for each image (N,), by readable name.

    Args:
        metric: Metric that has seen no image yet.
        columns: Names of the columns.
        maps: Maps that the metric is updated with.
    """
    metric.update(*maps)
    values = metric.per_image()
    return {name.replace("_", " "): values[name] for name in columns}


def with_intervals(columns: dict[str, Tensor], resamples: int) -> dict[str, float]:
    """Return the mean of each column over its images, NaN ignored, and the ends of its 95 % interval.

    Args:
        columns: Values for each image (N,), by name.
        resamples: Number of bootstrap resamples.
    """
    rows = torch.stack(list(columns.values()), dim=1).double()
    low, high = percentile_intervals(bootstrap_means(rows, resamples))
    means: dict[str, float] = {}
    for name, mean, *ends in zip(columns, *(each.tolist() for each in (rows.nanmean(dim=0), low, high)), strict=True):
        means |= {name: mean, f"{name}_low": ends[0], f"{name}_high": ends[1]}
    return means
