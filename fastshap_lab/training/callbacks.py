"""Callbacks of a training: checkpoints, early stopping, curves, a progress bar."""

import math
import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.plugins.io import TorchCheckpointIO

from fastshap_lab.errors import Interrupted, UserError
from fastshap_lab.files import is_intact, read_checkpoint, replacing, write_checkpoint
from fastshap_lab.progress import Progress


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoint files that appear only when they are complete and on disk, and are read only if unchanged."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a temporary file, flush it to disk, and rename it."""
        write_checkpoint(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Return a checkpoint on the CPU; it may hold tensors and plain values alone."""
        return read_checkpoint(Path(path))


class Checkpoints(Checkpoint):
    """Saves the weights of the best epoch, and the state from which a training continues after the last epoch.

    SIGINT and SIGTERM end a training after the current step, with a checkpoint inside the epoch. A signal that comes
    after an epoch's last step waits for the validation. A second signal ends the training at once.

    Lightning's ModelCheckpoint stores absolute paths, and forgets the best epoch when a run folder is moved.

    Args:
        folder: Folder of the checkpoints.
        monitor: Validation measure that chooses the best epoch, lower is better.
        stage: Name of the stage, for the message after an interruption.
    """

    def __init__(self, folder: Path, monitor: str, stage: str) -> None:
        self.best, self.last = folder / "best.ckpt", folder / "last.ckpt"
        self.monitor, self.best_value = monitor, math.inf
        self.stage, self.batch, self.signal = stage, 0, 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to continue if the best epoch so far is lost.

        Raises:
            UserError: The file of the best epoch is missing, or was changed.
        """
        if math.isfinite(self.best_value) and not is_intact(self.best):
            raise UserError(
                f"{self.best}: missing, or changed since it was written, so the weights of the best epoch are lost; "
                f"delete {self.best.parent} to train anew"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue at the step of a checkpoint inside an epoch, and let signals wait for the end of a step from now on.

        Lightning creates its iterator before it reads the checkpoint, but has not read a batch yet. After the training
        it restores the earlier signal handlers.
        """
        trainer.train_dataloader.load_state_dict({"batch": self.batch})
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a checkpoint and end the training after a signal, unless the epoch ends at this step."""
        self.batch = (batch_idx + 1) % int(trainer.num_training_batches)
        if self.signal and self.batch:
            trainer.save_checkpoint(self.last)
            self.end_if_asked(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoints after validation. A run killed between the two files repeats the epoch identically."""
        value = trainer.callback_metrics[self.monitor].item()
        if value < self.best_value:
            self.best_value = value
            trainer.save_checkpoint(self.best, weights_only=True)
        trainer.save_checkpoint(self.last)
        self.end_if_asked(trainer)

    def end_if_asked(self, trainer: Trainer) -> None:
        """Raise ``Interrupted`` after a signal; the last checkpoint holds the whole state."""
        if self.signal:
            raise Interrupted(self.signal, f"step {trainer.global_step} of the {self.stage}")

    def _note(self, number: int, _: Any) -> None:
        if self.signal:
            raise Interrupted(number)
        self.signal = number

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint stores."""
        return {"best_value": self.best_value, "batch": self.batch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state that a checkpoint has stored."""
        self.best_value, self.batch = state_dict["best_value"], state_dict["batch"]


class Patience(EarlyStopping):
    """Early stopping that also holds if a training is resumed after it was stopped."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once if the training was stopped before."""
        trainer.should_stop = self.wait_count >= self.patience


class FiniteLoss(Callback):
    """Stops a training whose loss is not finite, before a checkpoint of it is written.

    The number of the first such step is stored on the device. On a GPU it is read once per epoch, so that no step waits
    for the GPU; on a CPU it is read after every step.

    Args:
        key: Configuration key of the training's settings, for the error line.
    """

    def __init__(self, key: str) -> None:
        self.key = key

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the number of the first step whose loss was not finite."""
        self._bad = torch.full((), math.inf, device=pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the number of the first step whose loss was not finite."""
        step = torch.full_like(self._bad, trainer.global_step)
        self._bad = torch.where(outputs["loss"].detach().isfinite(), self._bad, torch.minimum(self._bad, step))
        if self._bad.device.type == "cpu":
            self._check(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the losses of the epoch before its validation."""
        self._check(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Check the losses before a checkpoint inside an epoch."""
        self._check(trainer)

    def _check(self, trainer: Trainer) -> None:
        if self._bad.isfinite():
            remains = "the checkpoint of the epoch before is kept; " if trainer.current_epoch else ""
            raise UserError(
                f"{self.key}: the loss is not a finite number at step {int(self._bad)}, epoch "
                f"{trainer.current_epoch + 1}; {remains}lower {self.key}.optim.lr or set {self.key}.optim.clip_norm"
            )


class History(Callback):
    """Writes one row of measures per epoch to a CSV file; a resumed run keeps its earlier rows.

    Args:
        path: CSV file to write.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the rows of a resumed run again, since its file may be missing."""
        if self.rows:
            self._write(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the row of the epoch; its validation is over, and its checkpoint is written after this callback."""
        values = {name: value.item() for name, value in trainer.callback_metrics.items()}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.rows.append({"epoch": len(self.rows), "lr": rate, **dict(sorted(values.items()))})
        self._write(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint stores."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state that a checkpoint has stored."""
        self.rows = state_dict["rows"]

    def _write(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            with replacing(self.path) as temporary:
                pd.DataFrame(self.rows).to_csv(temporary, index=False)


class EpochBar(Callback):
    """Shows the progress of the whole training.

    Args:
        stage: Name of the stage, shown before the progress.
        monitor: Validation measure that is shown after every epoch.
    """

    def __init__(self, stage: str, monitor: str) -> None:
        self.stage, self.monitor, self.shown = stage, monitor, ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the progress at the step at which a resumed run continues."""
        steps = (trainer.max_epochs or 0) * int(trainer.num_training_batches)
        self.progress = self.shown.enter_context(Progress(self.stage, steps, trainer.global_step))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step."""
        self.progress.advance()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the number of the epoch and its validation measure."""
        value = trainer.callback_metrics[self.monitor].item()
        self.progress.say(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {self.monitor} {value:.4f}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the progress from the terminal."""
        self.shown.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the progress from the terminal."""
        self.shown.close()
