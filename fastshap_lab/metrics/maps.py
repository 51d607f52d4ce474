"""Maps made comparable."""

from jaxtyping import Float
from torch import Tensor


def min_max(maps: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
    """Return each map stretched to [0, 1], in float64; a constant one becomes zero."""
    maps = maps.double()
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low).masked_fill(high == low, 1)
