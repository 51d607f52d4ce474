"""Subsets of the test images by which of two classifiers is right, and differences of explanations between them."""

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

# Columns of numbers per image, by the subset and the row of the table.
Found = Mapping[str, Mapping[tuple[str, ...], Mapping[str, Tensor]]]

_REFERENCE = "both right"  # subset that others are tested against
_PREDICTED, _LABEL = "predicted", "label"
_RELABELLINGS = 100  # permutations for each test of a table, so that Holm-adjusted p-values can be as small as 0.01


class Subsets(Section):
    """Test images that both of two classifiers, only one or none get right, and the maps in these subsets."""

    kind = "subsets"
    tables = ("subsets-*", "subset_maps-*", "subset_correlations-*")

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add a section for each pair of classifiers."""
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
        # Both letters are replaced at once, as the name of A may contain a B.
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
        "The table counts test images by which of the two classifiers is right. Agreement is the fraction of images on "
        "which the first classifier is right if the second's prediction is taken as the label. Each map in the figures "
        f"explains its own pipeline's target, which is {a.task.target_in_words}; under the map is the classifier's "
        f"{a.task.answer}, and over the image is its label."
    )
    if explained:
        name = f"subset_maps-{a.classifier_name}-{b.classifier_name}"
        tables[name, "Maps of the target"] = _table(places, ("pipeline",), settings.bootstrap)
        text += (
            f"\n\nDo maps differ between subsets? Up to {settings.images} images of each subset are compared. The "
            "central share is the fraction of a map's absolute values in the middle half of rows and columns (0.25 for "
            "an even map); the entropy is that of the absolute values, from 0 (one player has all) to 1 (an even map). "
            "Intervals are 95 % bootstrap intervals over images. The p-values are of permutation tests of the "
            f'difference from "{_REFERENCE}", adjusted by Holm\'s method for all tests of the table; they cannot be '
            "much below 0.01."
        )
    if len(explained) > 1:
        name = f"subset_correlations-{a.classifier_name}-{b.classifier_name}"
        tables[name, "Correlation between maps"] = _table(pairs, ("pipelines", "class"), settings.bootstrap)
        text += (
            "\n\nCorrelations are over the players of two pipelines' maps of the same image, for each pipeline's own "
            f"target{' and for the label' * a.task.exclusive}. Maps on a finer grid are summed to the players of the "
            "coarser one."
        )
    evaluation.report.add(f"{a.classifier_name} and {b.classifier_name}: who is right", text, tables, figures)


def _maps(evaluation: Evaluation, pipeline: Pipeline, indices: Tensor, number: int, labels: Tensor) -> Tensor:
    """Return an explainer's maps (number, E, rows, columns) of the first images of a list, for target and label."""
    classes = {_PREDICTED: pipeline.foremost, _LABEL: labels}
    chosen = torch.stack([classes[kind][indices] for kind in _explained(pipeline)], dim=1)
    return evaluation.explainer_maps(pipeline, indices, number, chosen)


def _explained(pipeline: Pipeline) -> list[str]:
    """Return the names of the classes that have maps: the target and, if every image has one class, the label."""
    return [_PREDICTED, _LABEL] if pipeline.task.exclusive else [_PREDICTED]


def _right(pipeline: Pipeline, labels: Tensor) -> Tensor:
    """Return whether a classifier is right for each test image (N,)."""
    return pipeline.task.right(pipeline.outputs.unsqueeze(1), labels).squeeze(1)


def _figure(evaluation: Evaluation, explained: list[Pipeline], members: Tensor, number: int, labels: Tensor) -> Figure:
    maps, captions, indices = {}, {}, members[:number]
    for pipeline in explained:
        maps[pipeline.name] = _maps(evaluation, pipeline, members, number, labels)[:, 0].numpy()
        targets, predictions = pipeline.foremost[indices], pipeline.predictions(indices)
        captions[pipeline.name] = pipeline.in_words(targets, predictions, evaluation.class_names)
    return subset_maps(evaluation.pictures(indices), maps, captions, evaluation.labels_of(indices))


def _table(found: Found, text: tuple[str, ...], resamples: int) -> pd.DataFrame:
    """Return a table of means with intervals, and the p-values of their differences from the reference subset."""
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
    """Return for each subset the adjusted p-values of all columns of all rows in turn, NaN for the reference."""
    # The columns of a subset are tested together, as they have the same images and so the same permutations.
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
