"""An explainer's answers to picture after picture, decoded ahead by threads."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import islice

import numpy as np
import torch

from fastshap_lab.bulk.sources import Picture
from fastshap_lab.errors import UserError
from fastshap_lab.images import Resize, read_rgb, resized
from fastshap_lab.inference import AmortizedExplainer, Explanation

_AHEAD = 2  # batches that are decoded before they are explained


@dataclass(frozen=True)
class Explained:
    """Pictures that were explained together.

    Attributes:
        names: Of all of them, in order.
        errors: Why a picture could not be read, for each; None where it could.
        explanation: Of those that could be read, in order; None where none could.
    """

    names: list[str]
    errors: list[str | None]
    explanation: Explanation | None


def explained(
    explainer: AmortizedExplainer,
    pictures: Iterator[Picture],
    max_batch: int,
    refine: int = 0,
    tolerance: float | None = None,
    block: int | None = None,
) -> Iterator[Explained]:
    """Yield explanations of pictures batch by batch, in order; a few batches are in memory at a time.

    Args:
        explainer: On the device that it is to run on.
        pictures: As they are encoded; any number.
        max_batch: Pictures at once.
        refine: As for ``AmortizedExplainer.explain``.
        tolerance: The same.
        block: Pictures after which a batch ends, whether or not it is full. Then a block has the same batches,
            wherever the pictures begin, and so the same values to the last bit.

    Raises:
        UserError: As for ``AmortizedExplainer.explain``, of its arguments.
    """
    size, resize = explainer.grid.image_size, explainer.resize
    with ThreadPoolExecutor(_cores()) as threads:
        ahead: deque[tuple[list[str], list[Future[np.ndarray | str]]]] = deque()
        for batch in _batches(pictures, max_batch, block):
            futures = [threads.submit(_decoded, picture, size, resize) for picture in batch]
            ahead.append(([picture.name for picture in batch], futures))
            if len(ahead) > _AHEAD:
                yield _explained(explainer, *ahead.popleft(), max_batch, refine, tolerance)
        while ahead:
            yield _explained(explainer, *ahead.popleft(), max_batch, refine, tolerance)


def _explained(
    explainer: AmortizedExplainer,
    names: list[str],
    futures: list["Future[np.ndarray | str]"],
    max_batch: int,
    refine: int,
    tolerance: float | None,
) -> Explained:
    decoded = [future.result() for future in futures]
    pixels = [one for one in decoded if not isinstance(one, str)]
    explanation = None
    if pixels:
        explanation = explainer.explain(torch.from_numpy(np.stack(pixels)), max_batch, refine, tolerance)
    return Explained(names, [one if isinstance(one, str) else None for one in decoded], explanation)


def _batches(pictures: Iterator[Picture], size: int, block: int | None) -> Iterator[list[Picture]]:
    left = block
    while batch := list(islice(pictures, size if left is None else min(size, left))):
        yield batch
        if block is not None and left is not None:
            left = left - len(batch) or block


def _decoded(picture: Picture, size: tuple[int, int], resize: Resize) -> np.ndarray | str:
    """Return a picture as uint8 (3, H, W), or why it cannot be read."""
    content = picture.content
    try:
        return resized(read_rgb(BytesIO(content) if isinstance(content, bytes) else content), size, resize)
    except UserError as error:
        return str(error)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
