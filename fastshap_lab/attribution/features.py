"""Where a model's features still have places, and how they are laid out there."""

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
    """Return the Swin transformer that a model is or holds, or None where it holds none or several."""
    found = [module for module in model.modules() if isinstance(module, Swin)]
    return found[0] if len(found) == 1 else None


def last_block(model: nn.Module, stage: int = -1) -> Any | None:
    """Return the last block of a vision transformer, of a Swin transformer the last of a stage; of other models None.

    Counted as blocks are those with a normalization before, or after, their attention alone, and a residual sum.
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
    """Return the last module whose features have places and matter to the answer, and after it earlier ones.

    Of a vision or Swin transformer, the first normalization of the last block: after that block's attention, patches no
    longer matter to a class token. Of other networks of timm, the stages from the last to the first; of any other
    module, its last part with a convolution and no linear layer, the parts of that, and what comes before, unless
    several modules of attention come later.

    Args:
        model: Is or holds the network.
        name: Of the one module wanted, as in ``model.named_modules()``.

    Returns:
        The last one first; none where none is found.

    Raises:
        UserError: The model has no module of that name.
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
    """Return logits, what a module computes on the way, and the function that lays out this, or its gradient.

    Laid out, features are (B, D, rows, columns), without those of prefix tokens. Of several modules it is the first
    whose features have more than one place, since of one there is nothing to be seen; each takes a pass until then.

    Args:
        model: Takes images to logits.
        modules: Parts of it.
        image: As the model takes it.
        entering: Record what enters the module instead, not to be differentiated by.

    Raises:
        UserError: None of them has such features, or one takes no part in the answer.
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
    raise UserError(f"on images of {height}×{width}, features have a single place here, of which there is no map")


def _forward_with_features(
    model: nn.Module, module: nn.Module, image: Tensor, entering: bool
) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    network, swin = find_token_network(model), find_swin(model)
    record = recorded_inputs if entering else recorded_activations
    with record([module]) as recorded, recorded_inputs([] if network is None else [network.patch_embed]) as pixels:
        logits = model(image)
    if module not in recorded:
        raise UserError(
            f"the layer {type(module).__name__} takes no part in the model's answer, or its own is no tensor"
        )

    def to_feature_map(features: Tensor) -> Tensor:
        if network is not None and features.ndim == 3:
            rows, columns = pixels[network.patch_embed].shape[-2:]
            grid = token_grid(network)
            if network.dynamic_img_size:
                grid = network.patch_embed.dynamic_feat_size((rows, columns))
            return features[:, network.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid)
        # Of a normalization within a block; attention has windows where images are.
        if swin is not None and features.ndim == 3 and len(features) == len(image):
            rows = round((features.shape[1] * image.shape[2] / image.shape[3]) ** 0.5)
            if rows and features.shape[1] % rows == 0:
                features = features.unflatten(1, (rows, -1))
        if features.ndim != 4:
            shape = tuple(features.shape)
            raise UserError(f"the layer {type(module).__name__} gives {shape}, not features of rows and columns")
        channels_first, channels_last = (
            _like(sides, image.shape[2:]) for sides in (features.shape[2:], features.shape[1:3])
        )
        return features.permute(0, 3, 1, 2) if channels_last and (swin or not channels_first) else features

    return logits, recorded[module], to_feature_map


def _like(rows_and_columns: torch.Size, size: torch.Size) -> bool:
    """Return whether rows and columns have the proportions of a size, but for rounding."""
    return abs(rows_and_columns[0] * size[1] - rows_and_columns[1] * size[0]) < max(size)


def _last_convolutions(model: nn.Module) -> list[nn.Module]:
    """Return the last part with a convolution and no linear layer, its own parts, and those before, the last one first.

    None where attention comes later, not once.
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
    # One may be a pooling; several are what the answer is made of.
    if sum("attention" in type(module).__name__.lower() for module in later) > 1:
        return []
    return [part, *_with_convolutions(part), *before]


def _with_convolutions(module: nn.Module) -> list[nn.Module]:
    """Return the parts that hold a convolution, the last one first."""
    return [child for child in reversed(list(module.children())) if _holds(child, nn.Conv2d)]


def _holds(module: nn.Module, kind: type[nn.Module]) -> bool:
    return any(isinstance(part, kind) for part in module.modules())
