"""Networks that are only asked, never trained."""

import copy
import warnings
from typing import TypeVar

import torch
from torch import nn

from fastshap_lab.models.classifier import Classifier

M = TypeVar("M", bound=nn.Module)


def frozen(module: M) -> M:
    """Return a copy for inference: evaluation mode, no gradients, BatchNorm folded into convolutions, channels-last.

    Answers differ from the original's by rounding alone. The original stays as it is.
    """
    clone = copy.deepcopy(module).eval().requires_grad_(False)
    for part in list(clone.modules()):
        if isinstance(part, Classifier):
            part.network = _folded(part.network)
    clone.eval()  # once more: folding builds new modules
    return clone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in PyTorch's stubs


def _folded(network: nn.Module) -> nn.Module:
    """Return the network with BatchNorm folded, or as it is where ``torch.fx`` cannot trace it."""
    if not any(isinstance(part, nn.BatchNorm2d) for part in network.modules()):
        return network
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own use of torch.jit in that module
        from torch.fx.experimental.optimization import fuse  # imports slowly

    try:
        return fuse(network)
    except Exception:  # tracing fails in as many ways as there are networks
        return network


def load_matching(target: nn.Module, source: dict[str, torch.Tensor]) -> int:
    """Start a network from another's weights where names and shapes allow, and return how many tensors were taken.

    A first convolution with more input channels than the source's takes what is there and zeros for the rest, so that
    it starts by ignoring them.
    """
    taken = 0
    state = target.state_dict()
    for name, tensor in state.items():
        given = source.get(name)
        if given is None:
            continue
        if given.shape == tensor.shape:
            tensor.copy_(given)
        elif given.ndim == tensor.ndim == 4 and _same_but_inputs(given, tensor):
            tensor.zero_()[:, : given.shape[1]].copy_(given)
        else:
            continue
        taken += 1
    return taken


def _same_but_inputs(given: torch.Tensor, tensor: torch.Tensor) -> bool:
    return given.shape[1] < tensor.shape[1] and given.shape[:1] + given.shape[2:] == tensor.shape[:1] + tensor.shape[2:]
