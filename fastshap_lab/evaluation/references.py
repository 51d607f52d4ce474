"""Reference Shapley values of a surrogate's game, computed once for each surrogate, link and image, and cached."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastshap_lab.config import Config, ReferencesConfig
from fastshap_lab.data.base import Split
from fastshap_lab.errors import UserError
from fastshap_lab.models import ModelGame
from fastshap_lab.progress import track
from fastshap_lab.runs.sources import identity
from fastshap_lab.runs.store import Store, content_digest
from fastshap_lab.shapley import ESTIMATORS, Estimate, KernelSHAP, Kriging, shapley_values


@dataclass(frozen=True)
class References(Estimate):
    """Shapley values that estimates are compared with.

    Args:
        kind: How they were computed, in words, for reports.
    """

    kind: str


def reference_order(number: int) -> Tensor:
    """Return all image indices in a fixed random order; the first ones get references, however many there are."""
    return torch.randperm(number, generator=torch.Generator().manual_seed(0))


def reference_settings(config: Config, split: Split) -> list[int | float]:
    """Return the settings that decide a split's references, for fingerprints.

    Args:
        config: The whole configuration.
        split: ``val`` or ``test``.
    """
    references = config.references
    given = [getattr(references, split), getattr(references, f"{split}_evaluations")]
    return given + ([] if references.kriging_tolerance is None else [references.kriging_tolerance])


def check_references(config: Config, split: Split) -> None:
    """Raise a ``UserError`` if a split's references have too few evaluations to determine Shapley values.

    Args:
        config: The whole configuration.
        split: ``val`` or ``test``.
    """
    number, evaluations = getattr(config.references, split), getattr(config.references, f"{split}_evaluations")
    players = config.data.grid[0] * config.data.grid[1]
    designs = 1 if config.references.kriging_tolerance is None else 2
    smallest = designs * KernelSHAP.smallest_budget(players)
    if number and 2**players > evaluations and evaluations < smallest:
        exact = f", and {2**players} give exact values" if players <= 20 else ""
        raise UserError(
            f"references.{split}_evaluations={evaluations}: too few for the Shapley values of {players} players; must "
            f"be at least {smallest}{exact}"
        )
    if designs == 2 and 2**players > evaluations:
        Kriging.check_budget(players, evaluations // 2)


def reference_key(config: ReferencesConfig, split: Split, num_players: int) -> dict[str, Any]:
    """Return what references depend on beside the game and the image: the estimators and their budgets.

    Args:
        config: Settings of the references.
        split: ``val`` or ``test``.
        num_players: Number of players P.
    """
    evaluations, tolerance = getattr(config, f"{split}_evaluations"), config.kriging_tolerance
    if 2**num_players <= evaluations:
        return {"estimators": [identity(ESTIMATORS, "exact", {})]}
    names = ["kernel_shap"] + (["kriging"] if tolerance is not None else [])
    known = [identity(ESTIMATORS, name, {}) for name in names]
    return {"estimators": known, "evaluations": evaluations, "tolerance": tolerance}


def reference_values(
    store: Store,
    surrogate: str,
    game: ModelGame,
    images: Tensor,
    split: Split,
    link: str,
    config: ReferencesConfig,
) -> References:
    """Return the Shapley values of some images, from the store if it contains them.

    They are exact if the split's number of evaluations suffices for all coalitions. Otherwise they are estimated by
    KernelSHAP, whose standard errors follow from the random coalitions and assume nothing about the game. With a
    ``kriging_tolerance``, two independent designs get half of the evaluations each. The mean of their kriging estimates
    is used for an image if the estimates differ by at most this fraction of their spread (both are root mean squares
    over players and classes); its standard error then follows from their difference.

    Args:
        store: Cache of the values, with an entry for each image.
        surrogate: Digest of the surrogate's model.
        game: Game of that surrogate with that link.
        images: Images, uint8 (N, 3, H, W), on the device of the game.
        split: Split that the images are from, whose number of evaluations is used.
        link: Name of the link.
        config: Numbers of evaluations, and the tolerance of kriging.

    Raises:
        UserError: A standard error is infinite or not a number, so that the values cannot serve as references.
    """
    evaluations, tolerance = getattr(config, f"{split}_evaluations"), config.kriging_tolerance
    exact = 2**game.num_players <= evaluations
    key = {"surrogate": surrogate, "link": link} | reference_key(config, split, game.num_players)

    def make(image: Tensor) -> dict[str, Tensor]:
        image = image.float() / 255
        if exact or tolerance is None:
            found, kriged = shapley_values(game, image, "exact" if exact else "kernel_shap", budget=evaluations), False
        else:
            found, kriged = _by_two_designs(game, image, evaluations, tolerance)
        return {"phi": found.phi, "stderr": found.stderr, "kriged": torch.tensor(kriged)}

    found = []
    for number, image in enumerate(track(list(images.split(1)), f"{'exact' if exact else 'reference'} Shapley values")):
        values = store.get("references", key | {"image": content_digest(image)}, partial(make, image))
        if not values["stderr"].isfinite().all():
            raise UserError(
                f"references of {split} image {number + 1} of {len(images)}: {evaluations} evaluations do not "
                f"determine the errors of its Shapley values; raise references.{split}_evaluations, or choose another "
                "explainer.link if its game is constant"
            )
        found.append(values)
    phi, stderr = (torch.cat([values[name] for values in found]) for name in ("phi", "stderr"))
    kriged, kind = sum(bool(values["kriged"]) for values in found), "exact"
    if not exact:
        kind = f"estimated by KernelSHAP with {evaluations:,} evaluations"
    if kriged:
        kind = f"estimated by kriging for {kriged} images, where two designs agree to {tolerance:.0%}"
        kind += f", and by KernelSHAP for {len(found) - kriged} images" if kriged < len(found) else ""
    return References(phi, stderr, 2**game.num_players if exact else evaluations, kind)


def _by_two_designs(game: ModelGame, image: Tensor, evaluations: int, tolerance: float) -> tuple[Estimate, bool]:
    """Return the mean over two designs, of kriging if its estimates agree, else of KernelSHAP; and whether they do."""
    runs = [Kriging(game, image, seed) for seed in (0, 1)]
    for run in runs:
        run.advance(evaluations // 2)
    first, second = (run.estimate() for run in runs)
    phi, difference = (first.phi + second.phi) / 2, first.phi - second.phi
    spread = (phi - phi.mean(dim=1, keepdim=True)).square().mean().sqrt()
    if difference.square().mean().sqrt() <= tolerance * spread:
        # The standard error of the mean is half of the difference, taken as equal for all players of a class. It must
        # not be below the posterior one: both designs share a prior, and the difference is 0 for a class whose values
        # never change.
        posterior = (first.stderr.square() + second.stderr.square()).sqrt() / 2
        stderr = torch.maximum(difference.square().mean(dim=1, keepdim=True).sqrt() / 2, posterior)
        return Estimate(phi, stderr, evaluations), True
    first, second = (KernelSHAP.from_pairs(run).estimate() for run in runs)
    stderr = (first.stderr.square() + second.stderr.square()).sqrt() / 2
    return Estimate((first.phi + second.phi) / 2, stderr, evaluations), False
