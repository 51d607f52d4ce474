"""Find a layer whose features have positions in the image, and arrange them as feature maps."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor, nn

from fastshap_lab.attribution.recording import find_token_network, recorded_activations, recorded_inputs
from fastshap_lab.errors import UserError
from fastshap_lab.models.tokens import token_grid

Swin = SwinTransformer | SwinTransformerV2


def find_swin(model: nn.Module) -> Swin | None:
    """Return the Swin transformer that a model is or contains, or None if it contains none or several."""
    found = [module for module in model.modules() if isinstance(module, Swin)]
    return found[0] if len(found) == 1 else None


def last_block(model: nn.Module, stage: int = -1) -> Any | None:
    """Return the last block of a vision transformer or of a Swin transformer's stage, or None.

    A block counts only if it has a normalization ``norm1`` for its attention and a residual connection ``drop_path1``.

    Args:
        model: Model that is or contains the network.
        stage: Negative index of the Swin transformer's stage. Vision transformers ignore it.
    """
    network, swin = find_token_network(model), find_swin(model)
    blocks: Any = ()
    if network is not None:
        blocks = network.blocks
    elif swin is not None and len(swin.layers) >= -stage:
        blocks = swin.layers[stage].blocks
    usual = len(blocks) > 0 and hasattr(blocks[-1], "norm1") and hasattr(blocks[-1], "drop_path1")
    return blocks[-1] if usual else None


def find_layers(model: nn.Module, name: str | None = None) -> list[nn.Module]:
    """Return the last module whose features have positions and influence the output, followed by earlier candidates.

    For a vision or Swin transformer it is the first normalization of the last block, because patches no longer
    influence a class token after that block's attention. For other timm networks the candidates are their stages, last
    first. For any other module they are its last part with a convolution and without a linear layer, the children of
    that part, and the parts before it; there are none if several attention modules follow.

    Args:
        model: Model that is or contains the network.
        name: Name of the one module to return, as in ``model.named_modules()``; None to search.

    Returns:
        Modules, the last in the network first; empty if none is found.

    Raises:
        UserError: The model has no module of that name.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(80, 2))
        >>> find_layers(model)[0]
        Conv2d(4, 5, kernel_size=(3, 3), stride=(1, 1))
    """
    if name is not None:
        modules = dict(model.named_modules())
        if name not in modules:
            raise UserError(f"layer={name}: the model has no module of that name; model.named_modules() lists them")
        return [modules[name]]
    if find_token_network(model) is not None or find_swin(model) is not None:
        block = last_block(model)
        return [] if block is None else [block.norm1]
    for module in model.modules():
        stages = getattr(module, "feature_info", None)
        if isinstance(stages, list) and stages:
            return [module.get_submodule(stage["module"]) for stage in reversed(stages)]
    return _last_convolutions(model)


def forward_with_features(
    model: nn.Module, modules: Sequence[nn.Module], image: Tensor, entering: bool = False
) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """Return logits, a module's features, and the function that arranges these features or their gradients as a map.

    Feature maps are (B, D, rows, columns), without features of prefix tokens. The first module whose feature map has
    more than one position is used; trying each module takes one pass.

    Args:
        model: Model that maps images to logits.
        modules: Modules of the model to try, in this order.
        image: Images (B, C, H, W) as the model takes them.
        entering: Record the module's input instead of its output. One cannot differentiate by inputs.

    Raises:
        UserError: No module has such features, or the last one is not used in the forward pass.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> logits, features, to_feature_map = forward_with_features(model, [model[0]], torch.rand(1, 3, 8, 8))
        >>> logits.shape, to_feature_map(features).shape
        (torch.Size([1, 2]), torch.Size([1, 4, 6, 6]))
    """
    for module in modules:
        try:
            logits, features, to_feature_map = _forward_with_features(model, module, image, entering)
        except UserError:
            if module is modules[-1]:
                raise
            continue
        if to_feature_map(features)[0, 0].numel() > 1:
            return logits, features, to_feature_map
    height, width = image.shape[2:]
    raise UserError(f"on images of {height}×{width}, the layer's features have a single position: a map needs more")


def _forward_with_features(
    model: nn.Module, module: nn.Module, image: Tensor, entering: bool
) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    network, swin = find_token_network(model), find_swin(model)
    record = recorded_inputs if entering else recorded_activations
    with record([module]) as recorded, recorded_inputs([] if network is None else [network.patch_embed]) as pixels:
        logits = model(image)
    if module not in recorded:
        raise UserError(
            f"the layer {type(module).__name__} is not used in the forward pass, or its output is not a tensor"
        )

    def to_feature_map(features: Tensor) -> Tensor:
        if network is not None and features.ndim == 3:
            rows, columns = pixels[network.patch_embed].shape[-2:]
            grid = token_grid(network)
            if network.dynamic_img_size:
                grid = network.patch_embed.dynamic_feat_size((rows, columns))
            return features[:, network.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid)
        # A normalization inside a Swin block gives (B, tokens, D). Inside attention the first axis counts windows.
        if swin is not None and features.ndim == 3 and len(features) == len(image):
            rows = round((features.shape[1] * image.shape[2] / image.shape[3]) ** 0.5)
            if rows and features.shape[1] % rows == 0:
                features = features.unflatten(1, (rows, -1))
        if features.ndim != 4:
            shape = tuple(features.shape)
            raise UserError(f"the layer {type(module).__name__} returns {shape}, not features with rows and columns")
        channels_first, channels_last = (
            _like(sides, image.shape[2:]) for sides in (features.shape[2:], features.shape[1:3])
        )
        return features.permute(0, 3, 1, 2) if channels_last and (swin or not channels_first) else features

    return logits, recorded[module], to_feature_map


def _like(rows_and_columns: torch.Size, size: torch.Size) -> bool:
    """Return whether rows and columns have the proportions of an image size, up to rounding."""
    return abs(rows_and_columns[0] * size[1] - rows_and_columns[1] * size[0]) < max(size)


def _last_convolutions(model: nn.Module) -> list[nn.Module]:
    """Return the last part with a convolution and no linear layer, its children and the parts before it, last first.

    The list is empty if more than one attention module follows.
    """
    part, before = model, list[nn.Module]()
    while not isinstance(part, nn.Conv2d):
        parts = _with_convolutions(part)
        if not parts:
            return []
        part, *earlier = parts
        before = earlier + before
        if not _holds(part, nn.Linear):
            break
    modules = list(model.modules())
    later = set(modules[modules.index(part) :]) - set(part.modules())
    # A single attention module may be a pooling; several compute most of the output.
    if sum("attention" in type(module).__name__.lower() for module in later) > 1:
        return []
    return [part, *_with_convolutions(part), *before]


def _with_convolutions(module: nn.Module) -> list[nn.Module]:
    """Return a module's children that contain a convolution, the last one first."""
    return [child for child in reversed(list(module.children())) if _holds(child, nn.Conv2d)]


def _holds(module: nn.Module, kind: type[nn.Module]) -> bool:
    return any(isinstance(part, kind) for part in module.modules())
