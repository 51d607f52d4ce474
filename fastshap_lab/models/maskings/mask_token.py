"""Masking that replaces the tokens of absent players by one learned token."""

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from fastshap_lab.models.classifier import Model, opened
from fastshap_lab.models.maskings.base import in_chunks
from fastshap_lab.models.maskings.tokens import TokenMasking
from fastshap_lab.models.tokens import TokenNetwork, embed, transform, with_positions
from fastshap_lab.shapley.players import Players


class MaskToken(TokenMasking):
    """Replaces the patch embeddings of absent players by one learned token; positions stay.

    Reference: Bao et al., BEiT, ICLR 2022, arXiv:2106.08254, section 2.3, where such a token replaces patches that are
    to be predicted.

    Args:
        classifier: Model whose network is a vision transformer.
        players: Player grid, each player of one or several whole patches.

    Raises:
        UserError: The network is no such transformer, or its patches do not fit the players.
    """

    name: ClassVar[str] = "mask_token"

    def __init__(self, classifier: Model, players: Players) -> None:
        super().__init__(classifier, players)
        network = cast(TokenNetwork, opened(classifier)[1])
        self.token = nn.Parameter(0.02 * torch.randn(network.embed_dim))  # initialized like other tokens

    def forward(self, classifier: Model, image: Tensor, coalitions: Tensor, max_rows: int | None = None) -> Tensor:
        """Return logits (B, M, K) of images (B, 3, H, W), each under its coalitions (B, M, P)."""
        normalize, network = cast(tuple[Model, TokenNetwork], opened(classifier))

        def one_pass(image: Tensor, coalitions: Tensor) -> Tensor:
            patches = embed(network, normalize(image)).unsqueeze(1)  # (B, 1, T, D) or (B, 1, rows, columns, D)
            present = self.present(coalitions).unflatten(2, patches.shape[2:-1]).unsqueeze(-1)
            rows = torch.where(present, patches, self.token.to(patches.dtype)).flatten(0, 1)
            features = transform(network, *with_positions(network, rows))
            return network.forward_head(features).unflatten(0, coalitions.shape[:2])

        return in_chunks(one_pass, image, coalitions, max_rows)
