"""What happens around the steps of a training: checkpoints, early stopping, curves, a progress bar."""

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
    """Checkpoints appear under their name only when complete and on disk, and are read only if unchanged."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write beside, fsync, rename."""
        write_checkpoint(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Read to the CPU, tensors and plain values alone."""
        return read_checkpoint(Path(path))


class Checkpoints(Checkpoint):
    """Keep the weights of the best epoch, and all that it takes to go on after the last one.

    SIGINT and SIGTERM end a training after the step that is being made, with a checkpoint inside the epoch. A signal
    that comes after an epoch's last step waits for its validation. The second signal ends it at once.

    Lightning's ModelCheckpoint remembers absolute paths, and forgets the best epoch where a run folder was moved.

    Args:
        folder: Folder of the checkpoints.
        monitor: Validation measure that chooses the best epoch, lower is better.
        stage: Name of the stage, for those who interrupt it.
    """

    def __init__(self, folder: Path, monitor: str, stage: str) -> None:
        self.best, self.last = folder / "best.ckpt", folder / "last.ckpt"
        self.monitor, self.best_value = monitor, math.inf
        self.stage, self.batch, self.signal = stage, 0, 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to go on without the best epoch, which no later one can bring back.

        Raises:
            UserError: Its file is missing, or was changed.
        """
        if math.isfinite(self.best_value) and not is_intact(self.best):
            raise UserError(
                f"{self.best}: missing, or changed since it was written, and with it the weights of the best epoch; "
                f"delete {self.best.parent} to train anew"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin where a checkpoint inside an epoch ended, and from now on let a signal wait for the end of a step.

        Lightning makes its iterator, which has read nothing yet, before it reads the checkpoint. When it ends, it puts
        back the handlers that were there before it.
        """
        trainer.train_dataloader.load_state_dict({"batch": self.batch})
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write and end where a signal came, unless the epoch ends here, too."""
        self.batch = (batch_idx + 1) % int(trainer.num_training_batches)
        if self.signal and self.batch:
            trainer.save_checkpoint(self.last)
            self.end_if_asked(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write, after validation. A run killed between the two files repeats the epoch, and writes the same ones."""
        value = trainer.callback_metrics[self.monitor].item()
        if value < self.best_value:
            self.best_value = value
            trainer.save_checkpoint(self.best, weights_only=True)
        trainer.save_checkpoint(self.last)
        self.end_if_asked(trainer)

    def end_if_asked(self, trainer: Trainer) -> None:
        """Raise ``Interrupted`` where a signal came; the last checkpoint holds everything."""
        if self.signal:
            raise Interrupted(self.signal, f"step {trainer.global_step} of the {self.stage}")

    def _note(self, number: int, _: Any) -> None:
        if self.signal:
            raise Interrupted(number)
        self.signal = number

    def state_dict(self) -> dict[str, Any]:
        """Go with the checkpoint."""
        return {"best_value": self.best_value, "batch": self.batch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Come back with it."""
        self.best_value, self.batch = state_dict["best_value"], state_dict["batch"]


class Patience(EarlyStopping):
    """Early stopping that also holds when its checkpoint is resumed after the stop."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once where an earlier run had already stopped."""
        trainer.should_stop = self.wait_count >= self.patience


class FiniteLoss(Callback):
    """Stop a training whose loss is not a finite number, before a checkpoint of it is written.

    The first bad step is kept on the device and read once per epoch there, so that a GPU is never waited for in a step;
    on a CPU it is read at once.

    Args:
        key: Of the training's settings, which the error names.
    """

    def __init__(self, key: str) -> None:
        self.key = key

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start without a bad step."""
        self._bad = torch.full((), math.inf, device=pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember the first step whose loss was not finite."""
        step = torch.full_like(self._bad, trainer.global_step)
        self._bad = torch.where(outputs["loss"].detach().isfinite(), self._bad, torch.minimum(self._bad, step))
        if self._bad.device.type == "cpu":
            self._check(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before validation."""
        self._check(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look before a checkpoint inside an epoch."""
        self._check(trainer)

    def _check(self, trainer: Trainer) -> None:
        if self._bad.isfinite():
            kept = "the checkpoint of the epoch before is kept; " if trainer.current_epoch else ""
            raise UserError(
                f"{self.key}: the loss is not a finite number at step {int(self._bad)}, epoch "
                f"{trainer.current_epoch + 1}; {kept}lower {self.key}.optim.lr or set {self.key}.optim.clip_norm"
            )


class History(Callback):
    """One row of measures per epoch in a CSV file; a resumed run keeps the rows it had."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write again what a resumed run had: it may be resumed because the file is gone."""
        if self.rows:
            self._write(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch: its validation is over, and its checkpoint comes after all callbacks of this kind."""
        values = {name: value.item() for name, value in trainer.callback_metrics.items()}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.rows.append({"epoch": len(self.rows), "lr": rate, **dict(sorted(values.items()))})
        self._write(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Go with the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Come back with it."""
        self.rows = state_dict["rows"]

    def _write(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            with replacing(self.path) as temporary:
                pd.DataFrame(self.rows).to_csv(temporary, index=False)


class EpochBar(Callback):
    """The progress of the whole training.

    Args:
        stage: Name of the stage, printed before the progress.
        monitor: Validation measure that is printed after every epoch.
    """

    def __init__(self, stage: str, monitor: str) -> None:
        self.stage, self.monitor, self.shown = stage, monitor, ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start at the epoch a resumed run is at."""
        steps = (trainer.max_epochs or 0) * int(trainer.num_training_batches)
        self.progress = self.shown.enter_context(Progress(self.stage, steps, trainer.global_step))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance."""
        self.progress.advance()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how good it is."""
        value = trainer.callback_metrics[self.monitor].item()
        self.progress.say(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {self.monitor} {value:.4f}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave no trace."""
        self.shown.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no trace."""
        self.shown.close()
