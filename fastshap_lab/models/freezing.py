"""Networks for inference alone: frozen copies, evaluation mode, and starting one network from another's weights."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fastshap_lab.models.classifier import Classifier
from fastshap_lab.models.foreign import is_foreign
from fastshap_lab.models.tokens import is_token_network, token_grid

M = TypeVar("M", bound=nn.Module)

# Packages whose modules accept the channels-last layout, which makes convolutions faster. Modules of others may call
# ``view`` on tensors, which fails in this layout.
_FLEXIBLE = {"fastshap_lab", "timm", "torch", "torchvision"}


def takes_channels_last(model: nn.Module) -> bool:
    """Return whether all of a model's modules are known to accept images in the channels-last layout."""
    return {kind.__module__.partition(".")[0] for kind in {type(module) for module in model.modules()}} <= _FLEXIBLE


def frozen_copy(module: M) -> M:
    """Return a copy for inference: evaluation mode, no gradients, BatchNorm folded into convolutions, channels-last.

    The copy's outputs differ from the original's by rounding alone, and the original is not changed. A foreign network
    is copied without folding and in its own layout, since nothing is known about its modules.
    """
    clone = copy.deepcopy(module).eval().requires_grad_(False)
    if is_foreign(module):
        return clone
    for part in list(clone.modules()):
        if isinstance(part, Classifier):
            part.network = _folded(part.network)
        elif type(part) is nn.Sequential:  # its modules run in order; so are explainers built, and untraceable networks
            _fold_neighbours(part)
    clone.eval()  # again, since folding builds new modules
    return clone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in PyTorch's stubs


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for a block, then restore the mode of each part, also after an error."""
    # Only parts in training mode are set: setting an attribute of a module takes microseconds, and there are hundreds.
    training = [part for part in module.modules() if part.training]
    try:
        for part in training:
            part.training = False
        yield
    finally:
        for part in training:
            part.training = True


def _folded(network: nn.Module) -> nn.Module:
    """Return the network with BatchNorm folded, or unchanged where ``torch.fx`` cannot trace it."""
    if not any(isinstance(part, nn.BatchNorm2d) for part in network.modules()):
        return network
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch's own use of torch.jit
        from torch.fx.experimental.optimization import fuse  # a slow import

    try:
        return fuse(network)
    except Exception:  # tracing raises any kind of error, depending on the network
        return network


def _fold_neighbours(sequence: nn.Sequential) -> None:
    for index, (conv, norm) in enumerate(pairwise(list(sequence))):
        if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.running_var is not None:
            sequence[index], sequence[index + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()


def load_matching(target: nn.Module, source: dict[str, torch.Tensor]) -> int:
    """Copy another network's weights where names and shapes allow, and return the number of tensors that were copied.

    A first convolution with more input channels than the source's gets zeros for the additional channels, so that it
    ignores them at first. A vision transformer with patches of another size gets the source's embeddings resampled.

    Args:
        target: Network to start, changed in place.
        source: Weights of the other network, by name.
    """
    taken, source = 0, _with_patches_of(target, source)
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


def _with_patches_of(target: nn.Module, source: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights in which the patch embeddings of vision transformers are resampled to the target's patch size.

    The images keep their size. A patch gets the token that the source gives to the same patch resized to the source's
    patch size. Position embeddings are interpolated, and those of prefix tokens stay as they are.

    Reference: Beyer et al., FlexiViT, CVPR 2023, arXiv:2212.08013, section 3.4. Differs from the paper: the transpose
    of resizing a patch is used, not the pseudo-inverse of resizing it back, which changes constant colours for smaller
    patches.
    """
    source = dict(source)
    for path, network in target.named_modules():
        if not (is_token_network(network) and isinstance(network.patch_embed, PatchEmbed)):
            continue
        weight_name, positions_name = (f"{path}.{name}".strip(".") for name in ("patch_embed.proj.weight", "pos_embed"))
        weight, patch = source.get(weight_name), network.patch_embed.patch_size
        if weight is None or weight.ndim != 4 or weight.shape[2:] == patch:
            continue
        height, width = weight.shape[2:]
        one_pixel = torch.eye(patch[0] * patch[1], device=weight.device).view(-1, 1, *patch)
        resized = F.interpolate(one_pixel, size=(height, width), mode="bilinear", antialias=True)
        source[weight_name] = torch.einsum("oihw,phw->oip", weight, resized[:, 0].to(weight.dtype)).unflatten(2, patch)
        (rows, columns), positions, own = token_grid(network), source.get(positions_name), network.pos_embed
        if positions is None or own is None:
            continue
        old, num_prefix = (rows * patch[0] // height, columns * patch[1] // width), own.shape[1] - rows * columns
        if positions.shape[1] == num_prefix + old[0] * old[1]:
            source[positions_name] = resample_abs_pos_embed(
                positions, new_size=[rows, columns], old_size=list(old), num_prefix_tokens=num_prefix
            )
    return source


def _same_but_inputs(given: torch.Tensor, tensor: torch.Tensor) -> bool:
    return given.shape[1] < tensor.shape[1] and given.shape[:1] + given.shape[2:] == tensor.shape[:1] + tensor.shape[2:]
