"""The last layer of a classifier: what learns anew, alone or in a regression's own units."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastshap_lab.errors import UserError
from fastshap_lab.models.foreign import bare


class RescaledLinear(nn.Linear):
    """A linear layer whose answers are then multiplied by a spread and moved by a mean.

    Its weights have the names and the sizes that a plain layer's have, whatever the units. Being inside the network, it
    also serves the maskings, which call the network itself.
    """

    mean: Tensor
    spread: Tensor

    @classmethod
    def around(cls, layer: nn.Linear, mean: Sequence[float], spread: Sequence[float]) -> "RescaledLinear":
        """Return a layer with another's weights.

        Args:
            layer: Its K outputs are standardized.
            mean: Of the K targets, in their units.
            spread: Standard deviations of the K targets, in their units.
        """
        rescaled = cls(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        rescaled.weight, rescaled.bias = layer.weight, layer.bias
        # Kept in the model's config.json, not among its weights.
        rescaled.register_buffer("mean", torch.tensor(list(mean)), persistent=False)
        rescaled.register_buffer("spread", torch.tensor(list(spread)), persistent=False)
        return rescaled

    def forward(self, features: Tensor) -> Tensor:
        """Return answers (..., K) in the targets' units."""
        return F.linear(features, self.weight, self.bias) * self.spread + self.mean

    @torch.no_grad()
    def take_over(self) -> None:
        """Change the weights so that the layer answers as a plain one would with those that it has now.

        Raises:
            UserError: The layer has no bias, which would be needed for it.
        """
        if self.bias is None:
            raise UserError("the head of the given weights has no bias; its answers cannot be standardized")
        self.weight.div_(self.spread.unsqueeze(1))
        self.bias.sub_(self.mean).div_(self.spread)


def affine(head: nn.Linear) -> tuple[Tensor, Tensor | float]:
    """Return weights (K, D) and bias (K,) of a last layer, in the units of its answers."""
    bias = 0.0 if head.bias is None else head.bias
    if not isinstance(head, RescaledLinear):
        return head.weight, bias
    return head.weight * head.spread.unsqueeze(1), bias * head.spread + head.mean


def heads_of(network: nn.Module) -> dict[str, nn.Module]:
    """Return a network's heads by their path: what timm calls so, else its last linear layer or convolution.

    None where there is none: a network without a head, or without any such layer.
    """
    inner = bare(network)
    if hasattr(inner, "get_classifier"):
        found: Any = inner.get_classifier()  # type: ignore[operator]  # timm's
        heads = found if isinstance(found, tuple) else (found,)  # of a distilled DeiT there are two
        named = network.named_modules()
        return {path: part for path, part in named if not _is_empty(part) and any(part is head for head in heads)}
    layers = [(path, part) for path, part in network.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    return dict(layers[-1:])


def in_heads(network: nn.Module) -> set[str]:
    """Return the names of the weights that are the heads'."""
    paths = tuple(f"{path}." for path in heads_of(network))
    return {name for name in network.state_dict() if paths and name.startswith(paths)}


def freeze_features(network: nn.Module) -> None:
    """Let nothing but the heads learn."""
    heads = in_heads(network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in heads)


def keep_features_still(network: nn.Module) -> None:
    """Put all but the heads into evaluation mode: no dropout, and statistics of batches that stay as they are."""
    heads = [part for head in heads_of(network).values() for part in head.modules()]
    for part in network.modules():
        if not any(part is head for head in heads):
            part.training = False


def rescale_heads(network: nn.Module, mean: Sequence[float], spread: Sequence[float]) -> None:
    """Rescale the last layers of a network so that it answers in the targets' units.

    Args:
        network: Network to change, in place.
        mean: Mean of each target (K,).
        spread: Standard deviation of each target (K,).

    Raises:
        UserError: The network's last layer is not known, or not linear.
    """
    heads = heads_of(network)
    if not heads or not all(isinstance(head, nn.Linear) for head in heads.values()):
        raise UserError(
            f"task=regression: {type(network).__name__} has no linear head to give the targets' units to; choose "
            "another network"
        )
    for name, head in heads.items():
        assert isinstance(head, nn.Linear)
        network.set_submodule(name, RescaledLinear.around(head, mean, spread))


def take_over_heads(network: nn.Module) -> None:
    """Let heads that were given plain weights answer as these did, see ``RescaledLinear.take_over``."""
    for head in heads_of(network).values():
        if isinstance(head, RescaledLinear):
            head.take_over()


def _is_empty(part: nn.Module) -> bool:
    return not any(True for _ in part.parameters())
