"""Accuracy of the surrogate on images without their most important players, or with these players only.

The check replaces ROAR's retraining: the surrogate has already learned to classify images with absent players.
"""

from functools import partial

import pandas as pd
import torch
from torch import Tensor

from fastshap_lab.evaluation.checks.by_method import (
    INTERVALS,
    Fraction,
    difference_from_random,
    lowest_first,
    removed_first,
)
from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.methods import AppliedMethod
from fastshap_lab.evaluation.pipeline import Pipeline
from fastshap_lab.evaluation.section import Section
from fastshap_lab.evaluation.statistics import player_values, with_intervals
from fastshap_lab.progress import track
from fastshap_lab.report import method_curves

_WAYS = ("deletion", "insertion")


class MaskedAccuracy(Section):
    """Accuracy of the surrogate without the players that an explanation ranks highest, and with these players only.

    Reference: Covert et al., ViT-Shapley, ICLR 2023, arXiv:2206.05282, on ROAR with a masked classifier in place of
    retraining; Hooker et al., NeurIPS 2019, arXiv:1806.10758, on the retraining.

    Args:
        fractions: Fractions of the players that are removed (deletion) or shown (insertion).
    """

    kind = "masked_accuracy"

    def __init__(self, fractions: tuple[Fraction, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)) -> None:
        self.fractions = fractions

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add tables and curves of the accuracy by method and fraction."""
        resamples, task = evaluation.settings.bootstrap, evaluation.data.task
        right_name = task.title(task.measure_names[0])
        shares = [0.0, *self.fractions, 1.0]
        rows, points, figures, refused = [], [], {}, []
        for pipeline in evaluation.pipelines:
            if pipeline.surrogate is None:
                refused.append(f"Not applicable to {pipeline.name}: it has no surrogate.")
                continue
            right, key = {}, evaluation.result_key(pipeline, slice(None), ("classifier", "surrogate"))
            labels = evaluation.test.labels[evaluation.evaluated.to(evaluation.test.device)]
            key |= {"labels": labels.tolist()}
            for method, applied in track(evaluation.methods(pipeline).items(), f"masked accuracy on {pipeline.name}"):
                make = partial(self._right, evaluation, pipeline, applied, labels, shares)
                right[method] = self.stored(evaluation, key | {"method": applied.key}, make)["right"]
            means = {method: answers[:, :, 1:-1].mean(dim=2) for method, answers in right.items()}  # (N, 2)
            for method in lowest_first({method: mean[:, 0] for method, mean in means.items()}):
                row: dict[str, str | float] = {"model": pipeline.name, "method": method}
                for way, ours, random in zip(_WAYS, means[method].T, means[evaluation.baseline].T, strict=True):
                    row |= with_intervals({way: ours}, resamples)
                    row |= difference_from_random(f"{way} minus random", ours, random, resamples)
                rows.append(row)
            panels = {
                way: pd.DataFrame(
                    {method: answers[:, place].nanmean(dim=0) for method, answers in right.items()}, shares
                )
                for place, way in enumerate(_WAYS)
            }
            figure = method_curves(panels, "share of the players", right_name, evaluation.baseline)
            figures[f"{name}-{pipeline.name}", pipeline.name] = figure
            for way, panel in panels.items():
                by_share = panel.T.rename(columns=lambda share: f"{share:.0%}")
                for method, accuracies in by_share.to_dict("index").items():
                    points.append({"model": pipeline.name, "method": method, "players": way} | accuracies)
        text = (
            f"The tables show the surrogate's {right_name} on {len(evaluation.evaluated)} images without the players "
            "that rank highest (deletion, lower is better), and with these players only (insertion, higher is better). "
            f"Players are ranked by each method's map of the target, {task.target_in_words}. The first table shows "
            f"means over {', '.join(f'{share:.0%}' for share in self.fractions)} of the players. {INTERVALS}"
        )
        tables = {}
        if rows:
            tables[name, f"{right_name.capitalize()}, mean over shares"] = pd.DataFrame(rows)
            tables[f"{name}-shares", f"{right_name.capitalize()} by share of the players"] = pd.DataFrame(points)
        evaluation.report.add(self.titled("Masked accuracy", name), "\n\n".join([text, *refused]), tables, figures)

    @staticmethod
    def _right(
        evaluation: Evaluation, pipeline: Pipeline, applied: AppliedMethod, labels: Tensor, shares: list[float]
    ) -> dict[str, Tensor]:
        """Return whether the surrogate is right (N, 2, shares) under deletion and insertion; NaN without a label."""
        numbers, parts = [round(share * pipeline.grid.num_players) for share in shares], []
        for _, chunk, classes in evaluation.evaluated_chunks(pipeline):
            maps = applied.explain(chunk, classes)["maps"][:, :1].to(evaluation.device)  # of the target
            values = player_values(maps, pipeline.grid)[..., 0]
            first = torch.stack([removed_first(values, number) for number in numbers], dim=1)  # (B, shares, P)
            image = chunk.images.float() / 255
            parts.append(pipeline.game("logits").values(image, torch.cat([~first, first], dim=1)))
        right, known = pipeline.task.right(torch.cat(parts), labels).double(), pipeline.task.labelled(labels)
        return {"right": right.masked_fill(~known.unsqueeze(1), torch.nan).unflatten(1, (2, -1))}
