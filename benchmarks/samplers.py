"""Noise of the gradient that an explainer learns from, by the sampler of its coalitions, at equal cost.

    python train.py stage=surrogate
    python train.py stage=surrogate data.grid=[8,8]
    python benchmarks/samplers.py runs/surrogate/<run>/model runs/surrogate/<other run>/model

It needs surrogates of the digits. For the first table, a UNet explainer is trained for a few epochs and then fixed, and
coalitions are drawn many times for one batch of images. Variances are traces of covariance matrices relative to
``kernel``: of the gradient of the batch's loss by all parameters, and of an image's gradient by the network's outputs
(mean over images), ± the standard error from quarters of the draws. For the second table, an explainer is trained with
each sampler. It has the loss on validation images with the same coalitions for all, and R² against exact values of test
images (up to 16 players): means over seeds ± the standard deviation between them.
"""

import argparse
import time

import torch
from tabulate import tabulate
from torch import Tensor

from fastshap_lab.data import DATASETS
from fastshap_lab.inference import load_surrogate
from fastshap_lab.metrics.shapley_error import shapley_error_sums, shapley_errors
from fastshap_lab.models import ModelGame
from fastshap_lab.models.explainers import UNetExplainer
from fastshap_lab.models.freezing import frozen_copy
from fastshap_lab.shapley import (
    SAMPLERS,
    Sampler,
    additive_normalization,
    exact_shapley_values,
    shapley_regression_loss,
)

CPU = torch.device("cpu")


def generator(seed: int) -> torch.Generator:
    """Return a seeded generator."""
    return torch.Generator().manual_seed(seed)


def train(
    game: ModelGame, images: Tensor, sampler: Sampler, num_coalitions: int, epochs: int, seed: int
) -> UNetExplainer:
    """Return an explainer trained as ``explainer=unet_slim`` says, over fewer epochs."""
    torch.manual_seed(seed)
    statistics = [images.mean(dim=(0, 2, 3)).tolist(), images.std(dim=(0, 2, 3)).tolist()]
    network = UNetExplainer(
        game.masking.players, len(game.null(images[:1])[0]), *statistics, channels=(16, 64, 128, 128)
    )
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.05)
    steps = len(images) // 128
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * steps, pct_start=0.25)
    random = generator(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=random).split(128)[:steps]:
            coalitions, weights = sampler(len(rows), num_coalitions, random, CPU)
            values, grand, null = game(images[rows], coalitions)
            phi = additive_normalization(network(images[rows]), grand, null)
            optimizer.zero_grad()
            shapley_regression_loss(phi, coalitions, values, null, weights).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return network.eval()


def gradients(
    game: ModelGame, network: UNetExplainer, images: Tensor, sampler: Sampler, num_coalitions: int, draws: int
) -> tuple[Tensor, Tensor]:
    """Return the loss's gradient over parameters (draws, N), and each image's over its outputs (draws, B, P, K)."""
    grand, null, raw = game.grand(images), game.null(images), network(images)
    parameters, random = list(network.parameters()), generator(0)
    of_parameters, of_outputs = [], []
    for _ in range(draws):
        coalitions, weights = sampler(len(images), num_coalitions, random, CPU)
        outputs = raw.detach().requires_grad_()
        phi = additive_normalization(outputs, grand, null)
        loss = shapley_regression_loss(phi, coalitions, game.values(images, coalitions), null, weights)
        [slope] = torch.autograd.grad(loss, outputs)
        of_network = torch.autograd.grad(raw, parameters, slope, retain_graph=True)
        of_parameters.append(torch.cat([gradient.flatten() for gradient in of_network]))
        of_outputs.append(len(images) * slope)
    return torch.stack(of_parameters), torch.stack(of_outputs)


def total_variance(gradient: Tensor) -> Tensor:
    """Return the trace of the covariance over draws (the first axis), from four parts of the draws: (4,)."""
    return torch.stack([part.var(dim=0).sum() for part in gradient.chunk(4)])


