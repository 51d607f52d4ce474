"""Functions for the vision transformers of timm, whatever their family."""

from typing import TypeGuard

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

TokenNetwork = VisionTransformer | Eva


def is_token_network(network: nn.Module) -> TypeGuard[TokenNetwork]:
    """Return whether a network processes a plain sequence of tokens: prefix tokens, then one token per patch.

    It is true for timm's families VisionTransformer (which include DeiT, distilled or not) and Eva, whose attention
    accepts a mask. It is false for Swin and other windowed or convolutional families.
    """
    return isinstance(network, (VisionTransformer, Eva))


def token_grid(network: TokenNetwork) -> tuple[int, int]:
    """Return the numbers of rows and columns of patch tokens."""
    rows, columns = network.patch_embed.grid_size
    return rows, columns


def pools_patches(network: TokenNetwork) -> bool:
    """Return whether the head reads the mean of the patch tokens rather than prefix tokens."""
    return network.global_pool == "avg"


def embed(network: TokenNetwork, pixels: Tensor) -> Tensor:
    """Return the embedded patches (B, T, D) or (B, rows, columns, D), without positions.

    Args:
        network: The vision transformer.
        pixels: Normalized pixels (B, C, H, W).
    """
    return network.patch_embed(pixels)


def with_positions(network: TokenNetwork, patches: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the tokens that enter the first block, and an Eva's rotary embedding, else None.

    Tokens are (B, T, D), prefix tokens first. A rotary embedding is (patches, D') or, where every block has its own,
    (depth, heads, patches, D').

    Args:
        network: The vision transformer.
        patches: Embedded patches, as ``embed`` returns them.
    """
    embedded = network._pos_embed(patches)  # timm's families differ in prefix tokens and in which tokens get a position
    tokens, rope = embedded if isinstance(network, Eva) else (embedded, None)
    return network.norm_pre(tokens), rope


def rope_of(network: TokenNetwork, rope: Tensor | None, patches: Tensor) -> Tensor | None:
    """Return the rotary embedding of each row's own patches, in the shape that blocks take.

    Args:
        network: The vision transformer.
        rope: Rotary embedding of all patches, or None.
        patches: Indices of each row's patches (N, T).
    """
    if rope is None:
        return None
    if has_rope_per_block(network):
        return rope[:, :, patches].transpose(1, 2)  # (depth, N, heads, T, D')
    return rope[patches].unsqueeze(1)  # (N, 1, T, D')


def has_rope_per_block(network: TokenNetwork) -> bool:
    """Return whether every block has a rotary embedding of its own."""
    return isinstance(network, Eva) and network.rope_mixed


def transform(network: TokenNetwork, tokens: Tensor, rope: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """Return the features (N, T, D) that the blocks compute from tokens.

    Args:
        network: The vision transformer.
        tokens: Tokens (N, T, D).
        rope: Rotary embedding as the blocks take it, or None.
        mask: Which token may attend to which, bool (N, 1, T, T); every one to every one if None.
    """
    for depth, block in enumerate(network.blocks):
        if rope is None:
            tokens = block(tokens, attn_mask=mask)
        else:
            tokens = block(tokens, rope=rope[depth] if has_rope_per_block(network) else rope, attn_mask=mask)
    return network.norm(tokens)


def classify_pooled(network: TokenNetwork, pooled: Tensor) -> Tensor:
    """Return the logits of already pooled features (N, D).

    Args:
        network: The vision transformer.
        pooled: Pooled features (N, D).
    """
    return network.head(network.head_drop(network.fc_norm(pooled)))


def mean_of_present(features: Tensor, present: Tensor) -> Tensor:
    """Return the mean (N, D) of the present tokens, zero where none is present.

    Args:
        features: Features (N, T, D).
        present: Which tokens are present, bool (N, T).
    """
    weights = present.to(features.dtype).unsqueeze(-1)
    return (features * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(torch.finfo(features.dtype).tiny)
