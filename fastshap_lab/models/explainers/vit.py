"""A vision transformer as explainer network."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from fastshap_lab.components import Positive
from fastshap_lab.errors import UserError
from fastshap_lab.models.explainers.base import Explainer, shrink_init
from fastshap_lab.models.freezing import load_matching
from fastshap_lab.models.tokens import is_token_network, token_grid
from fastshap_lab.shapley.players import PlayerGrid


class ViTExplainer(Explainer):
    """A backbone that starts from the surrogate's weights, one more attention block, and an MLP on every patch token.

    Reference: Covert et al., Learning to estimate Shapley values with vision transformers, ICLR 2023,
    arXiv:2206.05282, section 4.2 and appendix C. Differs from it: there is no tanh on the outputs, the head's initial
    weights are small, and patches may differ from players. A patch of several players has an output for each; a player
    of several patches gets the mean of their outputs.

    Args:
        grid: The players, any number of rows and columns.
        num_classes: Number of classes K.
        mean: Mean colour of the training images in [0, 1], one number per channel.
        std: Standard deviation of each channel.
        backbone: Vision transformer for RGB images; its classification head is removed.
        mlp_ratio: Width of the MLP's hidden layers divided by the width of the tokens.

    Raises:
        UserError: The backbone is no vision transformer.
    """

    def __init__(
        self,
        grid: PlayerGrid,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        backbone: nn.Module,
        mlp_ratio: Positive = 4.0,
    ) -> None:
        super().__init__(grid, num_classes, mean, std)
        if not is_token_network(backbone):
            raise UserError(
                f"explainer=vit: the backbone must be of timm's VisionTransformer or Eva families, got "
                f"{type(backbone).__name__}; choose such a surrogate, or name one in explainer.params.backbone"
            )
        width = backbone.embed_dim
        backbone.reset_classifier(0, global_pool="")
        backbone.fc_norm = nn.Identity()  # it belongs to the pooling, which is removed
        self.backbone, self.tokens = backbone, token_grid(backbone)
        # Rows and columns of players per patch, where the player grid is finer than the patches.
        finer = [max(players // tokens, 1) for players, tokens in zip(grid.shape, self.tokens, strict=True)]
        self.players_per_token = tuple(finer)
        last: Any = backbone.blocks[-1]
        self.block = Block(width, last.attn.num_heads, mlp_ratio=mlp_ratio, qkv_bias=True)
        if not isinstance(backbone.norm, nn.Identity):  # tokens are normalized already
            self.block.norm1 = nn.Identity()
        hidden = int(width * mlp_ratio)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()
        )
        self.head = shrink_init(nn.Linear(hidden, num_classes * finer[0] * finer[1]))

    def predict(self, pixels: Tensor) -> Tensor:
        """Return raw values (B, P, K) of normalized pixels (B, 3, H, W)."""
        tokens = self.block(self.backbone.forward_features(pixels))[:, self.backbone.num_prefix_tokens :]
        raw = self.head(self.mlp(tokens)).unflatten(1, self.tokens)  # (B, rows, columns, K · players per token)
        rows, columns = self.players_per_token
        raw = raw.unflatten(-1, (-1, rows, columns)).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)  # (B, K, ., .)
        return F.adaptive_avg_pool2d(raw, self.grid.shape).flatten(2).transpose(1, 2)

    def start_from(self, surrogate_network: nn.Module) -> None:
        """Copy the surrogate's weights to the backbone where shapes allow."""
        state = surrogate_network.state_dict()
        first = self.backbone.patch_embed.proj.weight
        for name, tensor in state.items():
            if name == "patch_embed.proj.weight" and tensor.shape[1] > first.shape[1]:
                state[name] = tensor[:, : first.shape[1]]  # without the surrogate's mask channel
        load_matching(self.backbone, state)
