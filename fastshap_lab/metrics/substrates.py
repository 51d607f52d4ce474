"""What shows where an image has been deleted, and the game of an image classifier that this defines."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy.ndimage import gaussian_filter
from torch import Tensor

from fastshap_lab.shapley.grid import PlayerGrid

_BLUR_SIZE, _BLUR_SIGMA = 11, 5.0


def constant(image: Float[Tensor, "B C H W"], baseline: Float[Tensor, "C #H #W"]) -> Float[Tensor, "B C H W"]:
    """Return the baseline. "Zero" in the literature is zero after normalization: the data's mean colour."""
    return baseline.to(image).expand_as(image)


def image_mean(image: Float[Tensor, "B C H W"], baseline: Float[Tensor, "C #H #W"]) -> Float[Tensor, "B C H W"]:
    """Return each image's own mean colour."""
    return image.mean(dim=(-2, -1), keepdim=True).expand_as(image)


def rise_blur(image: Float[Tensor, "B C H W"], baseline: Float[Tensor, "C #H #W"]) -> Float[Tensor, "B C H W"]:
    """Return the image blurred as by the authors of RISE, with the baseline beyond its border.

    The kernel is a unit impulse in an 11×11 array filtered with σ = 5 and reflecting borders, which makes it much
    flatter than a Gaussian cut off at 11×11. Theirs pads with zeros after normalization, which is the mean colour here.

    Reference: Petsiuk et al., RISE, BMVC 2018, arXiv:1806.07421, and the code published with it.
    """
    impulse = np.zeros((_BLUR_SIZE, _BLUR_SIZE))
    impulse[_BLUR_SIZE // 2, _BLUR_SIZE // 2] = 1
    padded = F.pad(image - baseline.to(image), [_BLUR_SIZE // 2] * 4)
    return _filtered(padded, gaussian_filter(impulse, _BLUR_SIGMA)) + baseline.to(image)


def gaussian_blur(image: Float[Tensor, "B C H W"], baseline: Float[Tensor, "C #H #W"]) -> Float[Tensor, "B C H W"]:
    """Return the image blurred with a Gaussian of σ = 5 cut off at 11×11, its border pixels repeated beyond it."""
    weight = np.exp(-((np.arange(_BLUR_SIZE) - _BLUR_SIZE // 2) ** 2) / (2 * _BLUR_SIGMA**2))
    weight /= weight.sum()
    return _filtered(F.pad(image, [_BLUR_SIZE // 2] * 4, mode="replicate"), np.outer(weight, weight))


SUBSTRATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "constant": constant,
    "image_mean": image_mean,
    "rise_blur": rise_blur,
    "gaussian_blur": gaussian_blur,
}


class SubstrateGame:
    """The value function of an image classifier whose absent units show a substrate.

    Args:
        logits_fn: Takes images (N, C, H, W) to logits (N, K).
        grid: The units: patches, or pixels if its shape is the image's size.
        substrate: Entry of ``SUBSTRATES``.
        baseline: A colour, or an image of the same size as those explained.
    """

    def __init__(
        self,
        logits_fn: Callable[[Tensor], Tensor],
        grid: PlayerGrid,
        substrate: str,
        baseline: Float[Tensor, "C #H #W"],
    ) -> None:
        self.logits_fn, self.grid, self.baseline = logits_fn, grid, baseline
        self.substrate = SUBSTRATES[substrate]

    def __call__(self, image: Float[Tensor, "B C H W"], coalitions: Bool[Tensor, "B M P"]) -> Float[Tensor, "B M K"]:
        """Return the logits of each image under each of its coalitions."""
        absent = self.substrate(image, self.baseline).unsqueeze(1)
        shown = torch.where(self.grid.to_pixels(coalitions), image.unsqueeze(1), absent)
        return self.logits_fn(shown.flatten(0, 1)).unflatten(0, coalitions.shape[:2])


def _filtered(padded: Float[Tensor, "B C height width"], kernel: np.ndarray) -> Float[Tensor, "B C H W"]:
    channels = padded.shape[1]
    weight = torch.from_numpy(kernel).to(padded).expand(channels, 1, -1, -1)
    return F.conv2d(padded, weight, groups=channels)
