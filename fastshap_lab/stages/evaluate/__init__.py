"""The evaluate stage: measure pipelines and other methods, set them side by side, draw their maps, write the report."""

from collections.abc import Callable

from fastshap_lab.report import write_page
from fastshap_lab.stages.evaluate import comparison
from fastshap_lab.stages.evaluate.base import Evaluation, Pipeline, Report
from fastshap_lab.stages.evaluate.errors import shapley_errors
from fastshap_lab.stages.evaluate.maps import maps
from fastshap_lab.stages.evaluate.models import models, trainings
from fastshap_lab.stages.evaluate.shifts import shifts
from fastshap_lab.stages.evaluate.subsets import subsets
from fastshap_lab.stages.evaluate.surrogates import surrogates
from fastshap_lab.stages.runs import REPORT_FILE, Run
from fastshap_lab.stages.tracking import log_results

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
    write_page(run.folder / REPORT_FILE, f"Shapley explanations: {run.name}", summary, report.sections)
    log_results(run, report.tables, report.figures)
    return measures
