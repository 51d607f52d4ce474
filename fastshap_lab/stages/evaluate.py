"""The evaluate stage: measure pipelines, set them side by side, draw their maps, write the report."""

from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fastshap_lab.inference import AmortizedExplainer, load_classifier, load_explainer
from fastshap_lab.metrics import ShapleyError, correctness_subsets
from fastshap_lab.models import SurrogateGame
from fastshap_lab.report import (
    Section,
    budget_curves,
    class_maps,
    comparison,
    save_figure,
    scatter,
    subset_maps,
    training_curves,
    write_page,
    write_table,
)
from fastshap_lab.shapley import Estimate, KernelSHAP, additive_normalization, equal_split
from fastshap_lab.stages.common import METRICS_FILE, batches, device_of
from fastshap_lab.stages.references import reference_order, reference_values
from fastshap_lab.stages.runs import Run
from fastshap_lab.stages.tracking import log_results

REPORT = "report.html"
_MOST_REFINED = 1024  # evaluations of each image in the curve of refinement


@dataclass
class Pipeline:
    """A finished pipeline, loaded.

    Attributes:
        name: What it is called in tables and figures.
        runs: Its classifier, surrogate and explainer.
        explainer: With its surrogate.
        probabilities: The classifier's, of all test images (N, K).
    """

    name: str
    runs: dict[str, Run]
    explainer: AmortizedExplainer
    probabilities: Tensor

    @property
    def predictions(self) -> Tensor:
        """The classifier's classes of all test images (N,)."""
        return self.probabilities.argmax(dim=-1)


@dataclass
class Report:
    """Sections of the page; their tables and figures are files of their own, too."""

    folder: Path
    sections: list[Section] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: dict[str, Path] = field(default_factory=dict)

    def add(
        self,
        title: str,
        text: str,
        tables: dict[tuple[str, str], pd.DataFrame] | None = None,
        figures: dict[tuple[str, str], Figure] | None = None,
    ) -> None:
        """Write tables and figures, given by file name and caption, and add a section that shows them."""
        tables, figures = tables or {}, figures or {}
        for (name, _), table in tables.items():
            self.tables[name] = table
            write_table(table, self.folder / "tables" / name)
        for (name, _), figure in figures.items():
            self.figures[name] = self.folder / "figures" / f"{name}.png"
            save_figure(figure, self.figures[name])
        shown = {caption: table for (_, caption), table in tables.items()}
        drawn = {caption: self.figures[name] for name, caption in figures}
        self.sections.append(Section(title, text, shown, drawn))


def make(run: Run) -> dict[str, float]:
    """Evaluate a run's pipelines, write its report, and return the main measures."""
    pipelines = [_load(run, name, explainer) for name, explainer in run.parents.items()]
    report = Report(run.folder)
    _models(report, pipelines)
    measures = _shapley_errors(run, report, pipelines)
    _maps(run, report, pipelines)
    for first, second in combinations(pipelines, 2):
        if first.runs["classifier"].fingerprint != second.runs["classifier"].fingerprint:
            _subsets(run, report, first, second)
    _curves(report, pipelines)
    summary = {
        "Data": f"{run.config.data.name}, {len(run.data.dataset('test'))} test images, {run.data.num_classes} classes",
        "Players": "{}×{} patches".format(*run.config.data.grid),
        "Pipelines": ", ".join(pipeline.name for pipeline in pipelines),
    }
    write_page(run.folder / REPORT, f"Shapley explanations: {run.name}", summary, report.sections)
    log_results(run, report.tables, report.figures)
    return measures


def _load(run: Run, name: str, explainer: Run) -> Pipeline:
    surrogate = explainer.parents["surrogate"]
    runs = {"classifier": surrogate.parents["classifier"], "surrogate": surrogate, "explainer": explainer}
    device = device_of(run)
    classifier = load_classifier(runs["classifier"].model).to(device)
    with torch.inference_mode():
        logits = torch.cat([classifier(image) for image, _ in batches(run, "test")]).cpu()
    return Pipeline(name, runs, load_explainer(explainer.model).to(device), logits.softmax(dim=-1))


