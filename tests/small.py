"""Networks small enough for a CPU, described as in a model folder, with weights that leave no path silent."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastshap_lab.inference import AmortizedExplainer, build_amortized
from fastshap_lab.models import Classifier, Surrogate, build_classifier, build_surrogate
from fastshap_lab.models.specs import ExplainerSpec

M = TypeVar("M", bound=nn.Module)

IMAGE_SIZE = (8, 12)  # with patches of 2 pixels, 4 × 6 tokens: every side differs from every other
PIXELS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]}
PARAMS: dict[str, dict[str, Any]] = {
    "resnet": {"channels": [8, 8, 10, 12], "depths": [1, 1, 1, 1]},
    "vit": {"patch_size": 2, "width": 12, "depth": 2, "num_heads": 3, "mlp_width": 16},
}
OF_TOKENS = ("attention", "token_drop", "mask_token")


def network(name: str, image_size: Sequence[int] = IMAGE_SIZE, num_classes: int = 3, **params: Any) -> dict[str, Any]:
    """Describe a network that ``build_classifier`` takes."""
    size = {"image_size": list(image_size), "num_classes": num_classes}
    return {"name": name, "params": PARAMS.get(name, {}) | params, **size, **PIXELS}


def classifier(name: str, seed: int = 0, **description: Any) -> Classifier:
    return scrambled(lambda: build_classifier(**network(name, **description)), seed)


def surrogate(masking: str, grid: Sequence[int] = (2, 3), seed: int = 0, name: str | None = None) -> Surrogate:
    return scrambled(
        lambda: build_surrogate(network(name or ("vit" if masking in OF_TOKENS else "resnet")), masking, grid), seed
    )


def explainer_description(
    name: str = "unet", grid: Sequence[int] = (2, 3), task: str | dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """Describe an explainer as its model folder does, a UNet for a ResNet or a ViT for a ViT."""
    masking, inner = {"unet": ("mask_channel", "resnet"), "vit": ("attention", "vit")}[name]
    learned = {} if task is None else {"task": task}
    params = {"channels": [4, 6]} if name == "unet" else {"backbone": {"name": "vit", "params": PARAMS["vit"]}}
    described = {
        "kind": "explainer",
        "network": network(name) | {"params": params, "grid": list(grid)} | learned,
        "surrogate": {"classifier": network(inner) | learned, "masking": masking, "grid": list(grid)},
        "classifier": network(inner) | learned,
        "link": "softmax",
        "normalization": "additive",
        "class_names": ["cat", "dog", "eel"],
    }
    return described | changes


def explainer(name: str = "unet", grid: Sequence[int] = (2, 3), seed: int = 0, **changes: Any) -> AmortizedExplainer:
    spec = ExplainerSpec.from_json(explainer_description(name, grid, **changes))
    return scrambled(lambda: build_amortized(spec), seed)


def scrambled(builder: Callable[[], M], seed: int = 0) -> M:
    """Build, in evaluation mode, with every weight and running statistic moved away from where it starts."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        module = builder()
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
    return module.eval()


def images(number: int = 2, size: Sequence[int] = IMAGE_SIZE, seed: int = 0) -> Tensor:
    return torch.rand(number, 3, *size, generator=torch.Generator().manual_seed(seed))


def label_map(num_segments: int, size: Sequence[int] = IMAGE_SIZE, seed: int = 0) -> Tensor:
    """Return segments (H, W) that are not connected, no two of a size."""
    height, width = size
    weights = torch.arange(1.0, num_segments + 1)
    labels = weights.multinomial(height * width, True, generator=torch.Generator().manual_seed(seed))
    return labels.index_put((torch.arange(num_segments),), torch.arange(num_segments)).view(height, width)


def coalitions(number: int, num_coalitions: int, num_players: int, seed: int = 0) -> Tensor:
    return torch.rand(number, num_coalitions, num_players, generator=torch.Generator().manual_seed(seed)) < 0.5
