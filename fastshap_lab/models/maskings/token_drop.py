"""Masking that removes the tokens of absent players from the sequence."""

from itertools import groupby
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fastshap_lab.models.classifier import Model, opened
from fastshap_lab.models.maskings.attention import AttentionMask
from fastshap_lab.models.tokens import TokenNetwork, embed, rope_of, with_positions

BUCKET = 8
"""Sequences whose lengths round up to the same multiple of this number form a batch."""


class TokenDrop(AttentionMask):
    """Leaves the tokens of absent players out of the sequence: the outputs of ``AttentionMask`` at half the cost.

    The other tokens keep their positions. Sequences of similar length form a batch, in which shorter ones are padded
    with hidden tokens. Patches are embedded once per image. Weights trained with either masking fit the other.

    Args:
        classifier: Model whose network is a vision transformer.
        players: Player grid, each player of one or several whole patches.

    Raises:
        UserError: The network is no such transformer, or its patches do not fit the players.
    """

    name: ClassVar[str] = "token_drop"

    def forward(self, classifier: Model, image: Tensor, coalitions: Tensor, max_rows: int | None = None) -> Tensor:
        """Return logits (B, M, K) of images (B, 3, H, W), each under its coalitions (B, M, P)."""
        if image.is_meta or torch.compiler.is_exporting():  # sizes are unknown, so tokens are hidden instead
            return super().forward(classifier, image, coalitions, max_rows)
        normalize, network = cast(tuple[Model, TokenNetwork], opened(classifier))
        tokens, rope = with_positions(network, embed(network, normalize(image)))
        present = self.present(coalitions).flatten(0, 1)  # (N, patches)
        members = present.to(torch.uint8).argsort(dim=1, descending=True, stable=True)  # present patches, then absent
        sizes, order = present.sum(dim=1).sort(stable=True)
        owner = order // coalitions.shape[1]
        logits = []
        for start, stop, smallest, largest in _batches(sizes.tolist(), max_rows):
            rows = order[start:stop]
            width = max(largest, 0 if network.num_prefix_tokens else 1)
            shown = members[rows, :width]
            inside = torch.arange(width, device=sizes.device) < sizes[start:stop].unsqueeze(1)
            logits.append(
                self.classify(
                    network,
                    _gather(tokens, owner[start:stop], shown, network.num_prefix_tokens),
                    rope_of(network, rope, shown),
                    inside,
                    everyone=smallest == width,
                )
            )
        return torch.cat(logits)[order.argsort()].unflatten(0, coalitions.shape[:2])


def _batches(sizes: list[int], max_rows: int | None) -> list[tuple[int, int, int, int]]:
    """Return the first row, the row after the last, and the smallest and largest size of each batch of sorted rows."""
    batches = []
    for _, group in groupby(range(len(sizes)), key=lambda row: -(-sizes[row] // BUCKET)):
        rows = list(group)
        for first in range(0, len(rows), max_rows or len(rows)):
            part = rows[first : first + (max_rows or len(rows))]
            batches.append((part[0], part[-1] + 1, sizes[part[0]], sizes[part[-1]]))
    return batches


def _gather(tokens: Tensor, owner: Tensor, patches: Tensor, num_prefix_tokens: int) -> Tensor:
    """Return the prefix tokens and some patch tokens of images, one sequence per row.

    Args:
        tokens: Tokens of all images (B, T, D), prefix tokens first.
        owner: Index of each row's image (N,).
        patches: Indices of each row's patches (N, width).
        num_prefix_tokens: Number of prefix tokens.
    """
    prefix = torch.arange(num_prefix_tokens, device=owner.device).expand(len(owner), -1)
    index = torch.cat([prefix, patches + num_prefix_tokens], dim=1) + owner.unsqueeze(1) * tokens.shape[1]
    return F.embedding(index, tokens.flatten(0, 1))  # its backward pass is faster than that of indexing
