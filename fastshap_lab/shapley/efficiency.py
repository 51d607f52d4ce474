"""Efficiency: attributions add up to the value of the grand coalition beyond that of the null coalition."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor


def efficiency_gap(
    phi: Float[Tensor, "B P K"], grand: Float[Tensor, "B K"], null: Float[Tensor, "#B K"]
) -> Float[Tensor, "B K"]:
    """Return what is missing for the attributions to add up to the game they explain.

    Signed, in value units: positive when the attributions sum to too little.

    Reference: Jethani et al., FastSHAP, ICLR 2022, arXiv:2107.07436, on additive efficient normalization.

    Args:
        phi: Shapley values after the link, normalized or raw.
        grand: Value of the grand coalition of each input.
        null: Value of the null coalition; one row if the masking ignores the input.

    Example:
        >>> import torch
        >>> efficiency_gap(torch.tensor([[[1.0], [3.0]]]), torch.tensor([[6.0]]), torch.tensor([[0.0]])).item()
        2.0
    """
    return grand - null - phi.sum(dim=1)


def equal_split(grand: Float[Tensor, "B K"], null: Float[Tensor, "#B K"], num_players: int) -> Float[Tensor, "B P K"]:
    """Return values (B, P, K) that are the same for every player and add up to grand - null.

    Args:
        grand: Value of the coalition of all players (B, K).
        null: Value of the empty coalition (B, K) or (1, K).
        num_players: Number of players P.

    Example:
        >>> import torch
        >>> equal_split(torch.tensor([[6.0]]), torch.tensor([[0.0]]), 3).flatten().tolist()
        [2.0, 2.0, 2.0]
    """
    return ((grand - null) / num_players).unsqueeze(1).expand(-1, num_players, -1)


def no_normalization(
    raw: Float[Tensor, "B P K"], grand: Float[Tensor, "B K"], null: Float[Tensor, "#B K"]
) -> Float[Tensor, "B P K"]:
    """Return the raw values unchanged, with their efficiency gap.

    Args:
        raw: Values (B, P, K).
        grand: Value of the coalition of all players (B, K).
        null: Value of the empty coalition (B, K) or (1, K).
    """
    return raw


def additive_normalization(
    raw: Float[Tensor, "B P K"], grand: Float[Tensor, "B K"], null: Float[Tensor, "#B K"]
) -> Float[Tensor, "B P K"]:
    """Return the efficient values closest to the raw ones in the least-squares sense: the gap is shared out equally.

    Reference: Ruiz et al., The family of least square values, 1998; Jethani et al., arXiv:2107.07436, section 3.

    Args:
        raw: Values (B, P, K).
        grand: Value of the coalition of all players (B, K).
        null: Value of the empty coalition (B, K) or (1, K).

    Example:
        >>> import torch
        >>> raw, grand, null = torch.tensor([[[1.0], [3.0]]]), torch.tensor([[6.0]]), torch.tensor([[0.0]])
        >>> additive_normalization(raw, grand, null).flatten().tolist()  # 2 are missing, 1 for each player
        [2.0, 4.0]
    """
    return raw + efficiency_gap(raw, grand, null).unsqueeze(1) / raw.shape[1]


def multiplicative_normalization(
    raw: Float[Tensor, "B P K"], grand: Float[Tensor, "B K"], null: Float[Tensor, "#B K"]
) -> Float[Tensor, "B P K"]:
    """Return the raw values multiplied by the factor that makes them efficient.

    The factor is unstable where values sum to nearly zero, and not finite where they sum to zero.

    Args:
        raw: Values (B, P, K).
        grand: Value of the coalition of all players (B, K).
        null: Value of the empty coalition (B, K) or (1, K).
    """
    return raw * ((grand - null) / raw.sum(dim=1)).unsqueeze(1)


NORMALIZATIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "additive": additive_normalization,
    "multiplicative": multiplicative_normalization,
    "none": no_normalization,
}
