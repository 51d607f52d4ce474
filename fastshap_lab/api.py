"""Training an explainer of any model from a program, by the stages of ``train.py`` with settings that fit the model."""

from fastshap_lab import _timm  # noqa: F401, I001 - before timm and torchvision

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from hydra.core.global_hydra import GlobalHydra
from rich.console import Console
from safetensors.torch import save_file
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn
from torchvision import models as torchvision_models

from fastshap_lab.compose import compose
from fastshap_lab.config import Config
from fastshap_lab.data import DATASETS
from fastshap_lab.data.handed_over import HandedOver, Pictures
from fastshap_lab.data.relabelled import translation
from fastshap_lab.data.splits import NO_LABEL
from fastshap_lab.errors import UserError
from fastshap_lab.inference import AmortizedExplainer, load_explainer
from fastshap_lab.models import IMPORT, LIBRARIES, Classifier, build_classifier
from fastshap_lab.models.foreign import hand_over, own_network, take_back
from fastshap_lab.models.inspection import outputs_of, pixels_of
from fastshap_lab.models.tasks import Multiclass
from fastshap_lab.models.tokens import is_token_network, token_grid
from fastshap_lab.runs.execute import conclude, execute
from fastshap_lab.runs.plan import plan, show
from fastshap_lab.shapley import PlayerGrid
from fastshap_lab.stages import STAGES
from fastshap_lab.training.trainer import device_of

_DATA = "images"  # name of the data set of the user's images while this runs
_MAX_PLAYERS = 8  # largest default number of rows and of columns
_TINY, _SMALL = 24, 96  # largest sides in pixels of the images that the package's tiny and small networks are for
_FEW_IMAGES = 2048  # below this number of training images, batches are smaller
_AGREES = 1e-3  # largest difference of a rebuilt network's logits, relative to the largest logit


@dataclass(frozen=True)
class _Found:
    """A library's architecture that a user's model has.

    Attributes:
        library: Entry of ``LIBRARIES``.
        name: Name of the architecture.
        network: Network of this architecture, built anew with the model's weights.
    """

    library: str
    name: str
    network: nn.Module


