"""Images whose prediction has more than one sufficient cause."""

from collections.abc import Sequence
from typing import Annotated

import pandas as pd
import torch
from pydantic import Field
from torch import Tensor

from fastshap_lab.components import Component, Count, in_words
from fastshap_lab.evaluation.checks.by_image import of_images
from fastshap_lab.evaluation.checks.by_method import Fraction, removed_first
from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.methods import AppliedMethod
from fastshap_lab.evaluation.pipeline import Pipeline, check_removal, removal_key
from fastshap_lab.evaluation.section import Section
from fastshap_lab.evaluation.statistics import player_values, with_intervals
from fastshap_lab.metrics import coalition_values

_COLUMNS = ("sufficient", "rest sufficient", "overdetermined")


class Overdetermined(Section):
    """Fraction of images whose prediction is the same for each of two parts that have no player in common.

    An image is overdetermined at a share if the prediction for the whole image is also that for its most important
    players up to that share, and that for all other players. Predictions of several labels must agree in all of them,
    those of a regression within its tolerance. An image is overdetermined at any share if it is at one of those tried;
    other partitions are not tried. Images with the same prediction when all players are absent are left out.

    Reference: Xie et al., ViT-CX, IJCAI 2023, arXiv:2211.03064, on causal overdetermination, which counts such images.
    The definition is ours, as theirs could not be consulted.

    Args:
        methods: Names of methods whose maps rank the players; those that are not chosen or do not apply are skipped.
        shares: Fractions of the players that are the first part, the most important ones.
        removal: How absent players are removed, a name in ``maskings.removals``.
        images: Maximum number of evaluated images.
    """

    kind = "overdetermined"
    uncounted = ("images", "methods")

    def __init__(
        self,
        methods: Sequence[str] = ("vit_cx", "grad_cam", "random"),
        shares: Annotated[Sequence[Fraction], Field(min_length=1)] = (0.1, 0.2, 0.3, 0.4, 0.5),
        removal: Component = "constant",
        images: Count = 500,
    ) -> None:
        check_removal(removal, "params.removal")
        self.methods, self.shares, self.removal, self.images = methods, shares, removal, images

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add a table."""
        rows, refused = [], []
        for pipeline in evaluation.pipelines:
            methods = evaluation.methods(pipeline)
            for method in self.methods:
                if method not in methods:
                    refused.append(f"Method {method} on {pipeline.name} is not chosen, or does not apply.")
                    continue
                found = self._of(evaluation, pipeline, methods[method])
                # (N, shares, 2)
                unchanged = found["kept"].double().masked_fill(found["empty"][:, None, None], torch.nan)
                both = unchanged.prod(dim=2)
                columns = [
                    (unchanged[:, place, 0], unchanged[:, place, 1], both[:, place])
                    for place in range(len(self.shares))
                ]
                undefined = torch.full((len(unchanged),), torch.nan)
                columns.append((undefined, undefined, both.amax(dim=1)))
                for share, found_at in zip([*self.shares, "any"], columns, strict=True):
                    row = {"model": pipeline.name, "method": method, "share": f"{share}"}
                    values = dict(zip(_COLUMNS, found_at, strict=True))
                    row |= with_intervals(values, evaluation.settings.bootstrap)
                    rows.append(row | {"images": int((~found["empty"]).sum())})
        text = (
            "Sufficient is the fraction of images whose prediction stays the same if only their most important "
            "players, up to a share of all players, are shown; rest sufficient is that fraction if only the other "
            "players are shown. Overdetermined images have both, so that two parts without a common player each "
            "suffice for the prediction; in the row any, they have both at one of the shares at least. Images with the "
            "same prediction when all players are absent are left out. Absent players are removed by "
            f"{in_words(self.removal)}. Intervals are 95 % bootstrap intervals over images."
        )
        tables = {(name, "Shares of images"): pd.DataFrame(rows)} if rows else {}
        evaluation.report.add(self.titled("Overdetermined images", name), "\n\n".join([text, *refused]), tables)

    def _of(self, evaluation: Evaluation, pipeline: Pipeline, applied: AppliedMethod) -> dict[str, Tensor]:
        """Return whether each part keeps the prediction (N, shares, 2), and whether all players absent do (N,)."""
        grid = pipeline.grid
        sizes = [min(max(1, round(share * grid.num_players)), grid.num_players - 1) for share in self.shares]
        game = pipeline.removal_game(grid, self.removal)

        def make(place: slice) -> dict[str, Tensor]:
            image = evaluation.images(evaluation.evaluated[place])
            maps = evaluation.target_maps(pipeline, applied, place)
            values = player_values(maps.unsqueeze(1), grid)[..., 0]
            most_important = [removed_first(values, size) for size in sizes]
            parts = [part for first in most_important for part in (first, ~first)]
            coalitions = torch.stack([*parts, torch.zeros_like(parts[0])], dim=1)
            outputs = coalition_values(game.values, image, coalitions, pipeline.max_batch)
            whole = pipeline.outputs[evaluation.evaluated[place]].to(outputs.device)
            unchanged = pipeline.task.right(outputs, pipeline.task.decide(whole))
            return {"kept": unchanged[:, :-1].unflatten(1, (len(sizes), 2)), "empty": unchanged[:, -1]}

        key = {"method": applied.key, "removal": removal_key(self.removal)}
        return of_images(self, evaluation, pipeline, self.images, key, make)
