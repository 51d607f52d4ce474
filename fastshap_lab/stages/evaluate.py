"""The evaluate stage: measure pipelines and other methods, set them side by side, draw their maps, write the report."""

from collections.abc import Callable
from dataclasses import replace

from fastshap_lab.evaluation.base import Evaluation, Pipeline, Report
from fastshap_lab.evaluation.references import check_references
from fastshap_lab.evaluation.sections import comparison
from fastshap_lab.evaluation.sections.errors import shapley_errors
from fastshap_lab.evaluation.sections.maps import maps
from fastshap_lab.evaluation.sections.models import models, trainings
from fastshap_lab.evaluation.sections.shifts import shifts
from fastshap_lab.evaluation.sections.subsets import subsets
from fastshap_lab.evaluation.sections.surrogates import surrogates
from fastshap_lab.records import REPORT
from fastshap_lab.report import write_page
from fastshap_lab.runs.run import Run
from fastshap_lab.runs.tracking import log_results
from fastshap_lab.stages.judgements import warnings_of

# In the order of the page. Each adds to the report; what it returns are measures of the run.
SECTIONS: tuple[Callable[[Evaluation], dict[str, float] | None], ...] = (
    models,
    shapley_errors,
    maps,
    subsets,
    surrogates,
    shifts,
    comparison.comparison,
    trainings,
)


def check(run: Run) -> None:
    """Raise a ``UserError`` where something that is asked for is unknown."""
    comparison.check(run.config.evaluate)
    for end in run.parents.values():
        if end.stage == "explainer":
            # Each pipeline has players of its own; what there is to know about them is asked for by the evaluation.
            check_references(replace(end.config, references=run.config.references), "test")


def make(run: Run) -> dict[str, float]:
    """Evaluate a run's pipelines, write its report, and return the main measures."""
    pipelines = [Pipeline.load(run, name, end) for name, end in run.parents.items()]
    evaluation = Evaluation(run, pipelines, Report(run.folder, run.config.evaluate.published))
    measures: dict[str, float] = {}
    for section in SECTIONS:
        measures |= section(evaluation) or {}
    summary = {
        "Data": f"{run.config.data.name}, {len(evaluation.test)} test images, {run.data.num_classes} classes",
        "Pipelines": ", ".join(pipeline.name for pipeline in pipelines),
    }
    report = evaluation.report
    warnings = [*_warnings(pipelines), *warnings_of(run, measures)]
    write_page(run.folder / REPORT, f"Shapley explanations: {run.name}", summary, report.sections, warnings)
    log_results(run, report.tables, report.figures)
    return measures


def _warnings(pipelines: list[Pipeline]) -> list[str]:
    """Return what there is to say about what is evaluated, once of each run."""
    runs = {run.fingerprint: (pipeline, run) for pipeline in reversed(pipelines) for run in pipeline.runs.values()}
    return [f"{pipeline.name}: {line}" for pipeline, run in runs.values() for line in warnings_of(run, run.measures())]
