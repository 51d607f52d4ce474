"""The game that attributions explain: a value for every input, coalition and class."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from fastshap_lab.errors import UserError


@runtime_checkable
class Game(Protocol):
    """A value function v(input, S) of all classes at once, in the space of its link, without gradients.

    The first axis of ``inputs`` lists the inputs: images, rows of features or sequences of tokens.

    Example:
        Any object with these members is a game, for example that of a function:

        >>> game = FunctionGame(lambda inputs, coalitions: coalitions.sum(dim=2, keepdim=True).float(), num_players=3)
        >>> isinstance(game, Game)
        True
        >>> game.values(torch.zeros(1, 1), torch.tensor([[[True, True, False]]]))
        tensor([[[2.]]])
    """

    num_players: int

    def values(self, inputs: Shaped[Tensor, "B ..."], coalitions: Bool[Tensor, "B M P"], /) -> Float[Tensor, "B M K"]:
        """Return the value of each coalition.

        Args:
            inputs: The inputs.
            coalitions: The coalitions of each input.
        """

    def grand(self, inputs: Shaped[Tensor, "B ..."], /) -> Float[Tensor, "B K"]:
        """Return the value when every player is present."""

    def null(self, inputs: Shaped[Tensor, "B ..."], /) -> Float[Tensor, "#B K"]:
        """Return the value when no player is present; one row where it does not depend on the input."""

    def __call__(
        self, inputs: Shaped[Tensor, "B ..."], coalitions: Bool[Tensor, "B M P"], /
    ) -> tuple[Float[Tensor, "B M K"], Float[Tensor, "B K"], Float[Tensor, "#B K"]]:
        """Return the values of the coalitions, of the grand and of the null coalition, from one batch of passes.

        Args:
            inputs: The inputs.
            coalitions: The coalitions of each input.
        """


class FunctionGame:
    """The game of a function of inputs and coalitions.

    Args:
        function: Maps inputs (B, ...) and coalitions, bool (B, M, P), to the values of the coalitions (B, M, K).
        num_players: Number of players P.

    Example:
        Two players are worth 1 and 2 alone, and 5 together: their Shapley values are 1 + 1 and 2 + 1.

        >>> def worth(inputs, present):
        ...     alone = present.double() @ torch.tensor([[1.0], [2.0]]).double()
        ...     return alone + 2 * present.all(dim=2, keepdim=True)
        >>> from fastshap_lab.shapley import exact_shapley_values
        >>> exact_shapley_values(FunctionGame(worth, num_players=2), torch.zeros(1, 1)).flatten()
        tensor([2., 3.], dtype=torch.float64)
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], num_players: int) -> None:
        self.function, self.num_players = function, num_players

    def values(self, inputs: Shaped[Tensor, "B ..."], coalitions: Bool[Tensor, "B M P"]) -> Float[Tensor, "B M K"]:
        """Return the value of each coalition.

        Args:
            inputs: The inputs (B, ...).
            coalitions: The coalitions of each input (B, M, P), True where a player is present.
        """
        return self.function(inputs, coalitions)

    def grand(self, inputs: Shaped[Tensor, "B ..."]) -> Float[Tensor, "B K"]:
        """Return the value of the grand coalition."""
        return self._of_all(inputs, True)

    def null(self, inputs: Shaped[Tensor, "B ..."]) -> Float[Tensor, "B K"]:
        """Return the value of the null coalition."""
        return self._of_all(inputs, False)

    def __call__(
        self, inputs: Shaped[Tensor, "B ..."], coalitions: Bool[Tensor, "B M P"]
    ) -> tuple[Float[Tensor, "B M K"], Float[Tensor, "B K"], Float[Tensor, "B K"]]:
        """Return the values of the coalitions, of the grand and of the null coalition."""
        return self.values(inputs, coalitions), self.grand(inputs), self.null(inputs)

    def _of_all(self, inputs: Tensor, present: bool) -> Tensor:
        coalitions = torch.full((len(inputs), 1, self.num_players), present, device=inputs.device)
        return self.function(inputs, coalitions).squeeze(1)


def check_players(num_players: int) -> None:
    """Check that a game has at least two players.

    Args:
        num_players: Number of players P.

    Raises:
        UserError: There are fewer than two players.

    Example:
        >>> check_players(1)
        Traceback (most recent call last):
        fastshap_lab.errors.UserError: players=1: a game needs 2 or more players to share its value
    """
    if num_players < 2:
        raise UserError(f"players={num_players}: a game needs 2 or more players to share its value")


def logits(logits: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
    """Return the logits unchanged.

    Example:
        >>> logits(torch.tensor([0.0, 2.0]))
        tensor([0., 2.])
    """
    return logits


def centred_logits(logits: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
    """Return the logits minus their mean over classes, which softmax determines; the mean itself it does not.

    Example:
        >>> centred_logits(torch.tensor([0.0, 2.0]))
        tensor([-1.,  1.])
    """
    return logits - logits.mean(dim=-1, keepdim=True)


def softmax(logits: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
    """Return the probability of each class, for classes that exclude each other.

    Example:
        >>> softmax(torch.tensor([0.0, 0.0]))
        tensor([0.5000, 0.5000])
    """
    return logits.softmax(dim=-1)


def log_softmax(logits: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
    """Return the natural logarithm of each class's softmax probability.

    Example:
        >>> log_softmax(torch.tensor([0.0, 0.0]))
        tensor([-0.6931, -0.6931])
    """
    return logits.log_softmax(dim=-1)


def log_odds(logits: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
    """Return ``log(p / (1 - p))`` of each class's softmax probability p, for at least two classes.

    Example:
        Of two classes the log-odds are the difference of the logits.

        >>> log_odds(torch.tensor([0.0, 2.0]))
        tensor([-2.,  2.])
    """
    log_p = logits.log_softmax(dim=-1)
    odds = log_p - (-log_p.expm1()).log()
    # The probability of the most probable class may be rounded to 1; the sum of the others gives 1 - p exactly.
    top = logits.argmax(dim=-1, keepdim=True)
    rest = log_p.scatter(-1, top, float("-inf")).logsumexp(dim=-1, keepdim=True)
    return odds.scatter(-1, top, log_p.gather(-1, top) - rest)


def sigmoid(logits: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
    """Return the probability of each label, for labels that do not exclude each other.

    Example:
        >>> sigmoid(torch.tensor([0.0, 0.0]))
        tensor([0.5000, 0.5000])
    """
    return logits.sigmoid()


def identity(answers: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
    """Return the answers of a regression unchanged, in the units of its targets.

    Example:
        >>> identity(torch.tensor([37.5]))
        tensor([37.5000])
    """
    return answers


LINKS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": softmax,
    "log_softmax": log_softmax,
    "log_odds": log_odds,
    "logits": logits,
    "centred_logits": centred_logits,
    "sigmoid": sigmoid,
    "identity": identity,
}
