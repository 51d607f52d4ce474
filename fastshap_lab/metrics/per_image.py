"""The base class of metrics that are means over images, with their uncertainty and tests between explanations."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from fastshap_lab.metrics.bootstrap import PairedTest, bootstrap_means, paired_test, percentile_intervals


class PerImage(Metric):
    """Base class of metrics that keep a row of numbers for each image, NaN where a number is undefined.

    A subclass names the columns and, in ``update``, appends rows (B, columns) in float64 to ``rows``. It may omit the
    last columns if every update does.

    Example:
        >>> class Mean(PerImage):
        ...     columns = ("mean",)
        ...     def update(self, maps):
        ...         self.rows.append(maps.double().mean(dim=(1, 2)).unsqueeze(1))
        >>> metric = Mean()
        >>> metric.update(torch.tensor([[[1.0, 3.0]], [[5.0, 7.0]]]))
        >>> metric.compute(), metric.per_image()["mean"].tolist()
        ({'mean': 4.0}, [2.0, 6.0])
    """

    columns: tuple[str, ...]
    full_state_update = False

    feed: ClassVar[str | None] = None
    """Entry of ``evaluation.feeders.FEEDERS`` whose inputs ``update`` takes by name; None if the metric does not
    evaluate attribution methods.
    """

    feed_defaults: ClassVar[Mapping[str, Any]] = {}
    """Arguments of the feeder that differ from the feeder's defaults."""

    main_column: ClassVar[str | None] = None
    """Column by which methods are ranked and tested; the first one if None."""

    note: ClassVar[str] = ""
    """Sentence that reports add to the metric's summary."""

    needs_units: ClassVar[bool] = False
    """Whether the metric is defined only for attributions that are differences of the game's values."""

    version: ClassVar[int] = 1
    """Number that is raised when a code change alters results; stored results of another version are recomputed."""

    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx="cat")

    def compute(self) -> dict[str, float]:
        """Return the mean of each column over the images where it is defined; NaN if there are none."""
        return dict(zip(self.columns, self._rows().nanmean(dim=0).tolist(), strict=False))

    def per_image(self) -> dict[str, Float[Tensor, " N"]]:
        """Return the values of each column, in the order of the updates."""
        return dict(zip(self.columns, self._rows().unbind(dim=1), strict=False))

    def extend(self, rows: Iterable[Tensor]) -> None:
        """Add rows that another instance of the metric recorded."""
        self.rows += list(rows)
        self._update_count += 1  # torchmetrics warns if compute is called without an update

    @property
    def num_images(self) -> int:
        """Number of images added, including those for which nothing is defined."""
        return len(self._rows())

    def nan_count(self) -> dict[str, int]:
        """Return for each column the number of images for which it is undefined, which its mean leaves out."""
        return {name: int(values.isnan().sum()) for name, values in self.per_image().items()}

    def intervals(self, resamples: int, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Return 95 % percentile intervals of the means from resampling images, as lower and upper bounds.

        Args:
            resamples: Number of bootstrap resamples.
            seed: Seed for drawing images.
        """
        low, high = percentile_intervals(bootstrap_means(self._rows(), resamples, seed)).tolist()
        return dict(zip(self.columns, zip(low, high, strict=True), strict=False))

    def compare(self, other: "PerImage", resamples: int, seed: int = 0) -> dict[str, PairedTest]:
        """Return for each column the comparison with another explanation of the same images.

        Args:
            other: The same metric of the other explanation, with the images in the same order.
            resamples: Number of bootstrap resamples, and of sign flips.
            seed: Seed for drawing images and signs.
        """
        ours, theirs = self.per_image(), other.per_image()
        return {name: paired_test(ours[name], theirs[name], resamples, seed) for name in ours if name in theirs}

    def _rows(self) -> Float[Tensor, "N columns"]:
        return self._kept()

    def _kept(self) -> Tensor:
        # torchmetrics keeps a list, and one tensor once it has gathered the rows of several processes.
        return torch.as_tensor(dim_zero_cat(self.rows)).cpu()
