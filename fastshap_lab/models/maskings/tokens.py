"""The base of maskings that hide tokens, with a check of the networks that they fit."""

from typing import ClassVar

from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from fastshap_lab.errors import UserError
from fastshap_lab.models.classifier import Model, opened
from fastshap_lab.models.maskings.base import Masking
from fastshap_lab.models.tokens import is_token_network, token_grid
from fastshap_lab.shapley.players import PlayerGrid, Players


class TokenMasking(Masking):
    """Hides tokens of a vision transformer. A player may own several tokens.

    Args:
        classifier: Model whose network is a vision transformer.
        players: Player grid, each player of one or several whole patches.

    Raises:
        UserError: The network is no such transformer, or its patches do not fit the players.
    """

    name: ClassVar[str]
    """Entry of ``MASKINGS``, for error lines."""

    def __init__(self, classifier: Model, players: Players) -> None:
        super().__init__(classifier, players)
        network = opened(classifier)[1]
        if not (isinstance(network, nn.Module) and is_token_network(network)):
            raise UserError(
                f"surrogate.masking={self.name}: {type(network).__name__} is not of timm's VisionTransformer or Eva "
                "families, whose tokens can be hidden; any network takes surrogate.masking=mask_channel"
            )
        if not isinstance(network.patch_embed, PatchEmbed):
            raise UserError(
                f"surrogate.masking={self.name}: a token must see its own patch alone, and those of "
                f"{type(network.patch_embed).__name__} see more; any network takes surrogate.masking=mask_channel"
            )
        if not isinstance(players, PlayerGrid):
            raise UserError(
                f"surrogate.masking={self.name}: tokens belong to the patches of a player grid, not to the segments of "
                "a label map, whose pixels can be hidden instead: mask_channel, constant, mean, blur"
            )
        tokens = token_grid(network)
        if any(token % number for token, number in zip(tokens, players.shape, strict=True)):
            raise UserError(
                f"surrogate.masking={self.name}: a player must own whole patches, and {tokens[0]}×{tokens[1]} patches "
                f"do not make {players.shape[0]}×{players.shape[1]} players; choose data.grid or the patch size"
            )
        self.token_players = PlayerGrid(tokens, players.shape)  # its "pixels" are the patches

    def present(self, coalitions: Tensor) -> Tensor:
        """Return whether each patch token belongs to a present player, bool (B, M, T), for coalitions (B, M, P)."""
        return self.token_players.to_pixels(coalitions).flatten(2)
