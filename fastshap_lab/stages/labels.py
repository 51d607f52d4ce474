"""The labels stage, which evaluates the game of every training image once, for explainers to learn from."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from fastshap_lab.config import Config
from fastshap_lab.data.augment import Augment
from fastshap_lab.data.splits import ImageSplit, TensorImages
from fastshap_lab.errors import UserError
from fastshap_lab.inference import load_surrogate
from fastshap_lab.models import ModelGame
from fastshap_lab.models.freezing import frozen_copy
from fastshap_lab.progress import track
from fastshap_lab.runs.costs import Cost, Work
from fastshap_lab.runs.run import Run, Stage
from fastshap_lab.runs.store import stored
from fastshap_lab.seeding import derive_seed
from fastshap_lab.shapley import pair_design
from fastshap_lab.stages.base import kind_of, seconds_of_pass, settings_of
from fastshap_lab.stages.surrogate import untrained_game
from fastshap_lab.training.explainer import Labels

# Number of images that share a design of coalitions, which is drawn and stored once for them; with equal coalition
# sizes in all rows, maskings that drop tokens need no padding. Blocks are random, so that similar images get different
# designs.
_BLOCK = 32
_BLOCKS_PER_FILE = 16


def wanted(config: Config) -> bool:
    """Return whether the explainer learns from labels, or ``stage`` asks for them."""
    return STAGE.name in (config.stage, config.explainer.loss)


def settings(config: Config, _: str) -> dict[str, Any]:
    """Return everything that can change the result; ``_`` is the digest of the data, which the parents cover."""
    return settings_of(config, {"labels": asdict(config.explainer.labels), "link": config.explainer.link})


def check(run: Run) -> None:
    """Raise a ``UserError`` if the labels cannot be made."""
    run.data.task.check_link(run.config.explainer.link, "explainer.link")
    evaluations = run.config.explainer.labels.evaluations
    if evaluations % 2:
        raise UserError(f"explainer.labels.evaluations={evaluations}: must be even, as coalitions are drawn in pairs")


def make(run: Run) -> dict[str, float]:
    """Evaluate the game for all files that are missing, and return the number of passes that all files together need.

    Reference: Covert et al., Stochastic amortization, NeurIPS 2024, arXiv:2401.15866, whose explainers learn from
    cached noisy estimates. Differs from the paper: the evaluations are cached, not an estimate from them. An estimate
    is their least-squares fit, and a squared error against it weights all directions equally, whereas the evaluations
    weight each direction by their information about it. With many evaluations R² is 0.904 instead of 0.896 (128 of 16
    players), with few 0.74 instead of 0.70 (256 of 64 players, with the best ridge).
    """
    for _ in _kept(run):
        pass
    return {"passes": float(_passes(run))}


def work(run: Run) -> Work:
    """Return the work of a run, whose unit is the value of one coalition."""
    config, data = run.config.explainer, run.data

    def trial() -> Cost:
        game, pairs = untrained_game(run, config.link), config.labels.evaluations // 2
        of_image = 3 * math.prod(data.image_size) + 2 * pairs * data.num_classes + 4 * data.num_classes
        of_block = pairs * (game.num_players + 4)
        size = data.count("train") * (1 + config.labels.copies) * (of_image + of_block / _BLOCK)
        return Cost(_passes(run) * seconds_of_pass(game, run), round(size))

    return Work(kind_of(run, "evaluations", "copies"), _passes(run), trial, grows=True)


def _passes(run: Run) -> int:
    config = run.config.explainer.labels
    return run.data.count("train") * (1 + config.copies) * (config.evaluations + 1)


def load_labels(run: Run, device: torch.device) -> Labels:
    """Return the labels of a finished run; a file that is damaged is evaluated again.

    Args:
        run: The finished run.
        device: Device of the returned tensors.
    """
    files = list(_kept(run))
    sizes = torch.cat([file.pop("size") for file in files])
    images, *rest = (
        torch.cat([file[name] for file in files]).to(device)
        for name in ("images", "differences", "total", "coalitions", "weights")
    )
    block = torch.arange(len(sizes)).repeat_interleave(sizes).to(device)
    return Labels(TensorImages(images, torch.zeros(len(images), dtype=torch.long, device=device)), *rest, block)


def _kept(run: Run) -> Iterator[dict[str, Tensor]]:
    """Yield the labels file by file; files that are missing are evaluated and written."""
    config, train = run.config.explainer, run.data.dataset("train")
    augment = Augment(**asdict(config.labels.augment))

    @cache
    def game() -> ModelGame:
        surrogate = load_surrogate(run.parents["surrogate"].model)
        found = frozen_copy(surrogate).game(config.link, run.config.trainer.max_batch).to(run.data.device)
        return found.in_units(surrogate.task.in_units)  # half precision and a mean over classes need similar scales

    def make(copy: int, blocks: list[tuple[int, Tensor]]) -> dict[str, Tensor]:
        parts = [_labelled(run, game(), train, augment, copy, *block) for block in blocks]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    for name, copy, blocks in track(list(_files(run, len(train))), "labels"):
        path = run.folder / "labels" / f"{name}.safetensors"
        yield stored(path, f"{run.fingerprint}/labels/{name}", partial(make, copy, blocks))


def _files(run: Run, number: int) -> Iterator[tuple[str, int, list[tuple[int, Tensor]]]]:
    """Yield the name of each file, the number of its copy of the images, and its blocks (number, image indices)."""
    order = torch.randperm(number, generator=torch.Generator().manual_seed(derive_seed(run.config.seed, "labels")))
    blocks = list(enumerate(order.split(_BLOCK)))
    for copy in range(1 + run.config.explainer.labels.copies):
        for start in range(0, len(blocks), _BLOCKS_PER_FILE):
            yield f"{copy:03d}-{start // _BLOCKS_PER_FILE:05d}", copy, blocks[start : start + _BLOCKS_PER_FILE]


def _labelled(
    run: Run, game: ModelGame, train: ImageSplit, augment: Augment, copy: int, block: int, indices: Tensor
) -> dict[str, Tensor]:
    """Return the tensors of a block of ``Labels``; copy 0 are the original images, other copies are augmented."""
    config, seed = run.config.explainer.labels, run.config.seed
    images = train.images_at(indices)
    if copy:
        generator = torch.Generator().manual_seed(derive_seed(seed, "labels-augment", copy, block))
        # Images are rounded before they are evaluated, since the explainer learns from the stored uint8 images.
        images = augment(images.float() / 255, generator).mul(255).round().byte()
    design = pair_design(game.num_players, config.evaluations // 2, "kernel", derive_seed(seed, "labels", copy, block))
    asked = torch.cat([design.coalitions, ~design.coalitions]).to(images.device).expand(len(images), -1, -1)
    values, grand, null = game(images.float() / 255, asked)
    in_favour, against = values.chunk(2, dim=1)
    tensors = {
        "images": images,
        "differences": (in_favour - against).half(),
        "total": grand - null,
        "coalitions": design.coalitions.unsqueeze(0),
        "weights": design.relative_weights.float().unsqueeze(0),
        "size": torch.tensor([len(images)]),
    }
    return {name: tensor.cpu() for name, tensor in tensors.items()}


STAGE = Stage(
    "labels",
    settings,
    check,
    make,
    group="explainer",
    parents=("pretrain", "classifier", "surrogate"),
    wanted=wanted,
    work=work,
    headline={"passes": ",.0f"},
)
