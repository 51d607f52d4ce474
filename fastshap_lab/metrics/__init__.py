"""Measures: a pure function each, and a ``torchmetrics.Metric`` over it. Never a network, never a figure."""

from torchmetrics import Metric

from fastshap_lab.metrics.additive_fit import AdditiveFit
from fastshap_lab.metrics.efficiency import EfficiencyGap
from fastshap_lab.metrics.faithfulness import FaithfulnessCorrelation, SensitivityN, sensitivity_coalitions
from fastshap_lab.metrics.imitation import Imitation
from fastshap_lab.metrics.per_image import PerImage
from fastshap_lab.metrics.pointing import PointingGame, box_region
from fastshap_lab.metrics.removal import Deletion, Insertion, unit_values
from fastshap_lab.metrics.segmentation import Segmentation
from fastshap_lab.metrics.shapley_error import ShapleyError
from fastshap_lab.metrics.similarity import Similarity
from fastshap_lab.metrics.subsets import correctness_subsets
from fastshap_lab.metrics.substrates import SUBSTRATES, SubstrateGame
from fastshap_lab.metrics.value_function import coalition_values

METRICS: dict[str, type[Metric]] = {
    "additive_fit": AdditiveFit,
    "deletion": Deletion,
    "efficiency_gap": EfficiencyGap,
    "faithfulness_correlation": FaithfulnessCorrelation,
    "imitation": Imitation,
    "insertion": Insertion,
    "pointing_game": PointingGame,
    "segmentation": Segmentation,
    "sensitivity_n": SensitivityN,
    "shapley_error": ShapleyError,
    "similarity": Similarity,
}

__all__ = [
    "METRICS",
    "SUBSTRATES",
    "AdditiveFit",
    "Deletion",
    "EfficiencyGap",
    "FaithfulnessCorrelation",
    "Imitation",
    "Insertion",
    "PerImage",
    "PointingGame",
    "Segmentation",
    "SensitivityN",
    "ShapleyError",
    "Similarity",
    "SubstrateGame",
    "box_region",
    "coalition_values",
    "correctness_subsets",
    "sensitivity_coalitions",
    "unit_values",
]
