"""AutoAugment's policy for CIFAR-10 on batches, with one call per operation and without synchronizing with the device.

torchvision applies an operation with one magnitude to all images of a call, and copies matrices and kernels to the
device in every call, which stalls a GPU. Here each image has a magnitude of its own.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as of_torchvision

# Table 7 of the paper: two operations each, with their probabilities and magnitudes (0 to 9; 0 where there is none).
POLICY = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)


def cifar10_policy(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images after a random sub-policy for each; values are multiples of 1/255, as operations act on uint8.

    Reference: Cubuk et al., AutoAugment, CVPR 2019, arXiv:1805.09501, table 7. Ranges of the magnitudes and black edges
    are torchvision's.

    Args:
        images: Images in [0, 1] (B, 3, H, W), on any device.
        generator: Random number generator on the CPU, so that choosing operations does not wait for the device.
    """
    draws = torch.rand(5, len(images), generator=generator)
    chosen = torch.tensor([[(_NAMES.index(name), *rest) for name, *rest in pair] for pair in POLICY])
    chosen = chosen[(draws[0] * len(POLICY)).long()]  # (B, 2, 3)
    levels = (images * 255).round().byte()
    for step in range(2):
        number, chance, tenth = chosen[:, step].unbind(1)
        sign = torch.where(draws[3 + step] < 0.5, -1, 1)
        for which, (full, operation) in enumerate(OPERATIONS.values()):
            rows = ((number == which) & (draws[1 + step] < chance)).nonzero().flatten()
            if len(rows):
                amount = (sign * tenth * full / 9)[rows].view(-1, 1, 1, 1)
                # This does not wait for the device: memory that is not pinned has been read when `to` returns.
                rows, amount = (each.to(images.device, non_blocking=True) for each in (rows, amount))
                levels[rows] = operation(levels[rows], amount)
    return levels.to(images.dtype) / 255


def _blended(levels: Tensor, other: Tensor, amount: Tensor) -> Tensor:
    """Return ``levels + amount * (levels - other)`` as uint8: away from ``other`` if the amount is above zero."""
    return ((1 + amount) * levels - amount * other).clamp(0, 255).byte()


def _darker(levels: Tensor, amount: Tensor) -> Tensor:
    return _blended(levels, torch.zeros_like(levels), amount)


def _greyer(levels: Tensor, amount: Tensor) -> Tensor:
    return _blended(levels, of_torchvision.rgb_to_grayscale(levels), amount)


def _flatter(levels: Tensor, amount: Tensor) -> Tensor:
    grey = of_torchvision.rgb_to_grayscale(levels).float()
    return _blended(levels, grey.mean(dim=(1, 2, 3), keepdim=True), amount)


def _smoother(levels: Tensor, amount: Tensor) -> Tensor:
    smooth = levels.float()
    inside = smooth[..., 1:-1, 1:-1]
    inside.copy_(((9 * F.avg_pool2d(smooth, 3, stride=1) + 4 * inside) / 13).round())  # as Pillow's SMOOTH
    return _blended(levels, smooth, amount)


def _posterized(levels: Tensor, amount: Tensor) -> Tensor:
    return levels & (256 - 2 ** amount.abs().round()).byte()


def _solarized(levels: Tensor, amount: Tensor) -> Tensor:
    return torch.where(levels >= 255 - amount.abs(), 255 - levels, levels)


def _rotated(levels: Tensor, amount: Tensor) -> Tensor:
    across, down = _places(levels)
    return _moved(levels, amount.cos() * across - amount.sin() * down, amount.sin() * across + amount.cos() * down)


def _sheared(levels: Tensor, amount: Tensor) -> Tensor:
    across, down = _places(levels)
    return _moved(levels, across, down + amount * (across + levels.shape[3] / 2))


def _moved_across(levels: Tensor, amount: Tensor) -> Tensor:
    across, down = _places(levels)
    return _moved(levels, across - (amount * levels.shape[3]).trunc(), down)


def _moved_down(levels: Tensor, amount: Tensor) -> Tensor:
    across, down = _places(levels)
    return _moved(levels, across, down - (amount * levels.shape[2]).trunc())


def _places(levels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels' positions x (W,) and y (H, 1), in pixels from the centre."""
    height, width = levels.shape[2:]
    across, down = (torch.arange(side, device=levels.device) - (side - 1) / 2 for side in (width, height))
    return across, down.unsqueeze(1)


def _moved(levels: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Return images whose pixels come from positions x, y (``across``, ``down``) of the originals; black outside.

    Positions are in pixels from the centre; the nearest pixel is taken.
    """
    count, _, height, width = levels.shape
    source = torch.stack(
        [(2 * across / width).expand(count, 1, height, width), (2 * down / height).expand(count, 1, height, width)], -1
    )
    return F.grid_sample(levels.float(), source[:, 0], mode="nearest", align_corners=False).byte()


# The amount that magnitude 9 stands for, and the operation on uint8 images (B, 3, H, W) with amounts (B, 1, 1, 1).
OPERATIONS: dict[str, tuple[float, Callable[[Tensor, Tensor], Tensor]]] = {
    "Invert": (0, lambda levels, _: 255 - levels),
    "AutoContrast": (0, lambda levels, _: of_torchvision.autocontrast(levels)),
    "Equalize": (0, lambda levels, _: of_torchvision.equalize(levels)),
    "Brightness": (0.9, _darker),
    "Color": (0.9, _greyer),
    "Contrast": (0.9, _flatter),
    "Sharpness": (0.9, _smoother),
    "Posterize": (4, _posterized),  # bits
    "Solarize": (255, _solarized),
    "Rotate": (torch.pi / 6, _rotated),
    "ShearY": (0.3, _sheared),
    "TranslateX": (150 / 331, _moved_across),  # fraction of the side
    "TranslateY": (150 / 331, _moved_down),
}
_NAMES = list(OPERATIONS)
