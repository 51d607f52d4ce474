"""Cost and accuracy of Shapley values of a masked ViT, by estimator and library.

    python benchmarks/estimators.py
    python benchmarks/estimators.py --grid 8 --budgets 256 512 1024 2048 4096
    pip install captum    # optional; shapiq comes with the tests' dependencies

All estimators have the same game: a small ViT with random weights, which are scaled until its outputs depend on the
image, attention masking of absent patches, and softmax. Our estimators evaluate a coalition once for all classes. The
other libraries explain one output of one image at a time, as they are designed to, and get their coalitions in batches
as large as they allow. The first table has, for equal budgets of evaluations for each explained class, the number of
all evaluations, the seconds, and R² over players, averaged over images and classes (against exact values for up to 16
players, else against ``leverage`` with 32 times the largest budget). The second table has the seconds to reach a given
R², at the first budget that reaches it. All numbers are for one image with all classes, and means over seeds.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

import numpy as np
import shapiq
import torch
from tabulate import tabulate
from torch import Tensor

from fastshap_lab.models import ModelGame, build_surrogate
from fastshap_lab.models.freezing import frozen_copy
from fastshap_lab.shapley import ESTIMATORS, exact_shapley_values, shapley_values

try:
    from captum.attr import KernelShap, ShapleyValueSampling
except ImportError:
    KernelShap = None

# Function from an image (C, H, W), a class, a budget and a seed to the values of the players.
Single = Callable[["Counted", Tensor, int, int, int], np.ndarray]


class Counted:
    """A game that counts the coalitions it evaluates."""

    def __init__(self, game: ModelGame) -> None:
        self.game, self.num_players, self.evaluations = game, game.num_players, 0

    def values(self, image: Tensor, coalitions: Tensor) -> Tensor:
        """Return the value of each coalition."""
        self.evaluations += coalitions.shape[:2].numel()
        return self.game.values(image, coalitions)

    def grand(self, image: Tensor) -> Tensor:
        """Return the value when every player is present."""
        return self._end(image, True)

    def null(self, image: Tensor) -> Tensor:
        """Return the value when no player is present."""
        return self._end(image, False)

    def _end(self, image: Tensor, present: bool) -> Tensor:
        return self.values(image, torch.full((len(image), 1, self.num_players), present)).squeeze(1)


@dataclass(frozen=True)
class Result:
    """Results of an estimator with a budget, means over images."""

    name: str
    budget: int
    evaluations: float
    seconds: float
    r2: float


def vit_game(grid: int, num_classes: int, scale: float, seed: int) -> ModelGame:
    """Return the game of a ViT with one patch for each player."""
    torch.manual_seed(seed)
    network = {
        "name": "vit",
        "params": {"patch_size": 4, "width": 96, "depth": 4, "num_heads": 4, "mlp_width": 192},
        "image_size": [4 * grid, 4 * grid],
        "num_classes": num_classes,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    }
    surrogate = build_surrogate(network, "attention", [grid, grid])
    for parameter in surrogate.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=scale / math.sqrt(parameter[0].numel()))
    return frozen_copy(surrogate).game()


def with_shapiq(approximator: Callable[[int, int], shapiq.approximator.Approximator]) -> Single:
    """Return a function that explains one class with an approximator of shapiq."""

    def explain(game: Counted, image: Tensor, target: int, budget: int, seed: int) -> np.ndarray:
        def value(coalitions: np.ndarray) -> np.ndarray:
            asked = torch.from_numpy(np.atleast_2d(coalitions).astype(bool))
            return game.values(image[None], asked[None])[0, :, target].numpy()

        # All permutations are one batch; the default of 5 would only cost more passes.
        found = approximator(game.num_players, seed).approximate(budget, value, batch_size=budget)
        return np.array([found[(player,)] for player in range(game.num_players)])

    return explain


def with_captum(method: Callable[[Callable[[Tensor], Tensor]], object], cost: Callable[[int], int]) -> Single:
    """Return how a method of captum explains one class; a sample of it takes ``cost(P)`` evaluations."""

    def explain(game: Counted, image: Tensor, target: int, budget: int, seed: int) -> np.ndarray:
        torch.manual_seed(seed)  # captum draws from the global generators
        np.random.seed(seed)  # noqa: NPY002
        found = method(lambda present: game.values(image[None], present[None] > 0.5)[0]).attribute(
            torch.ones(
                1, game.num_players
            ),  # the players are the inputs, since its masking of pixels would be another game
            baselines=0,
            target=target,
            feature_mask=torch.arange(game.num_players)[None],
            n_samples=max(1, budget // cost(game.num_players)),
            perturbations_per_eval=512,
        )
        return found[0].numpy()

    return explain


def rivals() -> dict[str, Single]:
    """Return the other libraries' estimators, those that are installed."""
    kernel, order = shapiq.KernelSHAP, shapiq.PermutationSamplingSV
    found = {
        "shapiq KernelSHAP": with_shapiq(lambda n, seed: kernel(n, random_state=seed)),
        "shapiq KernelSHAP, paired": with_shapiq(lambda n, seed: kernel(n, pairing_trick=True, random_state=seed)),
        "shapiq PermutationSamplingSV": with_shapiq(lambda n, seed: order(n, random_state=seed)),
    }
    if KernelShap is None:
        print("captum is not installed and left out: pip install captum")
    else:
        found["captum KernelShap"] = with_captum(KernelShap, lambda players: 1)
        found["captum ShapleyValueSampling"] = with_captum(ShapleyValueSampling, lambda players: players)
    return found


