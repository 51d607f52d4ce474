"""Reference Shapley values of a surrogate's game: computed once per surrogate, link and image, kept beside it."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fastshap_lab.data.splits import ImageSplit
from fastshap_lab.files import write_atomically
from fastshap_lab.models import SurrogateGame
from fastshap_lab.shapley import exact_shapley_values


def reference_order(number: int) -> Tensor:
    """Return all image indices in the fixed order in which they get references: more of them contain fewer."""
    return torch.randperm(number, generator=torch.Generator().manual_seed(0))


def exact_references(
    folder: Path, game: SurrogateGame, images: ImageSplit, indices: Sequence[int], link: str
) -> Tensor:
    """Return exact Shapley values (N, P, K) in float64, from the cache where it holds them.

    Args:
        folder: The surrogate's run folder.
        game: Of that surrogate, with that link.
        images: The test images.
        indices: Which of them.
        link: Names the cache.
    """
    values = []
    for index in track(indices, "exact Shapley values", transient=True, disable=not sys.stdout.isatty()):
        path = folder / "references" / f"test-{link}" / f"{index:06d}.safetensors"
        phi = _cached(path)
        if phi is None:
            phi = exact_shapley_values(game, images.images_at(torch.tensor([index])).float() / 255)[0].cpu()
            write_atomically(path, save({"phi": phi.contiguous()}))
        values.append(phi)
    return torch.stack(values)


def _cached(path: Path) -> Tensor | None:
    try:
        return load_file(path)["phi"]
    except (FileNotFoundError, SafetensorError):  # a damaged one is made again
        return None
