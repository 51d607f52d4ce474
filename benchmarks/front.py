r"""Accuracy of estimators of Shapley values by their evaluations: ours and those of other libraries, on the same games.

    python benchmarks/front.py --output front.csv                             # games given by formulas
    python benchmarks/front.py --output front.csv --games --surrogates runs/surrogate/<run>/model runs/.../model@8x8
    python benchmarks/front.py --output front.csv --efficientnet tf_efficientnet_lite0.safetensors --images 2
    python benchmarks/front.py --output front.csv --tables                    # prints tables of an existing file

Every method gets 4, 8, 16 and 32 evaluations per player, and the grand and null values. Other libraries count these two
as part of a budget, so their budget is larger by two; the file has the number of evaluations. Libraries that explain
one output at a time are called for every class with the same seed and the full budget; values of coalitions that repeat
are remembered, as a model with many outputs would compute them together. Our estimators explain all images in one call.
The file has a line for each image and method, which is appended when it is measured. Existing lines are not measured
again, so another ``--truth`` needs another file. Own time is the time outside of the game; for one class, preparations
for all classes are left out. A method whose own time exceeds ``--limit`` seconds for an image (and class) is recorded
as a miss, and is skipped for larger budgets of that game.

The games are below. Ten classes are explained, or only the first (the most probable one of a network):

- random: random networks with two hidden layers of 64 tanh units, 16 players and softmax over 10 outputs; exact.
- majority: players have 1 to 8 random votes each, and the value is 1 if more than half of all votes are present. The
  probability that a player is pivotal is a polynomial in its arrival time, and is integrated exactly.
- unanimity: sums of 4P terms. Each is a normal random number that counts if a random group of 1 to 5 players is present
  as a whole; its members have equal shares.
- surrogates: as trained, or with ``@rows x columns`` the same network with other players. References are exact for up
  to 16 players, else by ``stratified``, which is unbiased, with ``--truth`` evaluations; their errors are in the file.
- EfficientNet-Lite0 on photographs of scikit-image, with 14×14 players, grey absent players, and the ten most probable
  classes.

The benchmark needs an environment of its own, with the project's dependencies (constraints.txt, but for its shapiq),
captum, shap, lightgbm, xgboost, gpytorch, botorch, linear_operator, and shapiq 1.8, which needs Python 3.12. To
install it on 3.11: ``pip download --no-deps --no-binary :all: --ignore-requires-python shapiq==1.8.0``, unpack, and

    sed -i 's/requires-python = ">=3.12"/requires-python = ">=3.11"/' pyproject.toml
    sed -i -E '/^from typing import/s/, override//; /^from typing import/a from typing_extensions import override' \
        src/shapiq/explainer/nn/{knn,weighted_knn,threshold_nn}.py
    sed -i -E 's/^( +)type (\w+) = /\1\2 = /' src/shapiq/tree/conversion/{lightgbm,catboost}.py
    SETUPTOOLS_SCM_PRETEND_VERSION=1.8.0 pip install .

Set OMP_NUM_THREADS=1 for own times that can be compared.
"""

import argparse
import itertools
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import shap
import shapiq
import skimage.data
import torch
from captum.attr import KernelShap, ShapleyValueSampling
from estimators import Counted, Single, with_captum, with_shapiq
from lightgbm import LGBMRegressor
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from fastshap_lab.checkpoints import fill, read_spec, read_state
from fastshap_lab.components import build
from fastshap_lab.data import DATASETS
from fastshap_lab.evaluation.references import reference_order
from fastshap_lab.files import read_tensors, sha256, write_tensors
from fastshap_lab.images import to_tensor
from fastshap_lab.inference import load_surrogate
from fastshap_lab.models import ModelGame, build_surrogate
from fastshap_lab.models.freezing import frozen_copy
from fastshap_lab.models.specs import SurrogateSpec
from fastshap_lab.seeding import derive_seed
from fastshap_lab.shapley import ESTIMATORS, shapley_values

