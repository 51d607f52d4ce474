"""Subsets of images by which of two models classifies them correctly."""

from jaxtyping import Bool
from torch import Tensor


def correctness_subsets(a: Bool[Tensor, " N"], b: Bool[Tensor, " N"]) -> dict[str, Bool[Tensor, " N"]]:
    """Return a mask of the images of each of the four subsets into which two models' correctness divides them.

    Reference: Roldan, Xu and Zhang, Visualizing and Interpreting Transformer-based Vision Models, table 3.

    Args:
        a: Whether model A classifies each image correctly.
        b: Whether model B classifies each image correctly.

    Example:
        >>> import torch
        >>> subsets = correctness_subsets(torch.tensor([True, True, False]), torch.tensor([True, False, False]))
        >>> {name: images.sum().item() for name, images in subsets.items()}
        {'both right': 1, 'only A right': 1, 'only B right': 0, 'both wrong': 1}
    """
    return {"both right": a & b, "only A right": a & ~b, "only B right": ~a & b, "both wrong": ~a & ~b}
