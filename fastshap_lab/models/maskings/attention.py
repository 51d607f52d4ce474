"""Masking in which no token attends to the tokens of absent players."""

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from fastshap_lab.errors import UserError
from fastshap_lab.models.classifier import Model, opened
from fastshap_lab.models.maskings.base import in_chunks
from fastshap_lab.models.maskings.tokens import TokenMasking
from fastshap_lab.models.tokens import (
    TokenNetwork,
    classify_pooled,
    embed,
    mean_of_present,
    pools_patches,
    transform,
    with_positions,
)
from fastshap_lab.shapley.players import Players


class AttentionMask(TokenMasking):
    """Excludes the tokens of absent players from the keys of every attention of a vision transformer.

    Prefix tokens (class, distillation, registers) are always visible. If the network's head reads the mean of the patch
    tokens, it gets the mean of the present ones, and for the null coalition a learned feature.

    Reference: Covert et al., Learning to estimate Shapley values with vision transformers, ICLR 2023,
    arXiv:2206.05282, section 4.1.

    Args:
        classifier: Model whose network is a vision transformer.
        players: Player grid, each player of one or several whole patches.

    Raises:
        UserError: The network is no such transformer, or its patches do not fit the players.
    """

    name: ClassVar[str] = "attention"
    null: nn.Parameter | None

    def __init__(self, classifier: Model, players: Players) -> None:
        super().__init__(classifier, players)
        network = cast(TokenNetwork, opened(classifier)[1])
        if network.global_pool not in ("token", "avg"):
            raise UserError(
                f"surrogate.masking={self.name}: pooling by {network.global_pool or 'nothing'} is not supported, only "
                "by class token or mean; any network takes surrogate.masking=mask_channel"
            )
        self.null = nn.Parameter(torch.zeros(network.num_features)) if pools_patches(network) else None

    def forward(self, classifier: Model, image: Tensor, coalitions: Tensor, max_rows: int | None = None) -> Tensor:
        """Return logits (B, M, K) of images (B, 3, H, W), each under its coalitions (B, M, P)."""
        normalize, network = cast(tuple[Model, TokenNetwork], opened(classifier))

        def one_pass(image: Tensor, coalitions: Tensor) -> Tensor:
            tokens, rope = with_positions(network, embed(network, normalize(image)))
            rows = tokens.repeat_interleave(coalitions.shape[1], dim=0)
            logits = self.classify(network, rows, rope, self.present(coalitions).flatten(0, 1))
            return logits.unflatten(0, coalitions.shape[:2])

        return in_chunks(one_pass, image, coalitions, max_rows)

    def classify(
        self, network: TokenNetwork, tokens: Tensor, rope: Tensor | None, present: Tensor, everyone: bool = False
    ) -> Tensor:
        """Return logits (N, K) of tokens under a mask of the patches.

        Args:
            network: The vision transformer.
            tokens: Tokens (N, T, D): prefix tokens, then patches.
            rope: Rotary embedding as the blocks take it, or None.
            present: Mask of the patches that are present (N, T - prefix tokens), bool.
            everyone: Whether all patches are known to be present, so that no mask is needed.
        """
        prefix, mask, nobody = network.num_prefix_tokens, None, ~present.any(dim=1, keepdim=True)
        if not everyone:
            # Without prefix tokens, the null coalition would leave no key. All keys are visible then; it does not
            # matter, since the feature of the null coalition is learned.
            visible = present if prefix else present | nobody
            keys = torch.cat([visible.new_ones(visible.shape[0], prefix), visible], dim=1)  # (N, T)
            mask = keys[:, None, None, :].expand(-1, 1, keys.shape[1], -1)  # the same for all heads and queries
        features = transform(network, tokens, rope, mask)
        if self.null is None:
            return network.forward_head(features)
        pooled = mean_of_present(features[:, prefix:], present)
        return classify_pooled(network, torch.where(nobody, self.null.to(pooled.dtype), pooled))
