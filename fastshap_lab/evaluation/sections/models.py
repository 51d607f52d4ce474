"""Measures of classifiers, surrogates and explainers, and the curves of their trainings."""

import pandas as pd

from fastshap_lab.components import in_words
from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.pipeline import Pipeline
from fastshap_lab.evaluation.section import Section
from fastshap_lab.models import Task
from fastshap_lab.report import training_curves
from fastshap_lab.runs.run import METRICS_FILE


def _panels(task: Task) -> dict[str, dict[str, list[str]]]:
    """Return the columns to draw, by stage and title of the panel."""
    right, minimized, imitation = task.measure_names[0], task.minimized, task.imitation
    return {
        "pretrain": {"Reconstruction error": ["train/loss", "val/loss"]},
        "classifier": {
            _capital(task.title(minimized)): ["train/loss", f"val/{minimized}"],
            _capital(task.title(right)): [f"train/{right}", f"val/{right}"],
        },
        "surrogate": {
            _capital(task.title(imitation, long=True)): [f"train/{imitation}", f"val/{imitation}"],
        },
        "explainer": {
            "Training loss": ["train/loss"],
            "Validation loss": ["val/loss"],
            "R² against true values": ["val/shapley_r2"],
            "Additive R²": ["val/additive_r2"],
            "Efficiency gap before normalization": ["train/efficiency_gap", "val/efficiency_gap"],
        },
    }


def _capital(title: str) -> str:
    return title[:1].upper() + title[1:]


class Models(Section):
    """Measures of classifiers, surrogates and explainers on the test images."""

    kind = "models"
    tables = ("classifiers", "surrogates", "explainers")

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add tables of classifiers, surrogates and explainers."""
        _models(evaluation)


class Trainings(Section):
    """Curves of all trainings."""

    kind, appendix = "trainings", True

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add curves of the measures by epoch."""
        _trainings(evaluation)


def _models(evaluation: Evaluation) -> None:
    rows, task = [], evaluation.data.task
    for pipeline in evaluation.distinct("classifier"):
        measures = pipeline.runs["classifier"].measures()
        parameters = sum(parameter.numel() for parameter in pipeline.classifier.parameters())
        row = {
            "classifier": pipeline.classifier_name,
            **{task.title(name): measures[f"test/{name}"] for name in task.measure_names},
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
            f"{title_prefix}{task.title(name)}": measures[f"test/{prefix}{name}"]
            for title_prefix, prefix in (("", ""), ("masked ", "masked_"))
            for name in (*task.measure_names, task.imitation)
        }
        for pipeline in evaluation.pipelines
        if pipeline.surrogate is not None and (measures := pipeline.runs["surrogate"].measures())
    ]:
        tables["surrogates", "Surrogates"] = pd.DataFrame(rows)
    if evaluation.explained:
        tables["explainers", "Explainers"] = pd.DataFrame([_explainer(pipeline) for pipeline in evaluation.explained])
    text = (
        f"{evaluation.pipelines[0].task.measures_in_words()} Masked images show coalitions of uniformly drawn size, "
        "the same for every surrogate.\n\n"
        "An explainer's validation loss is in squared units of its game. Additive R² has no unit: it is the fraction "
        "of the variance of the game's values that the explanations account for beyond the equal split. The "
        f"efficiency gap is the absolute gap before the values are normalized.{task.units_in_words}"
    )
    evaluation.report.add("Models", text, tables)


def _trainings(evaluation: Evaluation) -> None:
    figures = {}
    for stage, panels in _panels(evaluation.data.task).items():
        histories = {
            pipeline.classifier_name if stage in ("pretrain", "classifier") else pipeline.name: run.history()
            for pipeline in evaluation.pipelines
            if (run := pipeline.runs.get(stage)) is not None
            and (
                run.folder / METRICS_FILE
            ).is_file()  # a classifier with weights from a file may never have been trained
        }
        if histories:
            figures[f"curves-{stage}", stage.capitalize()] = training_curves(histories, panels)
    text = (
        "The curves show measures by epoch. An explainer's training and validation losses are over coalitions of "
        "different kinds and cannot be compared. Additive R² is the fraction of the variance of the game's values that "
        "the explanations account for beyond the equal split; at zero or below, an explainer has collapsed."
    )
    evaluation.report.add("Training", text, figures=figures)


def _explainer(pipeline: Pipeline) -> dict[str, str | float]:
    run = pipeline.runs["explainer"]
    measures, history = run.measures(), run.history()
    return {
        "explainer": pipeline.name,
        "validation loss": history["val/loss"].min(),
        "additive R²": measures["test/additive_r2"],
        "efficiency gap": measures["test/efficiency_gap"],
    }
