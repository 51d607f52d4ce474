"""A convolutional explainer network, the UNet."""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fastshap_lab.components import Count
from fastshap_lab.models.explainers.base import Explainer, shrink_init
from fastshap_lab.shapley.players import PlayerGrid


class UNetExplainer(Explainer):
    """A UNet that goes down to a coarse resolution and up again to the player grid, where it predicts the values.

    Reference: the UNet of Jethani et al., FastSHAP, ICLR 2022, arXiv:2107.07436, whose up path ends at the players'
    resolution, too. Differs from it: pixel coordinates are two further input channels, since the value of a patch
    depends on its position, and the head's initial weights are small.

    Args:
        grid: The players, any number of rows and columns.
        num_classes: Number of classes K.
        mean: Mean colour of the training images in [0, 1], one number per channel.
        std: Standard deviation of each channel.
        channels: Numbers of channels at full resolution and after each halving.
    """

    coordinates: Tensor

    def __init__(
        self,
        grid: PlayerGrid,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        channels: Annotated[tuple[Count, ...], Field(min_length=1)] = (64, 128, 256, 512),
    ) -> None:
        super().__init__(grid, num_classes, mean, std)
        sizes = [grid.image_size]
        for _ in channels[1:]:
            height, width = sizes[-1]
            sizes.append(((height + 1) // 2, (width + 1) // 2))
        inputs = [len(mean) + 2, *channels]
        self.down = nn.ModuleList(
            _block(inputs[level], channels[level], stride=1 if level == 0 else 2) for level in range(len(channels))
        )
        # The up path ends at the coarsest level whose rows and columns the player grid divides.
        last = max(
            level for level, size in enumerate(sizes) if not (size[0] % grid.shape[0] or size[1] % grid.shape[1])
        )
        self.up = nn.ModuleDict(
            {
                str(level): _block(channels[level + 1] + channels[level], channels[level])
                for level in range(last, len(channels) - 1)
            }
        )
        self.last = last
        self.head = shrink_init(nn.Conv2d(channels[last], num_classes, 1))
        # Computed on the CPU: on the meta device, where descriptions are checked, this would import PyTorch's compiler.
        rows, columns = (torch.linspace(-1, 1, side, device="cpu") for side in grid.image_size)
        coordinates = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).to(self.mean.device)
        self.register_buffer("coordinates", coordinates, persistent=False)

    def predict(self, pixels: Tensor) -> Tensor:
        """Return raw values (B, P, K) of normalized pixels (B, 3, H, W)."""
        x = torch.cat([pixels, self.coordinates.expand(pixels.shape[0], -1, -1, -1)], dim=1)
        levels = []
        for block in self.down:
            x = block(x)
            levels.append(x)
        for level in range(len(levels) - 2, self.last - 1, -1):
            upsampled = F.interpolate(x, size=levels[level].shape[-2:], mode="nearest")
            x = self.up[str(level)](torch.cat([upsampled, levels[level]], dim=1))
        x = F.adaptive_avg_pool2d(self.head(x), self.grid.shape)  # (B, K, rows, columns)
        return x.flatten(2).transpose(1, 2)


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
