"""Measures: a pure function each, and a ``torchmetrics.Metric`` over it. Never a network, never a figure."""

from fastshap_lab.metrics.additive_fit import AdditiveFit
from fastshap_lab.metrics.imitation import Imitation
from fastshap_lab.metrics.shapley_error import ShapleyError
from fastshap_lab.metrics.subsets import correctness_subsets

__all__ = ["AdditiveFit", "Imitation", "ShapleyError", "correctness_subsets"]
