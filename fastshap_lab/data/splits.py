"""Splits of a data set, whose images are in memory or are decoded when they are needed."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import torch
from torch import Tensor

NO_LABEL = -100  # cross-entropy ignores this label
VOID = 255  # value of pixels that may or may not belong to the object
MAX_IN_STATISTICS = 50_000  # number of images whose means are exact to about a thousandth


class ImageSplit(ABC):
    """Images with labels, by index.

    Attributes:
        labels: Labels, int64 (N,), or float32 (N, K) where the task is not ``multiclass``, on the device that images
            are needed on; ``NO_LABEL`` where an image has none.
        image_size: Height and width in pixels.
        region: Function from an index to the region of the image's object, uint8 (H, W): 1 for its pixels, 0 for
            others, ``VOID`` where an annotation leaves it open. None if the regions are not known.
    """

    labels: Tensor
    image_size: tuple[int, int]
    region: Callable[[int], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Device of the labels, which images are returned on, too."""
        return self.labels.device

    @abstractmethod
    def to(self, device: torch.device) -> "ImageSplit":
        """Return the split on another device."""

    @abstractmethod
    def blocks(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the images, uint8 (B, 3, H, W), on ``device``, for each tensor of indices (B,) in turn."""

    def images_at(self, indices: Tensor) -> Tensor:
        """Return the images with the given indices (B,), uint8 (B, 3, H, W), on ``device``."""
        [images] = self.blocks([indices])
        return images

    @property
    def has_regions(self) -> bool:
        """Whether the regions of objects are known."""
        return self.region is not None

    def regions_at(self, indices: Tensor) -> Tensor | None:
        """Return the regions of objects in the given images, uint8 (B, H, W), on ``device``; None if not known.

        Raises:
            UserError: An annotation cannot be read.
        """
        if self.region is None:
            return None
        regions = torch.empty(len(indices), *self.image_size, dtype=torch.uint8)
        for place, index in enumerate(indices.tolist()):
            regions[place] = torch.from_numpy(self.region(index))
        return regions.to(self.device)

    def pixel_statistics(self) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation of each channel, in [0, 1].

        At most the first 50,000 images are used; they are a random sample, as training images are shuffled.
        """
        indices = torch.arange(min(len(self), MAX_IN_STATISTICS)).split(256)
        counts = torch.zeros(3, 256, dtype=torch.float64)
        for images in self.blocks(indices):
            counts += torch.stack(
                [torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)]
            ).cpu()
        levels = torch.arange(256, dtype=torch.float64) / 255
        shares = counts / counts.sum(dim=1, keepdim=True)
        mean = shares @ levels
        variance = shares @ levels.square() - mean.square()
        return mean.tolist(), variance.clamp_min(1e-6).sqrt().tolist()  # a constant channel must not divide by zero


@dataclass(frozen=True)
class TensorImages(ImageSplit):
    """A split whose images are one tensor on the device.

    Attributes:
        images: Images, uint8 (N, 3, H, W); grey images have three equal channels.
        labels: As in ``ImageSplit``.
        region: As in ``ImageSplit``.
    """

    images: Tensor
    labels: Tensor
    region: Callable[[int], np.ndarray] | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return tuple(self.images.shape[2:])

    def to(self, device: torch.device) -> "TensorImages":
        """Return the split on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def blocks(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield copies of the images for each tensor of indices."""
        for part in indices:
            yield self.images[part.to(self.device, non_blocking=True)]


@dataclass(frozen=True)
class StreamedImages(ImageSplit):
    """A split whose images are decoded by threads while earlier ones are in use; ``ahead + 1`` blocks are in memory.

    Threads suffice, since Pillow releases Python's lock while it decodes and resizes; unlike processes, they need no
    pickling, copying or forking. Their number changes no image.

    Attributes:
        decode: Function from an index to an image, uint8 (3, H, W); several threads call it at the same time.
        labels: As in ``ImageSplit``.
        image_size: Height and width in pixels.
        workers: Number of threads.
        ahead: Number of blocks that are decoded in advance.
        region: As in ``ImageSplit``.
    """

    decode: Callable[[int], np.ndarray]
    labels: Tensor
    image_size: tuple[int, int]
    workers: int
    ahead: int = 2
    region: Callable[[int], np.ndarray] | None = None

    def to(self, device: torch.device) -> "StreamedImages":
        """Return the split on another device."""
        return replace(self, labels=self.labels.to(device))

    def blocks(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the blocks in the order of ``indices``.

        Raises:
            UserError: An image of the next block cannot be read.
        """
        threads, begun = ThreadPoolExecutor(self.workers), deque[tuple[np.ndarray, list[Future[None]]]]()
        try:
            for part in indices:
                begun.append(self._begin(threads, part.tolist()))
                if len(begun) > self.ahead:
                    yield self._finished(*begun.popleft())
            while begun:
                yield self._finished(*begun.popleft())
        finally:  # also if the caller stops the iteration
            for _, shares in begun:
                for share in shares:
                    share.cancel()
            threads.shutdown()

    def _begin(self, threads: ThreadPoolExecutor, part: list[int]) -> tuple[np.ndarray, list[Future[None]]]:
        """Start decoding a block, in equal shares for all threads; return the block and the futures of the shares."""
        block = np.empty((len(part), 3, *self.image_size), np.uint8)

        def decode(places: range) -> None:
            for place in places:
                block[place] = self.decode(part[place])

        share = max(1, ceil(len(part) / self.workers))
        places = range(len(part))
        return block, [threads.submit(decode, places[first : first + share]) for first in places[::share]]

    def _finished(self, block: np.ndarray, shares: list[Future[None]]) -> Tensor:
        for share in shares:
            share.result()
        return torch.from_numpy(block).to(self.device)
