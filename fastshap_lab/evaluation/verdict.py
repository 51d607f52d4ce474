"""What stands on top of the report, in words: what was explained, how true it is, how well the surrogate imitates."""

import math
from collections.abc import Mapping

from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.pipeline import Pipeline


def verdict(evaluation: Evaluation, measures: Mapping[str, float]) -> dict[str, str]:
    """Return a line, or one for each pipeline, by what it answers.

    Args:
        evaluation: Whose sections are made.
        measures: Of the run, by pipeline.
    """
    task = evaluation.data.task
    number = len(evaluation.class_names)
    right = task.measure_names[0]
    classifiers = [
        f"{pipeline.classifier_name}, {task.title(right)} {pipeline.runs['classifier'].measures()[f'test/{right}']:.3f}"
        for pipeline in evaluation.distinct("classifier")
    ]
    what = f"{len(evaluation.test):,} test images, {number:,} {task.nouns[number != 1]}. Classified by "
    lines = {"Explained": what + "; ".join(classifiers)}
    if evaluation.explained:
        lines["How true"] = "\n".join(
            _named(evaluation, pipeline, _how_true(evaluation, pipeline, measures)) for pipeline in evaluation.explained
        )
    if imitating := evaluation.distinct("surrogate"):
        lines["Surrogate"] = "\n".join(_named(evaluation, pipeline, _imitation(pipeline)) for pipeline in imitating)
    return lines


def _named(evaluation: Evaluation, pipeline: Pipeline, line: str) -> str:
    return line[:1].upper() + line[1:] if len(evaluation.pipelines) == 1 else f"{pipeline.name}: {line}"


def _how_true(evaluation: Evaluation, pipeline: Pipeline, measures: Mapping[str, float]) -> str:
    def share(name: str) -> str:
        value, low, high = (measures[f"{pipeline.name}/{name}{end}"] for end in ("", "_low", "_high"))
        return f"{_percent(value)} [{_percent(low, '')}, {_percent(high, '')}]"

    known = evaluation.known_values.get(pipeline.name)
    if known is None or f"{pipeline.name}/r2" not in measures:
        return "not measured: no image has true values (references.test=0, or without the section shapley_errors)"
    of = f"{len(known.reference.phi)} images, all {evaluation.data.task.nouns[1]}"
    line = (
        f"one pass explains {share('r2_beyond_equal')} of what differs between the players of an image, and "
        f"{share('r2')} of all that differs between true values (R²; {of})"
    )
    if known.refined is not None:
        spent = evaluation.report.tables["refinement"]
        row = spent[(spent["pipeline"] == pipeline.name) & (spent["evaluations"] == known.refined.evaluations)]
        line += f"; {known.refined.evaluations} evaluations more make the latter {_percent(row['explainer'].iloc[0])}"
    return f"{line}. True values: {known.reference.kind}"


def _percent(share: float, sign: str = " %") -> str:
    """Return a share in percent, with a decimal where it is nearly all."""
    return f"{100 * share:.{int(share > 0.985)}f}{sign}".replace("-", "−")


def _imitation(pipeline: Pipeline) -> str:
    measures, task = pipeline.runs["surrogate"].measures(), pipeline.task
    right, far = task.measure_names[0], task.imitation
    line = (
        f"its {task.title(right)} is {measures[f'test/{right}']:.3f} on whole images, "
        f"{measures[f'test/masked_{right}']:.3f} on masked ones; its answers are {measures[f'test/{far}']:.3f} "
        f"({task.title(far, long=True)}) from the classifier's, {measures[f'test/masked_{far}']:.3f} where masked"
    )
    ignorant = measures.get(f"test/{far}_constant", math.nan)
    return line if math.isnan(ignorant) else f"{line}, and one answer to all images is {ignorant:.3f} away"
