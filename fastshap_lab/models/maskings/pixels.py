"""What maskings at the pixels share: any network takes them."""

from abc import abstractmethod

import torch
from torch import Tensor

from fastshap_lab.models.classifier import Model, opened
from fastshap_lab.models.maskings.base import Masking, in_chunks
from fastshap_lab.shapley.players import PlayerGrid


class PixelMasking(Masking):
    """Show other pixels in the place of absent ones."""

    @abstractmethod
    def layers(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what the network sees where players are present, and where they are absent (none: zeros).

        From pixels (B, 3, H, W) in the network's own space, where zero is the mean colour if it normalizes, both
        (B, C, H, W).
        """

    def forward(self, classifier: Model, image: Tensor, coalitions: Tensor, max_rows: int | None = None) -> Tensor:
        """Return logits (B, M, K) of images (B, 3, H, W), each under its coalitions (B, M, P)."""
        normalize, network = opened(classifier)

        def one_pass(image: Tensor, coalitions: Tensor) -> Tensor:
            present, absent = self.layers(normalize(image))
            rows = self._rows(present, absent, coalitions)
            if network is classifier:  # anybody's: it may ``view`` as it can only be where channels come first
                rows = rows.contiguous()
            return network(rows).unflatten(0, coalitions.shape[:2])

        return in_chunks(one_pass, image, coalitions, max_rows)

    def _rows(self, present: Tensor, absent: Tensor | None, coalitions: Tensor) -> Tensor:
        """Return each image under each coalition (B·M, C, H, W), channels-last.

        In that layout a patch's pixels of one line are neighbours in memory, so that images and coalitions meet in a
        single operation, without copies of either.
        """
        (batch, num_coalitions, _), (height, width) = coalitions.shape, self.players.image_size
        owners, together = self.players, 1
        if isinstance(owners, PlayerGrid):  # a patch's pixels of one line go together, as if they were one
            owners, together = PlayerGrid((height, owners.shape[1]), owners.shape), owners.patch_size[1]
        lines = owners.to_pixels(coalitions).squeeze(2).unsqueeze(-1)

        def line_by_line(layer: Tensor) -> Tensor:
            return layer.permute(0, 2, 3, 1).reshape(batch, 1, height, width // together, -1)

        if absent is None:
            shown = line_by_line(present) * lines.to(present.dtype)
        else:
            shown = torch.where(lines, line_by_line(present), line_by_line(absent))
        return shown.view(batch * num_coalitions, height, width, -1).permute(0, 3, 1, 2)
