"""Tasks: the meaning of a classifier's outputs, with its labels, losses, measures and texts.

A task belongs to the data, and is part of the descriptions of the models that learn it. No other module distinguishes
kinds of classifiers. A model of a regression is called a classifier, too, and the K outputs of every task are called
classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from pydantic import Field
from torch import Tensor, nn

from fastshap_lab.components import Positive, build, did_you_mean, lookup, name_and_params
from fastshap_lab.errors import UserError
from fastshap_lab.models.heads import rescale_heads
from fastshap_lab.shapley.game import log_odds
from fastshap_lab.shapley.losses import (
    bernoulli_kl,
    constant_bernoulli_kl,
    constant_kl,
    imitation_error,
    reverse_bernoulli_kl,
    reverse_surrogate_kl,
    surrogate_kl,
)

Divergence = Callable[[Tensor, Tensor], Tensor]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Task(ABC):
    """The meaning of the K outputs of a classifier.

    Labels are int64 (N,) for ``multiclass`` and float32 (N, K) for the other tasks.

    Attributes:
        name: Name of the task, its entry in ``TASKS``.
        links: Links under which a surrogate's outputs determine the game's values; the first is the default.
        surrogate_losses: Names of the losses that a surrogate may minimize; the first is the default.
        measure_names: Names of the measures that ``measures`` returns. The first is the share of images that are right.
        minimized: Name of the measure that chooses a classifier's best epoch.
        imitation: Name of the divergence of a surrogate from its classifier.
        answers: Name in files of what ``predict`` returns, ``probabilities`` or ``predictions``.
        answer: Word for a single one of them.
        answer_format: Format string for a single one of them.
        first: Words for the class that ``foremost`` returns.
        target_in_words: Words for the same class within a sentence.
        nouns: Words for one of the K outputs, and for several.
        outputs: Words for the outputs that a model must return, with their axes.
        units_in_words: Sentence about the units of the values that ``in_units`` returns; empty where they are obvious.
        exclusive: Whether a label is exactly one class.
        names_classes: Whether a prediction names classes, which a regression's numbers do not.
        class_measures: Names of the measures that ``measures_of_classes`` returns.
    """

    name: ClassVar[str]
    links: ClassVar[tuple[str, ...]]
    surrogate_losses: ClassVar[tuple[str, ...]] = ("kl", "reverse_kl")
    measure_names: ClassVar[tuple[str, ...]]
    minimized: ClassVar[str] = "cross_entropy"
    imitation: ClassVar[str] = "kl"
    answers: ClassVar[str] = "probabilities"
    answer: ClassVar[str] = "probability"
    answer_format: ClassVar[str] = "p = {:.2f}"
    first: ClassVar[str] = "most probable"
    target_in_words: ClassVar[str] = "the most probable label"
    nouns: ClassVar[tuple[str, str]] = ("label", "labels")
    outputs: ClassVar[str] = "logits (images, labels)"
    units_in_words: ClassVar[str] = ""
    exclusive: ClassVar[bool] = False
    names_classes: ClassVar[bool] = True
    class_measures: ClassVar[tuple[str, ...]] = ("probability", "log_odds")

    def to_json(self) -> str | dict[str, Any]:
        """Return the task as plain values, from which ``build_task`` builds it."""
        return self.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Task) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.name)

    @staticmethod
    def title(measure: str, long: bool = False) -> str:
        """Return the name of a measure in tables and figures.

        Args:
            measure: Name of the measure.
            long: Whether the name is spelled out, since nothing beside it explains it.
        """
        titles = {"kl": "KL divergence" if long else "KL", "cross_entropy": "cross-entropy"}
        return titles.get(measure, measure.replace("_", " "))

    # Labels

    def check_classes(self, class_names: Sequence[str], where: str) -> None:
        """Check that the task can have this number of classes.

        Args:
            class_names: Names of the K outputs.
            where: Source of the names, for the error line.

        Raises:
            UserError: The task cannot have this number of classes.
        """
        if not class_names:
            raise UserError(f"{where}: has no label; the task {self.name} needs one or more")

    def check_size(self, num_classes: int) -> None:  # noqa: B027 - most tasks are not fitted
        """Raise a ``UserError`` if the task was fitted to another number of classes."""

    def fitted(self, labels: Tensor) -> "Task":
        """Return the task fitted to training labels, where it has parameters that depend on them."""
        return self

    @abstractmethod
    def strata(self, labels: np.ndarray, max_groups: int) -> np.ndarray:
        """Return the group of each image, int (N,); a stratified split keeps the proportions of the groups.

        Args:
            labels: Labels of all images.
            max_groups: Largest number of groups, where the task can choose it.
        """

    def labelled(self, labels: Shaped[Tensor, "N *K"]) -> Bool[Tensor, " N"]:
        """Return whether each image has a label."""
        return torch.ones(len(labels), dtype=torch.bool, device=labels.device)

    def meaningless(self, number: int, num_classes: int) -> Shaped[Tensor, "N *K"]:
        """Return arbitrary labels for images of noise.

        Args:
            number: Number of images N.
            num_classes: Number of classes K.
        """
        return torch.zeros(number, num_classes)

    # The classifier

    def prepare(self, network: nn.Module, num_classes: int) -> None:  # noqa: B027 - nor do most change anything
        """Change a fresh network so that its outputs have the task's units.

        Args:
            network: Fresh network, changed in place.
            num_classes: Number of classes K.

        Raises:
            UserError: The task was fitted to another number of classes, or the network cannot be changed so.
        """

    @abstractmethod
    def loss(
        self, outputs: Float[Tensor, "B K"], labels: Shaped[Tensor, "B *K"], smoothing: float = 0.0
    ) -> Float[Tensor, ""]:
        """Return the classifier's loss, a mean over images.

        Args:
            outputs: The classifier's outputs.
            labels: True labels, or a teacher's decisions.
            smoothing: Share of a label that label smoothing spreads over all classes, in [0, 1); a regression ignores
                it.
        """

    @abstractmethod
    def decide(self, outputs: Float[Tensor, "*shape K"]) -> Shaped[Tensor, "..."]:
        """Return the labels that outputs predict."""

    @abstractmethod
    def right(self, outputs: Float[Tensor, "B M K"], labels: Shaped[Tensor, "B *K"]) -> Bool[Tensor, "B M"]:
        """Return whether outputs are right, bool (B, M); for an image without a label they never are.

        Args:
            outputs: Outputs (B, M, K).
            labels: Label of each image, (B,) or (B, K).
        """

    @abstractmethod
    def measures(
        self, outputs: Float[Tensor, "B M K"], labels: Shaped[Tensor, "B *K"]
    ) -> dict[str, Float[Tensor, "B M"]]:
        """Return the measures named in ``measure_names``: how well outputs fit the labels.

        Each is (B, M), and NaN where an image has no label.

        Args:
            outputs: Outputs (B, M, K).
            labels: Label of each image, (B,) or (B, K).
        """

    @abstractmethod
    def measures_in_words(self) -> str:
        """Return sentences for reports that explain ``measures`` and the divergence of a surrogate."""

    # What is reported

    @abstractmethod
    def predict(self, outputs: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
        """Return the predictions that are reported: probabilities, or a regression's answers in its targets' units."""

    @abstractmethod
    def measures_of_classes(self, outputs: Float[Tensor, "*shape K"]) -> dict[str, Float[Tensor, "*shape K"]]:
        """Return measures of each class, in units that all classes share, by the names in ``class_measures``."""

    def ranks(self, predictions: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
        """Return numbers by which classes are ordered for explanations: the largest comes first."""
        return predictions

    def foremost(self, predictions: Float[Tensor, "*shape K"]) -> Int[Tensor, "*shape"]:
        """Return the class that is explained if none is named: the most probable one, or the most unusual target.

        Args:
            predictions: Predictions, or the outputs themselves, which have the same order.
        """
        return self.ranks(predictions).argmax(dim=-1)

    @abstractmethod
    def marked(self, predictions: Float[Tensor, "*shape K"]) -> Bool[Tensor, "*shape K"]:
        """Return which classes a prediction names, bool; a regression's predictions name none."""

    def in_words(self, prediction: Float[Tensor, " K"], class_names: Sequence[str]) -> str:
        """Return the prediction for one image in words.

        Args:
            prediction: Prediction (K,), as ``predict`` returns it.
            class_names: Names of all K classes.
        """
        named = [name for name, mark in zip(class_names, self.marked(prediction).tolist(), strict=True) if mark]
        return ", ".join(named) or "none"

    @abstractmethod
    def label_classes(self, labels: Shaped[Tensor, "N *K"], num_classes: int) -> Bool[Tensor, "N K"]:
        """Return which classes the labels name, bool (N, K); none where there is no label.

        Args:
            labels: Labels (N,) or (N, K).
            num_classes: Number of classes K.
        """

    @abstractmethod
    def label_in_words(self, label: Shaped[Tensor, "*K"], class_names: Sequence[str]) -> str:
        """Return the label of one image in words, or an empty text where there is none.

        Args:
            label: Label, () or (K,).
            class_names: Names of all K classes.
        """

    # The surrogate and its game

    @abstractmethod
    def divergence(self, kind: str) -> Divergence:
        """Return a divergence of a surrogate's outputs from its classifier's, an entry of ``surrogate_losses``.

        It is a function of the classifier's outputs for whole images (B, K) and the surrogate's outputs for coalitions
        (B, M, K) that returns the divergence for each coalition (B, M).
        """

    @abstractmethod
    def constant_divergence(self, outputs: Float[Tensor, "N K"]) -> Float[Tensor, ""]:
        """Return the first of ``surrogate_losses`` for the best constant answer to all images, float64."""

    def in_units(self, values: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
        """Return values in units in which classes are comparable: unchanged, or in spreads of the targets."""
        return values

    def unit(self) -> Float[Tensor, " K"] | None:
        """Return the factor that an explainer's raw values are multiplied by, or None for none."""
        return None

    def check_link(self, link: str, key: str) -> None:
        """Check that the values under a link are determined by what a surrogate learns.

        Args:
            link: Name of the link.
            key: Configuration key that it stands under, for error messages.

        Raises:
            UserError: The task has no such link; says why where that is known, and which it has.
        """
        if link not in self.links:
            raise UserError(f"{key}={link}: unknown to the task {self.name}, {did_you_mean(link, self.links)}")


class Multiclass(Task):
    """One of K classes that exclude each other, under softmax."""

    name = "multiclass"
    links = ("softmax", "log_softmax", "log_odds", "centred_logits")
    measure_names = ("accuracy", "cross_entropy")
    target_in_words = "the class that the classifier predicts"
    nouns = ("class", "classes")
    outputs = "logits (images, classes) of two or more classes"
    exclusive = True

    def check_classes(self, class_names: Sequence[str], where: str) -> None:
        """Raise a ``UserError`` if there are fewer than two classes."""
        if len(class_names) < 2:
            raise UserError(f"{where}: has the classes {list(class_names)}; a classifier needs two or more")

    def strata(self, labels: np.ndarray, max_groups: int) -> np.ndarray:
        """Return the classes as groups; ``max_groups`` is ignored."""
        return labels

    def labelled(self, labels: Shaped[Tensor, "N *K"]) -> Bool[Tensor, " N"]:
        """Return whether each image has a label; a negative number means none."""
        return labels >= 0

    def meaningless(self, number: int, num_classes: int) -> Shaped[Tensor, "N *K"]:
        """Return labels in which all classes are equally frequent."""
        return torch.arange(number) % num_classes

    def loss(
        self, outputs: Float[Tensor, "B K"], labels: Shaped[Tensor, "B *K"], smoothing: float = 0.0
    ) -> Float[Tensor, ""]:
        """Return the cross-entropy, in nats."""
        return F.cross_entropy(outputs, labels, label_smoothing=smoothing)

    def decide(self, outputs: Float[Tensor, "*shape K"]) -> Shaped[Tensor, "..."]:
        """Return the most probable class."""
        return outputs.argmax(dim=-1)

    def right(self, outputs: Float[Tensor, "B M K"], labels: Shaped[Tensor, "B *K"]) -> Bool[Tensor, "B M"]:
        """Return whether the most probable class is the label."""
        return self.decide(outputs) == labels.unsqueeze(1)

    def measures(
        self, outputs: Float[Tensor, "B M K"], labels: Shaped[Tensor, "B *K"]
    ) -> dict[str, Float[Tensor, "B M"]]:
        """Return accuracy, and cross-entropy in nats."""
        label = labels.unsqueeze(1).expand(-1, outputs.shape[1])
        correct = self.right(outputs, labels).to(outputs)
        cross_entropy = F.cross_entropy(outputs.flatten(0, 1), label.flatten(), reduction="none").view_as(correct)
        found = {"accuracy": correct, "cross_entropy": cross_entropy}
        return {name: values.masked_fill(label < 0, torch.nan) for name, values in found.items()}

    def measures_in_words(self) -> str:
        """Return sentences for reports that explain the measures."""
        return (
            "Accuracy and cross-entropy against the labels of the test images, and the KL divergence in nats from the "
            "classifier's answer on the whole image."
        )

    def predict(self, outputs: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
        """Return the probability of each class."""
        return outputs.softmax(dim=-1)

    def measures_of_classes(self, outputs: Float[Tensor, "*shape K"]) -> dict[str, Float[Tensor, "*shape K"]]:
        """Return the probability and the log-odds of each class."""
        return {"probability": outputs.softmax(dim=-1), "log_odds": log_odds(outputs)}

    def marked(self, predictions: Float[Tensor, "*shape K"]) -> Bool[Tensor, "*shape K"]:
        """Return that the most probable class alone is named."""
        return F.one_hot(predictions.argmax(dim=-1), predictions.shape[-1]).bool()

    def label_classes(self, labels: Shaped[Tensor, "N *K"], num_classes: int) -> Bool[Tensor, "N K"]:
        """Return which class each label is, one-hot."""
        return labels.unsqueeze(1) == torch.arange(num_classes, device=labels.device)

    def label_in_words(self, label: Shaped[Tensor, "*K"], class_names: Sequence[str]) -> str:
        """Return the name of the class."""
        return class_names[int(label)] if label >= 0 else ""

    def divergence(self, kind: str) -> Divergence:
        """Return the KL divergence of softmax probabilities, or its reverse."""
        return {"kl": surrogate_kl, "reverse_kl": reverse_surrogate_kl}[kind]

    def constant_divergence(self, outputs: Float[Tensor, "N K"]) -> Float[Tensor, ""]:
        """Return the KL divergence of the mean probabilities from the classifier's."""
        return constant_kl(outputs)

    def check_link(self, link: str, key: str) -> None:
        """Raise a ``UserError`` if a link is unknown, or depends on the constant that softmax does not determine."""
        if link == "logits":
            raise UserError(
                f"{key}=logits: softmax determines a surrogate's logits only up to a constant for each image and "
                "coalition; choose centred_logits, which are the logits minus their mean over classes"
            )
        if link == "sigmoid":
            raise UserError(
                f"{key}=sigmoid: is for the tasks multilabel and binary; for one of several classes choose softmax"
            )
        super().check_link(link, key)


class Multilabel(Task):
    """Any of K labels that do not exclude each other, each under a sigmoid."""

    name = "multilabel"
    links = ("sigmoid", "logits")
    measure_names: ClassVar[tuple[str, ...]] = ("exact_match", "label_accuracy", "cross_entropy")

    def strata(self, labels: np.ndarray, max_groups: int) -> np.ndarray:
        """Return the combinations of labels as groups; a rare one is grouped with the most similar frequent one."""
        combinations, group, counts = np.unique(labels, axis=0, return_inverse=True, return_counts=True)
        frequent = np.flatnonzero(counts >= max(2, len(labels) / max_groups))
        if not len(frequent):
            return np.zeros(len(labels), dtype=int)
        nearest = (combinations[:, None] != combinations[None, frequent]).sum(axis=2).argmin(axis=1)
        return nearest[group.reshape(-1)]

    def loss(
        self, outputs: Float[Tensor, "B K"], labels: Shaped[Tensor, "B *K"], smoothing: float = 0.0
    ) -> Float[Tensor, ""]:
        """Return the binary cross-entropy, a mean over labels, in nats."""
        return F.binary_cross_entropy_with_logits(outputs, labels * (1 - smoothing) + smoothing / 2)

    def decide(self, outputs: Float[Tensor, "*shape K"]) -> Shaped[Tensor, "..."]:
        """Return 1 for each label that is more probable than not, else 0."""
        return (outputs > 0).to(outputs)

    def right(self, outputs: Float[Tensor, "B M K"], labels: Shaped[Tensor, "B *K"]) -> Bool[Tensor, "B M"]:
        """Return whether all labels are right."""
        return (self.decide(outputs) == labels.unsqueeze(1)).all(dim=-1)

    def measures(
        self, outputs: Float[Tensor, "B M K"], labels: Shaped[Tensor, "B *K"]
    ) -> dict[str, Float[Tensor, "B M"]]:
        """Return exact match, the share of labels that are right, and the mean cross-entropy over labels in nats."""
        labels = labels.unsqueeze(1).expand_as(outputs)
        single = (self.decide(outputs) == labels).to(outputs)
        cross_entropy = F.binary_cross_entropy_with_logits(outputs, labels, reduction="none")
        found = (single.amin(dim=-1), single.mean(dim=-1), cross_entropy.mean(dim=-1))
        return dict(zip(("exact_match", "label_accuracy", "cross_entropy"), found, strict=True))

    def measures_in_words(self) -> str:
        """Return sentences for reports that explain the measures."""
        return (
            "Exact match is the share of test images for which all labels are right; label accuracy is the share of "
            "labels that are right. Cross-entropy against the labels, and the KL divergence from the classifier's "
            "answer on the whole image, are means over labels in nats."
        )

    def predict(self, outputs: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
        """Return the probability of each label."""
        return outputs.sigmoid()

    def measures_of_classes(self, outputs: Float[Tensor, "*shape K"]) -> dict[str, Float[Tensor, "*shape K"]]:
        """Return the probability and the log-odds of each label; the log-odds are the logits."""
        return {"probability": outputs.sigmoid(), "log_odds": outputs}

    def marked(self, predictions: Float[Tensor, "*shape K"]) -> Bool[Tensor, "*shape K"]:
        """Return which labels are more probable than not."""
        return predictions > 0.5

    def label_classes(self, labels: Shaped[Tensor, "N *K"], num_classes: int) -> Bool[Tensor, "N K"]:
        """Return which labels hold."""
        return labels > 0.5

    def label_in_words(self, label: Shaped[Tensor, "*K"], class_names: Sequence[str]) -> str:
        """Return the names of the labels that hold."""
        return self.in_words(label, class_names)

    def divergence(self, kind: str) -> Divergence:
        """Return the KL divergence of Bernoulli labels, a mean over labels, or its reverse."""
        return {"kl": bernoulli_kl, "reverse_kl": reverse_bernoulli_kl}[kind]

    def constant_divergence(self, outputs: Float[Tensor, "N K"]) -> Float[Tensor, ""]:
        """Return the KL divergence of the mean probabilities from the classifier's, a mean over labels."""
        return constant_bernoulli_kl(outputs)

    def check_link(self, link: str, key: str) -> None:
        """Raise a ``UserError`` if a link is unknown, or is for classes that exclude each other."""
        if link == "log_odds":
            raise UserError(f"{key}=log_odds: the log-odds of the task {self.name} are its logits; choose logits")
        super().check_link(link, key)


class Binary(Multilabel):
    """A single label that holds or not; its logit is the log-odds."""

    name = "binary"
    outputs = "logits (images, 1)"
    target_in_words = "the label"
    measure_names = ("accuracy", "cross_entropy")

    def check_classes(self, class_names: Sequence[str], where: str) -> None:
        """Raise a ``UserError`` if there is not exactly one label."""
        if len(class_names) != 1:
            raise UserError(f"{where}: has the labels {list(class_names)}; the task binary needs exactly one")

    def measures(
        self, outputs: Float[Tensor, "B M K"], labels: Shaped[Tensor, "B *K"]
    ) -> dict[str, Float[Tensor, "B M"]]:
        """Return accuracy, and cross-entropy in nats."""
        found = super().measures(outputs, labels)
        return {"accuracy": found["exact_match"], "cross_entropy": found["cross_entropy"]}

    def measures_in_words(self) -> str:
        """Return sentences for reports that explain the measures."""
        return Multiclass().measures_in_words()

    def in_words(self, prediction: Float[Tensor, " K"], class_names: Sequence[str]) -> str:
        """Return the name of the label, after "not" if the label does not hold."""
        return class_names[0] if bool(self.marked(prediction)) else f"not {class_names[0]}"


class Regression(Task):
    """K numbers, the targets, in their own units.

    The network learns targets that are standardized by the mean and the spread of the training targets, and its last
    layer restores their units (``heads.RescaledLinear``). Explainers do the same.

    Args:
        mean: Means of the K training targets.
        spread: Standard deviations of the K training targets.
        tolerance: Largest error of a right answer, in spreads.

    Raises:
        UserError: Means and spreads differ in number, or a spread is not finite.
    """

    name = "regression"
    links = ("identity",)
    surrogate_losses = ("squared_error",)
    measure_names = ("within_tolerance", "absolute_error", "squared_error")
    minimized = "squared_error"
    imitation = "imitation_error"
    answers = "predictions"
    answer = "answer"
    answer_format = "{:.4g}"
    first = "most unusual target"
    target_in_words = "the number whose answer is furthest from its mean, in spreads"
    nouns = ("target", "targets")
    outputs = "numbers (images, targets)"
    units_in_words = " Values are in spreads: standard deviations of the targets' training labels."
    names_classes = False
    class_measures = ("standardized_answer",)

    def __init__(
        self, mean: tuple[Finite, ...] = (), spread: tuple[Positive, ...] = (), tolerance: Positive = 0.5
    ) -> None:
        if len(mean) != len(spread) or not np.isfinite(spread).all():
            raise UserError(f"params.mean={mean}, params.spread={spread}: each must have a finite number per target")
        self.mean, self.spread, self.tolerance = mean, spread, tolerance

    def to_json(self) -> str | dict[str, Any]:
        """Return the task as plain values, from which ``build_task`` builds it."""
        params = {"mean": list(self.mean), "spread": list(self.spread), "tolerance": self.tolerance}
        return {"name": self.name, "params": params}

    def check_size(self, num_classes: int) -> None:
        """Raise a ``UserError`` if the task was fitted to another number of targets."""
        if self.mean and len(self.mean) != num_classes:
            raise UserError(f"task: has mean and spread of {len(self.mean)} targets, but there are {num_classes}")

    def fitted(self, labels: Tensor) -> "Regression":
        """Return the task with the mean and spread of labels (N, K), unless it has them already."""
        if self.mean:
            return self
        labels = labels.double()
        spread = labels.std(dim=0, correction=0)
        spread = torch.where(spread > 0, spread, 1.0)  # a constant target must not divide by zero
        return Regression(tuple(labels.mean(dim=0).tolist()), tuple(spread.tolist()), self.tolerance)

    def strata(self, labels: np.ndarray, max_groups: int) -> np.ndarray:
        """Return groups of equal size: parts of the images in the order of their first target."""
        parts = max(1, min(10, max_groups, len(labels) // 10))
        return labels[:, 0].argsort(kind="stable").argsort(kind="stable") * parts // len(labels)

    def prepare(self, network: nn.Module, num_classes: int) -> None:
        """Replace the network's last layer by one that answers in the targets' units."""
        self.check_size(num_classes)
        rescale_heads(network, self.mean or [0.0] * num_classes, self.spread or [1.0] * num_classes)

    def loss(
        self, outputs: Float[Tensor, "B K"], labels: Shaped[Tensor, "B *K"], smoothing: float = 0.0
    ) -> Float[Tensor, ""]:
        """Return the squared error in squared spreads, a mean over targets."""
        return F.mse_loss(self.in_units(outputs), self.in_units(labels))

    def decide(self, outputs: Float[Tensor, "*shape K"]) -> Shaped[Tensor, "..."]:
        """Return the outputs unchanged."""
        return outputs

    def right(self, outputs: Float[Tensor, "B M K"], labels: Shaped[Tensor, "B *K"]) -> Bool[Tensor, "B M"]:
        """Return whether the answers for all targets are within the tolerance."""
        return (self._errors(outputs, labels).abs() <= self.tolerance).all(dim=-1)

    def measures(
        self, outputs: Float[Tensor, "B M K"], labels: Shaped[Tensor, "B *K"]
    ) -> dict[str, Float[Tensor, "B M"]]:
        """Return whether answers are right, and the absolute and the squared error as means over targets.

        Absolute errors are in the targets' units, squared errors in squared spreads.
        """
        errors = self._errors(outputs, labels)
        absolute = (outputs - labels.unsqueeze(1)).abs()
        found = (self.right(outputs, labels).to(outputs), absolute.mean(dim=-1), errors.square().mean(dim=-1))
        return dict(zip(self.measure_names, found, strict=True))

    def measures_in_words(self) -> str:
        """Return sentences for reports that explain the measures."""
        return (
            f"Within tolerance is the share of test images whose answers are off by at most {self.tolerance:g} "
            "spreads; a target's spread is the standard deviation of its training labels. The absolute error is in the "
            "targets' units. The imitation error is the squared difference from the classifier's answer on the whole "
            "image; it and the squared error are in squared spreads. All are means over targets."
        )

    def predict(self, outputs: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
        """Return the outputs unchanged, in the targets' units."""
        return outputs

    def measures_of_classes(self, outputs: Float[Tensor, "*shape K"]) -> dict[str, Float[Tensor, "*shape K"]]:
        """Return the standardized answers: outputs minus the targets' means, in spreads."""
        return {"standardized_answer": self._standardized(outputs)}

    def ranks(self, predictions: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
        """Return the distance of each prediction from the target's mean, in spreads."""
        return self._standardized(predictions).abs()

    def marked(self, predictions: Float[Tensor, "*shape K"]) -> Bool[Tensor, "*shape K"]:
        """Return False for all targets, since numbers name no classes."""
        return torch.zeros_like(predictions, dtype=torch.bool)

    def label_classes(self, labels: Shaped[Tensor, "N *K"], num_classes: int) -> Bool[Tensor, "N K"]:
        """Return False for all targets, since numbers name no classes."""
        return torch.zeros_like(labels, dtype=torch.bool)

    def in_words(self, prediction: Float[Tensor, " K"], class_names: Sequence[str]) -> str:
        """Return the numbers after the names of their targets."""
        numbers = (self.answer_format.format(number) for number in prediction.tolist())
        return ", ".join(f"{name} {number}" for name, number in zip(class_names, numbers, strict=True))

    def label_in_words(self, label: Shaped[Tensor, "*K"], class_names: Sequence[str]) -> str:
        """Return the numbers after the names of their targets."""
        return self.in_words(label, class_names)

    def divergence(self, kind: str) -> Divergence:
        """Return the squared difference in squared spreads, a mean over targets."""
        error = {"squared_error": imitation_error}[kind]
        return lambda target, answers: error(self.in_units(target), self.in_units(answers))

    def constant_divergence(self, outputs: Float[Tensor, "N K"]) -> Float[Tensor, ""]:
        """Return the squared error of the mean answer in squared spreads, a mean over targets."""
        return self.in_units(outputs.double()).var(dim=0, correction=0).mean()

    def in_units(self, values: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
        """Return values in spreads of their targets."""
        return values / torch.tensor(self.spread).to(values) if self.spread else values

    def unit(self) -> Float[Tensor, " K"] | None:
        """Return the spread of each target."""
        return torch.tensor(self.spread) if self.spread else None

    def check_link(self, link: str, key: str) -> None:
        """Raise a ``UserError`` if a link is not ``identity``."""
        if link not in self.links:
            raise UserError(f"{key}={link}: a regression's values have its targets' units; choose identity")

    def _standardized(self, outputs: Tensor) -> Tensor:
        return self.in_units(outputs - torch.tensor(self.mean).to(outputs) if self.mean else outputs)

    def _errors(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self.in_units(outputs - labels.unsqueeze(1))


TASKS: Mapping[str, type[Task]] = {kind.name: kind for kind in (Multiclass, Multilabel, Binary, Regression)}


def build_task(component: str | Mapping[str, Any] | None, key: str = "task") -> Task:
    """Return a task.

    Args:
        component: Entry of ``TASKS``: its name, or ``{name: …, params: {…}}``; ``multiclass`` if None.
        key: Configuration key of the task, for error lines.

    Raises:
        UserError: The task is unknown, or its arguments are wrong.
    """
    name, params = name_and_params(component or Multiclass.name, key)
    lookup(TASKS, key, name)
    return build(TASKS, key, name, params)


def described(task: Task) -> dict[str, Any]:
    """Return the entry ``task`` of a description, which is left out for ``multiclass``."""
    return {} if task == Multiclass() else {"task": task.to_json()}
