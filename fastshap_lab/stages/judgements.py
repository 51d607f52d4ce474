"""Warnings about poor results: functions from a run's measures to a line for terminal and report, or None."""

import math
from collections.abc import Mapping

from fastshap_lab.config import ClassifierConfig
from fastshap_lab.models import Task
from fastshap_lab.stages.base import known_pixels

# Additive R² of the equal split, from which an explainer starts, is 0. Below -1 its squared error is more than twice
# that of the equal split, so that the training diverged; below 0.01 it is not clearly better than the equal split.
_DIVERGED, _NOTHING = -1.0, 0.01
# `test/variation` is 0 if every image has the same map; trained explainers have 0.1 and more.
_ALIKE = 0.01
# Largest divergence of a surrogate, as a fraction of the divergence of the best answer that ignores the image: 0.5 on
# whole images, which the surrogate sees as the classifier does, and 1 on masked images. A divergence below 0.01 nats
# is always small enough.
_OF_WHOLE, _OF_MASKED, _NOTICED = 0.5, 1.0, 0.01


def weights_without_pixels(config: ClassifierConfig) -> str | None:
    """Return a warning if weights from a file come without the pixel normalization that they were trained with."""
    missing = [f"classifier.{name}" for name in ("mean", "std") if getattr(config, name) is None]
    if config.weights is None or not missing or known_pixels(config).keys() == {"mean", "std"}:
        return None
    return (
        f"classifier.weights={config.weights} without {' and '.join(missing)}: pixels are normalized by the statistics "
        "of these training images; set them to the values that the weights were trained with (ImageNet: "
        "classifier.mean=[0.485,0.456,0.406] classifier.std=[0.229,0.224,0.225])"
    )


def far_surrogate(measures: Mapping[str, float], classifier: Mapping[str, float], task: Task) -> str | None:
    """Return a warning if a surrogate's outputs are far from its classifier's, on whole or on masked images.

    Args:
        measures: Measures of the surrogate.
        classifier: Measures of its classifier.
        task: Task of both.
    """
    name, right = task.imitation, task.measure_names[0]
    ignorant = measures.get(f"test/{name}_constant", math.inf)  # runs of older versions lack it
    for images, key, share in (("whole", f"test/{name}", _OF_WHOLE), ("masked", f"test/masked_{name}", _OF_MASKED)):
        if not measures[key] <= max(share * ignorant, _NOTICED):
            shares = f" ({task.title(right)} {measures[f'test/{right}']:.3f}, the classifier's is "
            shares += f"{classifier[f'test/{right}']:.3f})"
            if math.isnan(measures[f"test/{right}"]):
                shares = ""
            return (
                f"the surrogate is far from its classifier: {task.title(name)} is {measures[key]:.3f} on {images} "
                f"images, and {ignorant:.3f} for the best answer that ignores the image{shares}; raise "
                "surrogate.epochs, change surrogate.optim.lr, or choose a larger network or the classifier's "
                "(surrogate.from_classifier=true)"
            )
    return None


def failed_explainer(measures: Mapping[str, float]) -> str | None:
    """Return a warning if an explainer diverged, has one map for all images, or is no better than the equal split.

    Args:
        measures: Measures of the explainer.
    """
    fit, variation = measures["test/additive_r2"], measures.get("test/variation", math.nan)
    if not fit >= _DIVERGED:
        return (
            f"the explainer diverged: its additive R² is {fit:,.1f}, that of the equal split is 0; lower "
            "explainer.optim.lr or set explainer.optim.clip_norm"
        )
    if variation < _ALIKE:
        return (
            f"the explainer collapsed: its maps are almost the same for all images, which explain {variation:.2%} of "
            f"their variance (additive R² {fit:.4f}); raise explainer.epochs or change explainer.optim.lr"
        )
    if fit < _NOTHING:
        return (
            f"the explainer is no better than the equal split: its additive R² is {fit:.4f}; raise explainer.epochs or "
            "explainer.labels.evaluations, or change explainer.optim.lr"
        )
    return None


def further_than_equal_split(name: str, measures: Mapping[str, float]) -> str | None:
    """Return a warning if the equal split is closer to the true values than a pipeline's explainer.

    Args:
        name: Name of the pipeline.
        measures: Measures of the explainer's error, ``r2`` and ``r2_beyond_equal`` among them.
    """
    r2, beyond = measures["r2"], measures["r2_beyond_equal"]
    if not beyond < 0:
        return None
    equal = 1 - (1 - r2) / (1 - beyond)
    return (
        f"{name}: its explainer is further from the true values than the equal split: R² is {r2:,.3f}, that of the "
        f"equal split {equal:.3f}; raise explainer.epochs or explainer.labels.evaluations, or change explainer.optim.lr"
    )