def train_explainer(
    model: nn.Module,
    images: Any,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    normalized: bool = False,
    image_size: int | tuple[int, int] | None = None,
    class_names: Sequence[str] | None = None,
    players: tuple[int, int] | None = None,
    surrogate: str | None = None,
    explainer: str | None = None,
    overrides: Sequence[str] = (),
    seed: int = 0,
    device: str = "auto",
    runs_dir: str | Path = "runs",
) -> AmortizedExplainer:
    """Train an explainer of a classifier of images, for all of its classes.

    The stages are those of ``train.py``: a surrogate learns to imitate the model when players are absent, and the
    explainer learns the surrogate's Shapley values. A plan with the expected cost is printed first. A second call with
    the same model, images and settings reuses all results, and an interrupted one continues.

    Args:
        model: Module that maps images (B, C, H, W) to logits (B, K), or to an object with ``logits``. It is not
            changed. It is identified by its weights and source, or by the library's architecture.
        images: A folder, whose subfolders are labels if all images are in subfolders; a list of paths, PIL images or
            tensors; a tensor (N, 3, H, W); or a data set with indices, of images or of (image, label). Tensors hold
            RGB, uint8 or float in [0, 1], not normalized. Labels only serve to measure accuracy. A tenth of the images
            is used for validation and a fifth for testing.
        mean: Mean colour that the model was trained with, in [0, 1]; models of timm state it, and those of transformers
            that are saved together with their image processor.
        std: Standard deviation of each channel that the model was trained with.
        normalized: Whether the model takes pixels in [0, 1] and normalizes them itself.
        image_size: Height and width, or the side of a square, in pixels to resize pictures to. By default it is the
            size of the tensors, the size that the model states, or the pictures' own size.
        class_names: Names of the K classes; by default those of the model, of the folders or of the data set's
            ``classes``, whichever first has K names.
        players: Rows and columns of the player grid; by default the finest grid of up to 8 rows and columns that
            divides the image.
        surrogate: Choice in ``configs/surrogate/``. By default it is the model's own architecture, started from its
            weights, if this is one of timm or torchvision, else a ResNet for the image size. ``import`` is a copy of
            the model, and its explainer needs the model to load: ``load_explainer(run, surrogate=model)``.
        explainer: Choice in ``configs/explainer/``; by default a ViT if the surrogate is one, else a UNet.
        overrides: Any other settings, as for ``train.py``: ``["explainer.epochs=5", "trainer.max_batch=64"]``.
        seed: Seed for initial weights, order of images, augmentation and coalitions.
        device: Device to train on: ``auto``, ``cpu``, ``cuda`` or another accelerator.
        runs_dir: Folder of the run folders.

    Returns:
        The explainer on the CPU. Its attribute ``run`` is the folder of its run: ``load_explainer(explainer.run)``.

    Raises:
        UserError: An argument makes no sense, the model does not take the images or returns no logits, its
            normalization is unknown, or there are too few images.

    Example:
        >>> import torchvision, fastshap_lab as fsl  # doctest: +SKIP
        >>> model = torchvision.models.resnet18(weights="DEFAULT")  # doctest: +SKIP
        >>> explainer = fsl.train_explainer(  # doctest: +SKIP
        ...     model, "photos", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), image_size=224, players=(7, 7)
        ... )
        >>> explainer.explain("photos/cat.png").plot("cat.svg")  # doctest: +SKIP
    """
    pictures = Pictures(images)
    size = _size_of(pictures, model, image_size)
    pixels = pixels_of(model, mean, std, normalized)
    shown = torch.tensor(np.stack([pictures.pixels(index, size, "stretch") for index in (0, 1)])).float() / 255
    own = _copied(model)
    with torch.no_grad():
        logits = outputs_of(Classifier(own_network(own).eval(), *pixels, size, 0), shown, Multiclass())
        found = _found(own, pixels, shown, logits)
    names = _class_names(model, found, class_names, pictures, logits.shape[1])
    grid = players or _default_players(own, size)
    try:
        PlayerGrid(size, grid)
    except UserError as error:
        raise UserError(f"players: {error}") from None
    own.class_names = names  # type: ignore[assignment]  # the stages read the names from the user's own module
    data = partial(HandedOver, pictures, _labels(pictures, names), names, size)
    number = round(0.7 * len(pictures))
    words = [f"data.name={_DATA}", "~data.params.image_size", f"data.grid=[{grid[0]},{grid[1]}]", "stage=explainer"]
    words += [f"seed={seed}", f"trainer.accelerator={'gpu' if device.startswith('cuda') else device}"]
    words += _choices(found, surrogate, explainer, size, grid, number)
    path = f":{type(model).__module__}.{type(model).__qualname__}"
    console = Console(highlight=False)
    with TemporaryDirectory() as folder, _named(path, own), _table_has(data), torch.random.fork_rng():
        weights = str(Path(folder) / "weights.safetensors")
        if found is not None:
            state = {name: tensor.contiguous().clone() for name, tensor in found.network.state_dict().items()}
            save_file(state, weights)

        def chosen_by(choices: dict[str, str], further: list[str]) -> Config:
            chosen = [f"{group}={choice}" for group, choice in choices.items()]
            config = _composed([*words, *chosen, *further, *overrides])
            config.runs_dir, config.name = str(runs_dir), config.name or type(model).__name__.lower()[:64]
            config.classifier.mean, config.classifier.std = list(map(float, pixels[0])), list(map(float, pixels[1]))
            config.classifier.path, config.classifier.weights = (path, None) if found is None else (None, weights)
            if config.surrogate.name == IMPORT:
                config.surrogate.params = {"path": path}
            return config

        config = chosen_by({}, [])
        if config.stage not in ("explainer", "evaluate", "all"):
            raise UserError(f"overrides: stage={config.stage} trains no explainer; choose explainer, evaluate or all")
        runs = plan(config, chosen_by, STAGES, device_of(config.trainer))
        if found is None and surrogate is None:
            console.print(_learned_anew(model, config.surrogate.name), soft_wrap=True, markup=False)
        show(runs, console)
        execute(runs, console)
        conclude(runs, console)
        run = next(run for run in runs if run.stage.name == "explainer")
        loaded = load_explainer(
            run.folder,
            surrogate=model if config.surrogate.name == IMPORT else None,
            classifier=model if found is None and config.explainer.bundle_classifier else None,
        )
    loaded.run = run.folder
    return loaded


def _composed(words: Sequence[str]) -> Config:
    """Return the configuration of ``train.py`` with overrides; the calling program may itself use Hydra."""
    outer, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        return compose(words)
    finally:
        GlobalHydra.instance().hydra = outer


