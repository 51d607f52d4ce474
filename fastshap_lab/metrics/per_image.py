"""What metrics with one number per image have in common: means, their uncertainty, and tests between methods."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from fastshap_lab.metrics.bootstrap import PairedTest, bootstrap_means, paired_test, percentile_intervals


class PerImage(Metric):
    """A metric that keeps a row of numbers for every image, NaN where one is undefined.

    A subclass names the columns and, in ``update``, appends rows (B, columns) in float64 to ``kept``. Last columns may
    be left out, as long as all updates do so.
    """

    columns: tuple[str, ...]
    full_state_update = False

    feed: ClassVar[str | None] = None
    """Entry of ``evaluation.feeders.FEEDERS``, whose inputs ``update`` takes by name; None where methods of attribution
    are not measured so."""

    feed_defaults: ClassVar[Mapping[str, Any]] = {}
    """Arguments of the feeder that differ from its own defaults."""

    main_column: ClassVar[str | None] = None
    """The column by which methods are ranked and tested; the first one if None."""

    note: ClassVar[str] = ""
    """What a report says of it beside its summary."""

    needs_units: ClassVar[bool] = False
    """Whether it is defined only for attributions that are differences of the game's values."""

    version: ClassVar[int] = 1
    """Raised when a change of the code changes results: those that were kept are then made again."""

    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx="cat")

    def compute(self) -> dict[str, float]:
        """Return the mean of each column over the images where it is defined; NaN if there are none."""
        return dict(zip(self.columns, self._rows().nanmean(dim=0).tolist(), strict=False))

    def per_image(self) -> dict[str, Float[Tensor, " N"]]:
        """Return each column, in the order of the updates."""
        return dict(zip(self.columns, self._rows().unbind(dim=1), strict=False))

    def extend(self, rows: Iterable[Tensor]) -> None:
        """Add what another metric of this kind has kept."""
        self.rows += list(rows)
        self._update_count += 1  # torchmetrics warns of a compute without an update

    @property
    def num_images(self) -> int:
        """Number of images seen, whether anything is defined for them or not."""
        return len(self._rows())

    def nan_count(self) -> dict[str, int]:
        """Return on how many images each column is undefined, and left out of its mean."""
        return {name: int(values.isnan().sum()) for name, values in self.per_image().items()}

    def intervals(self, resamples: int, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Return 95 % percentile intervals of the means, from resampling images."""
        low, high = percentile_intervals(bootstrap_means(self._rows(), resamples, seed)).tolist()
        return dict(zip(self.columns, zip(low, high, strict=True), strict=False))

    def compare(self, other: "PerImage", resamples: int, seed: int = 0) -> dict[str, PairedTest]:
        """Return what tells this explanation from another one of the same images, in the same order."""
        ours, theirs = self.per_image(), other.per_image()
        return {name: paired_test(ours[name], theirs[name], resamples, seed) for name in ours if name in theirs}

    def _rows(self) -> Float[Tensor, "N columns"]:
        return self._kept()

    def _kept(self) -> Tensor:
        # A list while updating, one tensor once gathered from several processes.
        return torch.as_tensor(dim_zero_cat(self.rows)).cpu()
