"""The base of maskings that replace pixels, which fit any network."""

from abc import abstractmethod

import torch
from torch import Tensor

from fastshap_lab.models.classifier import Model, opened
from fastshap_lab.models.maskings.base import Masking, in_chunks
from fastshap_lab.shapley.players import PlayerGrid


class PixelMasking(Masking):
    """Replaces absent pixels by other pixels."""

    @abstractmethod
    def layers(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the images that present and absent pixels are taken from, (B, C, H, W) each; None stands for zeros.

        Args:
            pixels: Pixels (B, 3, H, W) after the model's normalization, if it has one.
        """

    def forward(self, classifier: Model, image: Tensor, coalitions: Tensor, max_rows: int | None = None) -> Tensor:
        """Return logits (B, M, K) of images (B, 3, H, W), each under its coalitions (B, M, P)."""
        normalize, network = opened(classifier)

        def one_pass(image: Tensor, coalitions: Tensor) -> Tensor:
            present, absent = self.layers(normalize(image))
            rows = self._rows(present, absent, coalitions)
            if network is classifier:  # an unknown module may call ``view``, which needs channels first
                rows = rows.contiguous()
            return network(rows).unflatten(0, coalitions.shape[:2])

        return in_chunks(one_pass, image, coalitions, max_rows)

    def _rows(self, present: Tensor, absent: Tensor | None, coalitions: Tensor) -> Tensor:
        """Return each image under each coalition (B·M, C, H, W), in the channels-last layout.

        In this layout the pixels of one line of a patch are neighbours in memory, so that a single operation combines
        images and coalitions without copies of either.
        """
        (batch, num_coalitions, _), (height, width) = coalitions.shape, self.players.image_size
        owners, together = self.players, 1
        if isinstance(owners, PlayerGrid):  # the pixels of one line of a patch are treated as one
            owners, together = PlayerGrid((height, owners.shape[1]), owners.shape), owners.patch_size[1]
        lines = owners.to_pixels(coalitions).squeeze(2).unsqueeze(-1)

        def line_by_line(layer: Tensor) -> Tensor:
            return layer.permute(0, 2, 3, 1).reshape(batch, 1, height, width // together, -1)

        if absent is None:
            shown = line_by_line(present) * lines.to(present.dtype)
        else:
            shown = torch.where(lines, line_by_line(present), line_by_line(absent))
        return shown.view(batch * num_coalitions, height, width, -1).permute(0, 3, 1, 2)
