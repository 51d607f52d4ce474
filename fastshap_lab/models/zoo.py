"""Any image classifier of timm, by name."""

import difflib
import warnings
from typing import Any

import timm
from torch import nn

from fastshap_lab.components import Count, Share
from fastshap_lab.errors import UserError
from fastshap_lab.models.tokens import is_token_network


def timm_model(
    num_classes: int,
    image_size: tuple[int, int],
    in_chans: int,
    model: str,
    patch_size: Count | None = None,
    drop_rate: Share = 0.0,
    drop_path_rate: Share = 0.0,
) -> nn.Module:
    """Return one of ``timm.list_models()`` with random weights, for images of the given size.

    Nothing but what is named here reaches timm, so that no configuration can name a file or an address to it.

    Args:
        num_classes: K.
        image_size: Height and width.
        in_chans: Input channels.
        model: The name, without the tag of pretrained weights.
        patch_size: For vision transformers: another one than the model's own.
        drop_rate: Dropout before the head.
        drop_path_rate: Stochastic depth.

    Raises:
        UserError: There is no such model, or it cannot be built so.
    """
    if model not in (known := timm.list_models()):
        raise UserError(f"params.model={model}: no model of timm {timm.__version__}; {_near(model, known)}")
    wanted = {"patch_size": patch_size, "drop_rate": drop_rate or None, "drop_path_rate": drop_path_rate or None}
    arguments: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans}
    arguments |= {key: value for key, value in wanted.items() if value is not None}
    size = f"{image_size[0]}×{image_size[1]}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a mapping of a deprecated name still builds
            try:
                network = timm.create_model(model, img_size=image_size, **arguments)
            except TypeError as error:
                if "img_size" not in str(error):
                    raise
                network = timm.create_model(model, **arguments)  # a convolutional family: takes images of any size
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"params.model={model}: cannot be built for images of {size}: {reason}") from None
    if is_token_network(network):  # which would find out when it meets the first image
        height, width = network.patch_embed.patch_size
        if image_size[0] % height or image_size[1] % width:
            raise UserError(f"params.model={model}: its patches of {height}×{width} do not divide images of {size}")
    return network


def _near(model: str, known: list[str]) -> str:
    bare = model.rpartition("/")[2].split(".")[0]  # without a hub's address and the tag of pretrained weights
    near = [bare] if bare in known else difflib.get_close_matches(bare, known)
    return f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them"