def _models(report: Report, pipelines: list[Pipeline]) -> None:
    rows = []
    for pipeline in pipelines:
        classifier, surrogate = (pipeline.runs[stage].measures() for stage in ("classifier", "surrogate"))
        row: dict[str, str | float] = {"pipeline": pipeline.name, "model": "classifier", "images": "whole"}
        rows.append(row | {"accuracy": classifier["test/accuracy"], "cross-entropy": classifier["test/cross_entropy"]})
        for images, prefix in (("whole", ""), ("masked", "masked_")):
            measured = {
                title: surrogate[f"test/{prefix}{key}"]
                for title, key in (("accuracy", "accuracy"), ("cross-entropy", "cross_entropy"), ("KL", "kl"))
            }
            rows.append({"pipeline": pipeline.name, "model": "surrogate", "images": images} | measured)
    report.add(
        "Models",
        "Accuracy and cross-entropy against the labels of the test images, and the KL divergence in nats from the "
        "classifier's answer on the whole image. Masked: coalitions of uniformly drawn size, the same "
        "for every surrogate.",
        {("models", "Classifiers and surrogates"): pd.DataFrame(rows)},
    )


def _shapley_errors(run: Run, report: Report, pipelines: list[Pipeline]) -> dict[str, float]:
    """Add the errors against reference values, and return those of each pipeline's explainer."""
    title, config = "Errors against true Shapley values", run.config.references
    test = run.data.dataset("test")
    indices = reference_order(len(test))[: config.test]
    if not len(indices):
        report.add(title, "Not measured: references.test=0.")
        return {}
    rows, figures, measures, noise = [], {}, {}, []
    refinements: dict[str, pd.DataFrame] = {}
    for pipeline in pipelines:
        name, explainer = pipeline.name, pipeline.explainer
        image, game = test.images_at(indices).float() / 255, explainer.game(run.config.trainer.max_batch)
        surrogate = pipeline.runs["surrogate"]
        reference = reference_values(surrogate, game, "test", indices.tolist(), explainer.link, config.test_evaluations)
        truth = reference.phi
        noise.append(float(reference.stderr.square().mean() / (truth - truth.mean()).square().mean()))
        with torch.inference_mode():
            phi = explainer(image).cpu().double()
            grand, null = game.grand(image).cpu().double(), game.null(image).cpu().double()
        random = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0), dtype=truth.dtype) * truth.std()
        explanations = {
            "explainer": phi,
            "equal split": equal_split(grand, null, truth.shape[1]),
            "Random": additive_normalization(random, grand, null),
        }
        for explanation, values in explanations.items():
            metric = ShapleyError()
            metric.update(values, truth, grand, null, pipeline.predictions[indices])
            errors, intervals = metric.compute(), metric.intervals(run.config.evaluate.bootstrap)
            for classes in errors:
                row: dict[str, str | float] = {"pipeline": name, "explanation": explanation, "classes": classes}
                for key, value in errors[classes].items():
                    low, high = intervals[classes][key]
                    row |= {key: value, f"{key}_low": low, f"{key}_high": high}
                rows.append(row)
            if explanation == "explainer":
                measures |= {f"{name}/{key}": value for key, value in errors["all"].items()}
        beside = f"{name}: one forward pass, and {reference.evaluations:,} coalitions"
        figures[f"exact-{name}", beside] = _beside_exact(run, pipeline, indices, phi, truth)
        figures[f"scatter-{name}", f"{name}: every player, class and reference image"] = scatter(
            truth.flatten().numpy(), phi.flatten().numpy(), name
        )
        if explainer.refinement is not None:
            refinements[name] = _refinement(pipeline, game, image, phi, reference, pipeline.predictions[indices])
    known = "exact" if not any(noise) else f"known but for {max(noise):.1%} of their variance"
    report.add(
        title,
        f"Over {len(indices)} test images, whose Shapley values are {known}. Target: the class that the classifier "
        "predicts. R² is pooled over images, players and classes. Giving every player the same share scores high "
        "already: R² beyond the equal split says how much of the rest is explained. Cosine and Spearman correlation "
        "are means over images and classes. Intervals: 95 %, from resampling images.",
        {("shapley_errors", "Errors of one forward pass, and of knowing nothing"): pd.DataFrame(rows)},
        figures,
    )
    _refinements(report, refinements)
    return measures