def r2(phi: Tensor, exact: Tensor) -> float:
    """Return R² over players, per image and class, then averaged."""
    spread = (exact - exact.mean(dim=1, keepdim=True)).square().sum(dim=1)
    return float((1 - (phi - exact).square().sum(dim=1) / spread).mean())


def measure(
    name: str, explain: Callable[[int], Tensor], game: Counted, exact: Tensor, budget: int, seeds: int
) -> Result:
    """Run once to warm up and then once for each seed."""
    explain(seeds)
    game.evaluations, seconds, quality = 0, [], []
    for seed in range(seeds):
        start = time.perf_counter()
        phi = explain(seed)
        seconds.append(time.perf_counter() - start)
        quality.append(r2(phi, exact))
    images = len(exact)
    return Result(name, budget, game.evaluations / seeds / images, mean(seconds) / images, mean(quality))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=int, default=4, help="players on a side: 4 makes 16, 8 makes 64")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--budgets", type=int, nargs="+", default=[64, 128, 256, 512, 1024, 2048])
    parser.add_argument("--targets", type=float, nargs="+", default=[0.8, 0.9, 0.95, 0.99])
    parser.add_argument("--scale", type=float, default=2.0, help="factor of the random weights")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    game = Counted(vit_game(options.grid, options.classes, options.scale, seed=0))
    image = torch.rand(
        options.images, 3, 4 * options.grid, 4 * options.grid, generator=torch.Generator().manual_seed(0)
    )
    if game.num_players <= 16:
        exact, source = exact_shapley_values(game, image), "exact"
    else:
        reference = shapley_values(game, image, "leverage", budget=32 * max(options.budgets), seed=-1)
        exact, noise = reference.phi, float((reference.stderr.square().mean(dim=1) / reference.phi.var(dim=1)).mean())
        source = f"a longer run; its own error takes about {noise:.1e} from every R²"
    spread = float((exact.amax(dim=1) - exact.amin(dim=1)).mean())
    print(
        f"{game.num_players} players, {options.images} images, {options.classes} classes, {options.threads} threads; "
        f"values spread over {spread:.3f} on average; reference: {source}\n"
    )

    results = []
    for budget in options.budgets:
        for name in [name for name in ESTIMATORS if name != "exact"]:

            def ours(seed: int, name: str = name, budget: int = budget) -> Tensor:
                return shapley_values(game, image, name, budget=budget, seed=seed).phi

            results.append(measure(name, ours, game, exact, budget, options.seeds))
        for name, single in rivals().items():

            def theirs(seed: int, single: Single = single, budget: int = budget) -> Tensor:
                phi = [[single(game, one, k, budget, seed) for k in range(options.classes)] for one in image]
                return torch.from_numpy(np.array(phi)).double().transpose(1, 2)

            results.append(measure(name, theirs, game, exact, budget, options.seeds))
    rows = [[found.budget, found.name, round(found.evaluations), found.seconds, found.r2] for found in results]
    print(tabulate(rows, ["budget", "estimator", "evaluations", "seconds", "R²"], tablefmt="github", floatfmt=".3f"))

    rows = []
    for name in dict.fromkeys(found.name for found in results):
        own = [found for found in results if found.name == name]
        rows.append([name, *(next((one.seconds for one in own if one.r2 >= goal), None) for goal in options.targets)])
    header = ["seconds until R²", *(f"≥ {goal}" for goal in options.targets)]
    print("\n" + tabulate(rows, header, tablefmt="github", floatfmt=".3f", missingval="–"))


if __name__ == "__main__":
    main()
