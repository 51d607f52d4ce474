"""What sections have in common: values of players, and means with intervals."""

import torch
from torch import Tensor

from fastshap_lab.attribution import upsample
from fastshap_lab.metrics import PerImage
from fastshap_lab.metrics.bootstrap import bootstrap_means, percentile_intervals
from fastshap_lab.shapley import PlayerGrid


def player_values(maps: Tensor, grid: PlayerGrid) -> Tensor:
    """Return means (B, P, E) of maps (B, E, rows, columns) over players; of enlarged ones where these do not divide."""
    if any(side % players for side, players in zip(maps.shape[-2:], grid.shape, strict=True)):
        maps = upsample(maps, grid.image_size)
    return grid.pool(maps)


def columns_of(metric: PerImage, columns: tuple[str, ...], *maps: Tensor) -> dict[str, Tensor]:
    """Return some columns of an empty metric, per image (N,), by readable name, once it has seen the maps."""
    metric.update(*maps)
    values = metric.per_image()
    return {name.replace("_", " "): values[name] for name in columns}


def with_intervals(columns: dict[str, Tensor], resamples: int) -> dict[str, float]:
    """Return the mean of each column over its images (N,), NaN left out, and the ends of its 95 % interval."""
    rows = torch.stack(list(columns.values()), dim=1).double()
    low, high = percentile_intervals(bootstrap_means(rows, resamples))
    means: dict[str, float] = {}
    for name, mean, *ends in zip(columns, *(each.tolist() for each in (rows.nanmean(dim=0), low, high)), strict=True):
        means |= {name: mean, f"{name}_low": ends[0], f"{name}_high": ends[1]}
    return means
