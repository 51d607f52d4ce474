"""The mathematics: functions on tensors that know nothing of networks."""

from fastshap_lab.shapley.coalitions import (
    Sampler,
    ShapleyKernelSampler,
    UniformSizeSampler,
    all_coalitions,
    kernel_size_probabilities,
)
from fastshap_lab.shapley.efficiency import NORMALIZATIONS, additive_normalization, efficiency_gap, equal_split
from fastshap_lab.shapley.estimators import exact_shapley_values
from fastshap_lab.shapley.game import LINKS, Game
from fastshap_lab.shapley.grid import PlayerGrid
from fastshap_lab.shapley.losses import (
    additive_residuals,
    efficiency_penalty,
    shapley_regression_loss,
    surrogate_kl,
)

__all__ = [
    "LINKS",
    "NORMALIZATIONS",
    "Game",
    "PlayerGrid",
    "Sampler",
    "ShapleyKernelSampler",
    "UniformSizeSampler",
    "additive_normalization",
    "additive_residuals",
    "all_coalitions",
    "efficiency_gap",
    "efficiency_penalty",
    "equal_split",
    "exact_shapley_values",
    "kernel_size_probabilities",
    "shapley_regression_loss",
    "surrogate_kl",
]
