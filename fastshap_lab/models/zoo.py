"""Any image classifier of timm, by name."""

import difflib
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import timm
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from timm.models import PretrainedCfg
from torch import Tensor, nn

from fastshap_lab.components import Count, Share
from fastshap_lab.errors import UserError
from fastshap_lab.models.libraries import Library, Stated, fetched
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

    Only these arguments are passed to timm, so that no configuration can make it open a file or an address.

    Args:
        num_classes: Number of classes K.
        image_size: Height and width in pixels.
        in_chans: Number of input channels.
        model: Name of the model, without the tag of pretrained weights.
        patch_size: Side of a vision transformer's patches in pixels; the model's own if None.
        drop_rate: Probability of dropout before the head, in [0, 1).
        drop_path_rate: Largest probability of dropping a residual path, in [0, 1).

    Raises:
        UserError: There is no such model, or it cannot be built with these arguments.
    """
    _check_name(model)
    wanted = {"patch_size": patch_size, "drop_rate": drop_rate or None, "drop_path_rate": drop_path_rate or None}
    arguments: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans}
    arguments |= {key: value for key, value in wanted.items() if value is not None}
    size = f"{image_size[0]}×{image_size[1]}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # timm warns of deprecated names, which it still builds
            try:
                network = timm.create_model(model, img_size=image_size, **arguments)
            except TypeError as error:
                if "img_size" not in str(error):
                    raise
                network = timm.create_model(model, **arguments)  # convolutional families take images of any size
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"params.model={model}: cannot be built for images of {size}: {reason}") from None
    if is_token_network(network):  # it would raise this error only at the first image
        height, width = network.patch_embed.patch_size
        if image_size[0] % height or image_size[1] % width:
            raise UserError(f"params.model={model}: its patches of {height}×{width} do not divide images of {size}")
    return network


class Timm(Library):
    """Models and weights of timm, by the names that timm lists."""

    def stated(self, params: Mapping[str, Any]) -> Stated:
        """Return what timm states about a model; see ``Library``."""
        found = _pretrained(params["model"])
        names, subset = None, infer_imagenet_subset(found.to_dict())  # type: ignore[no-untyped-call]
        if subset is not None:
            described = ImageNetInfo(subset).label_descriptions()
            if len(described) == found.num_classes:
                names = [description.split(",")[0] for description in described]
        return Stated(
            f"timm/{found.architecture}.{found.tag}", list(found.mean), list(found.std), found.num_classes, names
        )

    def weights(self, params: Mapping[str, Any], network: nn.Module) -> dict[str, Tensor]:
        """Return timm's weights for a model, with its pretrained head; see ``Library``."""
        model = params["model"]
        try:
            return timm.create_model(model, pretrained=True, num_classes=_pretrained(model).num_classes).state_dict()
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise UserError(fetched(f"classifier.params.model={model}", error)) from None


def adapted(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of a timm model as timm itself would load them: renamed, and resampled to the network's size.

    They are returned unchanged for networks of other libraries, and where timm has no conversion.

    Args:
        network: Network that the weights are for.
        state: Weights by name.
    """
    module = type(network).__module__
    convert = getattr(sys.modules[module], "checkpoint_filter_fn", None) if module.startswith("timm.") else None
    return state if convert is None else convert(dict(state), network)


def _pretrained(model: str) -> PretrainedCfg:
    _check_name(model)
    found = timm.get_pretrained_cfg(model)
    if found is None or not found.has_weights:
        raise UserError(f"classifier.params.model={model}: timm {timm.__version__} has no weights for it")
    return found


def _check_name(model: str) -> None:
    if model not in (known := timm.list_models()):
        raise UserError(f"params.model={model}: no model of timm {timm.__version__}; {_near(model, known)}")


def _near(model: str, known: list[str]) -> str:
    bare = model.rpartition("/")[2].split(".")[0]  # without a hub's address and the tag of pretrained weights
    near = [bare] if bare in known else difflib.get_close_matches(bare, known)
    return f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them"
