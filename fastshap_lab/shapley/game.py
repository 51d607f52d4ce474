"""The game that attributions explain: a value for every input, coalition and class."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from fastshap_lab.errors import UserError


@runtime_checkable
class Game(Protocol):
    """Value function v(input, S) of all classes at once, in the space of its link, without gradients.

    Inputs are whatever the game is about, one per entry of the first axis: images, rows of features, tokens.

    Example:
        >>> game = FunctionGame(lambda inputs, coalitions: coalitions.sum(dim=2, keepdim=True).float(), 3)
        >>> isinstance(game, Game)
        True
    """

    num_players: int

    def values(self, inputs: Shaped[Tensor, "B ..."], coalitions: Bool[Tensor, "B M P"], /) -> Float[Tensor, "B M K"]:
        """Return the value (B, M, K) of each coalition.

        Args:
            inputs: Inputs (B, ...).
            coalitions: Coalitions (B, M, P), True where a player is present.
        """

    def grand(self, inputs: Shaped[Tensor, "B ..."], /) -> Float[Tensor, "B K"]:
        """Return the value when every player is present."""

    def null(self, inputs: Shaped[Tensor, "B ..."], /) -> Float[Tensor, "#B K"]:
        """Return the value when no player is present; one row where it does not depend on the input."""

    def __call__(
        self, inputs: Shaped[Tensor, "B ..."], coalitions: Bool[Tensor, "B M P"], /
    ) -> tuple[Float[Tensor, "B M K"], Float[Tensor, "B K"], Float[Tensor, "#B K"]]:
        """Return values, grand and null from one batch of passes."""


class FunctionGame:
    """Game of a function.

    Args:
        function: Takes inputs (B, ...) and coalitions, bool (B, M, P), and returns their values (B, M, K).
        num_players: Number of players P.

    Example:
        >>> game = FunctionGame(lambda inputs, coalitions: coalitions.sum(dim=2, keepdim=True).float(), 3)
        >>> game.grand(torch.zeros(1, 1)).item(), game.null(torch.zeros(1, 1)).item()
        (3.0, 0.0)
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], num_players: int) -> None:
        self.function, self.num_players = function, num_players

    def values(self, inputs: Shaped[Tensor, "B ..."], coalitions: Bool[Tensor, "B M P"]) -> Float[Tensor, "B M K"]:
        """Return the value (B, M, K) of each coalition.

        Args:
            inputs: Inputs (B, ...).
            coalitions: Coalitions (B, M, P), True where a player is present.
        """
        return self.function(inputs, coalitions)

    def grand(self, inputs: Shaped[Tensor, "B ..."]) -> Float[Tensor, "B K"]:
        """Return the value (B, K) when every player is present."""
        return self._of_all(inputs, True)

    def null(self, inputs: Shaped[Tensor, "B ..."]) -> Float[Tensor, "B K"]:
        """Return the value (B, K) when no player is present."""
        return self._of_all(inputs, False)

    def __call__(
        self, inputs: Shaped[Tensor, "B ..."], coalitions: Bool[Tensor, "B M P"]
    ) -> tuple[Float[Tensor, "B M K"], Float[Tensor, "B K"], Float[Tensor, "B K"]]:
        """Return values, grand and null."""
        return self.values(inputs, coalitions), self.grand(inputs), self.null(inputs)

    def _of_all(self, inputs: Tensor, present: bool) -> Tensor:
        coalitions = torch.full((len(inputs), 1, self.num_players), present, device=inputs.device)
        return self.function(inputs, coalitions).squeeze(1)


def check_players(num_players: int) -> None:
    """Raise a ``UserError`` where there are fewer than two players."""
    if num_players < 2:
        raise UserError(f"players={num_players}: nothing is left to share out; 2 or more are needed")


def logits(logits: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
    """Return the logits as they are."""
    return logits


def centred_logits(logits: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
    """Return the logits less their mean over classes: what softmax says of them, which is all but a constant."""
    return logits - logits.mean(dim=-1, keepdim=True)


def softmax(logits: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
    """Return class probabilities."""
    return logits.softmax(dim=-1)


def log_softmax(logits: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
    """Return the logarithm of class probabilities."""
    return logits.log_softmax(dim=-1)


def log_odds(logits: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
    """Return ``log(p / (1 - p))`` of each class's softmax probability, for at least two classes."""
    log_p = logits.log_softmax(dim=-1)
    odds = log_p - (-log_p.expm1()).log()
    # The most probable class may be rounded to p = 1: the others' sum says exactly how much is left of it.
    top = logits.argmax(dim=-1, keepdim=True)
    rest = log_p.scatter(-1, top, float("-inf")).logsumexp(dim=-1, keepdim=True)
    return odds.scatter(-1, top, log_p.gather(-1, top) - rest)


def sigmoid(logits: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
    """Return each class's own probability, for classifiers whose classes do not exclude each other."""
    return logits.sigmoid()


def identity(answers: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
    """Return the answers of a regression as they are, in units of its targets."""
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