def _refinement(
    pipeline: Pipeline, game: SurrogateGame, image: Tensor, phi: Tensor, reference: Estimate, target: Tensor
) -> pd.DataFrame:
    """Return how close to the references a pipeline's explainer comes with evaluations, and KernelSHAP with as many."""
    refine, truth = pipeline.explainer.refinement, reference.phi
    assert refine is not None
    # Fewer evaluations than the references had, and other ones.
    estimator, most = KernelSHAP(game, image, seed=2), min(reference.evaluations // 4, _MOST_REFINED)
    is_target = torch.nn.functional.one_hot(target, truth.shape[2]).bool().unsqueeze(1).expand_as(truth)

    def r2(values: Tensor) -> float:
        return 1 - float((values - truth).square().sum() / (truth - truth.mean()).square().sum())

    rows = [{"evaluations": 0, "explainer": r2(phi)}]
    for budget in (2**power for power in range(4, most.bit_length())):
        estimator.advance(budget - estimator.granted)
        alone, refined = estimator.estimate(), refine(estimator, phi, target)
        inside = (refined.phi - truth).square() <= 1.96**2 * (refined.stderr.square() + reference.stderr.square())
        rows.append(
            {
                "evaluations": budget,
                "explainer": r2(refined.phi),
                "KernelSHAP": r2(alone.phi) if alone.stderr.isfinite().all() else float("nan"),
                "coverage, target": inside[is_target].double().mean().item(),
                "coverage, others": inside[~is_target].double().mean().item(),
            }
        )
    return pd.DataFrame(rows)


def _refinements(report: Report, refinements: dict[str, pd.DataFrame]) -> None:
    """Add what evaluations of the game add to an explainer's answer."""
    figures = {}
    for name, table in refinements.items():
        spent = table.set_index("evaluations")
        curves = {
            "explainer alone": spent["explainer"].iloc[:1],
            "explainer, refined": spent["explainer"].iloc[1:],
            "KernelSHAP": spent["KernelSHAP"].iloc[1:] if "KernelSHAP" in spent else pd.Series(dtype=float),
        }
        figures[f"refinement-{name}", name] = budget_curves(curves, name)
    tables = [table.assign(pipeline=name) for name, table in refinements.items()]
    if tables:
        joined = pd.concat(tables)
        joined.insert(0, "pipeline", joined.pop("pipeline"))
        report.add(
            "Refinement",
            "R² against the same references of the explainer's answer refined with evaluations of the game "
            "(explain(images, refine=N)), and of KernelSHAP with the same evaluations. Coverage: how many of the "
            "true values lie within the refined ones' 95 % intervals.",
            {("refinement", "One pass, and more"): joined},
            figures,
        )


def _beside_exact(run: Run, pipeline: Pipeline, indices: Tensor, phi: Tensor, exact: Tensor) -> Figure:
    """Return the first reference images with the explainer's and the exact map of the predicted class."""
    test, names = run.data.dataset("test"), run.data.class_names
    maps: dict[str, list[Tensor]] = {"explainer": [], "exact": []}
    texts, notes = [], []
    for place, index in enumerate(indices[: run.config.evaluate.images_shown].tolist()):
        target = int(pipeline.predictions[index])
        predicted, truth = phi[place, :, target], exact[place, :, target]
        maps["explainer"].append(predicted)
        maps["exact"].append(truth)
        r2 = 1 - (predicted - truth).square().sum() / (truth - truth.mean()).square().sum()
        notes.append(f"R² {r2:.2f}")
        texts.append(f"label: {names[test.labels[index]]}\nexplained: {names[target]}")
    shape = pipeline.explainer.grid.shape
    columns = {name: torch.stack(values).unflatten(1, shape).numpy() for name, values in maps.items()}
    return comparison(_pictures(run, indices[: len(texts)]), columns, texts, {"explainer": notes})


def _maps(run: Run, report: Report, pipelines: list[Pipeline]) -> None:
    """Add, for each pipeline, the same test images against all classes."""
    indices = reference_order(len(run.data.dataset("test")))[: run.config.evaluate.images_shown]
    labels, names = run.data.dataset("test").labels[indices].cpu().numpy(), run.data.class_names
    figures = {}
    for pipeline in pipelines:
        values = _explain(run, pipeline, indices)
        unit = f"Shapley value ({pipeline.explainer.link})"
        figures[f"maps-{pipeline.name}", f"{pipeline.name}: images and classes"] = class_maps(
            _pictures(run, indices),
            values.numpy(),
            pipeline.probabilities[indices].numpy(),
            names,
            labels,
            value_name=unit,
        )
    report.add("Maps", "Under each map the classifier's probability of the class.", figures=figures)


def _subsets(run: Run, report: Report, a: Pipeline, b: Pipeline) -> None:
    """Add how two classifiers' test images fall into those that both, one or none get right, with maps of each."""
    test, names = run.data.dataset("test"), run.data.class_names
    labels = test.labels.cpu()
    subsets = correctness_subsets(a.predictions == labels, b.predictions == labels)
    agree = a.predictions == b.predictions
    rows, figures = [], {}
    for subset, members in subsets.items():
        subset = subset.translate({ord("A"): a.name, ord("B"): b.name})  # at once: the name of A may hold a B
        agreement = agree[members].float().mean().item() if members.any() else float("nan")
        count = int(members.sum())
        rows.append({"subset": subset, "images": count, "share": count / len(labels), "agreement": agreement})
        order = reference_order(len(labels))
        indices = order[members[order]][: run.config.evaluate.images_shown]
        if not len(indices):
            continue
        maps, captions = {}, {}
        for pipeline in (a, b):
            targets, places = pipeline.predictions[indices], torch.arange(len(indices))
            maps[pipeline.name] = _explain(run, pipeline, indices)[places, targets].numpy()
            sure = pipeline.probabilities[indices, targets]
            captions[pipeline.name] = [f"says {names[t]} ({p:.2f})" for t, p in zip(targets, sure, strict=True)]
        name = f"subset-{a.name}-{b.name}-{subset.replace(' ', '_')}"
        figures[name, f"{subset} ({count} images)"] = subset_maps(_pictures(run, indices), maps, captions)
    total = {"subset": "all", "images": len(labels), "share": 1.0, "agreement": agree.float().mean().item()}
    report.add(
        f"{a.name} and {b.name}: who is right",
        "Test images by which of the two classifiers is right. Agreement: the share on which both name the same class. "
        "Each map explains the class that its own pipeline's classifier names.",
        {(f"subsets-{a.name}-{b.name}", "Correctness subsets"): pd.DataFrame([*rows, total])},
        figures,
    )


def _curves(report: Report, pipelines: list[Pipeline]) -> None:
    """Add the course of every training."""
    figures = {}
    for stage, panels in _PANELS.items():
        files = {pipeline.name: pipeline.runs[stage].folder / METRICS_FILE for pipeline in pipelines}
        histories = {name: pd.read_csv(file) for name, file in files.items() if file.is_file()}
        if histories:  # a classifier with given weights may never have been trained
            figures[f"curves-{stage}", stage.capitalize()] = training_curves(histories, panels)
    text = (
        "Measures by epoch. An explainer's training and validation losses are over coalitions of different kinds. "
        "Additive R²: how much of the game's values the explanations account for, against the explanation that gives "
        "every player the same share; at zero or below, an explainer has collapsed."
    )
    report.add("Training", text, figures=figures)


_PANELS = {
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


def _explain(run: Run, pipeline: Pipeline, indices: Tensor) -> Tensor:
    images = run.data.dataset("test").images_at(indices).cpu()
    return pipeline.explainer.explain(images, run.config.trainer.max_batch).values


def _pictures(run: Run, indices: Tensor) -> np.ndarray:
    return run.data.dataset("test").images_at(indices).cpu().permute(0, 2, 3, 1).float().div(255).numpy()
