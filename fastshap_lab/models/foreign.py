"""Networks of other people's classes: what they need to stand where one of timm's would."""

import copy
import inspect

import torch
from torch import Tensor, nn

from fastshap_lab.errors import UserError

_handed_over: dict[str, nn.Module] = {}


class Logits(nn.Module):
    """A network of unknown modules: takes pixels channel after channel, and may wrap its logits into an object.

    Args:
        model: Takes normalized pixels (B, C, H, W) to logits (B, K), or to an object with ``logits``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        # transformers' ViTs interpolate positions on demand: what they were trained on need not be the images' size.
        self.interpolates = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in."""
        floating = (parameter.dtype for parameter in self.model.parameters() if parameter.is_floating_point())
        return next(floating, torch.float32)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (B, K).

        Raises:
            UserError: The model's answer is no tensor, and has none called ``logits``.
        """
        options = {"interpolate_pos_encoding": True} if self.interpolates else {}
        answer = self.model(pixels.contiguous().to(self.dtype), **options)
        logits = getattr(answer, "logits", answer)
        if not isinstance(logits, Tensor):
            raise UserError(f"model: answers with a {type(answer).__name__}; logits (images, classes) are wanted")
        return logits


def bare(network: nn.Module) -> nn.Module:
    """Return a network as its own library or author knows it, whose names its weights have."""
    return network.model if isinstance(network, Logits) else network


def is_foreign(module: nn.Module) -> bool:
    """Return whether a module is or holds a network of unknown modules."""
    return any(isinstance(part, Logits) for part in module.modules())


def is_handed_over(path: str) -> bool:
    """Return whether a module was handed over under a path."""
    return path in _handed_over


def take_back(path: str) -> None:
    """Let descriptions that name this path be built no longer."""
    _handed_over.pop(path, None)


def hand_over(path: str, module: nn.Module) -> None:
    """Let descriptions that name one's own code by this path be built in this process; no file can do so.

    Args:
        path: ``package.module:factory``, which the user has typed.
        module: What the factory has returned.
    """
    _handed_over[path] = module


def handed_over(path: str) -> nn.Module:
    """Return the module that was handed over under a path.

    Raises:
        UserError: None was.
    """
    if path not in _handed_over:
        raise UserError(
            f"its network is of one's own code, {path}, which nothing here imports; hand the module over: "
            "load_classifier(folder, module=…), load_surrogate(folder, module=…), load_explainer(folder, surrogate=…)"
        )
    return _handed_over[path]


def processor_pixels(model: str) -> dict[str, list[float]]:
    """Return mean and standard deviation of an image processor of transformers that is on disk; or nothing.

    Args:
        model: Folder, or name of the hub.
    """
    from transformers import ImageProcessingMixin  # there, since a model of it is

    try:
        settings = ImageProcessingMixin.get_image_processor_dict(model, local_files_only=True)[0]
    except (OSError, ValueError):  # it was never saved, or not there
        return {}
    mean, std = settings.get("image_mean"), settings.get("image_std")
    if settings.get("do_normalize", True) is False or not (isinstance(mean, list) and isinstance(std, list)):
        return {}
    return {"mean": mean, "std": std}


def stated_by(module: nn.Module) -> dict[str, list[float]]:
    """Return mean and standard deviation that a module states, in ``pretrained_cfg`` as timm's do; or nothing.

    Of a model of transformers they are those of the image processor in the folder, or the hub's files on disk, that it
    was loaded from.
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
        num_classes: Ignored: the module is as it is.
        image_size: The same.
        in_chans: The same.
        path: What the module was handed over as.

    Raises:
        UserError: None was.
    """
    return own_network(handed_over(path))


def own_network(module: nn.Module) -> Logits:
    """Return a copy of one's own module, as a network on the CPU; the module itself stays as it is."""
    with torch.device("cpu"):
        return Logits(copy.deepcopy(module)).cpu()
