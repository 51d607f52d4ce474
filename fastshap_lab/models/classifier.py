"""The original classifier: RGB in [0, 1] in, logits out, or a regression's answers in the units of its targets."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fastshap_lab.models.tasks import Multiclass, Task

Model = Callable[[Tensor], Tensor]
"""Takes images (B, C, H, W) to logits (B, K): a module, or what calls one."""

CHANNELS = (1, 3, 4)
"""Numbers of channels that networks may take, of RGB images."""

_LUMINANCE = (0.299, 0.587, 0.114)  # of ITU-R BT.601, as Pillow's mode L; three equal channels stay what they are


def as_channels(image: Tensor, channels: int) -> Tensor:
    """Return RGB images with as many channels as a network takes.

    A single channel is the luminance. A fourth one is alpha, which is 1: images were composited when they were read.

    Args:
        image: Images (…, 3, H, W) in [0, 1].
        channels: Number of channels: 1, 3 or 4.
    """
    if channels == 1:
        weights = image.new_tensor(_LUMINANCE).view(-1, 1, 1)
        return (image * weights).sum(dim=-3, keepdim=True)
    if channels == 4:
        return torch.cat([image, torch.ones_like(image[..., :1, :, :])], dim=-3)
    return image


class Classifier(nn.Module):
    """A network behind its pixel normalization.

    Args:
        network: Takes normalized pixels, and after them any further channels of its own.
        mean: Mean colour of the training images in [0, 1], a number for each channel that the network takes: see
            ``as_channels``.
        std: Standard deviation of each channel.
        image_size: Height and width of the images.
        num_classes: K.
        task: What its K outputs mean; one of K classes if None.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: tuple[int, int],
        num_classes: int,
        task: Task | None = None,
    ) -> None:
        super().__init__()
        self.task = task or Multiclass()
        self.network, self.image_size, self.num_classes = network, image_size, num_classes
        # Kept in the model's config.json, not among its weights.
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(-1, 1, 1), persistent=False)

    def normalize(self, image: Tensor) -> Tensor:
        """Return pixels in the network's own space, where zero is the mean colour."""
        return (as_channels(image, len(self.mean)) - self.mean) / self.std

    @property
    def mean_rgb(self) -> Tensor:
        """Mean colour (3, 1, 1) in units of the image."""
        return self.mean[:3].expand(3, 1, 1)

    @property
    def std_rgb(self) -> Tensor:
        """Standard deviation (3, 1, 1) of each channel of the image."""
        return self.std[:3].expand(3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, K) of images (B, 3, H, W)."""
        return self.network(self.normalize(image))


def opened(model: Model) -> tuple[Callable[[Tensor], Tensor], Model]:
    """Return what a model does to pixels first, and what takes these to logits.

    Of anything but a ``Classifier`` that is nothing, and the model itself.
    """
    return (model.normalize, model.network) if isinstance(model, Classifier) else (_unchanged, model)


def _unchanged(image: Tensor) -> Tensor:
    return image
