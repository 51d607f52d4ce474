"""Transition attention maps."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastshap_lab.attribution.attention_method import AttentionMethod, Rows
from fastshap_lab.attribution.base import gradients, mean_colour
from fastshap_lab.attribution.recording import recorded_attention
from fastshap_lab.components import Count
from fastshap_lab.errors import UserError


def transition(state: Float[Tensor, "B T"], layers: Sequence[Float[Tensor, "B T T"]]) -> Float[Tensor, "B T"]:
    """Return a row of the last block's attention, carried back through earlier blocks; each step adds to the row.

    Args:
        state: Row of the last block's attention, averaged over heads.
        layers: Attention of the earlier blocks, averaged over heads, first block first.

    Example:
        >>> transition(torch.tensor([[1.0, 0.0]]), [torch.full((1, 2, 2), 0.5)]).tolist()
        [[1.5, 0.5]]
    """
    for layer in reversed(layers):
        state = state + (state.unsqueeze(1) @ layer).squeeze(1)
    return state


class TAM(AttentionMethod):
    """Transition attention map: attention as a Markov chain from the last block back, times integrated gradients.

    The gradients by the last block's attention are averaged over images on a straight path from the mean colour to the
    given image, both included. This does not integrate along a path of attention, so maps do not add up to a change of
    the logit.

    Reference: Yuan et al., Explaining information flow inside vision transformers using Markov chain, 2021.

    Args:
        model: Model to explain, see ``AttentionMethod``.
        steps: Number of images on the path, at least 2.
        start_layer: Index of the first block used, from 0; by default a third of the number of blocks, rounded, as in
            the paper's scripts.
        rows: Query rows that are read, see ``AttentionMethod``.
        max_batch: Number of images per pass.

    Raises:
        UserError: The method does not apply to the model, or an option is out of range.

    Example:
        >>> from timm.models import VisionTransformer
        >>> model = VisionTransformer(img_size=8, patch_size=4, num_classes=3, embed_dim=12, depth=2, num_heads=3)
        >>> maps = TAM(model, steps=4).attribute(torch.rand(2, 3, 8, 8), target=0)
        >>> maps.shape, bool((maps >= 0).all())
        (torch.Size([2, 2, 2]), True)
    """

    def __init__(
        self,
        model: nn.Module,
        steps: int = 20,
        start_layer: int | None = None,
        rows: Rows = "class",
        max_batch: Count = 32,
    ) -> None:
        super().__init__(model, rows, max_batch)
        if steps < 2:
            raise UserError(f"TAM: steps={steps}: must be at least 2, the mean colour and the image")
        self.steps = steps
        self.start_layer = self._block(
            "start_layer", round(len(self.network.blocks) / 3) if start_layer is None else start_layer
        )

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        record = self._look(image)
        layers = [attention.mean(dim=1) for attention in record.attention]
        state = transition(self._row(layers[-1]), layers[self.start_layer : -1])
        weight = self._mean_gradient(image, target).clamp_min(0).mean(dim=1)
        return self._patches(state * self._row(weight), record.grid)

    def _mean_gradient(self, image: Tensor, target: Tensor) -> Tensor:
        """Return the mean gradient (B, A, T, T) of the target's logit by the last block's attention."""
        start = mean_colour(self.model, image)
        shares = torch.linspace(0, 1, self.steps, dtype=image.dtype, device=image.device).repeat(len(image))
        owners = torch.arange(len(image), device=image.device).repeat_interleave(self.steps)
        total: Tensor | None = None
        for share, owner in zip(shares.split(self.max_batch), owners.split(self.max_batch), strict=True):
            with recorded_attention(self.network) as record:
                logits = self.model(start + share.view(-1, 1, 1, 1) * (image[owner] - start))
            (gradient,) = gradients(logits, target[owner], record.attention[-1:])
            if total is None:
                total = gradient.new_zeros(len(image), *gradient.shape[1:])
            total.index_add_(0, owner, gradient)
        assert total is not None
        return total / self.steps