CLASSES = 10
FIELDS = [
    *("game", "players", "classes", "budget", "method", "seed", "image", "batch"),  # what identifies a line
    *("r2", "mse", "variance", "truth_error", "own_seconds", "pass_seconds", "evaluations", "miss"),
]
KEY = FIELDS[:8]

# Function from a meter of one image, a budget, a seed and a limit in seconds to values (P, K).
Peer = Callable[["Meter", int, int, float], np.ndarray]


class TimeUp(BaseException):
    """A call exceeded its time limit. It is no ``Exception``, which the called code might catch."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise ``TimeUp`` in the block after a number of seconds, without the time in a game."""

    def stop(*_: object) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # repeats each second, as foreign code may swallow one
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Meter(Counted):
    """A game on fixed images that counts evaluations, measures time, and evaluates no coalition twice.

    Args:
        game: Game whose values have all classes.
        image: Images of the game (B, C, H, W), which are used whatever image a method passes.
        classes: Explained classes of each image (B, K); values of the first ``shown`` of them are returned.
    """

    def __init__(self, game: ModelGame, image: Tensor, classes: Tensor) -> None:
        super().__init__(game)
        self.image, self.classes, self.shown, self.seconds = image, classes, classes.shape[1], 0.0
        self._place: dict[bytes, int] = {}
        self._table = torch.empty(len(image), 0, classes.shape[1], dtype=torch.float64)

    def values(self, image: Tensor, coalitions: Tensor) -> Tensor:
        """Return the values (B, M, K) of coalitions (B, M, P), the same for all images."""
        left, again = signal.setitimer(signal.ITIMER_REAL, 0)
        start, asked = time.perf_counter(), coalitions[0].cpu()
        size = asked.sum(dim=1)
        self.evaluations += int(((size > 0) & (size < self.num_players)).sum())
        keys = [row.tobytes() for row in np.packbits(asked.numpy(), axis=1)]
        new = {key: row for row, key in enumerate(keys) if key not in self._place}
        if new:
            fresh = asked[list(new.values())].to(self.image.device).expand(len(self.image), -1, -1)
            known = self.game.values(self.image, fresh).cpu().double()
            self._place.update({key: len(self._place) + number for number, key in enumerate(new)})
            self._table = torch.cat([self._table, known.take_along_dim(self.classes.unsqueeze(1), dim=2)], dim=1)
        found = self._table[:, [self._place[key] for key in keys], : self.shown]
        self.seconds += time.perf_counter() - start
        if again:
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3), again)
        return found


class Formulas:
    """Games that need no network: an image is the number of one, and the seed of what is drawn for it."""

    def __init__(self, num_players: int) -> None:
        self.num_players = num_players

    def values(self, image: Tensor, coalitions: Tensor) -> Tensor:
        """Return the values (B, M, K) of coalitions (B, M, P)."""
        pairs = zip(image.flatten().tolist(), coalitions.double(), strict=True)
        return torch.stack([self.value(int(number), own) for number, own in pairs])

    def value(self, number: int, coalitions: Tensor) -> Tensor:
        """Return the values (M, K) of coalitions (M, P), ones and zeros, in one of the games."""
        raise NotImplementedError

    def shapley(self, number: int) -> Tensor | None:
        """Return the Shapley values (P, K) of one of the games, if there is a formula."""
        return None

    def generator(self, number: int) -> torch.Generator:
        """Return the generator of what is drawn for one of the games."""
        return torch.Generator().manual_seed(derive_seed(type(self).__name__, self.num_players, number))


class RandomNetwork(Formulas):
    """The game ``random``."""

    def value(self, number: int, coalitions: Tensor) -> Tensor:
        """Return the values (M, K) of coalitions (M, P)."""
        generator, state = self.generator(number), 2 * coalitions - 1
        for width in (64, 64, CLASSES):
            weight = torch.randn(state.shape[1] + 1, width, generator=generator, dtype=torch.float64)
            state = (2.5 / math.sqrt(state.shape[1]) * state @ weight[1:] + weight[0]).tanh()
        return (2.5 * state).softmax(dim=1)