def variances(game: ModelGame, images: Tensor, arguments: argparse.Namespace) -> list[list[str]]:
    """Return the rows of the first table."""
    network = train(game, images, SAMPLERS["paired"](game.num_players), 8, arguments.start, seed=0)
    batch, rows = images[: arguments.batch], []
    for num_coalitions in arguments.coalitions:
        reference = None
        for name, constructor in SAMPLERS.items():
            start = time.perf_counter()
            parts = gradients(game, network, batch, constructor(game.num_players), num_coalitions, arguments.draws)
            traces = torch.stack([total_variance(part) for part in parts])  # (2, 4)
            reference = traces.mean(dim=1, keepdim=True) if reference is None else reference
            traces = traces / reference
            cells = [f"{part.mean():.3f} ± {part.std() / 2:.3f}" for part in traces]
            rows.append([str(game.num_players), str(num_coalitions), name, *cells])
            print(*rows[-1], f"{time.perf_counter() - start:.0f} s", flush=True)
    return rows


def trainings(game: ModelGame, images: dict[str, Tensor], arguments: argparse.Namespace) -> list[list[str]]:
    """Return the rows of the second table."""
    coalitions, ones = SAMPLERS["paired"](game.num_players)(len(images["val"]), 128, generator(0), CPU)
    values, grand, null = game(images["val"], coalitions)
    test = images["test"][:16]
    exact = exact_shapley_values(game, test) if game.num_players <= 16 else None
    rows = []
    for num_coalitions in arguments.coalitions:
        for name, constructor in SAMPLERS.items():
            losses, scores = [], []
            for seed in arguments.seeds:
                sampler = constructor(game.num_players)
                network = train(game, images["train"], sampler, num_coalitions, arguments.epochs, seed)
                with torch.no_grad():
                    phi = additive_normalization(network(images["val"]), grand, null)
                    losses.append(shapley_regression_loss(phi, coalitions, values, null, ones).item())
                    if exact is not None:
                        of_test = game.grand(test), game.null(test)
                        sums = shapley_error_sums(additive_normalization(network(test), *of_test), exact, *of_test)
                        scores.append(shapley_errors(sums.sum(dim=(0, 1)))["r2"].item())
            cells = [_mean(losses), _mean(scores) if scores else "–"]
            rows.append([str(game.num_players), str(num_coalitions), name, *cells])
            print(*rows[-1], flush=True)
    return rows


def _mean(values: list[float]) -> str:
    numbers = torch.tensor(values)
    return f"{numbers.mean():.4f} ± {numbers.std():.4f}" if len(values) > 1 else f"{numbers.mean():.4f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("surrogates", nargs="+", help="model folders of surrogates of the digits")
    parser.add_argument("--coalitions", type=int, nargs="+", default=[8, 32], help="M, coalitions per image")
    parser.add_argument("--batch", type=int, default=32, help="images whose gradients are measured")
    parser.add_argument(
        "--draws", type=int, default=200, help="number of draws of coalitions for each variance; 0: no first table"
    )
    parser.add_argument("--start", type=int, default=5, help="epochs of the explainer whose gradients are measured")
    parser.add_argument("--epochs", type=int, default=15, help="epochs of the trainings; 0: no second table")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    arguments = parser.parse_args()
    noise, ends = [], []
    for folder in arguments.surrogates:
        game = frozen_copy(load_surrogate(folder)).game()
        data = DATASETS["digits"](image_size=game.masking.players.image_size)
        images = {split: data.load(split).images.float() / 255 for split in ("train", "val", "test")}
        if arguments.draws:
            noise += variances(game, images["train"], arguments)
        if arguments.epochs:
            ends += trainings(game, images, arguments)
    print(tabulate(noise, ["players", "M", "sampler", "variance over parameters", "over outputs"], "github"))
    print(tabulate(ends, ["players", "M", "sampler", "validation loss", "R²"], "github"))


if __name__ == "__main__":
    main()
