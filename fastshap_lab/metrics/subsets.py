"""Images partitioned by which of two models is right."""

from jaxtyping import Bool
from torch import Tensor


def correctness_subsets(a: Bool[Tensor, " N"], b: Bool[Tensor, " N"]) -> dict[str, Bool[Tensor, " N"]]:
    """Return the four subsets of images that models A and B classify correctly or not; they partition the images.

    Reference: Roldan, Xu and Zhang, Visualizing and Interpreting Transformer-based Vision Models, table 3.
    """
    return {"both right": a & b, "only A right": a & ~b, "only B right": ~a & b, "both wrong": ~a & ~b}
