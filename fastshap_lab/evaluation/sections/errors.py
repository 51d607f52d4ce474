"""Errors of explainers against true Shapley values, before and after refinement with evaluations of the game."""

from dataclasses import replace
from functools import partial

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fastshap_lab.evaluation.evaluation import Evaluation, KnownValues
from fastshap_lab.evaluation.pipeline import Pipeline
from fastshap_lab.evaluation.references import References
from fastshap_lab.evaluation.report import Report
from fastshap_lab.evaluation.section import Section
from fastshap_lab.metrics import ShapleyError
from fastshap_lab.report import Table, budget_curves, comparison, scatter
from fastshap_lab.runs.sources import identity
from fastshap_lab.runs.store import content_digest
from fastshap_lab.shapley import ESTIMATORS, Estimate, KernelSHAP, Kriging, additive_normalization, equal_split

_REFINED = ("evaluations", "explainer", "kriging", "KernelSHAP", "coverage, target", "coverage, others")
MAX_REFINED = 1024  # largest number of evaluations of an image in the curves of refinement
SHOWN_REFINED = 256  # largest number of evaluations of an image behind the refined values on the page


class ShapleyErrors(Section):
    """Errors of explainers against true Shapley values, before and after refinement with evaluations of the game."""

    kind = "shapley_errors"
    tables = ("shapley_errors", "refinement")
    version = 2  # refined values are kept

    def __call__(self, evaluation: Evaluation, name: str) -> dict[str, float]:
        """Add the errors of the explanations, and return those of each pipeline's explainer."""
        title, report = "Errors against true Shapley values", evaluation.report
        number = evaluation.references.test
        indices = evaluation.order[:number]
        if not evaluation.explained:
            return {}
        if not len(indices):
            report.add(title, "They are not measured, as references.test is 0.")
            return {}
        rows, figures, measures, noise = [], {}, {}, []
        kinds: dict[str, None] = {}  # kinds of references, in the order of the pipelines
        refinements: dict[str, pd.DataFrame] = {}
        image = evaluation.images(indices)
        for pipeline in evaluation.explained:
            in_units = pipeline.task.in_units  # a mean over classes needs similar scales
            found_values = evaluation.reference_values(pipeline, indices, pipeline.link)
            reference = replace(found_values, phi=in_units(found_values.phi), stderr=in_units(found_values.stderr))
            kinds[reference.kind] = None
            truth = reference.phi
            noise.append(float(reference.stderr.square().mean() / (truth - truth.mean()).square().mean()))
            maps = evaluation.explainer_maps(pipeline, evaluation.order, len(indices))
            phi = in_units(maps.flatten(2).transpose(1, 2).double())
            game = pipeline.game(pipeline.link).in_units(in_units)
            with torch.inference_mode():
                grand, null = game.grand(image).cpu().double(), game.null(image).cpu().double()
            random = (
                torch.randn(truth.shape, generator=torch.Generator().manual_seed(0), dtype=truth.dtype) * truth.std()
            )
            explanations = {
                "explainer": phi,
                "equal split": equal_split(grand, null, truth.shape[1]),
                "Random": additive_normalization(random, grand, null),
            }
            found = {}
            for explanation, values in explanations.items():
                metric = ShapleyError()
                metric.update(values, truth, grand, null, pipeline.foremost[indices])
                errors, intervals = metric.compute(), metric.intervals(evaluation.settings.bootstrap)
                for classes in errors:
                    if classes == "others" and truth.shape[2] == 1:
                        continue
                    found[explanation, classes] = {}
                    for key, value in errors[classes].items():
                        low, high = intervals[classes][key]
                        found[explanation, classes] |= {key: value, f"{key}_low": low, f"{key}_high": high}
                    said = {"pipeline": pipeline.name, "explanation": explanation, "classes": classes}
                    rows.append(said | found[explanation, classes])
            measures |= {
                f"{pipeline.name}/{key}": value for key, value in found[next(iter(explanations)), "all"].items()
            }
            beside = f"{pipeline.name}: one forward pass, and {reference.evaluations:,} coalitions"
            figures[f"exact-{pipeline.name}", beside] = _beside_exact(evaluation, pipeline, indices, phi, truth)
            figures[f"scatter-{pipeline.name}", f"{pipeline.name}: every player, class and reference image"] = scatter(
                truth.flatten().numpy(), phi.flatten().numpy(), pipeline.name
            )
            spent = self._refinement(evaluation, pipeline, indices, phi, reference)
            refinements[pipeline.name] = pd.DataFrame({name: spent[name].numpy() for name in _REFINED if name in spent})
            refined = Estimate(spent["phi"], spent["stderr"], int(spent["spent"])) if "phi" in spent else None
            evaluation.known_values[pipeline.name] = KnownValues(reference, refined)
        shared = evaluation.data.task
        known = "; ".join(kinds)
        known += f"; the variance of their errors is {max(noise):.1%} of the values' variance" if any(noise) else ""
        report.add(
            title,
            f"The errors are over {len(indices)} test images, whose Shapley values are {known}.{shared.units_in_words} "
            f"The target is {shared.target_in_words}. R² is pooled over images, players and classes. The equal split, "
            "which gives every player the same share, has a high R² already; R² beyond the equal split is the fraction "
            "of the remaining variance that is explained. Cosine and Spearman correlation are means over images and "
            "classes. Intervals are 95 % bootstrap intervals over images.",
            {
                ("shapley_errors", "Errors of one forward pass, and of uninformed values"): Table(
                    pd.DataFrame(rows), {"cosine": True, "spearman": True}, within=("pipeline", "classes")
                )
            },
            figures,
        )
        _refinements(report, refinements)
        return measures

    def _refinement(
        self, evaluation: Evaluation, pipeline: Pipeline, indices: Tensor, phi: Tensor, reference: References
    ) -> dict[str, Tensor]:
        """Return the columns of ``_REFINED`` by the number of evaluations.

        For one number of evaluations, the result has the refined values of the classes that the page shows, too.
        """
        images = evaluation.test.images_at(indices)
        shown = evaluation.shown_classes(pipeline, indices)
        key = {
            "explainer": pipeline.digests["explainer"],
            "images": content_digest(images),
            "references": content_digest(reference.phi, reference.stderr),
            "estimators": [identity(ESTIMATORS, name, {}) for name in ("kernel_shap", "kriging")],
            "shown": content_digest(shown),
        }
        target = pipeline.foremost[indices]
        make = partial(_refined, pipeline, images.float() / 255, phi, reference, target, shown)
        return self.stored(evaluation, key, make)


