"""Efficiency: attributions add up to the value of the grand coalition minus that of the null coalition."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor


def efficiency_gap(
    phi: Float[Tensor, "B P K"], grand: Float[Tensor, "B K"], null: Float[Tensor, "#B K"]
) -> Float[Tensor, "B K"]:
    """Return the efficiency gap: the total ``grand - null`` minus the sum of the attributions.

    It is signed and in value units: positive when the attributions sum to too little.

    Reference: Jethani et al., FastSHAP, ICLR 2022, arXiv:2107.07436, on additive efficient normalization.

    Args:
        phi: Shapley values after the link, normalized or raw.
        grand: Value of the grand coalition of each input.
        null: Value of the null coalition; one row if it does not depend on the input.

    Example:
        >>> import torch
        >>> phi = torch.tensor([[[2.0], [3.0]]])
        >>> efficiency_gap(phi, grand=torch.tensor([[7.0]]), null=torch.tensor([[1.0]]))
        tensor([[1.]])
    """
    return grand - null - phi.sum(dim=1)


def equal_split(grand: Float[Tensor, "B K"], null: Float[Tensor, "#B K"], num_players: int) -> Float[Tensor, "B P K"]:
    """Return the equal split: every player has the same share of the total, whatever the input shows.

    Args:
        grand: Value of the grand coalition of each input.
        null: Value of the null coalition; one row if it does not depend on the input.
        num_players: Number of players P.

    Example:
        >>> import torch
        >>> equal_split(torch.tensor([[7.0]]), torch.tensor([[1.0]]), num_players=2).flatten()
        tensor([3., 3.])
    """
    return ((grand - null) / num_players).unsqueeze(1).expand(-1, num_players, -1)


def no_normalization(
    raw: Float[Tensor, "B P K"], grand: Float[Tensor, "B K"], null: Float[Tensor, "#B K"]
) -> Float[Tensor, "B P K"]:
    """Return the raw values, whose efficiency gap remains.

    Args:
        raw: Values before normalization.
        grand: Ignored.
        null: Ignored.

    Example:
        >>> import torch
        >>> raw = torch.tensor([[[2.0], [3.0]]])
        >>> no_normalization(raw, torch.tensor([[7.0]]), torch.tensor([[1.0]])).flatten()
        tensor([2., 3.])
    """
    return raw


def additive_normalization(
    raw: Float[Tensor, "B P K"], grand: Float[Tensor, "B K"], null: Float[Tensor, "#B K"]
) -> Float[Tensor, "B P K"]:
    """Return the efficient values that are closest in the least-squares sense: players share the gap equally.

    Reference: Ruiz et al., The family of least square values, 1998; Jethani et al., arXiv:2107.07436, section 3.

    Args:
        raw: Values before normalization.
        grand: Value of the grand coalition of each input.
        null: Value of the null coalition; one row if it does not depend on the input.

    Example:
        The gap of 7 - 1 - (2 + 3) is 1.

        >>> import torch
        >>> raw = torch.tensor([[[2.0], [3.0]]])
        >>> additive_normalization(raw, torch.tensor([[7.0]]), torch.tensor([[1.0]])).flatten()
        tensor([2.5000, 3.5000])
    """
    return raw + efficiency_gap(raw, grand, null).unsqueeze(1) / raw.shape[1]


def multiplicative_normalization(
    raw: Float[Tensor, "B P K"], grand: Float[Tensor, "B K"], null: Float[Tensor, "#B K"]
) -> Float[Tensor, "B P K"]:
    """Return the values multiplied by one factor per input and class, which makes them efficient.

    The factor is unstable where raw values sum to nearly zero, and not finite where they sum to zero.

    Args:
        raw: Values before normalization.
        grand: Value of the grand coalition of each input.
        null: Value of the null coalition; one row if it does not depend on the input.

    Example:
        >>> import torch
        >>> raw = torch.tensor([[[1.0], [2.0]]])
        >>> multiplicative_normalization(raw, torch.tensor([[7.0]]), torch.tensor([[1.0]])).flatten()
        tensor([2., 4.])
    """
    return raw * ((grand - null) / raw.sum(dim=1)).unsqueeze(1)


NORMALIZATIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "additive": additive_normalization,
    "multiplicative": multiplicative_normalization,
    "none": no_normalization,
}
