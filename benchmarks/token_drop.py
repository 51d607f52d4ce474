"""Seconds of a training step of an explainer, with absent tokens masked by attention or left out.

python benchmarks/token_drop.py
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from tabulate import tabulate

from fastshap_lab.models import ModelGame, build_explainer, build_surrogate
from fastshap_lab.models.freezing import frozen_copy
from fastshap_lab.shapley import ShapleyKernelSampler, additive_normalization, shapley_regression_loss
from fastshap_lab.shapley.coalitions import random_coalitions

LIGHT = {"name": "vit", "params": {"patch_size": 4, "width": 384, "depth": 7, "num_heads": 12, "mlp_width": 384}}
NETWORKS = {
    "ViT-Tiny/16, 224 px, 14×14 players": (
        {"name": "timm", "params": {"model": "vit_tiny_patch16_224"}}, 224, (14, 14), 1000
    ),
    "light ViT, 32 px, 8×8 players": (LIGHT, 32, (8, 8), 10),
    "light ViT, patch 2, 32 px, 16×16 players": (
        LIGHT | {"params": LIGHT["params"] | {"patch_size": 2}}, 32, (16, 16), 10
    ),
}  # fmt: skip
STEPS = [(8, 8), (4, 32)]  # number of images, and of coalitions for each


def alternating(
    variants: dict[str, Callable[[], object]], repetitions: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Return the seconds of every repetition; variants take turns, so that a busy machine is busy for all."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for run in variants.values():
        run()
    for _ in range(repetitions):
        for name, run in variants.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return seconds


def shared_sizes(coalitions: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return coalitions of the first image's sizes for every image, in pairs of complements."""
    sizes = coalitions[:1, ::2].sum(dim=-1).expand(len(coalitions), -1)
    drawn = random_coalitions(sizes, coalitions.shape[-1], generator)
    return torch.stack([drawn, ~drawn], dim=2).flatten(1, 2)


def row(name: str, images: int, num_coalitions: int, what: str, seconds: dict[str, list[float]]) -> list[str]:
    """Return a line of the table: medians, and the ratios of medians and of minima."""
    masked, dropped = seconds["attention"], seconds["token_drop"]
    ratios = [median(masked) / median(dropped), min(masked) / min(dropped)]
    times = [f"{median(each):.3f}" for each in (masked, dropped)]
    return [name, f"{images} × {num_coalitions}", what, *times, *(f"{ratio:.2f}" for ratio in ratios)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument(
        "--cpu-time", action="store_true", help="measure CPU time of all threads, for a machine that others use, too"
    )
    parser.add_argument(
        "--networks", nargs="+", type=int, default=list(range(len(NETWORKS))), help="indices of the networks, from 0"
    )
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    lines = []
    for name, (network, size, grid, num_classes) in [list(NETWORKS.items())[i] for i in arguments.networks]:
        half = {"mean": [0.5] * 3, "std": [0.25] * 3}
        described = {**network, "image_size": [size, size], "num_classes": num_classes, **half}
        surrogates = {masking: build_surrogate(described, masking, grid) for masking in ("attention", "token_drop")}
        surrogates["token_drop"].load_state_dict(surrogates["attention"].state_dict())
        games = {masking: frozen_copy(surrogate).game() for masking, surrogate in surrogates.items()}
        explainer = build_explainer("vit", {"backbone": network}, [size, size], num_classes, **half, grid=grid)
        explainer.start_from(surrogates["attention"].classifier.network)
        optimizer = torch.optim.AdamW(explainer.parameters(), lr=1e-5)
        generator = torch.Generator().manual_seed(0)
        for images, num_coalitions in STEPS:
            image = torch.rand(images, 3, size, size, generator=generator)
            sampler = ShapleyKernelSampler(grid[0] * grid[1])
            own, weights = sampler(images, num_coalitions, generator, image.device)
            shared = shared_sizes(own, generator)

            def step(
                game: ModelGame,
                image: torch.Tensor = image,
                coalitions: torch.Tensor = own,
                weights: torch.Tensor = weights,
                explainer: torch.nn.Module = explainer,
                optimizer: torch.optim.Optimizer = optimizer,
            ) -> None:
                values, grand, null = game(image, coalitions)
                phi = additive_normalization(explainer(image), grand, null)
                optimizer.zero_grad()
                shapley_regression_loss(phi, coalitions, values, null, weights).backward()
                optimizer.step()

            def train(surrogate: torch.nn.Module, image: torch.Tensor = image, coalitions: torch.Tensor = own) -> None:
                surrogate(image, coalitions).logsumexp(dim=-1).mean().backward()
                surrogate.zero_grad()

            work: dict[str, Callable[..., object]] = {
                "values, sizes per image": lambda game, x=image, s=own: game.values(x, s),
                "values, sizes shared": lambda game, x=image, s=shared: game.values(x, s),
                "values and grand": lambda game, x=image, s=own: game(x, s),
                "explainer's step": step,
            }
            for what, run in work.items():
                seconds = alternating(
                    {m: lambda g=g, f=run: f(g) for m, g in games.items()}, arguments.repetitions, clock
                )
                lines.append(row(name, images, num_coalitions, what, seconds))
            for surrogate in surrogates.values():
                surrogate.train()
            trained = {masking: lambda s=s: train(s) for masking, s in surrogates.items()}
            lines.append(
                row(
                    name, images, num_coalitions, "surrogate's step", alternating(trained, arguments.repetitions, clock)
                )
            )
    headers = ["network", "images × coalitions", "what", "attention, s", "token_drop, s", "ratio", "of the fastest"]
    kind = "processor seconds" if arguments.cpu_time else "seconds"
    print(
        f"{torch.get_num_threads()} threads, PyTorch {torch.__version__}, {kind}, {arguments.repetitions} repetitions\n"
    )
    print(tabulate(lines, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
