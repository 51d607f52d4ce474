"""What says that a stage went wrong: from its measures to a line for the terminal and the report, or None."""

import math
from collections.abc import Mapping

from fastshap_lab.config import ClassifierConfig
from fastshap_lab.models import Task
from fastshap_lab.stages.base import known_pixels

# Additive R² is 0 where an explainer knows no more than the equal split, which is where it starts: below -1 its errors
# are more than twice as large, and it is not just untrained. So little above 0 is rounding, and luck with the images.
_DIVERGED, _NOTHING = -1.0, 0.01
# The same map for every image has 0, trained explainers tens of percent.
_ALIKE = 0.01
# Shares of what the best answer that ignores the image is off by, which says how much the classifier's answers differ:
# half on whole images, where a surrogate sees what the classifier sees; on masked ones all of it. Nobody sees less
# than the last, in nats.
_OF_WHOLE, _OF_MASKED, _NOTICED = 0.5, 1.0, 0.01


def weights_without_pixels(config: ClassifierConfig) -> str | None:
    """Judge given weights: whether it is known how their pixels were normalized."""
    missing = [f"classifier.{name}" for name in ("mean", "std") if getattr(config, name) is None]
    if config.weights is None or not missing or known_pixels(config).keys() == {"mean", "std"}:
        return None
    return (
        f"classifier.weights={config.weights} without {' and '.join(missing)}: pixels are normalized by these training "
        "images' own statistics; set them to what the weights were trained with (ImageNet: "
        "classifier.mean=[0.485,0.456,0.406] classifier.std=[0.229,0.224,0.225])"
    )


def far_surrogate(measures: Mapping[str, float], classifier: Mapping[str, float], task: Task) -> str | None:
    """Judge a surrogate: whether it answers as its classifier does, on whole and on masked images.

    Args:
        measures: Its own.
        classifier: Those of its classifier.
        task: Of both.
    """
    name, right = task.imitation, task.measure_names[0]
    ignorant = measures.get(f"test/{name}_constant", math.inf)  # of an older run it is not known
    for images, key, share in (("whole", f"test/{name}", _OF_WHOLE), ("masked", f"test/masked_{name}", _OF_MASKED)):
        if not measures[key] <= max(share * ignorant, _NOTICED):
            shares = f" ({task.title(right)} {measures[f'test/{right}']:.3f}, the classifier's "
            shares += f"{classifier[f'test/{right}']:.3f})"
            if math.isnan(measures[f"test/{right}"]):
                shares = ""
            return (
                f"the surrogate is far from its classifier: {task.title(name)} {measures[key]:.3f} on {images} images, "
                f"where one answer to all has {ignorant:.3f}{shares}; raise surrogate.epochs, change "
                "surrogate.optim.lr, or choose a larger network or the classifier's (surrogate.from_classifier=true)"
            )
    return None


def failed_explainer(measures: Mapping[str, float]) -> str | None:
    """Judge an explainer: whether it diverged, gives every image the same map, or knows no more than the equal split.

    Args:
        measures: Its own.
    """
    fit, variation = measures["test/additive_r2"], measures.get("test/variation", math.nan)
    if not fit >= _DIVERGED:
        return (
            f"the explainer diverged: additive R² {fit:,.1f}, where the equal split has 0; lower explainer.optim.lr or "
            "set explainer.optim.clip_norm"
        )
    if variation < _ALIKE:
        return (
            f"the explainer collapsed: {variation:.2%} of what its maps differ in depends on the image (additive R² "
            f"{fit:.4f}); raise explainer.epochs or change explainer.optim.lr"
        )
    if fit < _NOTHING:
        return (
            f"the explainer knows no more than the equal split: additive R² {fit:.4f}; raise explainer.epochs or "
            "explainer.labels.evaluations, or change explainer.optim.lr"
        )
    return None


def further_than_equal_split(name: str, measures: Mapping[str, float]) -> str | None:
    """Judge a pipeline's explainer by true values: whether giving every player the same share comes closer.

    Args:
        name: Of the pipeline.
        measures: Those of its errors.
    """
    r2, beyond = measures["r2"], measures["r2_beyond_equal"]
    if not beyond < 0:
        return None
    equal = 1 - (1 - r2) / (1 - beyond)
    return (
        f"{name}: its explainer is further from the true values than the equal split: R² {r2:,.3f} against "
        f"{equal:.3f}; raise explainer.epochs or explainer.labels.evaluations, or change explainer.optim.lr"
    )
