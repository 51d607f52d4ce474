"""The base class of methods that read the attention of a vision transformer."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from fastshap_lab.attribution.base import AttributionMethod, Kind, gradients, one_of
from fastshap_lab.attribution.recording import AttentionRecord, find_token_network, recorded_attention, unrecordable
from fastshap_lab.components import Count
from fastshap_lab.errors import UserError
from fastshap_lab.models.tokens import TokenNetwork, pools_patches

Rows = Literal["class", "prefix_mean", "query_mean"]


class AttentionMethod(AttributionMethod):
    """Base class of methods that turn the attention of all blocks into a relation between tokens, and that into a map.

    Args:
        model: Model that is or contains one timm VisionTransformer (which includes DeiT) or Eva network.
        rows: Query rows of the relation that are read. ``class`` reads the class token's row; ``prefix_mean`` the mean
            of the rows of a distilled DeiT's two prefix tokens; ``query_mean`` the mean of all rows, which adapts the
            methods to networks whose head reads the mean of the patches.
        max_batch: Number of images per pass.

    Raises:
        UserError: The method does not apply to the model.

    Example:
        >>> from timm.models import VisionTransformer
        >>> class FirstBlock(AttentionMethod):
        ...     def _attribute(self, image, target):
        ...         record = self._look(image)
        ...         return self._map(record.attention[0].mean(dim=1), record.grid)
        >>> model = VisionTransformer(img_size=8, patch_size=4, num_classes=3, embed_dim=12, depth=2, num_heads=3)
        >>> FirstBlock(model).attribute(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 2, 2])
    """

    kind: ClassVar[Kind] = "saliency"
    network: TokenNetwork

    def __init__(self, model: nn.Module, rows: Rows = "class", max_batch: Count = 32) -> None:
        self.rows = one_of("rows", rows, Rows)
        super().__init__(model, max_batch)
        network = find_token_network(model)
        assert network is not None  # the constructor above refuses models without one
        self.network = network

    @classmethod
    def supports(cls, model: nn.Module, rows: Rows = "class") -> str | None:
        """Return why the method cannot be applied to a model with these rows, or None if it can.

        Args:
            model: Model to explain.
            rows: Query rows, see ``AttentionMethod``.
        """
        return unrecordable(model) or cls._without_rows(model, rows)

    @staticmethod
    def _without_rows(model: nn.Module, rows: Rows) -> str | None:
        network = find_token_network(model)
        if rows == "prefix_mean" and not isinstance(network, VisionTransformerDistilled):
            return "rows=prefix_mean needs a distilled DeiT, the only network whose heads read two prefix tokens"
        if network is None or network.global_pool == "token" or (rows == "query_mean" and pools_patches(network)):
            return None
        if pools_patches(network):
            return "the network's head reads the mean of the patches, no class token; rows=query_mean adapts to that"
        return f"the network's pooling is {network.global_pool or 'none'}: its head does not read a class token"

    def _refusal(self, model: nn.Module) -> str | None:
        return self.supports(model, self.rows)

    def _block(self, argument: str, number: int) -> int:
        """Return a block's index from 0, given as an argument that may be negative to count from the end."""
        depth = len(self.network.blocks)
        if not -depth <= number < depth:
            raise UserError(f"{type(self).__name__}: {argument}={number}: blocks are numbered 0 to {depth - 1}")
        return number % depth

    @torch.no_grad()
    def _look(self, image: Tensor) -> AttentionRecord:
        """Return the attention of one forward pass."""
        with recorded_attention(self.network) as record:
            self.model(image)
        return record

    def _differentiate(
        self, image: Tensor, target: Tensor, detach_inputs: bool = False
    ) -> tuple[AttentionRecord, list[Tensor]]:
        """Return the attention of one forward pass and the gradients of the target's logit by it, after the softmax."""
        with recorded_attention(self.network, detach_inputs) as record:
            logits = self.model(image)
        by_attention = gradients(logits, target, record.attention)
        record.scores = [scores.detach() for scores in record.scores]
        record.attention = [attention.detach() for attention in record.attention]
        return record, by_attention

    def _row(self, relation: Float[Tensor, "B T T"]) -> Float[Tensor, "B T"]:
        if self.rows == "query_mean":
            return relation.mean(dim=1)
        return relation[:, :2].mean(dim=1) if self.rows == "prefix_mean" else relation[:, 0]

    def _map(self, relation: Float[Tensor, "B T T"], grid: tuple[int, int]) -> Float[Tensor, "B rows columns"]:
        return self._patches(self._row(relation), grid)

    def _patches(self, row: Float[Tensor, "B T"], grid: tuple[int, int]) -> Float[Tensor, "B rows columns"]:
        return row[:, self.network.num_prefix_tokens :].unflatten(1, grid)
