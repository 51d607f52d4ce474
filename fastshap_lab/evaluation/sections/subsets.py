"""Two classifiers: who is right where, and whether their explanations differ there."""

from collections.abc import Iterator, Mapping
from itertools import combinations, repeat

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.pipeline import Pipeline
from fastshap_lab.evaluation.section import Section
from fastshap_lab.evaluation.statistics import columns_of, with_intervals
from fastshap_lab.metrics import MapAgreement, MapStatistics, correctness_subsets, holm, two_sample_p_values
from fastshap_lab.report import subset_maps

# Of each subset, of each row of its table: columns of numbers per image.
Found = Mapping[str, Mapping[tuple[str, ...], Mapping[str, Tensor]]]

_REFERENCE = "both right"  # what other subsets are tested against
_PREDICTED, _LABEL = "predicted", "label"
_RELABELLINGS = 100  # of each test in a table, so that Holm's correction leaves p-values down to 1 %


class Subsets(Section):
    """How test images fall into those that both of two classifiers, one or none get right, and their maps."""

    kind = "subsets"
    tables = ("subsets-*", "subset_maps-*", "subset_correlations-*")

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add a section for each two classifiers."""
        if not evaluation.labelled:
            return
        for a, b in combinations(evaluation.distinct("classifier"), 2):
            _compare(evaluation, a, b)


def _compare(evaluation: Evaluation, a: Pipeline, b: Pipeline) -> None:
    settings, labels = evaluation.settings, evaluation.test.labels.cpu()
    members_of = correctness_subsets(*(_right(pipeline, labels) for pipeline in (a, b)))
    agree = _right(a, b.task.decide(b.outputs))
    both = {pipeline.runs["classifier"].fingerprint for pipeline in (a, b)}
    explained = [pipeline for pipeline in evaluation.explained if pipeline.runs["classifier"].fingerprint in both]
    rows, figures = [], {}
    places: dict[str, dict[tuple[str, ...], dict[str, Tensor]]] = {}
    pairs: dict[str, dict[tuple[str, ...], dict[str, Tensor]]] = {}
    for subset, members in members_of.items():
        # At once: the name of A may hold a B.
        subset = subset.translate({ord("A"): a.classifier_name, ord("B"): b.classifier_name})
        agreement = agree[members].float().mean().item() if members.any() else float("nan")
        count = int(members.sum())
        rows.append({"subset": subset, "images": count, "share": count / len(labels), "agreement": agreement})
        members_in_order = evaluation.order[members[evaluation.order]]
        if not count or not explained:
            continue
        name = f"subset-{a.classifier_name}-{b.classifier_name}-{subset.replace(' ', '_')}"
        figures[name, f"{subset} ({count} images)"] = _figure(
            evaluation, explained, members_in_order, settings.images_shown, labels
        )
        maps = {
            pipeline.name: dict(
                zip(
                    _explained(pipeline),
                    _maps(evaluation, pipeline, members_in_order, settings.images, labels).unbind(dim=1),
                    strict=True,
                )
            )
            for pipeline in explained
        }
        places[subset] = {
            (name,): columns_of(MapStatistics(), ("central_share", "entropy"), found[_PREDICTED])
            for name, found in maps.items()
        }
        pairs[subset] = {
            (f"{first} and {second}", kind): columns_of(
                MapAgreement(), ("pearson", "spearman"), maps[first][kind], maps[second][kind]
            )
            for first, second in combinations(maps, 2)
            for kind in maps[first]
        }
    rows.append({"subset": "all", "images": len(labels), "share": 1.0, "agreement": agree.float().mean().item()})
    tables = {(f"subsets-{a.classifier_name}-{b.classifier_name}", "Correctness subsets"): pd.DataFrame(rows)}
    text = (
        "Test images by which of the two classifiers is right. Agreement: the share on which the first would be right, "
        "were the second's answer the label. Each map in the figures explains its own pipeline's target, under which "
        f"the classifier's {a.task.answer} stands; the label stands over the image. Target: {a.task.target_in_words}."
    )
    if explained:
        name = f"subset_maps-{a.classifier_name}-{b.classifier_name}"
        tables[name, "Maps of the target"] = _table(places, ("pipeline",), settings.bootstrap)
        text += (
            f"\n\nDo maps differ between subsets? Over up to {settings.images} images of each. Of a map's absolute "
            "values: central share, how much lies in the middle half of rows and columns (0.25 if spread evenly), and "
            "entropy (1 spread evenly, 0 all in one player). Intervals: 95 %, from resampling images. p: of a "
            f'permutation test of the difference from "{_REFERENCE}", with Holm\'s correction for all tests of the '
            "table; none can be much below 0.01."
        )
    if len(explained) > 1:
        name = f"subset_correlations-{a.classifier_name}-{b.classifier_name}"
        tables[name, "Correlation between maps"] = _table(pairs, ("pipelines", "class"), settings.bootstrap)
        text += (
            "\n\nCorrelation is over players, of two pipelines' maps of one image: of each pipeline's own target"
            f"{', and of the label' * a.task.exclusive}. Finer grids are summed to the coarser one's players."
        )
    evaluation.report.add(f"{a.classifier_name} and {b.classifier_name}: who is right", text, tables, figures)


def _maps(evaluation: Evaluation, pipeline: Pipeline, indices: Tensor, number: int, labels: Tensor) -> Tensor:
    """Return an explainer's maps (number, E, rows, columns) of the first images of a list, of what is explained."""
    classes = {_PREDICTED: pipeline.foremost, _LABEL: labels}
    chosen = torch.stack([classes[kind][indices] for kind in _explained(pipeline)], dim=1)
    return evaluation.explainer_maps(pipeline, indices, number, chosen)


