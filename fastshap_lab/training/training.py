"""The base of all trainings, whose random draws a resumed one repeats, and ``fit``, which runs a training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fastshap_lab.config import OptimConfig, TrainerConfig, TrainingConfig
from fastshap_lab.data.loader import ImageLoader
from fastshap_lab.errors import UserError
from fastshap_lab.files import is_intact, read_checkpoint
from fastshap_lab.models.foreign import is_foreign
from fastshap_lab.records import METRICS_FILE
from fastshap_lab.seeding import derive_seed
from fastshap_lab.training.callbacks import Checkpoints, EpochBar, FiniteLoss, History, Patience
from fastshap_lab.training.optim import build_optimizer
from fastshap_lab.training.trainer import build_trainer


class Training(LightningModule):
    """The base of all trainings: every random draw depends on (seed, epoch, batch, rank) alone.

    Args:
        network: Network to train.
        optim: Settings of the optimizer and its schedule.
        seed: Seed of the run.
        monitor: Validation measure that chooses the best epoch, lower is better.
    """

    def __init__(self, network: nn.Module, optim: OptimConfig, seed: int, monitor: str) -> None:
        super().__init__()
        self.network, self.optim, self.seed, self.monitor = network, optim, seed, monitor
        self.sums: dict[str, tuple[Tensor, int]] = {}

    def step_generator(self, batch_idx: int) -> torch.Generator:
        """Return the generator, on the training device, for the random draws of a training step."""
        return torch.Generator(self.device).manual_seed(self._step_seed("step", batch_idx))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed PyTorch's global generators, which dropout and similar layers draw from."""
        torch.manual_seed(self._step_seed("network", batch_idx))

    def _step_seed(self, purpose: str, batch_idx: int) -> int:
        return derive_seed(self.seed, purpose, self.current_epoch, batch_idx, self.global_rank)

    def log_epoch(self, values: dict[str, Any], batch_size: int) -> None:
        """Log means over an epoch.

        Measures of the training are summed here and logged together with the validation's. If Lightning summed them, a
        checkpoint inside the epoch would lose the sums.

        Args:
            values: Measures of the batch, by name.
            batch_size: Number of images in the batch.
        """
        if not self.trainer.training:
            self.log_dict(values, on_step=False, on_epoch=True, batch_size=batch_size, sync_dist=True)
            return
        for name, value in values.items():
            total, count = self.sums.get(name, (torch.zeros((), device=self.device), 0))
            self.sums[name] = total + value.detach() * batch_size, count + batch_size

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedule over the whole training."""
        steps, mixed = int(self.trainer.estimated_stepping_batches), "mixed" in str(self.trainer.precision)
        return build_optimizer(self.network, self.optim, steps, self.monitor, mixed)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the sums of the current epoch in the checkpoint."""
        checkpoint["sums"] = self.sums

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the sums of the current epoch from the checkpoint."""
        self.sums = checkpoint["sums"]

    def on_validation_epoch_end(self) -> None:
        """Log the training's means, and step a plateau schedule.

        Lightning would step it after the checkpoint, so that a resumed training would miss the step.
        """
        self.log_dict({name: total / count for name, (total, count) in self.sums.items()}, sync_dist=True)
        self.sums = {}
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(self.trainer.callback_metrics[self.monitor])

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step all schedules but a plateau schedule, which is stepped after validation."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()


@dataclass
class Loaders:
    """The loaders of a training.

    Attributes:
        train: Loader of the training images, on the training device.
        val: Loader of the validation images, which choose the best epoch.
    """

    train: ImageLoader
    val: ImageLoader


def fit(
    module: Training,
    loaders: Loaders,
    settings: TrainingConfig,
    folder: Path,
    trainer: TrainerConfig,
    *,
    title: str,
    key: str | None = None,
    tracker: Any = None,
    quiet: bool = False,
) -> None:
    """Run a training, from the last checkpoint if there is one, and load the best epoch's weights into the module.

    Args:
        module: Training to run.
        loaders: Loaders of its batches.
        settings: Number of epochs, optimizer and further settings.
        folder: Folder for checkpoints and curves.
        trainer: Hardware and number format.
        title: Name of the training, for its progress and for the message after an interruption.
        key: Configuration key of the settings, for error lines; the title if None.
        tracker: Open W&B run for the curves, or None.
        quiet: Whether to show no progress, for a training that is a step of longer work.

    Raises:
        UserError: The loss stopped being finite.
        Interrupted: A signal came; the last checkpoint holds the whole state.
    """
    if not is_foreign(module.network):
        module.to(memory_format=torch.channels_last)  # this layout makes convolutions faster, on CPUs and GPUs
    key = key or title
    checkpoints = Checkpoints(folder / "checkpoints", module.monitor, title)
    if not is_intact(checkpoints.last):  # the best checkpoint is useless without the last, which has its measure
        for path in (checkpoints.last, checkpoints.best):
            path.unlink(missing_ok=True)
    callbacks: list[Callback] = [FiniteLoss(key), History(folder / METRICS_FILE)]
    callbacks += [] if quiet else [EpochBar(title, module.monitor)]
    callbacks.append(checkpoints)
    if settings.patience is not None:
        callbacks.append(Patience(module.monitor, patience=settings.patience))
    lightning = build_trainer(
        trainer,
        max_epochs=settings.epochs,
        callbacks=callbacks,
        gradient_clip_val=settings.optim.clip_norm,
        logger=WandbLogger(experiment=tracker) if tracker else False,
    )
    compiled = lightning.strategy.root_device.type == "cuda"  # on CPUs, compiling takes longer than it saves
    if compiled:
        module.network.forward = torch.compile(module.network.forward)
    last = checkpoints.last if checkpoints.last.is_file() else None
    try:
        lightning.fit(module, loaders.train, loaders.val, ckpt_path=last, weights_only=True)
    except SystemExit:  # Lightning raises it after Ctrl-C
        raise KeyboardInterrupt from None
    if compiled:
        del module.network.forward
    checkpoints.end_if_asked(lightning)
    if not checkpoints.best.is_file():
        raise UserError(f"{key}: {module.monitor} was never a finite number; lower {key}.optim.lr")
    if tracker:
        tracker.summary[module.monitor] = checkpoints.best_value  # of the exported weights; sweeps compare it
    module.load_state_dict(read_checkpoint(checkpoints.best)["state_dict"])
    module.to(memory_format=torch.contiguous_format).eval()  # the layout of a loaded model, for bitwise equal outputs