class Majority(Formulas):
    """The game ``majority``."""

    def votes(self, number: int) -> Tensor:
        """Return the votes (P, K) of the players."""
        return torch.randint(1, 9, (self.num_players, CLASSES), generator=self.generator(number)).double()

    def value(self, number: int, coalitions: Tensor) -> Tensor:
        """Return the values (M, K) of coalitions (M, P)."""
        votes = self.votes(number)
        return (coalitions @ votes > votes.sum(dim=0) / 2).double()

    def shapley(self, number: int) -> Tensor:
        """Return the Shapley values (P, K).

        Where each other player is present with probability t, the votes present have a known characteristic function,
        and the integral over t of the probability that the player tips the scales is its value: a polynomial of degree
        P - 1, for which Gauss-Legendre's nodes are exact.
        """
        nodes, weights = np.polynomial.legendre.leggauss(self.num_players // 2 + 1)
        present = (nodes[:, None] + 1) / 2
        phi = np.zeros((self.num_players, CLASSES))
        for k, votes in enumerate(self.votes(number).numpy().T.astype(int)):
            total, counts = int(votes.sum()), np.bincount(votes, minlength=9)
            turn = np.exp(-2j * np.pi * np.arange(total + 1) / (total + 1))
            for own in np.unique(votes):
                others = counts - (np.arange(9) == own)
                factors = [(1 - present + present * turn**size) ** count for size, count in enumerate(others)]
                chance = np.fft.ifft(math.prod(factors), axis=1).real  # (nodes, votes present)
                needed = total // 2 + 1
                tips = chance[:, max(needed - own, 0) : needed].sum(axis=1)
                phi[votes == own, k] = weights @ tips / 2
        return torch.from_numpy(phi)


class Unanimity(Formulas):
    """The game ``unanimity``."""

    def terms(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the members (T, P) of each group, ones and zeros, and what it is worth (T, K)."""
        generator, terms = self.generator(number), 4 * self.num_players
        size = torch.randint(1, 6, (terms, 1), generator=generator)
        rank = torch.rand(terms, self.num_players, generator=generator).argsort(dim=1).argsort(dim=1)
        return (rank < size).double(), torch.randn(terms, CLASSES, generator=generator, dtype=torch.float64)

    def value(self, number: int, coalitions: Tensor) -> Tensor:
        """Return the values (M, K) of coalitions (M, P)."""
        members, worth = self.terms(number)
        return (coalitions @ members.T == members.sum(dim=1)).double() @ worth

    def shapley(self, number: int) -> Tensor:
        """Return the Shapley values (P, K)."""
        members, worth = self.terms(number)
        return members.T @ (worth / members.sum(dim=1, keepdim=True))


FORMULAS: dict[str, type[Formulas]] = {"random": RandomNetwork, "majority": Majority, "unanimity": Unanimity}


@dataclass(frozen=True)
class Case:
    """A game with the images it is played on, and the classes of each (B, K), the first of which is explained alone."""

    name: str
    game: ModelGame | Formulas
    image: Tensor
    classes: Tensor

    def meter(self, images: slice = slice(None)) -> Meter:
        """Return the game on some of the images."""
        return Meter(self.game, self.image[images], self.classes[images])


def formula(name: str, num_players: int, images: int) -> Case:
    """Return games given by a formula."""
    classes = torch.arange(CLASSES).expand(images, -1)
    return Case(name, FORMULAS[name](num_players), torch.arange(images).double().view(-1, 1, 1, 1), classes)


def network(name: str, game: ModelGame, image: Tensor, device: str) -> Case:
    """Return the game of a network, on its most probable classes."""
    game, image = game.to(device), image.to(device)
    grand = game.grand(image).cpu()
    return Case(name, game, image, grand.argsort(dim=1, descending=True)[:, :CLASSES])


def trained(source: str, images: int, device: str) -> Case:
    """Return the game of a surrogate's model folder, with ``@8x8`` asked about 8×8 players."""
    folder, _, grid = source.partition("@")
    surrogate = load_surrogate(folder)
    if grid:
        spec = read_spec(folder, SurrogateSpec).surrogate
        regridded = replace(spec, grid=[int(side) for side in grid.split("x")]).build()
        regridded.load_state_dict(surrogate.state_dict())
        surrogate = regridded.eval()
    config = OmegaConf.load(Path(folder).parent / "config.yaml")
    data = build(DATASETS, "data", config.data.name, OmegaConf.to_container(config.data.params))
    test = data.dataset("test")
    image = test.images_at(reference_order(len(test))[:images]).float() / 255
    name = f"{config.data.name}, asked about other players" if grid else config.data.name
    return network(name, frozen_copy(surrogate).game(), image, device)


def efficientnet(weights: Path, images: int, device: str) -> Case:
    """Return the game of an ImageNet classifier that sees absent players as grey."""
    names, half = ("astronaut", "chelsea", "coffee", "rocket"), [0.5, 0.5, 0.5]
    inner = {"name": "timm", "params": {"model": "tf_efficientnet_lite0"}, "image_size": [224, 224]}
    surrogate = build_surrogate(inner | {"num_classes": 1000, "mean": half, "std": half}, "zero", [14, 14])
    fill(surrogate.classifier.network, read_state(weights), weights)
    photographs = [Image.fromarray(getattr(skimage.data, name)()) for name in names[:images]]
    image = to_tensor(photographs, (224, 224)).float()
    return network("EfficientNet-Lite0", frozen_copy(surrogate).game(max_batch=64), image, device)


def truth(case: Case, folder: Path, evaluations: int) -> tuple[Tensor, Tensor]:
    """Return Shapley values (B, P, K) of the classes that are explained, and their standard errors."""
    if isinstance(case.game, Formulas) and case.game.shapley(0) is not None:
        phi = torch.stack([case.game.shapley(int(number)) for number in case.image.flatten()])
        return phi, torch.zeros_like(phi)
    players, found = case.game.num_players, []
    how, budget = ("exact", 2**players) if players <= 16 else ("stratified", evaluations)
    for number in range(len(case.image)):
        path = folder / f"{case.name}-{players}-{how}-{budget}-{number}.safetensors"
        meter, image = case.meter(slice(number, number + 1)), torch.zeros(1, 1, 1, 1)
        identity = sha256(meter.grand(image).numpy().tobytes())
        if (values := read_tensors(path, identity)) is None:
            estimate = shapley_values(meter, image, how, budget=budget, seed=10**6)
            values = {"phi": estimate.phi.contiguous(), "stderr": estimate.stderr.contiguous()}
            write_tensors(path, values, identity)
        found.append(values)
    return torch.cat([one["phi"] for one in found]), torch.cat([one["stderr"] for one in found])


@dataclass(frozen=True)
class ByClass:
    """A method that explains one class, asked about all of them."""

    single: Single

    def __call__(self, meter: Meter, budget: int, seed: int, limit: float) -> np.ndarray:
        """Explain the image of a meter."""
        phi = []
        for target in range(meter.shown):
            with limited(limit):
                phi.append(self.single(meter, meter.image[0], target, budget, seed))
        return np.stack(phi, axis=1)


def ends_included(single: Single) -> Single:
    """Return a method that counts grand and null among its budget, with a budget of all others."""
    return lambda game, image, target, budget, seed: single(game, image, target, budget + 2, seed)


def with_polyshap(game: Counted, image: Tensor, target: int, budget: int, seed: int) -> np.ndarray:
    """Explain one class by PolySHAP with its paper's frontier for many players.

    P log P terms of order 3, or a quarter of the evaluations where that is less. Order 2 is left out, since pairs of
    complements bring it along: KernelSHAP on pairs is PolySHAP of order 2.

    Reference: Fumagalli et al., ICLR 2026, arXiv:2601.18608, theorem 5.1, and section 4 on partial frontiers.
    """
    players = game.num_players
    terms = max(players + 1, min(1 + players + int(players * math.log(players)), budget // 4))
    frontier = {"max_order": 3, "sizes_to_exclude": {2}, "max_terms": terms, "pairing_trick": True}
    return with_shapiq(lambda n, state: shapiq.approximator.PolySHAP(n, random_state=state, **frontier))(
        game, image, target, budget, seed
    )


def with_shap(method: Callable[[Callable[[np.ndarray], np.ndarray], int, int], np.ndarray]) -> Peer:
    """Return a function that explains all classes with a method of shap, which gets the game, P and the budget."""

    def explain(meter: Meter, budget: int, seed: int, limit: float) -> np.ndarray:
        np.random.seed(seed)  # noqa: NPY002  # shap draws from the global generator

        def value(present: np.ndarray) -> np.ndarray:
            return meter.values(meter.image, torch.from_numpy(present > 0.5)[None])[0].numpy()

        with limited(limit):
            phi = method(value, meter.num_players, budget)
        return np.reshape(phi, (meter.num_players, meter.shown))

    return explain


def _shap_kernel(value: Callable[[np.ndarray], np.ndarray], players: int, budget: int) -> np.ndarray:
    explainer = shap.KernelExplainer(value, np.zeros((1, players)))
    # Without its selection of ten features, which is meant for pictures of explanations.
    return explainer.shap_values(np.ones((1, players)), nsamples=budget, l1_reg=False, silent=True)


def _shap_permutation(value: Callable[[np.ndarray], np.ndarray], players: int, budget: int) -> np.ndarray:
    explainer = shap.PermutationExplainer(value, shap.maskers.Independent(np.zeros((1, players))))
    pairs = budget // (2 * players - 2)  # of orders; it counts three evaluations of the ends more for each
    return explainer(np.ones((1, players)), max_evals=pairs * (2 * players + 1), batch_size=budget, silent=True).values


def _shap_sampling(value: Callable[[np.ndarray], np.ndarray], players: int, budget: int) -> np.ndarray:
    explainer = shap.SamplingExplainer(value, np.zeros((1, players)))
    # A sample of it is two evaluations.
    return explainer.shap_values(np.ones((1, players)), nsamples=budget // 2, min_samples_per_feature=2, silent=True)


def peers() -> dict[str, Peer]:
    """Return the other libraries' estimators."""
    libraries = shapiq.approximator

    def light(seed: int) -> LGBMRegressor:  # its own choice of threads knows nothing of OMP_NUM_THREADS
        return LGBMRegressor(random_state=seed, n_jobs=torch.get_num_threads(), verbose=-1)

    approximators: dict[str, Callable[[int, int], shapiq.approximator.Approximator]] = {
        "OddSHAP": lambda n, seed: libraries.OddSHAP(n, random_state=seed),
        "ProxySHAP": lambda n, seed: libraries.ProxySHAP(
            n, max_order=1, index="SV", adjustment=True, random_state=seed
        ),
        "ProxySHAP, LightGBM": lambda n, seed: libraries.ProxySHAP(
            n, max_order=1, index="SV", adjustment=True, proxy_model=light(seed), random_state=seed
        ),
        "RegressionMSR": lambda n, seed: libraries.RegressionMSR(n, index="SV", random_state=seed),
        "ShaplEIG": lambda n, seed: libraries.ShaplEIG(n, show_progress=False, random_state=seed),
        "SVARM": lambda n, seed: libraries.SVARM(n, random_state=seed),
        "LeverageSHAP": lambda n, seed: libraries.LeverageSHAP(n, random_state=seed),
        "KernelSHAP, paired": lambda n, seed: libraries.KernelSHAP(n, pairing_trick=True, random_state=seed),
        "PermutationSamplingSV": lambda n, seed: libraries.PermutationSamplingSV(n, random_state=seed),
    }
    found = {f"shapiq {name}": ByClass(ends_included(with_shapiq(make))) for name, make in approximators.items()}
    found["shapiq PolySHAP"] = ByClass(ends_included(with_polyshap))
    found["captum KernelShap"] = ByClass(ends_included(with_captum(KernelShap, lambda players: 1)))
    found["captum ShapleyValueSampling"] = ByClass(with_captum(ShapleyValueSampling, lambda players: players - 1))
    found["shap KernelExplainer"] = with_shap(_shap_kernel)
    found["shap PermutationExplainer"] = with_shap(_shap_permutation)
    found["shap SamplingExplainer"] = with_shap(_shap_sampling)
    return found


OURS = [name for name in ESTIMATORS if name != "exact"]
PEERS = peers()
ONE_CLASS_ONLY = {"shapiq ShaplEIG"}  # chooses one coalition at a time, seconds to minutes for each image and class


class Table:
    """The file of results, with the lines that it has already."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(",".join(FIELDS) + "\n")
        text = path.read_text()
        if not text.endswith("\n"):  # the last run was killed while it wrote a line
            path.write_text(text[: text.rfind("\n") + 1])
        lines = self.frame()
        self._known = {tuple(map(str, key)) for key in lines[KEY].itertuples(index=False)}
        late = lines[lines["miss"].eq("time")]
        self._late = {tuple(map(str, key)) for key in late[KEY[:5]].itertuples(index=False)}

    def frame(self) -> pd.DataFrame:
        """Return all lines."""
        return pd.read_csv(self.path, dtype={"miss": str}, keep_default_na=False, na_values=["nan"])

    def has(self, key: dict[str, object]) -> bool:
        """Return whether a line is there."""
        return tuple(str(key[name]) for name in KEY) in self._known

    def too_slow(self, key: dict[str, object]) -> bool:
        """Return whether the method has missed as large or a smaller budget of the game."""
        game, players, classes, budget, method = (str(key[name]) for name in KEY[:5])
        return any(
            late[:3] == (game, players, classes) and late[4] == method and int(late[3]) <= int(budget)
            for late in self._late
        )

    def add(self, lines: list[dict[str, object]]) -> None:
        """Append lines."""
        with self.path.open("a") as file:
            file.write(pd.DataFrame(lines, columns=FIELDS).to_csv(header=False, index=False, na_rep="nan"))
        for line in lines:
            self._known.add(tuple(str(line[name]) for name in KEY))
            if line["miss"] == "time":
                self._late.add(tuple(str(line[name]) for name in KEY[:5]))


def ask(method: str, meter: Meter, budget: int, seed: int, limit: float) -> Tensor:
    """Return what a method says of a meter's images, (B, P, K).

    Raises:
        TimeUp: It has taken longer than ``limit`` seconds for an image, and class where it explains one at a time.
    """
    if method in PEERS:
        return torch.from_numpy(PEERS[method](meter, budget, seed, limit)).double().unsqueeze(0)
    image = torch.zeros(len(meter.image), 1, 1, 1)
    with limited(limit * len(image)):
        return shapley_values(meter, image, method, budget=budget, seed=seed).phi


def play(
    case: Case, found: tuple[Tensor, Tensor], method: str, seed: int, budgets: list[int], limit: float, table: Table
) -> None:
    """Add the lines of one method and seed on one game that are not there."""
    number, players, (phi, stderr) = len(case.image), case.game.num_players, found
    # Each game has draws of its own: designs that are remembered from another would cost no time.
    draw = derive_seed(case.name, players, seed) % 2**31
    shown = [case.classes.shape[1], 1] if method not in ONE_CLASS_ONLY else [1]
    for images in [slice(None)] if method in OURS else [slice(one, one + 1) for one in range(number)]:
        numbers = range(number)[images]
        for budget, classes in itertools.product(budgets, dict.fromkeys(shown)):
            if classes == shown[0]:  # all classes come first, and pay for the passes
                meter = case.meter(images)
            about = {"game": case.name, "players": players, "classes": classes, "budget": budget, "method": method}
            lines = [about | {"seed": seed, "image": one, "batch": len(numbers), "miss": ""} for one in numbers]
            if all(table.has(line) for line in lines):
                continue
            if table.too_slow(about):
                table.add([line | {"miss": "time"} for line in lines])
                continue
            meter.shown, meter.evaluations, meter.seconds, start = classes, 0, 0.0, time.perf_counter()
            try:
                values = ask(method, meter, budget, draw, limit)
                seconds = time.perf_counter() - start - meter.seconds
                if not values.isfinite().all():
                    raise ArithmeticError("values are not finite")
            except TimeUp:
                table.add([line | {"miss": "time"} for line in lines])
                continue
            except Exception as error:  # an error of another library counts as a miss
                reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                table.add([line | {"miss": reason} for line in lines])
                continue
            calls = classes if isinstance(PEERS.get(method), ByClass) else 1
            for line, one, value in zip(lines, numbers, values, strict=True):
                true, error = phi[one, :, :classes], stderr[one, :, :classes]
                line["mse"] = (value - true).square().mean().item()
                line["variance"] = true.var(correction=0).item()
                line["r2"] = 1 - line["mse"] / line["variance"]
                line["truth_error"] = error.square().mean().item()
                line["own_seconds"], line["pass_seconds"] = seconds / len(lines), meter.seconds / len(lines)
                line["evaluations"] = meter.evaluations / calls
            table.add(lines)


def pooled(lines: pd.DataFrame) -> pd.DataFrame:
    """Return each image's error and variance (columns), summed over seeds."""
    return lines.groupby("image")[["mse", "variance", "truth_error"]].sum()


def relative(sums: np.ndarray) -> np.ndarray:
    """Return errors relative to variances, each summed over images: of (images, 2), or of (draws, images, 2)."""
    total = sums.sum(axis=-2)
    return total[..., 0] / total[..., 1]


def interval(draws: np.ndarray) -> str:
    """Return the middle 95 % of draws."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"[{low:.3g}, {high:.3g}]"


def tables(frame: pd.DataFrame) -> Iterator[str]:
    """Yield Markdown: each game's errors and own times, then who is first where."""
    first_rows = []
    frame = frame.drop_duplicates([name for name in KEY if name != "batch"], keep="last")
    for (game, players, classes), lines in frame.groupby(["game", "players", "classes"], sort=False):
        images, budgets = sorted(lines["image"].unique()), sorted(lines["budget"].unique())
        # The same draws of images for all methods, so that differences between games cancel in comparisons.
        drawn = np.random.default_rng(0).integers(len(images), size=(2000, len(images)))
        errors, seconds, known = {}, {}, {}
        for (method, budget), own in lines.groupby(["method", "budget"], sort=False):
            row, late = errors.setdefault(method, {"method": method}), seconds.setdefault(method, {"method": method})
            if (own["miss"] != "").any():
                row[budget] = next(miss for miss in own["miss"] if miss)[:40]
                continue
            sums = pooled(own)
            both = sums[["mse", "variance"]].to_numpy()
            late[budget] = f"{own['own_seconds'].mean():.2g}"
            if len(sums) < len(images):
                row[budget] = f"{relative(both):.3g}, {len(sums)} of the images"
                continue
            known[method, budget] = both, float(sums["truth_error"].sum() / sums["mse"].sum())
            row[budget] = f"{relative(both):.3g} {interval(relative(both[drawn]))}"
            if method in OURS and classes > 1:  # of one class, passes were those of all
                late[budget] += f" ({own['own_seconds'].sum() / own['pass_seconds'].sum():.1%})"
            if abs(own["evaluations"].mean() / budget - 1) > 0.005:
                row[budget] += f" ({own['evaluations'].mean():.0f})"
            if own["seed"].nunique() < lines["seed"].nunique():
                row[budget] += f", {own['seed'].nunique()} of the seeds"
        for budget in budgets:
            order = sorted((relative(both), method) for (method, at), (both, _) in known.items() if at == budget)
            if not order:
                continue
            best, own = order[0], [one for one in order if one[1] == "kriging"]
            row = {"game": game, "players": players, "classes": classes, "evaluations": budget, "first": best[1]}
            row["error"] = f"{best[0]:.3g}"
            rivals = [one for one in order if one[1] != (own[0] if own else best)[1]]
            if rivals:
                mine, other = known[(own[0] if own else best)[1], budget][0], known[rivals[0][1], budget][0]
                row["best of the others than kriging"] = f"{rivals[0][1]}, {rivals[0][0]:.3g}"
                ratio = relative(other[drawn]) / relative(mine[drawn])
                row["its error over kriging's"] = f"{relative(other) / relative(mine):.2f} {interval(ratio)}"
            row["truth's error over the first's"] = f"{known[best[1], budget][1]:.2g}"
            first_rows.append(row)
        said = f"{game}, {players} players, {classes} {'class' if classes == 1 else 'classes'}"
        noted = f"{len(images)} images, {lines['seed'].nunique()} seeds"
        columns = ["method", *budgets]
        yield f"\n### {said} ({noted})\n\nError relative to the variance of the truth, 95 % over images, by evaluations"
        yield "(in brackets: those really asked, where others)\n"
        order = sorted(errors, key=lambda method: method not in OURS)
        yield pd.DataFrame([errors[method] for method in order], columns=columns).fillna("").to_markdown(index=False)
        yield "\nSeconds of own time for each image (ours: as a share of the game's own)\n"
        yield pd.DataFrame([seconds[method] for method in order], columns=columns).fillna("").to_markdown(index=False)
    yield "\n### Who is first\n"
    yield pd.DataFrame(first_rows).to_markdown(index=False)


def main() -> None:
    """Measure missing lines, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="CSV file; reference values are stored beside it")
    parser.add_argument("--tables", action="store_true", help="print tables of the existing file, and measure nothing")
    parser.add_argument("--games", nargs="*", choices=FORMULAS, default=[*FORMULAS], help="games given by formulas")
    parser.add_argument(
        "--players",
        type=int,
        nargs="+",
        default=[16, 64, 196, 256],
        help="numbers of players of these games; random has 16",
    )
    parser.add_argument(
        "--surrogates", nargs="*", default=[], help="model folders, with @rowsxcolumns for other players"
    )
    parser.add_argument("--efficientnet", type=Path, help="weights of tf_efficientnet_lite0")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--budgets", type=int, nargs="+", default=[4, 8, 16, 32], help="evaluations for each player")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=[*OURS, *PEERS], default=[*OURS, *PEERS])
    parser.add_argument("--limit", type=float, default=30.0, help="seconds of own time for an image (and class)")
    parser.add_argument(
        "--truth", type=int, default=2**17, help="evaluations of each image for references that are not exact"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="device of networks")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table(options.output)
    if not options.tables:
        cases = [
            formula(name, players, options.images)
            for name in options.games
            for players in ([16] if name == "random" else options.players)
        ]
        cases += [trained(source, options.images, options.device) for source in options.surrogates]
        if options.efficientnet:
            cases.append(efficientnet(options.efficientnet, options.images, options.device))
        if len({(case.name, case.game.num_players) for case in cases}) < len(cases):
            parser.error("two games of one name and as many players want files of their own")
        found = [truth(case, options.output.with_suffix(""), options.truth) for case in cases]
        for method in options.methods:  # compilation and imports at the first call must not count as own time
            if method not in ONE_CLASS_ONLY:
                ask(method, formula("unanimity", 16, 1).meter(), 64, 0, limit=600)
        for seed in range(options.seeds):
            for case, values in zip(cases, found, strict=True):
                budgets = [per * case.game.num_players for per in options.budgets]
                for method in options.methods:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # peers': few samples, unusual budgets
                        play(case, values, method, seed, budgets, options.limit, table)
                print(f"seed {seed}, {case.name}, {case.game.num_players} players: done", flush=True)
    for text in tables(table.frame()):
        print(text)


if __name__ == "__main__":
    main()
