"""Absent players are tokens that nobody attends to."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fastshap_lab.errors import UserError
from fastshap_lab.models.classifier import Classifier
from fastshap_lab.models.maskings.base import Masking
from fastshap_lab.shapley.grid import PlayerGrid


class AttentionMask(Masking):
    """Hide the tokens of absent players as keys in every attention of a vision transformer.

    The class token and other prefix tokens are always visible, so the null coalition has an answer. A player may own
    several tokens.

    Reference: Covert et al., Learning to estimate Shapley values with vision transformers, ICLR 2023,
    arXiv:2206.05282, section 4.1.

    Raises:
        UserError: The network is no vision transformer with a class token, or its patches do not fit the player grid.
    """

    def __init__(self, classifier: Classifier, grid: PlayerGrid) -> None:
        super().__init__(classifier, grid)
        network = classifier.network
        if not isinstance(network, VisionTransformer) or network.global_pool != "token":
            raise UserError(
                "surrogate.masking=attention: needs a vision transformer with a class token, "
                f"got {type(network).__name__}; any network takes surrogate.masking=mask_channel"
            )
        self.tokens: tuple[int, int] = network.patch_embed.grid_size
        self.num_prefix_tokens = network.num_prefix_tokens
        if any(tokens % players for tokens, players in zip(self.tokens, grid.shape, strict=True)):
            raise UserError(
                f"surrogate.masking=attention: a player must own whole patches, and {self.tokens[0]}×{self.tokens[1]} "
                f"patches do not make {grid.shape[0]}×{grid.shape[1]} players; choose data.grid or the patch size"
            )

    def __call__(self, classifier: Classifier, image: Tensor, coalition: Tensor) -> Tensor:
        """Return logits (N, K) of images (N, 3, H, W), each with one coalition (N, P)."""
        tokens = PlayerGrid(self.tokens, self.grid.shape).to_pixels(coalition.unsqueeze(1))  # a token is a "pixel" here
        visible = tokens.flatten(1)
        prefix = visible.new_ones(len(visible), self.num_prefix_tokens)
        keys = torch.cat([prefix, visible], dim=1)  # (N, T)
        mask = keys[:, None, None, :].expand(-1, 1, keys.shape[1], -1)  # heads broadcast, every query sees the same
        return classifier.network(classifier.normalize(image), attn_mask=mask)
