"""The evaluate stage, which measures pipelines and other methods, compares them, and writes the report."""

import json
import math
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path
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
from fastshap_lab.evaluation.verdict import verdict
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

# Rough cost of a report beside references: seconds for the page, seconds for each pipeline, and bytes of each of them.
_PAGE, _PIPELINE, _BYTES = 2.0, 5.0, 10**6


def settings(config: Config, _: str) -> dict[str, Any]:
    """Return everything that can change the result; ``_`` is the digest of the data, which the parents cover."""
    plain = asdict(config.evaluate) | {"references": reference_settings(config, "test")}
    names = {name: one.classifier_name for name, one in config.evaluate.pipelines.items() if one.classifier_name}
    del plain["pipelines"]  # the parents' fingerprints cover the rest
    plain |= {"classifier_names": names} if names else {}
    if plain["sections"] is None:
        del plain["sections"]
    return with_sources({"evaluate": plain})


def part(config: Config) -> str:
    """Return the part of the folder's name that tells the components of a single pipeline."""
    chosen = config.classifier, config.surrogate, config.explainer
    return "" if config.evaluate.pipelines else "".join(f"-{one.name}" for one in chosen)


def check(run: Run) -> None:
    """Raise a ``UserError`` if a setting of the evaluation is wrong."""
    check_settings(run.config.evaluate, run.data.task)
    _classifier_names(run)
    for end in run.parents.values():
        if "surrogate" in end.parents:
            # Pipelines may differ in their players; the settings of the references are those of the evaluation.
            check_references(replace(end.config, references=run.config.references), "test")


def check_settings(settings: EvaluateConfig, task: Task) -> None:
    """Raise a ``UserError`` if a method, metric, section or check is unknown, or has wrong arguments.

    Args:
        settings: Settings of the evaluation.
        task: Task of the classifiers.
    """
    check_methods(settings.methods)
    choose_metrics(settings.metrics, task)
    sections = _sections(settings)
    for name, section in sections.items():
        section.check(settings, name)
    patterns = [pattern.format(name=name) for name, section in sections.items() for pattern in section.tables]
    for table in settings.published:
        if not any(fnmatchcase(table, pattern) for pattern in patterns):
            raise UserError(
                f"evaluate.published.{table}: this evaluation has no such table, {did_you_mean(table, patterns)}"
            )


def evaluation_of(run: Run) -> Evaluation:
    """Return the evaluation of a run whose parents are finished, with its pipelines loaded and nothing measured yet."""
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
    """Return the work of a run; without an earlier evaluation, the cost of methods and checks cannot be estimated."""
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
    """Evaluate the pipelines, write the report, and return the main measures."""
    evaluation = evaluation_of(run)
    report, pipelines = evaluation.report, evaluation.pipelines
    measures: dict[str, float] = {}
    for name, section in _sections(run.config.evaluate).items():
        measures |= section(evaluation, name) or {}
    report.check_published()
    warnings = [*_warnings_of(pipelines), *_warnings(run, measures)]
    lines = verdict(evaluation, measures) | {"Warnings": f"{len(warnings) or 'none'}", "Made": _made(run)}
    lines["Explained"] = f"{run.config.data.name}: {lines['Explained']}"
    title, code = f"Shapley explanations: {run.name}", _code(run)
    write_page(run.folder / REPORT, title, lines, report.sections, warnings, report.explorer, code)
    log_results(run, report.tables, report.figures)
    return measures


def _made(run: Run) -> str:
    """Return when, of what and on what the report was made."""
    record = run.record()
    versions = ", ".join(f"{package} {number}" for package, number in record["versions"].items())
    hardware, commit = record["hardware"], record["git"].get("commit")
    machine = f"{hardware['machine']}, {hardware['threads']} threads, {', '.join(hardware['gpus']) or 'no GPU'}"
    git = [f"commit {commit[:12]}{'' if record['git'].get('clean') else ', with changes'}"] if commit else []
    parts = [record["updated"], f"seed {run.config.seed}", versions, *git, machine, f"run {run.fingerprint[:8]}"]
    return "; ".join(parts)


def _code(run: Run) -> str:
    """Return lines that repeat the run, and that load each of its explainers."""
    program, *words = sys.argv
    lines = []
    if started := {"train.py": ["python", "train.py"], "fastshap-lab": ["fastshap-lab"]}.get(Path(program).name):
        lines.append(shlex.join([*started, *words]))
    loading = []
    for name, end in run.parents.items():
        if end.stage.loading is not None:
            place = json.dumps(end.folder.as_posix(), ensure_ascii=False)
            loading.append(end.stage.loading.format(place=place) + (f"  # {name}" if len(run.parents) > 1 else ""))
    if loading:
        lines += ["import fastshap_lab as fsl", *loading]
        lines.append('explainer.explain("picture.png").save("page.html")')
    return "\n".join(lines)


def _classifier_names(run: Run) -> dict[str, str]:
    """Return the name of each pipeline's classifier: the configured one, or the name of the first pipeline with it.

    Raises:
        UserError: Two classifiers have the same name.
    """
    first: dict[str, str] = {}  # names by fingerprint
    owner: dict[str, str] = {}  # fingerprints by name
    found: dict[str, str] = {}
    for name, end in run.parents.items():
        fingerprint = end.parents.get("classifier", end).fingerprint
        chosen = run.config.evaluate.pipelines.get(name)
        called = (chosen and chosen.classifier_name) or first.get(fingerprint, name)
        first.setdefault(fingerprint, called)
        if owner.setdefault(called, fingerprint) != fingerprint:
            raise UserError(
                f"evaluate.pipelines.{name}.classifier_name={called}: another classifier has this name; choose another"
            )
        found[name] = called
    return found


def _sections(settings: EvaluateConfig) -> dict[str, Section]:
    """Return the chosen sections in the order of the page, with the checks before the appendix."""
    chosen = {name: lookup(SECTIONS, "evaluate.sections", name)() for name in settings.sections or SECTIONS}
    checks = {
        name: build(CHECKS, f"evaluate.checks.{name}", check.name, check.params)
        for name, check in settings.checks.items()
    }
    if taken := chosen.keys() & checks.keys():
        raise UserError(f"evaluate.checks.{min(taken)}: a section of the report has this name; choose another one")
    appendix = {name: section for name, section in chosen.items() if section.appendix}
    return {name: one for name, one in chosen.items() if not one.appendix} | checks | appendix


def _warnings_of(pipelines: list[Pipeline]) -> list[str]:
    """Return the warnings about the runs of the pipelines, once for each run."""
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
