"""Images per second of the classifier stage's training, against a plain PyTorch loop.

    python benchmarks/training.py
    python benchmarks/training.py <folder of CIFAR-10 as parquet files>

The stage is ``fit`` as ``train.py`` calls it: images are on the device, are augmented there in batches, and are
channels-last. The plain loop reads images one at a time as torchvision's CIFAR10 does, augments them with torchvision's
transforms in two worker processes, and has PyTorch's default layout. Both have the same images, network, batches,
optimizer and schedule. Seconds are medians over epochs without validation and without the first epoch. Losses are those
of the last epoch, and should be about the same.
"""

import argparse
import os
import time
from statistics import median
from tempfile import TemporaryDirectory

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as ``train.py`` sets it, for both

from fastshap_lab import _timm  # noqa: F401 - makes torchvision importable

# isort: split
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tabulate import tabulate
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from fastshap_lab.compose import compose
from fastshap_lab.config import Config
from fastshap_lab.runs.plan import plan
from fastshap_lab.runs.run import Run
from fastshap_lab.stages import STAGES
from fastshap_lab.stages.base import fit_run, network_description
from fastshap_lab.training.classifier import ClassifierTraining
from fastshap_lab.training.optim import build_optimizer
from fastshap_lab.training.trainer import device_of

NETWORKS = {"resnet18": 128, "resnet_slim": 2048, "vit": 128}  # default numbers of images in an epoch, for a CPU


class TimedTraining(ClassifierTraining):
    """The stage's training, which records seconds (without validation) and loss of each epoch."""

    def on_train_epoch_start(self) -> None:
        """Start the clock."""
        self.seconds: list[float] = [*getattr(self, "seconds", []), -now(self.device)]

    def on_validation_start(self) -> None:
        """Stop it."""
        self.seconds[-1] += now(self.device)
        total, count = self.sums["train/loss"]
        self.loss, self.count = float(total) / count, count


class Pictures(Dataset):
    """Images one at a time, as torchvision's CIFAR10 holds them."""

    def __init__(self, images: Tensor, labels: Tensor, transform: transforms.Compose) -> None:
        self.data, self.targets = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy()), labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return an image and its label."""
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


def now(device: torch.device) -> float:
    """Return the time after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def planned(network: str, precision: str, folder: str, arguments: argparse.Namespace) -> Run:
    """Return the run of a classifier stage."""
    images = arguments.images or NETWORKS[network]
    policy = "cifar10" if network == "vit" else "none"
    words = [
        *("stage=classifier", f"classifier={network}", f"runs_dir={folder}", f"trainer.precision={precision}"),
        *(f"classifier.epochs={arguments.epochs}", f"classifier.batch_size={arguments.batch}"),
        f"classifier.augment={{flip: true, crop_padding: 4, padding_mode: zeros, policy: {policy}}}",
    ]
    if arguments.folder:
        limit = int(images / 0.9)  # a tenth is for validation
        words += ["data=hub", f"data.params.path={arguments.folder}", f"data.params.limit_train={limit}"]
    else:
        words += ["data=synthetic", f"data.params.num_train={images}", "data.params.num_val=64"]

    def again(choices: dict[str, str], further: list[str]) -> Config:
        return compose([*(f"{group}={choice}" for group, choice in choices.items()), *further, *words])

    config = compose(words)
    [run] = plan(config, again, STAGES, device_of(config.trainer))
    return run


def by_stage(run: Run) -> tuple[list[float], int, float]:
    """Return the seconds of each epoch, the images in it, and the last one's loss."""
    config = run.config.classifier
    mean, std = run.data.dataset("train").pixel_statistics()
    torch.manual_seed(0)
    network = network_description(run, config, {"mean": mean, "std": std}).build()
    training = TimedTraining(network, config, seed=0)
    fit_run(run, training, config, "classifier")
    return training.seconds, training.count, training.loss


def by_plain_loop(run: Run) -> tuple[list[float], int, float]:
    """Return seconds, number of images and last loss for the plain loop."""
    config, train = run.config.classifier, run.data.dataset("train")
    device, mixed = train.device, run.config.trainer.precision != "32-true"
    mean, std = train.pixel_statistics()
    changes = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    if config.augment.policy == "cifar10":
        changes.append(transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10))
    transform = transforms.Compose([*changes, transforms.ToTensor(), transforms.Normalize(mean, std)])
    loader = DataLoader(
        Pictures(train.images_at(torch.arange(len(train))).cpu(), train.labels.cpu(), transform),
        batch_size=config.batch_size,
        shuffle=True,
        drop_last=True,  # as the stage does
        num_workers=2,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )
    torch.manual_seed(0)
    network = network_description(run, config).build().network.to(device).train()
    built = build_optimizer(network, config.optim, config.epochs * len(loader), "loss", mixed)
    optimizer, scheduler = built["optimizer"], built["lr_scheduler"]["scheduler"]
    seconds = []
    for _ in range(config.epochs):
        start, total, count = now(device), 0.0, 0
        for image, label in loader:
            image, label = image.to(device, non_blocking=True), label.to(device, non_blocking=True)
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                loss = F.cross_entropy(network(image), label, label_smoothing=config.label_smoothing)
            loss.backward()
            if config.optim.clip_norm:
                torch.nn.utils.clip_grad_norm_(network.parameters(), config.optim.clip_norm)
            optimizer.step()
            scheduler.step()
            total, count = total + loss.item() * len(image), count + len(image)
        seconds.append(now(device) - start)
    return seconds, count, total / count


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="folder of CIFAR-10's parquet files; generated images without it")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"])
    parser.add_argument(
        "--images", type=int, help="number of images in an epoch, for every network; on a GPU all 45000"
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    rows = []
    for network in arguments.networks:
        for precision in arguments.precisions:
            with TemporaryDirectory() as folder:
                run = planned(network, precision, folder, arguments)
                (ours, count, loss), (plain, plain_count, plain_loss) = by_stage(run), by_plain_loop(run)
            if count != plain_count:
                raise SystemExit(f"{network}: {count} images an epoch against {plain_count}")
            speeds = [count / median(seconds[1:]) for seconds in (ours, plain)]
            figures = [f"{speeds[0]:.0f}", f"{speeds[1]:.0f}", f"{speeds[0] / speeds[1]:.2f}"]
            rows.append([network, precision, count, *figures, f"{loss:.3f}", f"{plain_loss:.3f}"])
    header = ["network", "precision", "images per epoch", "stage, images/s", "plain loop", "ratio", "loss", "plain"]
    print(tabulate(rows, header, "github", disable_numparse=True))


if __name__ == "__main__":
    main()
