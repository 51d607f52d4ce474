"""What the vision transformers of timm have in common, whatever their family."""

from typing import TypeGuard

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

TokenNetwork = VisionTransformer | Eva


def is_token_network(network: nn.Module) -> TypeGuard[TokenNetwork]:
    """Return whether a network is a plain sequence of tokens, one per patch, after prefix tokens of its own.

    True of timm's VisionTransformer (with them DeiT, distilled or not) and Eva families, whose attention can be told to
    pass tokens over. False of Swin and other windowed or convolutional families.
    """
    return isinstance(network, (VisionTransformer, Eva))


def token_grid(network: TokenNetwork) -> tuple[int, int]:
    """Return rows and columns of patch tokens."""
    rows, columns = network.patch_embed.grid_size
    return rows, columns


def pools_patches(network: TokenNetwork) -> bool:
    """Return whether the head reads the mean of the patch tokens, rather than prefix tokens."""
    return network.global_pool == "avg"


def classify_pooled(network: TokenNetwork, pooled: Tensor) -> Tensor:
    """Return the logits of already pooled features (N, D)."""
    return network.head(network.head_drop(network.fc_norm(pooled)))


def mean_of_present(features: Tensor, present: Tensor) -> Tensor:
    """Return the mean (N, D) of the present tokens among features (N, T, D); zero where none is present."""
    weights = present.to(features.dtype).unsqueeze(-1)
    return (features * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(torch.finfo(features.dtype).tiny)
