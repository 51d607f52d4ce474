"""The mathematics: functions on tensors that know nothing of networks."""

from fastshap_lab.shapley.coalitions import (
    SAMPLERS,
    Sampler,
    ShapleyKernelSampler,
    UniformSizeSampler,
    all_coalitions,
    kernel_size_probabilities,
)
from fastshap_lab.shapley.designs import PairDesign, pair_design
from fastshap_lab.shapley.efficiency import NORMALIZATIONS, additive_normalization, efficiency_gap, equal_split
from fastshap_lab.shapley.estimators import (
    ESTIMATORS,
    Estimate,
    Estimator,
    KernelSHAP,
    Kriging,
    PairRegression,
    exact_shapley_values,
    relative_error,
    shapley_values,
)
from fastshap_lab.shapley.game import LINKS, FunctionGame, Game
from fastshap_lab.shapley.losses import (
    additive_residuals,
    bernoulli_kl,
    constant_bernoulli_kl,
    constant_kl,
    efficiency_penalty,
    imitation_error,
    pair_regression_loss,
    reverse_bernoulli_kl,
    reverse_surrogate_kl,
    shapley_regression_loss,
    surrogate_kl,
)
from fastshap_lab.shapley.players import PlayerGrid, Players, PlayersLike, Segments, as_players
from fastshap_lab.shapley.refinement import Refinement, calibrated_refinement

__all__ = [
    "ESTIMATORS",
    "LINKS",
    "NORMALIZATIONS",
    "SAMPLERS",
    "Estimate",
    "Estimator",
    "FunctionGame",
    "Game",
    "KernelSHAP",
    "Kriging",
    "PairDesign",
    "PairRegression",
    "PlayerGrid",
    "Players",
    "PlayersLike",
    "Refinement",
    "Sampler",
    "Segments",
    "ShapleyKernelSampler",
    "UniformSizeSampler",
    "additive_normalization",
    "additive_residuals",
    "all_coalitions",
    "as_players",
    "bernoulli_kl",
    "calibrated_refinement",
    "constant_bernoulli_kl",
    "constant_kl",
    "efficiency_gap",
    "efficiency_penalty",
    "equal_split",
    "exact_shapley_values",
    "imitation_error",
    "kernel_size_probabilities",
    "pair_design",
    "pair_regression_loss",
    "relative_error",
    "reverse_bernoulli_kl",
    "reverse_surrogate_kl",
    "shapley_regression_loss",
    "shapley_values",
    "surrogate_kl",
]
