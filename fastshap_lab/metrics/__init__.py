"""Measures: a pure function each, and a ``torchmetrics.Metric`` over it. Never a network, never a figure."""

from torchmetrics import Metric

from fastshap_lab.metrics.additive_fit import AdditiveFit
from fastshap_lab.metrics.efficiency import EfficiencyGap
from fastshap_lab.metrics.faithfulness import (
    FaithfulnessCorrelation,
    Infidelity,
    SensitivityN,
    sensitivity_coalitions,
)
from fastshap_lab.metrics.imitation import Imitation
from fastshap_lab.metrics.map_agreement import MapAgreement
from fastshap_lab.metrics.map_statistics import MapStatistics
from fastshap_lab.metrics.per_image import PerImage
from fastshap_lab.metrics.pointing import PointingGame
from fastshap_lab.metrics.removal import Deletion, Insertion
from fastshap_lab.metrics.segmentation import Segmentation
from fastshap_lab.metrics.shapley_error import ShapleyCorrelation, ShapleyDistance, ShapleyError
from fastshap_lab.metrics.similarity import Similarity
from fastshap_lab.metrics.subsets import correctness_subsets
from fastshap_lab.metrics.two_samples import holm, two_sample_p_values
from fastshap_lab.metrics.value_function import coalition_values

METRICS: dict[str, type[Metric]] = {
    "deletion": Deletion,
    "insertion": Insertion,
    "sensitivity_n": SensitivityN,
    "faithfulness_correlation": FaithfulnessCorrelation,
    "infidelity": Infidelity,
    "shapley_correlation": ShapleyCorrelation,
    "shapley_distance": ShapleyDistance,
    "efficiency_gap": EfficiencyGap,
    "pointing_game": PointingGame,
    "segmentation": Segmentation,
    "additive_fit": AdditiveFit,
    "imitation": Imitation,
    "map_agreement": MapAgreement,
    "map_statistics": MapStatistics,
    "shapley_error": ShapleyError,
    "similarity": Similarity,
}

__all__ = [
    "METRICS",
    "AdditiveFit",
    "Deletion",
    "EfficiencyGap",
    "FaithfulnessCorrelation",
    "Imitation",
    "Infidelity",
    "Insertion",
    "MapAgreement",
    "MapStatistics",
    "PerImage",
    "PointingGame",
    "Segmentation",
    "SensitivityN",
    "ShapleyCorrelation",
    "ShapleyDistance",
    "ShapleyError",
    "Similarity",
    "coalition_values",
    "correctness_subsets",
    "holm",
    "sensitivity_coalitions",
    "two_sample_p_values",
]
