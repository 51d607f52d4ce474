"""Metrics: a pure function each, and a ``torchmetrics.Metric`` that uses it. None runs a network or draws a figure."""

from fastshap_lab import _timm  # noqa: F401, I001 - before torchvision, which torchmetrics imports

from torchmetrics import Metric

from fastshap_lab.metrics.additive_fit import AdditiveFit
from fastshap_lab.metrics.bootstrap import (
    PairedTest,
    bootstrap_means,
    bootstrap_sums,
    paired_test,
    percentile_intervals,
)
from fastshap_lab.metrics.correlation import cosine, pearson, spearman
from fastshap_lab.metrics.efficiency import EfficiencyGap
from fastshap_lab.metrics.faithfulness import (
    FaithfulnessCorrelation,
    Infidelity,
    SensitivityN,
    coalition_sums,
    sensitivity_coalitions,
)
from fastshap_lab.metrics.imitation import Imitation
from fastshap_lab.metrics.map_agreement import MapAgreement, coarsened
from fastshap_lab.metrics.map_statistics import MapStatistics, central_share, centroid, map_entropy
from fastshap_lab.metrics.per_image import PerImage
from fastshap_lab.metrics.pointing import PointingGame, pointing_energy, pointing_hits
from fastshap_lab.metrics.removal import Deletion, Insertion, area_under_curve, removal_curves
from fastshap_lab.metrics.segmentation import Segmentation, foreground, segmentation_scores
from fastshap_lab.metrics.shapley_error import (
    ShapleyCorrelation,
    ShapleyDistance,
    ShapleyError,
    shapley_error_sums,
    shapley_errors,
)
from fastshap_lab.metrics.similarity import Similarity, rank_similarity, structure_similarity
from fastshap_lab.metrics.subsets import correctness_subsets
from fastshap_lab.metrics.two_samples import holm, two_sample_p_values
from fastshap_lab.metrics.value_function import ValueFunction, coalition_values, values_in_chunks

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
    "PairedTest",
    "PerImage",
    "PointingGame",
    "Segmentation",
    "SensitivityN",
    "ShapleyCorrelation",
    "ShapleyDistance",
    "ShapleyError",
    "Similarity",
    "ValueFunction",
    "area_under_curve",
    "bootstrap_means",
    "bootstrap_sums",
    "central_share",
    "centroid",
    "coalition_sums",
    "coalition_values",
    "coarsened",
    "correctness_subsets",
    "cosine",
    "foreground",
    "holm",
    "map_entropy",
    "paired_test",
    "pearson",
    "percentile_intervals",
    "pointing_energy",
    "pointing_hits",
    "rank_similarity",
    "removal_curves",
    "segmentation_scores",
    "sensitivity_coalitions",
    "shapley_error_sums",
    "shapley_errors",
    "spearman",
    "structure_similarity",
    "two_sample_p_values",
    "values_in_chunks",
]

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
