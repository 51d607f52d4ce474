"""On a GPU, a training step and its batch are asked for without waiting for any result."""

from collections.abc import Callable, Iterator

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from fastshap_lab.data.loader import Batch, ImageLoader
from fastshap_lab.training import training
from tests.small_runs import executed


class NoWaiting(Callback):
    """From the second epoch on: the first one compiles."""

    steps = 0

    def on_train_batch_start(self, trainer: object, *_: object) -> None:
        if trainer.current_epoch:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, trainer: object, *_: object) -> None:
        torch.cuda.set_sync_debug_mode("default")
        NoWaiting.steps += trainer.current_epoch > 0


@pytest.mark.gpu
@pytest.mark.parametrize("loss", ["labels", "fastshap"])
def test_no_step_waits_for_the_device_and_networks_are_compiled(loss, tmp_path, monkeypatch):
    original = ImageLoader.__iter__

    def batches(self: ImageLoader) -> Iterator[Batch]:
        source = original(self)
        while True:
            torch.cuda.set_sync_debug_mode("error" if self.training else "default")
            batch = next(source, None)
            torch.cuda.set_sync_debug_mode("default")
            if batch is None:
                return
            yield batch

    monkeypatch.setattr(ImageLoader, "__iter__", batches)
    monkeypatch.setattr(training, "EpochBar", lambda *_: NoWaiting())
    monkeypatch.setattr(NoWaiting, "steps", 0)
    compiled, used = torch.compile, set()

    def compiling(forward: Callable) -> Callable:
        faster = compiled(forward)

        def noting(*given: object) -> torch.Tensor:
            if torch.is_grad_enabled():  # in training, not in validation alone
                used.add(type(forward.__self__).__name__)
            return faster(*given)

        return noting

    monkeypatch.setattr(torch, "compile", compiling)
    try:
        executed(
            *("stage=explainer", f"runs_dir={tmp_path}", "trainer.accelerator=gpu", f"explainer.loss={loss}"),
            "classifier.augment={flip: true, crop_padding: 2, policy: cifar10}",
            "surrogate.augment={rotation: 0.1}",
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert NoWaiting.steps >= 3 * 2 * 3  # of three stages, two epochs, three steps
    assert used == {"Classifier", "Surrogate", "UNetExplainer"}
