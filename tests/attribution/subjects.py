"""What several tests of attribution methods explain."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastshap_lab.models import Classifier
from tests.attribution.families import GRID, family, images

IMAGES = images(dtype=torch.float64)
TARGETS = torch.tensor([2, 0, 3])


PATCHES: dict[str, Any] = {"players": GRID, "budget": 24}
OPTIONS: dict[str, dict[str, Any]] = {
    "tam": {"steps": 3},
    "integrated_gradients": {"steps": 3},
    "smoothgrad": {"samples": 3},
    "occlusion": {"stride": (4, 4)},
    "rise": {"num_masks": 20},
    "kernel_shap": PATCHES,
    "kriging": PATCHES,
    "leverage_shap": PATCHES,
    "permutation": PATCHES,
    "random": {"grid": GRID},
}


def model_and_network(name: str) -> tuple[nn.Module, nn.Module, Callable[[Tensor], Tensor]]:
    model = family(name).double()
    if isinstance(model, Classifier):
        return model, model.network, model.normalize
    return model, model, lambda image: image


def state(model: nn.Module) -> list[Any]:
    """Everything of a model that running it could leave changed."""
    found: list[Any] = []
    for module in model.modules():
        hooks = (len(value) for name, value in vars(module).items() if name.endswith("_hooks"))
        switches = {name: getattr(module, name, None) for name in ("training", "fused_attn", "grad_checkpointing")}
        found.append((*hooks, *switches.values()))
    found += [(p.requires_grad, p.grad is None, p.detach().clone().flatten().tolist()) for p in model.parameters()]
    return found + [buffer.clone().flatten().tolist() for buffer in model.buffers()]


def unsettle(model: nn.Module) -> nn.Module:
    """Bring a model into a state between training and evaluation that no default is equal to."""
    model.train()
    for i, module in enumerate(model.modules()):
        module.training = i % 2 == 0
        if hasattr(module, "grad_checkpointing"):
            module.grad_checkpointing = True
        if hasattr(module, "fused_attn"):
            module.fused_attn = i % 3 != 0
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad = i % 2 == 0
    return model
