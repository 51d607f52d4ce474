"""Foreign networks, whose classes are the user's or another library's, in the place of one of timm's."""

import copy
import inspect

import torch
from torch import Tensor, nn

from fastshap_lab.errors import UserError

_handed_over: dict[str, nn.Module] = {}


class Logits(nn.Module):
    """A foreign network, which gets pixels in the channels-first layout and may wrap its logits into an object.

    Args:
        model: Module that maps normalized pixels (B, C, H, W) to logits (B, K), or to an object with ``logits``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        # The ViTs of transformers interpolate positions on demand, for images of another size than they were trained
        # on.
        self.interpolates = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters

    @property
    def dtype(self) -> torch.dtype:
        """Number format that the network computes in."""
        floating = (parameter.dtype for parameter in self.model.parameters() if parameter.is_floating_point())
        return next(floating, torch.float32)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (B, K).

        Raises:
            UserError: The model returns neither a tensor nor an object with a tensor ``logits``.
        """
        options = {"interpolate_pos_encoding": True} if self.interpolates else {}
        answer = self.model(pixels.contiguous().to(self.dtype), **options)
        logits = getattr(answer, "logits", answer)
        if not isinstance(logits, Tensor):
            raise UserError(f"model: returns a {type(answer).__name__}; must return logits (images, classes)")
        return logits


def bare(network: nn.Module) -> nn.Module:
    """Return a network without the wrapper ``Logits``: its weights have the names that its library or author uses."""
    return network.model if isinstance(network, Logits) else network


def is_foreign(module: nn.Module) -> bool:
    """Return whether a module is or contains a foreign network."""
    return any(isinstance(part, Logits) for part in module.modules())


def is_handed_over(path: str) -> bool:
    """Return whether a module is registered under a path."""
    return path in _handed_over


def take_back(path: str) -> None:
    """Unregister the module of a path: descriptions that name the path can no longer be built."""
    _handed_over.pop(path, None)


def hand_over(path: str, module: nn.Module) -> None:
    """Register a module of the user's own code, so that descriptions that name its path can be built in this process.

    No file can do so.

    Args:
        path: Path ``package.module:factory`` that the user has typed.
        module: Module that the factory has returned.
    """
    _handed_over[path] = module


def handed_over(path: str) -> nn.Module:
    """Return the module that is registered under a path.

    Raises:
        UserError: No module is registered under it.
    """
    if path not in _handed_over:
        raise UserError(
            f"its network is your own code, {path}, which is not imported from a folder; hand the module over: "
            "load_classifier(folder, module=…), load_surrogate(folder, module=…), load_explainer(folder, surrogate=…)"
        )
    return _handed_over[path]


def processor_pixels(model: str) -> dict[str, list[float]]:
    """Return the mean and standard deviation of an image processor of transformers, or {} if it is not on disk.

    Args:
        model: Folder, or name on the hub.
    """
    from transformers import ImageProcessingMixin  # installed, since the model is one of its

    try:
        settings = ImageProcessingMixin.get_image_processor_dict(model, local_files_only=True)[0]
    except (OSError, ValueError):  # the processor was not saved, or is not on disk
        return {}
    mean, std = settings.get("image_mean"), settings.get("image_std")
    if settings.get("do_normalize", True) is False or not (isinstance(mean, list) and isinstance(std, list)):
        return {}
    return {"mean": mean, "std": std}


def stated_by(module: nn.Module) -> dict[str, list[float]]:
    """Return the mean and standard deviation that a module states, or {} if it states none.

    A model of timm states them in ``pretrained_cfg``. For a model of transformers they are those of the image processor
    in the folder, or in the hub's files on disk, that the model was loaded from.
    """
    if type(module).__module__.startswith("transformers.") and hasattr(module, "name_or_path"):
        return processor_pixels(str(module.name_or_path))
    stated = getattr(module, "pretrained_cfg", None) or {}
    if stated.get("mean") is None or stated.get("std") is None:
        return {}
    return {"mean": list(stated["mean"]), "std": list(stated["std"])}


def imported(num_classes: int, image_size: tuple[int, int], in_chans: int, path: str) -> nn.Module:
    """Return a copy of the module that was handed over under a path. Nothing is imported.

    Args:
        num_classes: Ignored, since the module is built already.
        image_size: Ignored.
        in_chans: Ignored.
        path: Path that the module is registered under.

    Raises:
        UserError: No module is registered under the path.
    """
    return own_network(handed_over(path))


def own_network(module: nn.Module) -> Logits:
    """Return a copy of the user's own module as a network on the CPU; the module itself is not changed."""
    with torch.device("cpu"):
        return Logits(copy.deepcopy(module)).cpu()
