"""Optimizers and learning-rate schedules, by name."""

import math
from functools import partial
from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from fastshap_lab.components import lookup
from fastshap_lab.config import OptimConfig

OPTIMIZERS: dict[str, Any] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
}
SCHEDULES = ("one_cycle", "cosine", "plateau", "constant")


def check_optimizer(config: OptimConfig, key: str) -> None:
    """Check the names of an optimizer and a schedule.

    Args:
        config: Settings with these names.
        key: Configuration key of the training's settings, for error lines.

    Raises:
        UserError: The optimizer or the schedule is unknown.
    """
    lookup(OPTIMIZERS, f"{key}.optim.name", config.name)
    lookup(dict.fromkeys(SCHEDULES), f"{key}.optim.schedule", config.schedule)


def build_optimizer(
    module: nn.Module, config: OptimConfig, num_steps: int, monitor: str, mixed_precision: bool = False
) -> dict[str, Any]:
    """Return the optimizer and its schedule in the form that Lightning's ``configure_optimizers`` returns.

    Args:
        module: Module whose trainable parameters are optimized; biases and norms have no weight decay.
        config: Settings: ``name``, ``lr`` (the peak of the schedule), ``weight_decay``, ``schedule``, ``warmup`` (the
            share of steps in which the rate rises).
        num_steps: Number of steps of the whole training.
        monitor: Validation measure that the plateau schedule follows, lower is better.
        mixed_precision: Whether the training uses mixed precision, in which Lightning cannot clip the gradients of
            fused optimizers.
    """
    groups = param_groups_weight_decay(module, config.weight_decay)
    fused = not (mixed_precision and config.clip_norm)
    optimizer = OPTIMIZERS[config.name](groups, lr=config.lr, fused=fused)
    scheduler: LRScheduler | ReduceLROnPlateau
    if config.schedule == "one_cycle":
        rise = config.warmup if config.warmup * num_steps > 1 else 0.0  # PyTorch divides by zero for a single step
        scheduler = OneCycleLR(optimizer, config.lr, total_steps=num_steps, pct_start=rise)
    elif config.schedule == "plateau":
        scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=5, min_lr=1e-5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": monitor}}
    else:
        rising = math.ceil(config.warmup * num_steps)
        falls = config.schedule == "cosine"

        def factor(step: int) -> float:
            if step < rising:
                return (step + 1) / rising
            progress = (step - rising) / max(num_steps - rising, 1)
            return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))) if falls else 1.0

        scheduler = LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
