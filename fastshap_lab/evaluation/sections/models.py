"""How good classifiers, surrogates and explainers are, and how their trainings went."""

import pandas as pd

from fastshap_lab.components import in_words
from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.pipeline import Pipeline
from fastshap_lab.evaluation.section import Section
from fastshap_lab.report import training_curves
from fastshap_lab.runs.run import METRICS_FILE

_PANELS = {
    "pretrain": {"Reconstruction error": ["train/loss", "val/loss"]},
    "classifier": {
        "Cross-entropy": ["train/loss", "val/cross_entropy"],
        "Accuracy": ["train/accuracy", "val/accuracy"],
    },
    "surrogate": {"KL divergence": ["train/kl", "val/kl"]},
    "explainer": {
        "Training loss": ["train/loss"],
        "Validation loss": ["val/loss"],
        "R² against true values": ["val/shapley_r2"],
        "Additive R²": ["val/additive_r2"],
        "Efficiency gap before normalization": ["train/efficiency_gap", "val/efficiency_gap"],
    },
}


class Models(Section):
    """What each stage measured of its own result on the test images."""

    kind = "models"
    tables = ("classifiers", "surrogates", "explainers")

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add tables of classifiers, surrogates and explainers."""
        _models(evaluation)


class Trainings(Section):
    """The course of every training."""

    kind, appendix = "trainings", True

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add curves of the measures by epoch."""
        _trainings(evaluation)


def _models(evaluation: Evaluation) -> None:
    rows = []
    for pipeline in evaluation.distinct("classifier"):
        measured = pipeline.runs["classifier"].measures()
        accuracy, cross_entropy = measured["test/accuracy"], measured["test/cross_entropy"]
        parameters = sum(parameter.numel() for parameter in pipeline.classifier.parameters())
        row = {
            "classifier": pipeline.classifier_name,
            "accuracy": accuracy,
            "cross-entropy": cross_entropy,
            "parameters": parameters,
        }
        rows.append(row)
    tables = {("classifiers", "Classifiers"): pd.DataFrame(rows)}
    if rows := [
        {
            "surrogate": pipeline.name,
            "players": "{}×{}".format(*pipeline.surrogate.grid.shape),
            "masking": in_words(pipeline.runs["surrogate"].config.surrogate.masking),
        }
        | {
            f"{title_prefix}{title}": measured[f"test/{prefix}{name}"]
            for title_prefix, prefix in (("", ""), ("masked ", "masked_"))
            for title, name in (("accuracy", "accuracy"), ("cross-entropy", "cross_entropy"), ("KL", "kl"))
        }
        for pipeline in evaluation.pipelines
        if pipeline.surrogate is not None and (measured := pipeline.runs["surrogate"].measures())
    ]:
        tables["surrogates", "Surrogates"] = pd.DataFrame(rows)
    if evaluation.explained:
        tables["explainers", "Explainers"] = pd.DataFrame([_explainer(pipeline) for pipeline in evaluation.explained])
    text = (
        "Accuracy and cross-entropy against the labels of the test images, and the KL divergence in nats from the "
        "classifier's answer on the whole image. Masked: coalitions of uniformly drawn size, the same "
        "for every surrogate.\n\n"
        "An explainer's validation loss is in squared units of its game, which additive R² takes out: how much of the "
        "game's values the explanations account for, beyond giving every player the same share. Efficiency gap: "
        "what the network's values miss of the total before they are normalized."
    )
    evaluation.report.add("Models", text, tables)


def _trainings(evaluation: Evaluation) -> None:
    figures = {}
    for stage, panels in _PANELS.items():
        histories = {
            pipeline.classifier_name if stage in ("pretrain", "classifier") else pipeline.name: run.history()
            for pipeline in evaluation.pipelines
            if (run := pipeline.runs.get(stage)) is not None
            and (run.folder / METRICS_FILE).is_file()  # a classifier with given weights may never have been trained
        }
        if histories:
            figures[f"curves-{stage}", stage.capitalize()] = training_curves(histories, panels)
    text = (
        "Measures by epoch. An explainer's training and validation losses are over coalitions of different kinds. "
        "Additive R²: how much of the game's values the explanations account for, against the explanation that gives "
        "every player the same share; at zero or below, an explainer has collapsed."
    )
    evaluation.report.add("Training", text, figures=figures)


def _explainer(pipeline: Pipeline) -> dict[str, str | float]:
    run = pipeline.runs["explainer"]
    measured, history = run.measures(), run.history()
    return {
        "explainer": pipeline.name,
        "validation loss": history["val/loss"].min(),
        "additive R²": measured["test/additive_r2"],
        "efficiency gap": measured["test/efficiency_gap"],
    }
