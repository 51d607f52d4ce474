"""The last layers of a classifier: freezing all other layers, and giving a regression's outputs their units."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastshap_lab.errors import UserError
from fastshap_lab.models.foreign import bare


class RescaledLinear(nn.Linear):
    """A linear layer whose standardized outputs are multiplied by a spread, to which a mean is added.

    Its weights have the same names and sizes as those of a plain layer. It is part of the network because maskings call
    the network itself.
    """

    mean: Tensor
    spread: Tensor

    @classmethod
    def around(cls, layer: nn.Linear, mean: Sequence[float], spread: Sequence[float]) -> "RescaledLinear":
        """Return a rescaled layer with the weights of a plain one.

        Args:
            layer: Plain layer, whose K outputs are standardized.
            mean: Means of the K targets, in their units.
            spread: Standard deviations of the K targets, in their units.
        """
        rescaled = cls(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        rescaled.weight, rescaled.bias = layer.weight, layer.bias
        # They are stored in the model's config.json, not among its weights.
        rescaled.register_buffer("mean", torch.tensor(list(mean)), persistent=False)
        rescaled.register_buffer("spread", torch.tensor(list(spread)), persistent=False)
        return rescaled

    def forward(self, features: Tensor) -> Tensor:
        """Return outputs (..., K) in the targets' units."""
        return F.linear(features, self.weight, self.bias) * self.spread + self.mean

    @torch.no_grad()
    def take_over(self) -> None:
        """Change weights that were given for a plain layer so that this layer has the same outputs.

        Raises:
            UserError: The layer has no bias to subtract the mean from.
        """
        if self.bias is None:
            raise UserError("the head of the given weights has no bias, so its outputs cannot be standardized")
        self.weight.div_(self.spread.unsqueeze(1))
        self.bias.sub_(self.mean).div_(self.spread)


def affine(head: nn.Linear) -> tuple[Tensor, Tensor | float]:
    """Return the weights (K, D) and the bias (K,) of a last layer, in the units of its outputs."""
    bias = 0.0 if head.bias is None else head.bias
    if not isinstance(head, RescaledLinear):
        return head.weight, bias
    return head.weight * head.spread.unsqueeze(1), bias * head.spread + head.mean


def heads_of(network: nn.Module) -> dict[str, nn.Module]:
    """Return the heads of a network by their path: those that timm names, else the last linear layer or convolution.

    The dictionary is empty for a network without a head, or without such a layer.
    """
    inner = bare(network)
    if hasattr(inner, "get_classifier"):
        found: Any = inner.get_classifier()  # type: ignore[operator]  # timm's
        heads = found if isinstance(found, tuple) else (found,)  # a distilled DeiT has two
        named = network.named_modules()
        return {path: part for path, part in named if not _is_empty(part) and any(part is head for head in heads)}
    layers = [(path, part) for path, part in network.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    return dict(layers[-1:])


def in_heads(network: nn.Module) -> set[str]:
    """Return the names of the heads' weights."""
    paths = tuple(f"{path}." for path in heads_of(network))
    return {name for name in network.state_dict() if paths and name.startswith(paths)}


def freeze_features(network: nn.Module) -> None:
    """Switch off the gradients of all parameters but the heads'."""
    heads = in_heads(network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in heads)


def keep_features_still(network: nn.Module) -> None:
    """Put all layers but the heads into evaluation mode: no dropout, and no update of BatchNorm's statistics."""
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
            f"task=regression: {type(network).__name__} has no linear head, which the targets' units need; choose "
            "another network"
        )
    for name, head in heads.items():
        assert isinstance(head, nn.Linear)
        network.set_submodule(name, RescaledLinear.around(head, mean, spread))


def take_over_heads(network: nn.Module) -> None:
    """Adapt heads to weights that were given for plain layers, see ``RescaledLinear.take_over``."""
    for head in heads_of(network).values():
        if isinstance(head, RescaledLinear):
            head.take_over()


def _is_empty(part: nn.Module) -> bool:
    return not any(True for _ in part.parameters())