@contextmanager
def _named(path: str, module: nn.Module) -> Iterator[None]:
    """Register a module under a path for a block, so that descriptions that name the path can be built."""
    hand_over(path, module)
    try:
        yield
    finally:
        take_back(path)


@contextmanager
def _table_has(data: partial[HandedOver]) -> Iterator[None]:
    """Add the user's images to the table of data sets for a block."""
    DATASETS[_DATA] = data  # type: ignore[assignment]  # it is called like a class
    try:
        yield
    finally:
        del DATASETS[_DATA]


def _copied(model: nn.Module) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise UserError(f"model: a {type(model).__name__}; must be a torch.nn.Module")
    try:
        return copy.deepcopy(model).cpu().eval()
    except (RuntimeError, TypeError) as error:
        raise UserError(f"model: cannot be copied: {next(iter(str(error).splitlines()), '')}") from error


def _size_of(pictures: Pictures, model: nn.Module, given: int | tuple[int, int] | None) -> tuple[int, int]:
    """Return height and width: the given ones, those of the tensors, those the model states, or the pictures' own."""
    if given is not None:
        return (given, given) if isinstance(given, int) else (given[0], given[1])
    own = pictures.size()
    if pictures.of_tensors():
        if own is None:
            raise UserError("images: are tensors of different sizes; resize them, or give files")
        return own
    stated = (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
    if stated is not None:
        return stated[-2], stated[-1]
    side = getattr(getattr(model, "config", None), "image_size", None)  # models of transformers have it
    if side is not None:
        return (side, side) if isinstance(side, int) else (side[0], side[1])
    if own is None:
        raise UserError(
            "images: have different sizes; give the height and width to resize them to, as in image_size=(224, 224)"
        )
    return own


def _class_names(
    model: nn.Module, found: _Found | None, given: Sequence[str] | None, pictures: Pictures, number: int
) -> list[str]:
    """Return the names of the model's classes from the first source that has the right number of them."""
    if given is not None and len(given) != number:
        raise UserError(f"class_names: {len(given)} names for the model's {number} classes")
    numbered = getattr(getattr(model, "config", None), "id2label", None) or {}  # models of transformers have it
    candidates = [
        given,
        getattr(model, "class_names", None),
        [numbered.get(index, "") for index in range(number)] if numbered else None,
        pictures.folders,
        getattr(pictures.given, "classes", None),
        None if found is None else _names_of_library(found),
    ]
    for names in candidates:
        if names is not None and len(names) == number:
            return [str(name) for name in names]
    return [str(index) for index in range(number)]


def _learned_anew(model: nn.Module, surrogate: str) -> str:
    """Return what to know about a surrogate that does not start from the model's weights."""
    return (
        f"{type(model).__qualname__}, as it is built, is none of timm's or torchvision's: a {surrogate} learns its "
        'answers from nothing, and loads anywhere; surrogate="import" starts from a copy of it, and needs its code'
    )


def _names_of_library(found: _Found) -> list[str] | None:
    try:
        return LIBRARIES[found.library].stated({"model": found.name}).class_names
    except UserError:  # the library has no weights for this architecture
        return None


def _labels(pictures: Pictures, names: list[str]) -> list[int] | None:
    """Return the labels of the images as numbers of the model's classes, as far as they are known."""
    if pictures.labels is None:
        return None
    if pictures.folders is not None:
        numbers = translation(pictures.folders, names)
        return [NO_LABEL if (number := numbers[label]) is None else number for label in pictures.labels]
    if not all(0 <= label < len(names) for label in pictures.labels):
        raise UserError(
            f"images: the data set's labels go from {min(pictures.labels)} to {max(pictures.labels)}, and the model "
            f"has {len(names)} classes"
        )
    return pictures.labels


def _found(
    model: nn.Module, pixels: tuple[Sequence[float], Sequence[float]], image: Tensor, logits: Tensor
) -> _Found | None:
    """Return the library's architecture that gives the model's logits with its weights, or None if there is none."""
    module, state = type(model).__module__, model.state_dict()
    size, library = (image.shape[2], image.shape[3]), module.partition(".")[0]
    names: list[str] = []
    if library == "timm":
        names = [name for name in [(getattr(model, "pretrained_cfg", None) or {}).get("architecture")] if name]
    elif module.startswith("torchvision.models."):
        known = torchvision_models.list_models(module=torchvision_models)
        names = [name for name in known if torchvision_models.get_model_builder(name).__module__ == module]
    for name in names:
        described = library, {"model": name}, size, logits.shape[1], *pixels
        try:
            with torch.device("meta"):
                shapes = {
                    key: tensor.shape for key, tensor in build_classifier(*described).network.state_dict().items()
                }
            if shapes != {key: tensor.shape for key, tensor in state.items()}:
                continue
            with torch.random.fork_rng(devices=[]):
                again = build_classifier(*described).eval()
        except UserError:  # there is no such name, or not for images of this size
            continue
        again.network.load_state_dict(state)
        if bool(((again(image) - logits).abs() <= _AGREES * logits.abs().max()).all()):
            return _Found(library, name, again.network)
    return None


def _default_players(model: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns: the largest numbers up to 8 that divide the image and, for a ViT, its patches."""
    patches = token_grid(model) if is_token_network(model) else size
    rows, columns = (
        max(number for number in range(1, _MAX_PLAYERS + 1) if not (side % number or each % number))
        for side, each in zip(size, patches, strict=True)
    )
    if min(rows, columns) == 1:
        raise UserError(
            f"players: no grid of 2 to {_MAX_PLAYERS} rows and columns divides {size[0]}×{size[1]} pixels; give one, "
            "or another image_size"
        )
    return rows, columns


def _choices(
    found: _Found | None,
    surrogate: str | None,
    explainer: str | None,
    size: tuple[int, int],
    grid: tuple[int, int],
    number: int,
) -> list[str]:
    """Return the overrides that choose the networks and their numbers of epochs.

    Epochs follow from a number of steps, since there are often few images. A surrogate that starts from the model's
    weights needs fewer steps. Large pictures get fewer, since their passes are expensive.

    Args:
        found: Architecture of a library that the model has, or None.
        surrogate: Choice of the user, or None.
        explainer: Choice of the user, or None.
        size: Height and width of the images in pixels.
        grid: Rows and columns of players.
        number: Number of training images.
    """
    side = max(size)
    words = [f"classifier={IMPORT if found is None else found.library}", "classifier.epochs=0"]
    if found is not None:
        words.append(f"classifier.params.model={found.name}")
    of_tokens = found is not None and is_token_network(found.network)
    of_tokens = of_tokens and not any(
        tokens % players
        for tokens, players in zip(token_grid(found.network), grid, strict=True)  # type: ignore[union-attr, arg-type]
    )
    warm = surrogate in (None, IMPORT) and (found is not None or surrogate == IMPORT)
    if surrogate is None and found is not None:
        words += [f"surrogate={found.library}", f"surrogate.params.model={found.name}"]
        if of_tokens and isinstance(found.network.patch_embed, PatchEmbed):
            words.append("surrogate.masking=token_drop")
    elif surrogate is None and side > _SMALL:
        words += ["surrogate=timm", "surrogate.params.model=resnet18"]
    else:
        words.append(f"surrogate={surrogate or ('resnet_slim' if side <= _TINY else 'resnet_small')}")
        if surrogate == IMPORT:
            words.append("surrogate.params.path=''")  # the path is set where the module is registered
    if explainer is not None:
        words.append(f"explainer={explainer}")
    elif surrogate is None and of_tokens:
        words.append("explainer=vit")
    elif side > _SMALL:  # many levels for a large receptive field, with few channels at high resolution
        words += ["explainer=unet_small", "explainer.params.channels=[8,16,32,64,128,128]"]
    else:
        words.append(f"explainer={'unet_slim' if side <= _TINY else 'unet_small'}")
    batch = 32 if number < _FEW_IMAGES else 128
    copies = 0 if side > _SMALL else min(8, 1000 // number)
    explained = number * (1 + copies), 400 if side > _SMALL else 1000
    for stage, (images, steps) in {"surrogate": (number, 200 if warm else 1500), "explainer": explained}.items():
        epochs = max(3, math.ceil(steps / max(1, images // batch)))
        words += [f"{stage}.batch_size={min(batch, number)}", f"{stage}.epochs={epochs}"]
    words += [f"explainer.labels.copies={copies}", "explainer.labels.evaluations=128"]
    return [*words, "references.val=16", "references.val_evaluations=512"]
