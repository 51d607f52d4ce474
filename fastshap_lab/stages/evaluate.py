"""The evaluate stage: measure pipelines and other methods, set them side by side, draw their maps, write the report."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from typing import Any

from fastshap_lab.components import build, did_you_mean, lookup
from fastshap_lab.config import Config, EvaluateConfig
from fastshap_lab.errors import UserError
from fastshap_lab.evaluation.checks import CHECKS
from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.methods import check_methods
from fastshap_lab.evaluation.metrics import choose_metrics
from fastshap_lab.evaluation.pipeline import Pipeline
from fastshap_lab.evaluation.references import check_references, reference_settings
from fastshap_lab.evaluation.report import Report
from fastshap_lab.evaluation.section import Section
from fastshap_lab.evaluation.sections import SECTIONS
from fastshap_lab.evaluation.sections.errors import MAX_REFINED
from fastshap_lab.models import Task
from fastshap_lab.records import REPORT
from fastshap_lab.report import write_page
from fastshap_lab.runs.costs import Cost, Work
from fastshap_lab.runs.run import Run, Stage
from fastshap_lab.runs.tracking import log_results
from fastshap_lab.stages.base import kind_of, seconds_of_pass
from fastshap_lab.stages.judgements import further_than_equal_split
from fastshap_lab.stages.sources import with_sources
from fastshap_lab.stages.surrogate import untrained_game

# What a report takes beside references, roughly: seconds of the page and of each pipeline, and bytes of each.
_PAGE, _PIPELINE, _BYTES = 2.0, 5.0, 10**6


def settings(config: Config, _: str) -> dict[str, Any]:
    """Return what can change the result."""
    plain = asdict(config.evaluate) | {"references": reference_settings(config, "test")}
    names = {name: one.classifier_name for name, one in config.evaluate.pipelines.items() if one.classifier_name}
    del plain["pipelines"]  # beside these names, the parents say it
    plain |= {"classifier_names": names} if names else {}
    if plain["sections"] is None:
        del plain["sections"]
    return with_sources({"evaluate": plain})


def part(config: Config) -> str:
    """Return what is evaluated, where it has no name."""
    chosen = config.classifier, config.surrogate, config.explainer
    return "" if config.evaluate.pipelines else "".join(f"-{one.name}" for one in chosen)


def check(run: Run) -> None:
    """Raise a ``UserError`` where something that is asked for is unknown."""
    check_settings(run.config.evaluate, run.data.task)
    _classifier_names(run)
    for end in run.parents.values():
        if "surrogate" in end.parents:
            # Each pipeline has players of its own; what there is to know about them is asked for by the evaluation.
            check_references(replace(end.config, references=run.config.references), "test")


def check_settings(settings: EvaluateConfig, task: Task) -> None:
    """Raise a ``UserError`` where a method, metric, section or check is unknown or has wrong arguments.

    Args:
        settings: Settings of the evaluation.
        task: Task of the data.
    """
    check_methods(settings.methods)
    choose_metrics(settings.metrics, task)
    sections = _sections(settings)
    for name, section in sections.items():
        section.check(settings, name)
    patterns = [pattern.format(name=name) for name, section in sections.items() for pattern in section.tables]
    for table in settings.published:
        if not any(fnmatchcase(table, pattern) for pattern in patterns):
            raise UserError(f"evaluate.published.{table}: no table of this evaluation, {did_you_mean(table, patterns)}")


def evaluation_of(run: Run) -> Evaluation:
    """Return the evaluation of a run, whose parents are finished, with its pipelines loaded and nothing measured."""
    config, device = run.config, run.data.device
    called = _classifier_names(run)
    pipelines = [
        Pipeline.load(name, end, run.data, device, run.store, config.trainer.max_batch, called[name])
        for name, end in run.parents.items()
    ]
    report = Report(run.folder, config.evaluate.published)
    return Evaluation(
        config.evaluate, config.references, config.trainer, run.data, device, pipelines, run.store, report
    )


def work(run: Run) -> Work:
    """Return what there is to do; how long methods and checks take is known from an earlier evaluation alone."""
    config, test = run.config, run.data.count("test")
    explained = [end for end in run.parents.values() if end.stage.name == "explainer"]

    def trial() -> Cost | None:
        if config.evaluate.methods or config.evaluate.checks:
            return None
        seconds = _PAGE + _PIPELINE * len(run.parents)
        for end in explained:
            most = min(2 ** math.prod(end.config.data.grid), config.references.test_evaluations)
            passes = min(test, config.references.test) * (most + min(most // 4, MAX_REFINED))
            seconds += passes * seconds_of_pass(untrained_game(end, end.config.explainer.link), end)
        return Cost(seconds, _BYTES * (1 + len(run.parents)))

    return Work(kind_of(run, "images_shown", "bootstrap", "published"), 1, trial)


def make(run: Run) -> dict[str, float]:
    """Evaluate a run's pipelines, write its report, and return the main measures."""
    evaluation = evaluation_of(run)
    report, pipelines = evaluation.report, evaluation.pipelines
    measures: dict[str, float] = {}
    for name, section in _sections(run.config.evaluate).items():
        measures |= section(evaluation, name) or {}
    report.check_published()
    summary = {
        "Data": f"{run.config.data.name}, {len(evaluation.test)} test images, {_outputs(run)}",
        "Pipelines": ", ".join(pipeline.name for pipeline in pipelines),
    }
    warnings = [*_warnings_of(pipelines), *_warnings(run, measures)]
    write_page(run.folder / REPORT, f"Shapley explanations: {run.name}", summary, report.sections, warnings)
    log_results(run, report.tables, report.figures)
    return measures


