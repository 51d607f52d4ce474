"""Absent players are tokens that nobody attends to."""

from typing import cast

import torch
from torch import Tensor, nn

from fastshap_lab.errors import UserError
from fastshap_lab.models.classifier import Classifier
from fastshap_lab.models.maskings.base import Masking
from fastshap_lab.models.tokens import (
    TokenNetwork,
    classify_pooled,
    is_token_network,
    mean_of_present,
    pools_patches,
    token_grid,
)
from fastshap_lab.shapley.grid import PlayerGrid


class AttentionMask(Masking):
    """Hide the tokens of absent players as keys in every attention of a vision transformer.

    Prefix tokens (class, distillation, registers) are always visible. A network whose head reads the mean of its patch
    tokens takes that of the present ones; of none, a learned null feature. A player may own several tokens.

    Reference: Covert et al., Learning to estimate Shapley values with vision transformers, ICLR 2023,
    arXiv:2206.05282, section 4.1.

    Raises:
        UserError: The network is no such transformer, or its patches do not fit the player grid.
    """

    players: PlayerGrid
    null: nn.Parameter | None

    def __init__(self, classifier: Classifier, grid: PlayerGrid) -> None:
        super().__init__(classifier, grid)
        network = classifier.network
        if not is_token_network(network):
            raise UserError(
                f"surrogate.masking=attention: {type(network).__name__} is not of timm's VisionTransformer or Eva "
                "families, whose attention can be masked; any network takes surrogate.masking=mask_channel"
            )
        if network.global_pool not in ("token", "avg"):
            raise UserError(
                f"surrogate.masking=attention: pooling by {network.global_pool or 'nothing'} is not supported, only by "
                "class token or mean; any network takes surrogate.masking=mask_channel"
            )
        tokens = token_grid(network)
        if any(token % players for token, players in zip(tokens, grid.shape, strict=True)):
            raise UserError(
                f"surrogate.masking=attention: a player must own whole patches, and {tokens[0]}×{tokens[1]} patches "
                f"do not make {grid.shape[0]}×{grid.shape[1]} players; choose data.grid or the patch size"
            )
        self.players = PlayerGrid(tokens, grid.shape)  # a patch is a "pixel" here
        self.num_prefix_tokens = network.num_prefix_tokens
        self.null = nn.Parameter(torch.zeros(network.num_features)) if pools_patches(network) else None

    def forward(self, classifier: Classifier, image: Tensor, coalition: Tensor) -> Tensor:
        """Return logits (N, K) of images (N, 3, H, W), each with one coalition (N, P)."""
        network, pixels = cast(TokenNetwork, classifier.network), classifier.normalize(image)
        present = self.players.to_pixels(coalition.unsqueeze(1)).flatten(1)  # (N, patches)
        nobody = ~present.any(dim=1, keepdim=True)
        # Without any prefix token the null coalition would leave attention nothing to look at; its answer is learned.
        visible = present if self.num_prefix_tokens else present | nobody
        keys = torch.cat([visible.new_ones(len(visible), self.num_prefix_tokens), visible], dim=1)  # (N, T)
        mask = keys[:, None, None, :].expand(-1, 1, keys.shape[1], -1)  # heads broadcast, every query sees the same
        if self.null is None:
            return network(pixels, attn_mask=mask)
        features = network.forward_features(pixels, attn_mask=mask)[:, self.num_prefix_tokens :]
        pooled = torch.where(nobody, self.null.to(features.dtype), mean_of_present(features, present))
        return classify_pooled(network, pooled)
