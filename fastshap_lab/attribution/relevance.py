"""Layer-wise relevance of attention: the contribution of each entry of an attention matrix to a logit.

The rules are those of Chefer et al., CVPR 2021, arXiv:2012.09838, section 3.1, for timm's own modules. They work on the
inputs of these modules in one forward pass. Activations, normalizations, layer scales and the softmax pass relevance on
unchanged. Relevance is not conserved down to the patches.
"""

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from jaxtyping import Float
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from fastshap_lab.attribution.attention_method import AttentionMethod, Rows
from fastshap_lab.attribution.base import gradients, hooked
from fastshap_lab.attribution.recording import (
    find_token_network,
    recorded_attention,
    recorded_inputs,
    unrecordable,
)
from fastshap_lab.errors import UserError

_EPSILON = 1e-9


def divide(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / (whole + 1e-9), and zero where the whole is zero.

    Args:
        part: Numerator.
        whole: Denominator, of a shape that broadcasts with the numerator's.
    """
    shifted = whole + _EPSILON
    return torch.where((whole == 0) | (shifted == 0), 0, part / shifted)


def linear_rule(
    layer: nn.Linear, given: Float[Tensor, "*batch inputs"], relevance: Float[Tensor, "*batch outputs"], separate: bool
) -> Float[Tensor, "*batch inputs"]:
    """Return the relevance of a linear layer's inputs, in proportion to their positive contributions.

    Positive contributions come from positive inputs with positive weights and from negative inputs with negative
    weights.

    Args:
        layer: Linear layer. Its bias gets no relevance.
        given: Input of the layer.
        relevance: Relevance of the layer's output.
        separate: Whether each of the two kinds of contribution shares out all of the relevance, which about doubles it,
            as the implementation of partial LRP does. Otherwise both kinds share it together.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> _ = nn.init.ones_(layer.weight)
        >>> linear_rule(layer, torch.tensor([1.0, 3.0]), torch.tensor([1.0]), separate=False).tolist()
        [0.25, 0.75]
    """
    (positive, negative), (excitation, inhibition) = _by_sign(given), _by_sign(layer.weight)
    by_positive, by_negative = positive @ excitation.T, negative @ inhibition.T
    if not separate:
        by_positive = by_negative = by_positive + by_negative
    shares = divide(relevance, by_positive) @ excitation, divide(relevance, by_negative) @ inhibition
    return positive * shares[0] + negative * shares[1]


def residual_rule(
    left: Float[Tensor, "B T D"], right: Float[Tensor, "B T D"], relevance: Float[Tensor, "B T D"], rescale: bool
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T D"]]:
    """Return the relevance of the two summands of a sum, in proportion to their entries.

    Differs from the paper's implementation: rescaling uses sums over each image, not over the batch.

    Args:
        left: First summand.
        right: Second summand.
        relevance: Relevance of their sum.
        rescale: Whether each summand's total relevance is rescaled to the share of its absolute total. Without that,
            entries of opposite signs make both totals grow.

    Example:
        >>> one = torch.ones(1, 1, 1)
        >>> left, right = residual_rule(one, 3 * one, 4 * one, rescale=True)
        >>> left.item(), right.item()
        (1.0, 3.0)
    """
    shared = divide(relevance, left + right)
    parts = [left * shared, right * shared]
    if not rescale:
        return parts[0], parts[1]
    totals = [part.sum(dim=(1, 2), keepdim=True) for part in parts]
    size, whole = totals[0].abs() + totals[1].abs(), relevance.sum(dim=(1, 2), keepdim=True)
    factors = [divide(divide(total.abs(), size) * whole, total) for total in totals]
    return parts[0] * factors[0], parts[1] * factors[1]


def product_rule(
    left: Float[Tensor, "*batch I J"], right: Float[Tensor, "*batch J L"], relevance: Float[Tensor, "*batch I L"]
) -> tuple[Float[Tensor, "*batch I J"], Float[Tensor, "*batch J L"]]:
    """Return the relevance of both factors of a matrix product; each factor gets half.

    Args:
        left: First factor.
        right: Second factor.
        relevance: Relevance of the product.

    Example:
        >>> left, right = product_rule(torch.tensor([[1.0]]), torch.tensor([[2.0]]), torch.tensor([[6.0]]))
        >>> left.item(), right.item()
        (3.0, 3.0)
    """
    shared = divide(relevance, left @ right)
    return left * (shared @ right.mT) / 2, right * (left.mT @ shared) / 2


def attention_relevance(
    network: VisionTransformer,
    inputs: Mapping[nn.Module, Tensor],
    attention: list[Tensor],
    start: Float[Tensor, "B K"],
    partial: bool,
) -> Iterator[Float[Tensor, "B A T T"]]:
    """Yield the relevance of each block's attention, from the last block to the first.

    Args:
        network: Network with rules for all of its layers, see ``RelevanceMethod``.
        inputs: First argument of each module in the forward pass.
        attention: Attention (B, A, T, T) after the softmax, first block first.
        start: Relevance of the logits.
        partial: Whether the rules of partial LRP are used: linear layers share out separately, and residual connections
            are not rescaled.

    Example:
        >>> model = VisionTransformer(img_size=8, patch_size=4, num_classes=3, embed_dim=12, depth=2, num_heads=3)
        >>> with torch.no_grad(), recorded_attention(model) as record, recorded_inputs(list(model.modules())) as inputs:
        ...     logits = model(torch.rand(1, 3, 8, 8))
        >>> blocks = attention_relevance(model, inputs, record.attention, start=torch.eye(3)[:1], partial=False)
        >>> [tuple(relevance.shape) for relevance in blocks]
        [(1, 3, 5, 5), (1, 3, 5, 5)]
    """
    relevance, heads = torch.zeros_like(inputs[_blocks(network)[-1].norm1]), _heads(network)
    for token, head in enumerate(heads):
        relevance[:, token] = linear_rule(head, inputs[head], start / len(heads), partial)
    for block, weights in zip(_blocks(network)[::-1], attention[::-1], strict=True):
        mlp, attn = cast(Mlp, block.mlp), cast(Attention, block.attn)
        relevance, inside = residual_rule(inputs[block.norm2], inputs[block.drop_path2], relevance, not partial)
        for layer in (mlp.fc2, mlp.fc1):
            inside = linear_rule(cast(nn.Linear, layer), inputs[layer], inside, partial)
        relevance = relevance + inside
        relevance, inside = residual_rule(inputs[block.norm1], inputs[block.drop_path1], relevance, not partial)
        inside = linear_rule(attn.proj, inputs[attn.proj], inside, partial)
        per_head = inside.unflatten(2, (attn.num_heads, -1)).transpose(1, 2)
        queries, keys, values = attn.qkv(inputs[attn.qkv]).unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        by_attention, by_values = product_rule(weights, values, per_head)
        yield by_attention
        by_queries, by_keys = product_rule(attn.q_norm(queries), attn.k_norm(keys).mT, by_attention)
        inside = torch.stack([by_queries, by_keys.mT, by_values], dim=2)  # (B, A, 3, T, d)
        inside = inside.permute(0, 3, 2, 1, 4).flatten(2)
        relevance = relevance + linear_rule(attn.qkv, inputs[attn.qkv], inside, partial)


class RelevanceMethod(AttentionMethod):
    """Base class of methods that use the relevance of attention.

    They apply to timm's VisionTransformer with a class token, which includes DeiT. In a distilled DeiT, half of the
    relevance starts at each of the two heads.

    Arguments are those of ``AttentionMethod``.

    Example:
        >>> class LastBlock(RelevanceMethod):
        ...     def _attribute(self, image, target):
        ...         grid, attention, relevance, by_attention = self._trace(image, target)
        ...         return self._map(next(relevance).mean(dim=1), grid)
        >>> model = VisionTransformer(img_size=8, patch_size=4, num_classes=3, embed_dim=12, depth=2, num_heads=3)
        >>> LastBlock(model).attribute(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 2, 2])
    """

    @classmethod
    def supports(cls, model: nn.Module, rows: Rows = "class") -> str | None:
        """Return why the method cannot be applied to a model with these rows, or None if it can.

        Args:
            model: Model to explain.
            rows: Query rows, see ``AttentionMethod``.
        """
        return unrecordable(model) or _without_rules(find_token_network(model)) or cls._without_rows(model, rows)

    def _trace(
        self, image: Tensor, target: Tensor, partial: bool = False, differentiate: bool = True
    ) -> tuple[tuple[int, int], list[Tensor], Iterator[Tensor], list[Tensor]]:
        """Return the token grid, the attention, its relevance from the last block to the first, and its gradients."""
        network, own = cast(VisionTransformer, self.network), list[Tensor]()
        with (
            torch.set_grad_enabled(differentiate),
            hooked([lambda: network.register_forward_hook(lambda _module, _given, logits: own.append(logits))]),
            recorded_inputs(_traced(network)) as inputs,
            recorded_attention(network) as record,
        ):
            logits = self.model(image)
        if not own or not torch.equal(own[0], logits):
            raise UserError(
                f"{type(self).__name__}: the model must return the network's logits unchanged: relevance starts at them"
            )
        start = nn.functional.one_hot(target, logits.shape[1]).to(logits.dtype)
        by_attention = gradients(logits, target, record.attention) if differentiate else []
        attention = [weights.detach() for weights in record.attention]
        given = {module: tensor.detach() for module, tensor in inputs.items()}
        relevance = attention_relevance(network, given, attention, start, partial)
        return record.grid, attention, relevance, by_attention


def _by_sign(tensor: Tensor) -> tuple[Tensor, Tensor]:
    return tensor.clamp_min(0), tensor.clamp_max(0)


def _without_rules(network: nn.Module | None) -> str | None:
    if not isinstance(network, VisionTransformer):
        return f"there are no relevance rules for {type(network).__name__}"
    if network.global_pool != "token":
        return f"there is no relevance rule for pooling by {network.global_pool or 'nothing'}, only for a class token"
    if not isinstance(network.head, nn.Linear) or not all(_has_rules(block) for block in network.blocks):
        return f"there are no relevance rules for some layers of this {type(network).__name__}"
    return None


def _has_rules(block: nn.Module) -> bool:
    if type(block) is not Block or type(block.attn) is not Attention or type(block.mlp) is not Mlp:
        return False
    return getattr(block.attn, "gate", None) is None and isinstance(block.mlp.fc1, nn.Linear)


def _blocks(network: VisionTransformer) -> list[Block]:
    return [cast(Block, block) for block in network.blocks]


def _heads(network: VisionTransformer) -> list[nn.Linear]:
    """Return the linear layers that read the first prefix tokens, one each; logits are the mean of their outputs."""
    heads = [network.head, network.head_dist] if isinstance(network, VisionTransformerDistilled) else [network.head]
    return cast(list[nn.Linear], heads)


def _traced(network: VisionTransformer) -> list[nn.Module]:
    modules: list[nn.Module] = [*_heads(network)]
    for block in _blocks(network):
        attn, mlp = cast(Attention, block.attn), cast(Mlp, block.mlp)
        modules += [block.norm1, block.drop_path1, block.norm2, block.drop_path2]
        modules += [attn.qkv, attn.proj, mlp.fc1, mlp.fc2]
    return modules