def _classifier_names(run: Run) -> dict[str, str]:
    """Return what each pipeline's classifier is called: as is chosen, else as the first pipeline that has it.

    Raises:
        UserError: Two classifiers have one name.
    """
    first: dict[str, str] = {}  # names by fingerprint
    owner: dict[str, str] = {}  # and fingerprints by name
    found: dict[str, str] = {}
    for name, end in run.parents.items():
        fingerprint = end.parents.get("classifier", end).fingerprint
        chosen = run.config.evaluate.pipelines.get(name)
        called = (chosen and chosen.classifier_name) or first.get(fingerprint, name)
        first.setdefault(fingerprint, called)
        if owner.setdefault(called, fingerprint) != fingerprint:
            raise UserError(
                f"evaluate.pipelines.{name}.classifier_name={called}: another classifier's; give it its own"
            )
        found[name] = called
    return found


def _outputs(run: Run) -> str:
    number = run.data.num_classes
    return f"{number} {run.data.task.nouns[number != 1]}"


def _sections(settings: EvaluateConfig) -> dict[str, Section]:
    """Return the sections that were chosen, in the order of the page: checks before the appendix."""
    chosen = {name: lookup(SECTIONS, "evaluate.sections", name)() for name in settings.sections or SECTIONS}
    checks = {
        name: build(CHECKS, f"evaluate.checks.{name}", check.name, check.params)
        for name, check in settings.checks.items()
    }
    if taken := chosen.keys() & checks.keys():
        raise UserError(f"evaluate.checks.{min(taken)}: a section of the report has this name; give the check another")
    appendix = {name: section for name, section in chosen.items() if section.appendix}
    return {name: one for name, one in chosen.items() if not one.appendix} | checks | appendix


def _warnings_of(pipelines: list[Pipeline]) -> list[str]:
    """Return what there is to say about what is evaluated, once of each run."""
    runs = {run.fingerprint: (pipeline, run) for pipeline in reversed(pipelines) for run in pipeline.runs.values()}
    found = [(pipeline, run.stage.warnings(run, run.measures())) for pipeline, run in runs.values()]
    return [f"{pipeline.name}: {line}" for pipeline, lines in found for line in lines]


def _warnings(_: Run, measures: Mapping[str, float]) -> list[str]:
    pipelines = dict.fromkeys(key.rpartition("/")[0] for key in measures if key.endswith("/r2_beyond_equal"))
    found = [
        further_than_equal_split(
            name,
            {key.removeprefix(f"{name}/"): value for key, value in measures.items() if key.startswith(f"{name}/")},
        )
        for name in pipelines
    ]
    return [line for line in found if line is not None]


STAGE = Stage("evaluate", settings, check, make, joins=True, part=part, reports=True, work=work, warnings=_warnings)
