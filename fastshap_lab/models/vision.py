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

# What some builders want beside the number of classes. The latter two take pixels normalized as for all others; their
# auxiliary heads answer while they train alone.
_INCEPTIONS = ("googlenet", "inception_v3")
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


def torchvision_model(num_classes: int, image_size: tuple[int, int], in_chans: int, model: str) -> nn.Module:
    """Return one of torchvision's image classifiers with random weights, for images of the given size.

    Args:
        num_classes: K.
        image_size: Height and width.
        in_chans: Input channels; if not 3, the first convolution is another.
        model: The name, of ``torchvision.models.list_models(torchvision.models)`` but for RegNets, which cannot be
            built without memory; timm has them.

    Raises:
        UserError: There is no such model, or it cannot be built so.
    """
    _check_name(model)
    size = f"{image_size[0]}×{image_size[1]}"
    arguments: dict[str, Any] = {}
    if model.startswith("vit_"):
        if image_size[0] != image_size[1]:
            raise UserError(f"params.model={model}: takes square images, and these are of {size}; timm's take others")
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
    """torchvision's models, each with the weights that it takes by default."""

    def stated(self, params: Mapping[str, Any]) -> Stated:
        """Return what torchvision says of a model; see ``Library``."""
        found = _weights(params["model"])
        transforms, names = found.transforms(), list(found.meta["categories"])
        return Stated(f"torchvision/{found}", list(transforms.mean), list(transforms.std), len(names), names)

    def weights(self, params: Mapping[str, Any], network: nn.Module) -> dict[str, Tensor]:
        """Return torchvision's weights for a model, without auxiliary heads; see ``Library``."""
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
    """Let a network's first convolution take another number of channels."""
    path, first = next((path, part) for path, part in network.named_modules() if isinstance(part, nn.Conv2d))
    other = nn.Conv2d(
        in_chans,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]  # of two numbers, which PyTorch's annotations leave open
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        first.dilation,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    owner, _, name = path.rpartition(".")
    setattr(network.get_submodule(owner), name, other)