def _explained(pipeline: Pipeline) -> list[str]:
    """Return of which classes there are maps: of the target and, where labels are classes, of the label."""
    return [_PREDICTED, _LABEL] if pipeline.task.exclusive else [_PREDICTED]


def _right(pipeline: Pipeline, labels: Tensor) -> Tensor:
    """Return whether a classifier is right (N,) about all test images."""
    return pipeline.task.right(pipeline.outputs.unsqueeze(1), labels).squeeze(1)


def _figure(evaluation: Evaluation, explained: list[Pipeline], members: Tensor, number: int, labels: Tensor) -> Figure:
    maps, captions, indices = {}, {}, members[:number]
    for pipeline in explained:
        maps[pipeline.name] = _maps(evaluation, pipeline, members, number, labels)[:, 0].numpy()
        targets, predictions = pipeline.foremost[indices], pipeline.predictions(indices)
        captions[pipeline.name] = pipeline.in_words(targets, predictions, evaluation.class_names)
    return subset_maps(evaluation.pictures(indices), maps, captions, evaluation.labels_of(indices))


def _table(found: Found, text: tuple[str, ...], resamples: int) -> pd.DataFrame:
    """Return means with intervals, and what tells each subset from the reference, of every row's columns."""
    rows, p_values = [], _p_values(found, resamples)
    for key in next(iter(found.values())):
        for subset, of in found.items():
            row: dict[str, str | float] = dict(zip(text, key, strict=True)) | {"subset": subset}
            row["images"] = len(next(iter(of[key].values())))
            for name, values in of[key].items():
                row |= with_intervals({name: values}, resamples) | {f"{name}, p": next(p_values[subset])}
            rows.append(row)
    return pd.DataFrame(rows)


def _p_values(found: Found, resamples: int) -> dict[str, Iterator[float]]:
    """Return, of each subset, corrected p-values of all rows' columns in turn; NaN for the reference."""
    # All at once: the columns of a subset have their images, and so their relabellings, in common.
    columns = {
        subset: torch.stack([values for row in of.values() for values in row.values()], dim=1)
        for subset, of in found.items()
    }
    p_values: dict[str, Iterator[float]] = dict.fromkeys(columns, repeat(float("nan")))
    reference = columns.pop(_REFERENCE, None)
    if reference is not None and columns:
        resamples = max(resamples, _RELABELLINGS * len(columns) * reference.shape[1])
        tests = torch.cat([two_sample_p_values(rows, reference, resamples) for rows in columns.values()])
        p_values |= {
            subset: iter(of.tolist()) for subset, of in zip(columns, holm(tests).chunk(len(columns)), strict=True)
        }
    return p_values
