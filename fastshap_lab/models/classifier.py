"""The original classifier, which maps RGB images in [0, 1] to logits, or to a regression's answers."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fastshap_lab.models.tasks import Multiclass, Task

Model = Callable[[Tensor], Tensor]
"""A function of images (B, C, H, W) that returns logits (B, K): a module, or a function that calls one."""

CHANNELS = (1, 3, 4)
"""Numbers of input channels that networks for RGB images may have."""

# Weights of the channels by ITU-R BT.601, as in Pillow's mode L; their sum is 1, so grey images keep their values.
_LUMINANCE = (0.299, 0.587, 0.114)


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
    """A network together with its pixel normalization.

    Args:
        network: Network that takes normalized pixels (B, C, H, W), and further channels of a masking after them.
        mean: Mean colour of the training images in [0, 1], one number per channel of the network (see
            ``as_channels``).
        std: Standard deviation of each channel.
        image_size: Height and width of the images in pixels.
        num_classes: Number of classes K.
        task: Task that the K outputs belong to; ``Multiclass`` if None.
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
        # They are stored in the model's config.json, not among its weights.
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(-1, 1, 1), persistent=False)

    def normalize(self, image: Tensor) -> Tensor:
        """Return normalized pixels, in which zero is the mean colour."""
        return (as_channels(image, len(self.mean)) - self.mean) / self.std

    @property
    def mean_rgb(self) -> Tensor:
        """Mean colour (3, 1, 1) of RGB images, in [0, 1]."""
        return self.mean[:3].expand(3, 1, 1)

    @property
    def std_rgb(self) -> Tensor:
        """Standard deviation (3, 1, 1) of each channel of RGB images."""
        return self.std[:3].expand(3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, K) of images (B, 3, H, W)."""
        return self.network(self.normalize(image))


def opened(model: Model) -> tuple[Callable[[Tensor], Tensor], Model]:
    """Return a model's normalization of pixels, and the network that maps normalized pixels to logits.

    For any model but a ``Classifier`` they are the identity and the model itself.
    """
    return (model.normalize, model.network) if isinstance(model, Classifier) else (_unchanged, model)


def _unchanged(image: Tensor) -> Tensor:
    return image
