"""How well the surrogate recognizes images from which the players that matter are missing, or of which they alone show.

ROAR without the retraining: the surrogate has learned to do without players.
"""

from collections.abc import Mapping
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from fastshap_lab.evaluation.base import RANDOM, Evaluation, Pipeline
from fastshap_lab.evaluation.checks.base import Builder, Check
from fastshap_lab.evaluation.checks.by_method import (
    INTERVALS,
    Explain,
    Fraction,
    explanations,
    less_random,
    lowest_first,
    removed_first,
)
from fastshap_lab.evaluation.statistics import player_values, with_intervals
from fastshap_lab.models import ModelGame
from fastshap_lab.progress import track
from fastshap_lab.report import method_curves

_WAYS = ("deletion", "insertion")


class MaskedAccuracy(Check):
    """Accuracy of the surrogate without the players that an explanation ranks highest, and with those alone.

    Reference: Covert et al., ViT-Shapley, ICLR 2023, arXiv:2206.05282, on ROAR with a masked classifier in place of
    retraining; Hooker et al., NeurIPS 2019, arXiv:1806.10758, on the retraining.

    Args:
        fractions: Of the players removed or, in insertion, shown.
    """

    name = "masked_accuracy"

    def __init__(self, fractions: tuple[Fraction, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)) -> None:
        self.fractions = fractions

    def __call__(self, evaluation: Evaluation, methods: Mapping[str, Mapping[str, Builder]]) -> None:
        """Add tables and curves of the accuracy by method and fraction."""
        resamples = evaluation.run.config.evaluate.bootstrap
        shares = [0.0, *self.fractions, 1.0]
        rows, points, figures, refused = [], [], {}, []
        for pipeline in evaluation.pipelines:
            if pipeline.surrogate is None:
                refused.append(f"Not applicable to {pipeline.name}: no surrogate.")
                continue
            game = pipeline.game("logits", evaluation.run.config.trainer.max_batch)
            found, right = explanations(pipeline, methods[pipeline.name]), {}
            title = f"masked accuracy on {pipeline.name}"
            for name, explain in track(found.items(), title):
                make = partial(self._right, evaluation, pipeline, explain, game, shares)
                right[name] = evaluation.kept(*self.place, pipeline.name, name, "right", make=make)["right"]
            means = {name: answers[:, :, 1:-1].mean(dim=2) for name, answers in right.items()}  # (N, 2)
            for name in lowest_first({name: mean[:, 0] for name, mean in means.items()}):
                row: dict[str, str | float] = {"model": pipeline.name, "method": name}
                for way, ours, random in zip(_WAYS, means[name].T, means[RANDOM].T, strict=True):
                    row |= with_intervals({way: ours}, resamples)
                    row |= less_random(f"{way} less random", ours, random, resamples)
                rows.append(row)
            panels = {
                way: pd.DataFrame({name: answers[:, place].nanmean(dim=0) for name, answers in right.items()}, shares)
                for place, way in enumerate(_WAYS)
            }
            figure = method_curves(panels, "share of the players", "accuracy")
            figures[f"{self.name}-{pipeline.name}", pipeline.name] = figure
            for way, panel in panels.items():
                by_share = panel.T.rename(columns=lambda share: f"{share:.0%}")
                for name, accuracies in by_share.to_dict("index").items():
                    points.append({"model": pipeline.name, "method": name, "players": way} | accuracies)
        text = (
            f"Accuracy of the surrogate against the labels of {len(evaluation.judged)} images without the players "
            "that rank highest (deletion: lower is better), and with these alone (insertion: higher is better). "
            "Ranked by each method's map of the class that the classifier predicts. In the first table, means over "
            f"{', '.join(f'{fraction:.0%}' for fraction in self.fractions)} of the players. {INTERVALS}"
        )
        tables = {}
        if rows:
            tables[self.name, "Accuracy, mean over shares"] = pd.DataFrame(rows)
            tables[f"{self.name}-shares", "Accuracy by share of the players"] = pd.DataFrame(points)
        evaluation.report.add(self.titled("Masked accuracy"), "\n\n".join([text, *refused]), tables, figures)

    @staticmethod
    def _right(
        evaluation: Evaluation, pipeline: Pipeline, explain: Explain, game: ModelGame, shares: list[float]
    ) -> dict[str, Tensor]:
        """Return whether the surrogate is right (N, 2, shares) in deletion and insertion, NaN without a label."""
        image, target = evaluation.images(evaluation.judged), evaluation.classes(pipeline)[:, 0]
        values = player_values(explain(image, target).unsqueeze(1), pipeline.grid)[..., 0]
        numbers = [round(share * pipeline.grid.num_players) for share in shares]
        first = torch.stack([removed_first(values, number) for number in numbers], dim=1)  # (N, shares, P)
        answers = game.values(image, torch.cat([~first, first], dim=1)).argmax(dim=-1)
        labels = evaluation.test.labels[evaluation.judged.to(evaluation.test.device)].unsqueeze(1)
        return {"right": (answers == labels).double().masked_fill(labels < 0, torch.nan).unflatten(1, (2, -1))}
