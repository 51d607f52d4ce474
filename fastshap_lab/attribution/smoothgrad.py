"""SmoothGrad: gradients averaged over noisy copies of an image."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastshap_lab.attribution.base import AttributionMethod, Kind, colour_scale, mean_colour, one_of
from fastshap_lab.attribution.gradients import pixel_gradients
from fastshap_lab.components import Count
from fastshap_lab.errors import UserError

Moment = Literal["mean", "square", "variance"]


def moment(samples: Float[Tensor, "N *shape"], which: Moment) -> Float[Tensor, "*shape"]:
    """Return the mean, the mean square, or the population variance of samples.

    Args:
        samples: N samples of any shape.
        which: ``mean``, ``square`` or ``variance``.

    Example:
        >>> samples = torch.tensor([1.0, 3.0])
        >>> [moment(samples, which).item() for which in ("mean", "square", "variance")]
        [2.0, 5.0, 1.0]
    """
    if which == "variance":
        return samples.var(dim=0, correction=0)
    return samples.mean(dim=0) if which == "mean" else samples.square().mean(dim=0)


class SmoothGrad(AttributionMethod):
    """SmoothGrad: the absolute mean gradient by each pixel over noisy copies of the image, maximized over channels.

    All images get the same noise up to its scale, which is a share of the range of the image's normalized values.

    Reference: Smilkov et al., SmoothGrad, 2017, arXiv:1706.03825. The mean of squares and the variance (VarGrad) are in
    Hooker et al., A benchmark for interpretability methods in deep neural networks, NeurIPS 2019, arXiv:1806.10758.

    Args:
        model: Model that maps images to logits.
        samples: Number of noisy copies of each image.
        noise: Standard deviation of the noise, as a share of the range of the image's normalized values.
        moment: Statistic of the gradients over copies: ``mean``, ``square`` or ``variance``.
        seed: Seed of the noise.
        max_batch: Number of copies per pass.

    Raises:
        UserError: ``samples``, ``noise`` or ``moment`` is out of range.

    Example:
        >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # logit k is the mean of channel k
        >>> SmoothGrad(model, samples=4).attribute(torch.rand(1, 2, 2, 2), target=1).tolist()
        [[[0.25, 0.25], [0.25, 0.25]]]
    """

    kind: ClassVar[Kind] = "saliency"

    def __init__(
        self,
        model: nn.Module,
        samples: int = 50,
        noise: float = 0.15,
        moment: Moment = "mean",
        seed: int = 0,
        max_batch: Count = 32,
    ) -> None:
        super().__init__(model, max_batch)
        if samples < 1 or noise < 0:
            raise UserError(
                f"SmoothGrad: samples={samples}, noise={noise}: samples must be at least 1, noise not negative"
            )
        self.samples, self.noise, self.seed = samples, noise, seed
        self.moment = one_of("moment", moment, Moment)

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        return torch.stack([self._explain(*one) for one in zip(image.split(1), target.split(1), strict=True)])

    def _explain(self, image: Tensor, target: Tensor) -> Tensor:
        scale, generator = colour_scale(self.model, image), torch.Generator().manual_seed(self.seed)
        normalized = (image - mean_colour(self.model, image)) / scale
        sigma = self.noise * (normalized.amax() - normalized.amin())
        by_pixels = []
        for first in range(0, self.samples, self.max_batch):
            number = min(self.max_batch, self.samples - first)
            drawn = torch.stack([torch.randn(image.shape[1:], generator=generator) for _ in range(number)])
            copies = image + sigma * scale * drawn.to(image)
            by_pixels.append(pixel_gradients(self.model, copies, target.expand(number)))
        return moment(torch.cat(by_pixels), self.moment).abs().amax(dim=0)
