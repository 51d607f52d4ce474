"""The original classifier: RGB in [0, 1] in, logits out, or a regression's answers in the units of its targets."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fastshap_lab.models.tasks import Multiclass, Task

Model = Callable[[Tensor], Tensor]
"""Takes images (B, C, H, W) to logits (B, K): a module, or what calls one."""


class Classifier(nn.Module):
    """A network behind its pixel normalization.

    Args:
        network: Takes normalized pixels, and after them any further channels of its own.
        mean: Mean colour of the training images, RGB in [0, 1].
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
        return (image - self.mean) / self.std

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
