"""What maskings of tokens share: the networks that they take."""

from typing import ClassVar

from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from fastshap_lab.errors import UserError
from fastshap_lab.models.classifier import Model, opened
from fastshap_lab.models.maskings.base import Masking
from fastshap_lab.models.tokens import is_token_network, token_grid
from fastshap_lab.shapley.grid import PlayerGrid


class TokenMasking(Masking):
    """Hide tokens of a vision transformer. A player may own several.

    Raises:
        UserError: The network is no such transformer, or its patches do not fit the player grid.
    """

    name: ClassVar[str]
    """Entry of ``MASKINGS``, for errors."""

    players: PlayerGrid

    def __init__(self, classifier: Model, grid: PlayerGrid) -> None:
        super().__init__(classifier, grid)
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
        tokens = token_grid(network)
        if any(token % players for token, players in zip(tokens, grid.shape, strict=True)):
            raise UserError(
                f"surrogate.masking={self.name}: a player must own whole patches, and {tokens[0]}×{tokens[1]} patches "
                f"do not make {grid.shape[0]}×{grid.shape[1]} players; choose data.grid or the patch size"
            )
        self.players = PlayerGrid(tokens, grid.shape)  # a patch is a "pixel" here

    def present(self, coalitions: Tensor) -> Tensor:
        """Return the patch tokens (B, M, T) of present players of coalitions (B, M, P)."""
        return self.players.to_pixels(coalitions).flatten(2)
