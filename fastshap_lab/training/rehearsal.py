"""Rehearsals: a few timed steps of a training, from which its duration is estimated."""

import time
import warnings
from collections.abc import Iterator

import torch

from fastshap_lab.config import TrainerConfig, TrainingConfig
from fastshap_lab.data.loader import Batch, ImageLoader
from fastshap_lab.models.foreign import is_foreign
from fastshap_lab.training.trainer import build_trainer
from fastshap_lab.training.training import Training

_PROBED = 8  # number of images in the first two steps, which tell whether there is time for whole batches
_LONG = 8.0  # seconds; if a whole batch seems to take longer (small batches overestimate it), it is not tried
_SECONDS, _STEPS, _MIN_STEPS = 0.7, 10, 3  # time limit, largest and smallest number of steps with whole batches


class _Enough(Exception):
    """Signal that enough steps are timed."""


class _Timed:
    """Yields batches of a loader until the time is over; a step is timed from one batch to the next.

    Attributes:
        seconds: Duration of a step with a whole batch.
    """

    batch_sampler = sampler = None

    def __init__(self, loader: ImageLoader) -> None:
        self.loader, self.seconds = loader, 0.0

    def __len__(self) -> int:
        return 1_000_000  # more steps than there is time for

    def __iter__(self) -> Iterator[Batch]:
        whole = len(next(iter(self.loader))["image"])
        probe = ImageLoader(self.loader.data, min(_PROBED, whole), training=True, augment=self.loader.augment)
        for _ in range(2):  # the first step is slower, since it allocates and compiles
            start = _now()
            yield next(iter(probe))
            self.seconds = (_now() - start) * whole / min(_PROBED, whole)
        end, steps = _now() + _SECONDS, list[float]()
        while self.seconds < _LONG and len(steps) < _STEPS and (_now() < end or len(steps) < _MIN_STEPS):
            start = _now()
            yield next(iter(self.loader))
            steps.append(_now() - start)
        if steps:
            self.seconds = min(steps)  # other work on the machine only makes steps slower
        raise _Enough


def seconds_of_step(module: Training, loader: ImageLoader, settings: TrainingConfig, trainer: TrainerConfig) -> float:
    """Return the duration of a training step in seconds, measured in about a second.

    Args:
        module: Training to measure, which must not be used afterwards.
        loader: Loader with batches of the training's size; the images may be random.
        settings: Settings of the training.
        trainer: Hardware and number format.
    """
    if not is_foreign(module.network):
        module.to(memory_format=torch.channels_last)
    timed = _Timed(loader)
    rehearsal = build_trainer(
        trainer,
        max_epochs=1,
        limit_val_batches=0,
        enable_checkpointing=False,
        gradient_clip_val=settings.optim.clip_norm,
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*no `val_dataloader`.*")
            rehearsal.fit(module, timed)
    except _Enough:
        return timed.seconds
    raise RuntimeError("the rehearsal ended early")


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
