"""Any image classifier of torchvision, by name."""

import warnings
from collections.abc import Mapping
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision import models

from fastshap_lab.components import did_you_mean
from fastshap_lab.errors import UserError
from fastshap_lab.models.libraries import Library, Stated, fetched

# Builders that need further arguments. Their pixels are normalized as for all others, and their auxiliary heads, which
# are used in training alone, are left out.
_INCEPTIONS = ("googlenet", "inception_v3")
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


def torchvision_model(num_classes: int, image_size: tuple[int, int], in_chans: int, model: str) -> nn.Module:
    """Return one of torchvision's image classifiers with random weights, for images of the given size.

    Args:
        num_classes: Number of classes K.
        image_size: Height and width in pixels.
        in_chans: Number of input channels; if it is not 3, the first convolution is replaced.
        model: Name in ``torchvision.models.list_models(torchvision.models)``. RegNets are excluded, since they cannot
            be built without memory; timm has them.

    Raises:
        UserError: There is no such model, or it cannot be built with these arguments.
    """
    _check_name(model)
    size = f"{image_size[0]}×{image_size[1]}"
    arguments: dict[str, Any] = {}
    if model.startswith("vit_"):
        if image_size[0] != image_size[1]:
            raise UserError(
                f"params.model={model}: takes square images, and these have {size} pixels; timm's models take others"
            )
        arguments = {"image_size": image_size[0]}
    elif model.startswith("maxvit"):
        arguments = {"input_size": image_size}
    elif model in _INCEPTIONS:
        arguments = {"aux_logits": False, "transform_input": in_chans == 3, "init_weights": False}
    try:
        network = models.get_model(model, weights=None, num_classes=num_classes, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"params.model={model}: cannot be built for images of {size}: {reason}") from None
    if in_chans != 3:
        _take_channels(network, in_chans)
    return network


class Torchvision(Library):
    """Models of torchvision, each with its default weights."""

    def stated(self, params: Mapping[str, Any]) -> Stated:
        """Return what torchvision states about a model; see ``Library``."""
        found = _weights(params["model"])
        transforms, names = found.transforms(), list(found.meta["categories"])
        return Stated(f"torchvision/{found}", list(transforms.mean), list(transforms.std), len(names), names)

    def weights(self, params: Mapping[str, Any], network: nn.Module) -> dict[str, Tensor]:
        """Return torchvision's weights for a model without those of auxiliary heads; see ``Library``."""
        model = params["model"]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                state = _weights(model).get_state_dict(progress=False, check_hash=True, weights_only=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(fetched(f"classifier.params.model={model}", error)) from None
        return {name: tensor for name, tensor in state.items() if not name.startswith(_AUXILIARY)}


def _weights(model: str) -> models.WeightsEnum:
    _check_name(model)
    return models.get_model_weights(model).DEFAULT


def _check_name(model: str) -> None:
    known = [name for name in models.list_models(module=models) if not name.startswith("regnet")]
    if model not in known:
        raise UserError(
            f"params.model={model}: no model of torchvision {torchvision.__version__}; {did_you_mean(model, known)}"
        )


def _take_channels(network: nn.Module, in_chans: int) -> None:
    """Replace a network's first convolution by one with another number of input channels."""
    path, first = next((path, part) for path, part in network.named_modules() if isinstance(part, nn.Conv2d))
    other = nn.Conv2d(
        in_chans,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]  # a pair, which PyTorch's annotations do not say
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        first.dilation,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    owner, _, name = path.rpartition(".")
    setattr(network.get_submodule(owner), name, other)
