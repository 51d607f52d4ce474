"""A vision transformer computed from its weights, one image and one head at a time, in float64."""

import math
from dataclasses import dataclass, field

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor


@dataclass
class BlockByHand:
    x0: Tensor  # tokens before the block, (T, D)
    normed1: Tensor
    queries: Tensor  # (A, T, d), as are keys and values
    keys: Tensor
    values: Tensor
    scores: Tensor  # (A, T, T)
    attention: Tensor
    heads: Tensor  # (T, D), before the projection
    attended: Tensor
    x1: Tensor
    normed2: Tensor
    hidden: Tensor  # after the activation
    mixed: Tensor


@dataclass
class PassByHand:
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    blocks: list[BlockByHand] = field(default_factory=list)
    pooled: list[Tensor] = field(default_factory=list)  # what each head reads


def layer_norm(tokens: Tensor, norm: torch.nn.Module) -> Tensor:
    mean = tokens.mean(dim=-1, keepdim=True)
    variance = (tokens - mean).square().mean(dim=-1, keepdim=True)
    return (tokens - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias


def gelu(values: Tensor) -> Tensor:
    return values * (1 + torch.erf(values / math.sqrt(2))) / 2


def heads_of(network: VisionTransformer) -> list[torch.nn.Linear]:
    return [network.head] + ([network.head_dist] if hasattr(network, "head_dist") else [])


def forward_by_hand(
    network: VisionTransformer, pixels: Tensor, nudges: list[Tensor] | None = None, detached: bool = False
) -> PassByHand:
    """Run one normalized image (C, H, W) through; ``nudges`` (A, T, T) are added to each block's attention."""
    done = PassByHand()
    rows, columns = network.patch_embed.grid_size
    height, width = network.patch_embed.patch_size
    weight, bias = network.patch_embed.proj.weight, network.patch_embed.proj.bias
    tokens = []
    for r in range(rows):
        for c in range(columns):
            patch = pixels[:, r * height : (r + 1) * height, c * width : (c + 1) * width]
            tokens.append((weight * patch).sum(dim=(1, 2, 3)) + bias)
    prefix = [network.cls_token[0, 0]] + ([network.dist_token[0, 0]] if hasattr(network, "dist_token") else [])
    x = torch.stack(prefix + tokens) + network.pos_embed[0]
    for index, block in enumerate(network.blocks):
        attn = block.attn
        normed1 = layer_norm(x, block.norm1)
        entering = normed1.detach() if detached else normed1
        size = attn.head_dim
        projected = entering @ attn.qkv.weight.T + attn.qkv.bias
        queries, keys, values = (
            torch.stack([part[:, a * size : (a + 1) * size] for a in range(attn.num_heads)])
            for part in projected.chunk(3, dim=1)
        )
        scores, attention, heads = [], [], []
        for a in range(attn.num_heads):
            scores.append(queries[a] @ keys[a].T / math.sqrt(size))
            shares = scores[a].exp() / scores[a].exp().sum(dim=1, keepdim=True)
            attention.append(shares if nudges is None else shares + nudges[index][a])
            heads.append(attention[a] @ values[a])
        concatenated = torch.cat(heads, dim=1)
        attended = concatenated @ attn.proj.weight.T + attn.proj.bias
        x1 = x + attended
        normed2 = layer_norm(x1, block.norm2)
        hidden = gelu(normed2 @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
        mixed = hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
        before = [x, normed1, queries, keys, values, torch.stack(scores), torch.stack(attention), concatenated]
        done.blocks.append(BlockByHand(*before, attended, x1, normed2, hidden, mixed))
        x = x1 + mixed
    x = layer_norm(x, network.norm)
    done.pooled = [x[i] for i in range(len(heads_of(network)))]
    logits = [token @ head.weight.T + head.bias for token, head in zip(done.pooled, heads_of(network), strict=True)]
    done.logits = torch.stack(logits).mean(dim=0)
    return done


def by_attention(network: VisionTransformer, pixels: Tensor, target: int, detached: bool = False) -> list[Tensor]:
    """Return the gradients (A, T, T) of a logit by what is added to each block's attention, after the softmax."""
    shapes = [block.attention.shape for block in forward_by_hand(network, pixels).blocks]
    nudges = [torch.zeros(shape, dtype=pixels.dtype, requires_grad=True) for shape in shapes]
    logit = forward_by_hand(network, pixels, nudges, detached).logits[target]
    return list(torch.autograd.grad(logit, nudges))
