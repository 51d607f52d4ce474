"""Reference Shapley values of a surrogate's game: computed once per surrogate, link and image, kept beside it."""

import sys
from collections.abc import Sequence
from functools import partial

import torch
from rich.progress import track
from torch import Tensor

from fastshap_lab.data.base import Split
from fastshap_lab.models import ModelGame
from fastshap_lab.shapley import Estimate, shapley_values
from fastshap_lab.stages.runs import Run


def reference_order(number: int) -> Tensor:
    """Return all image indices in the fixed order in which they get references: more of them contain fewer."""
    return torch.randperm(number, generator=torch.Generator().manual_seed(0))


def reference_values(
    surrogate: Run, game: ModelGame, split: Split, indices: Sequence[int], link: str, evaluations: int
) -> Estimate:
    """Return the Shapley values of some images, from the cache where it holds them.

    Exact where that takes no more than ``evaluations`` of each image, else by KernelSHAP, with standard errors.

    Args:
        surrogate: Its run, in whose folder they are kept.
        game: Of that surrogate, with that link.
        split: Of the data.
        indices: Of the images in it.
        link: Names the cache.
        evaluations: Coalitions to evaluate of each image.
    """
    exact = 2**game.num_players <= evaluations
    folder, estimator = f"{split}-{link}-{'exact' if exact else evaluations}", "exact" if exact else "kernel_shap"
    images, found = surrogate.data.dataset(split), []

    def make(index: int) -> dict[str, Tensor]:
        image = images.images_at(torch.tensor([index])).float() / 255
        estimate = shapley_values(game, image, estimator, budget=evaluations)
        return {"phi": estimate.phi, "stderr": estimate.stderr}

    title = f"{'exact' if exact else 'reference'} Shapley values"
    for index in track(indices, title, transient=True, disable=not sys.stdout.isatty()):
        found.append(surrogate.kept("references", folder, f"{index:06d}", make=partial(make, index)))
    phi, stderr = (torch.cat([values[name] for values in found]) for name in ("phi", "stderr"))
    return Estimate(phi, stderr, 2**game.num_players if exact else evaluations)
