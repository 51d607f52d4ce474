"""Amortized Shapley explainers of image classifiers: training, evaluation against exact values, and serving."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastshap_lab.any_model import shapley_values
    from fastshap_lab.api import train_explainer
    from fastshap_lab.bulk.shards import read_explanations
    from fastshap_lab.inference import Explanation, load_classifier, load_explainer, load_surrogate

__version__ = "0.1.0"
__all__ = [
    "Explanation",
    "load_classifier",
    "load_explainer",
    "load_surrogate",
    "read_explanations",
    "shapley_values",
    "train_explainer",
]
_ELSEWHERE = {"read_explanations": "bulk.shards", "shapley_values": "any_model", "train_explainer": "api"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, since importing PyTorch takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"fastshap_lab.{_ELSEWHERE.get(name, 'inference')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
