"""The last layer of a classifier: what is new where classes are others, and what a frozen network still learns."""

from typing import Any

from torch import nn

from fastshap_lab.models.foreign import bare


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


def _is_empty(part: nn.Module) -> bool:
    return not any(True for _ in part.parameters())