def _refined(
    pipeline: Pipeline, image: Tensor, phi: Tensor, reference: References, target: Tensor, shown: Tensor
) -> dict[str, Tensor]:
    """Return R² and coverage by the number of evaluations of an image, a column each, and refined values."""
    assert pipeline.explainer is not None
    refine, truth = pipeline.explainer.refinement, reference.phi
    # These are fewer evaluations than those of the references, and other ones.
    game = pipeline.game(pipeline.link).in_units(pipeline.task.in_units)
    estimator, most = Kriging(game, image, seed=2), min(reference.evaluations // 4, MAX_REFINED)
    is_target = torch.nn.functional.one_hot(target, truth.shape[2]).bool().unsqueeze(1).expand_as(truth)

    def r2(values: Tensor) -> float:
        return 1 - float((values - truth).square().sum() / (truth - truth.mean()).square().sum())

    of_shown = shown.unsqueeze(1).expand(-1, truth.shape[1], -1)
    kept: dict[str, Tensor] = {}
    rows: list[dict[str, float]] = [{"evaluations": 0, "explainer": r2(phi)}]
    for budget in (2**power for power in range(4, most.bit_length())):
        estimator.advance(budget - estimator.granted)
        alone, refined = estimator.estimate(), refine(estimator, phi, target)
        if budget <= SHOWN_REFINED:
            values = {"phi": refined.phi, "stderr": refined.stderr.expand_as(refined.phi)}
            kept = {name: value.gather(2, of_shown).float() for name, value in values.items()}
            kept["spent"] = torch.tensor(budget)
        kernel = KernelSHAP.from_pairs(estimator).estimate()
        inside = (refined.phi - truth).square() <= 1.96**2 * (refined.stderr.square() + reference.stderr.square())
        rows.append(
            {
                "evaluations": budget,
                "explainer": r2(refined.phi),
                "kriging": r2(alone.phi),
                "KernelSHAP": r2(kernel.phi) if kernel.stderr.isfinite().all() else float("nan"),
                "coverage, target": inside[is_target].double().mean().item(),
                **({"coverage, others": inside[~is_target].double().mean().item()} if truth.shape[2] > 1 else {}),
            }
        )
    names = rows[-1] if len(rows) > 1 else rows[0]
    columns = {name: torch.tensor([row.get(name, float("nan")) for row in rows], dtype=torch.float64) for name in names}
    return columns | kept | {"evaluations": columns["evaluations"].long()}


def _refinements(report: Report, refinements: dict[str, pd.DataFrame]) -> None:
    """Add the section about refining explanations with evaluations of the game."""
    figures = {}
    for name, table in refinements.items():
        spent = table.set_index("evaluations")
        curves = {
            "explainer alone": spent["explainer"].iloc[:1],
            "explainer, refined": spent["explainer"].iloc[1:],
            **{name: spent[name].iloc[1:] for name in ("kriging", "KernelSHAP") if name in spent},
        }
        figures[f"refinement-{name}", name] = budget_curves(curves, name)
        if covered := {column: spent[column].iloc[1:] for column in spent if column.startswith("coverage")}:
            figures[f"coverage-{name}", f"{name}: coverage"] = budget_curves(covered, name, "share of true values")
    tables = [table.assign(pipeline=name) for name, table in refinements.items()]
    if tables:
        joined = pd.concat(tables)
        joined.insert(0, "pipeline", joined.pop("pipeline"))
        report.add(
            "Refinement",
            "The explainer's values are refined with N evaluations of the game (explain(images, refine=N)). The table "
            "shows R² against the same references, also of kriging and KernelSHAP, which use the same evaluations "
            "without the explainer. Coverage is the fraction of true values within the 95 % intervals of the refined "
            "values.",
            {("refinement", "R² by the number of evaluations"): Table(joined, within=("pipeline",))},
            figures,
        )


def _beside_exact(evaluation: Evaluation, pipeline: Pipeline, indices: Tensor, phi: Tensor, exact: Tensor) -> Figure:
    """Return a figure of the first reference images, with the explainer's and the exact map of the target."""
    maps: dict[str, list[Tensor]] = {"explainer": [], "exact": []}
    texts, notes = [], []
    for place, index in enumerate(indices[: evaluation.settings.images_shown].tolist()):
        target = int(pipeline.foremost[index])
        predicted, truth = phi[place, :, target], exact[place, :, target]
        maps["explainer"].append(predicted)
        maps["exact"].append(truth)
        r2 = 1 - (predicted - truth).square().sum() / (truth - truth.mean()).square().sum()
        notes.append(f"R² {r2:.2f}")
        texts.append(evaluation.caption(index, target))
    assert pipeline.explainer is not None
    shape = pipeline.explainer.grid.shape
    columns = {name: torch.stack(values).unflatten(1, shape).numpy() for name, values in maps.items()}
    return comparison(evaluation.pictures(indices[: len(texts)]), columns, texts, {"explainer": notes})
