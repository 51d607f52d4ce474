"""Shapley values of any image classifier, estimated image by image; nothing is trained."""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from fastshap_lab.components import lookup
from fastshap_lab.errors import UserError
from fastshap_lab.images import Images, to_tensor
from fastshap_lab.inference import Explanation
from fastshap_lab.models import Classifier, ModelGame, Task, build_task
from fastshap_lab.models.foreign import Logits
from fastshap_lab.models.freezing import evaluating, frozen_copy, takes_channels_last
from fastshap_lab.models.inspection import outputs_of, pixels_of
from fastshap_lab.models.maskings import build_masking, removals
from fastshap_lab.progress import Progress
from fastshap_lab.shapley import PlayerGrid, Players, PlayersLike, as_players
from fastshap_lab.shapley.estimators import ESTIMATORS

_STEPS = 16  # largest number of steps of the progress bar for each image


def shapley_values(
    model: nn.Module,
    images: Images,
    players: PlayersLike | Sequence[PlayersLike],
    *,
    evaluations: int = 512,
    removal: str | Mapping[str, Any] = "constant",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    normalized: bool = False,
    image_size: tuple[int, int] | None = None,
    class_names: Sequence[str] | None = None,
    link: str | None = None,
    task: str = "multiclass",
    estimator: str = "kriging",
    max_batch: int = 32,
    seed: int = 0,
) -> Explanation:
    """Explain any classifier of images for all of its classes, without training anything.

    Every image costs ``evaluations`` passes of the model and two or three more. Players are the patches of a grid, or
    segments of any shape; absent players are removed from the pixels. The explanation has standard errors in
    ``stderr``.

    Args:
        model: Module that maps images (B, 3, H, W) to logits (B, K), or to an object with ``logits``. It is used in
            evaluation mode on its own device, and not changed.
        images: One image or a batch: tensors (3, H, W) or (B, 3, H, W) of RGB, uint8 or float in [0, 1], not
            normalized; or PIL images or paths, which are resized.
        players: Rows and columns of a grid, which must divide the image's height and width; or a label map (H, W) of
            integers from 0, the number of each pixel's segment, for example scikit-image's superpixels.
            ``shapley.Segments.grid`` makes a grid that need not divide the image. Images may have players of their own:
            label maps (B, H, W) or a list, also with different numbers of segments.
        evaluations: Number of coalitions to evaluate for each image.
        removal: What replaces absent players: ``constant`` (a ``colour``; by default the mean colour, or black if the
            model normalizes pixels itself), ``mean`` (of the image), ``blur`` or ``rise_blur``; given as a name, or as
            ``{"name": …, "params": {…}}``.
        mean: Mean colour that the model was trained with, three numbers in [0, 1]; models of timm state it.
        std: Standard deviation of each channel that the model was trained with; models of timm state it.
        normalized: Whether the model takes pixels in [0, 1] and normalizes them itself.
        image_size: Height and width in pixels to resize files to; not needed for tensors, nor for models of timm.
        class_names: Names of the K classes; their numbers if None.
        link: Entry of ``shapley.LINKS``, the space of the values. By default it is ``softmax`` for classes that exclude
            each other, ``sigmoid`` for labels that do not, and ``identity`` for a regression. ``logits`` leaves the
            outputs of any model unchanged.
        task: Task that the outputs belong to: ``multiclass``, ``multilabel``, ``binary`` (one logit) or ``regression``.
        estimator: Entry of ``shapley.ESTIMATORS``.
        max_batch: Largest number of rows of a pass. It changes values by rounding only.
        seed: Seed for drawing coalitions.

    Raises:
        UserError: An argument makes no sense, the model's normalization is unknown, or the model returns no logits.

    Example:
        The logits of this model are the means of the three channels, so each quarter of a red image adds 1/4 to the
        first one.

        >>> import torch, fastshap_lab as fsl
        >>> model = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten())
        >>> red = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1).expand(3, 8, 8)
        >>> fsl.shapley_values(model, red, (2, 2), evaluations=14, normalized=True, link="logits").values[0, 0]
        tensor([[0.2500, 0.2500],
                [0.2500, 0.2500]])

        Players may also be superpixels.

        >>> model = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> from skimage.segmentation import slic
        >>> superpixels = [slic(image.permute(1, 2, 0).numpy(), n_segments=6, start_label=0) for image in images]
        >>> fsl.shapley_values(model, images, superpixels, evaluations=30, normalized=True).maps().shape
        torch.Size([2, 3, 8, 8])
    """
    kind = lookup(ESTIMATORS, "estimator", estimator)
    meant = build_task(task)
    link = link or meant.links[0]
    if link != "logits":  # allowed for every task, since no surrogate has learned the outputs
        meant.check_link(link, "link")
    stated = getattr(model, "pretrained_cfg", None) or {}
    size = _image_size(images, image_size, stated)
    given = [as_players(each, size) for each in _each(players)]
    for number in sorted({each.num_players for each in given}):
        if estimator == "exact" and number > 20:
            raise UserError(f"estimator=exact: {number} players; must be 20 or less")
        if evaluations < kind.smallest_budget(number):
            smallest = kind.smallest_budget(number)
            raise UserError(f"evaluations={evaluations}: too few for {number} players; must be {smallest} or more")
        kind.check_budget(number, evaluations)
    pixels = pixels_of(model, mean, std, normalized)
    batch = to_tensor(images, size)
    if len(given) not in (1, len(batch)):
        raise UserError(f"players: {len(given)} label maps for {len(batch)} images; must be one, or one for each image")
    own = given * len(batch) if len(given) == 1 else given
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with evaluating(model), torch.no_grad():
        classifier, num_classes = _classifier(model, pixels, batch[:1].to(device), meant)
        if class_names is not None and len(class_names) != num_classes:
            raise UserError(f"class_names: {len(class_names)} names for the model's {num_classes} classes")
        game = _removal_game(classifier, removal, own[0], link, max_batch).to(device)
        step = max_batch * math.ceil(evaluations / (_STEPS * max_batch))  # a number of whole passes
        parts = []
        with Progress("Shapley values", len(batch) * math.ceil(evaluations / step)) as progress:
            for image, each in zip(batch.split(1), own, strict=True):
                if each is not game.masking.players:
                    game = _removal_game(classifier, removal, each, link, max_batch).to(device)
                run = kind(game, image.to(device), seed)
                while run.granted < evaluations:
                    run.advance(min(step, evaluations - run.granted))
                    progress.advance()
                found = run.estimate()
                answer = classifier(image.to(device)).cpu().float()
                parts.append((found.phi[0].float(), found.stderr[0].float(), answer[0], found.evaluations))
    phi, errors, answers, spent = zip(*parts, strict=True)
    logits = torch.stack(answers)
    values, stderr, segments = _arranged(own, phi, errors)
    names = [str(k) for k in range(logits.shape[1])] if class_names is None else list(class_names)
    return Explanation(
        images=batch,
        values=values,
        predictions=meant.predict(logits),
        source="classifier",
        efficiency_gap=torch.zeros_like(logits),
        classes=names,
        link=link,
        stderr=stderr,
        evaluations=torch.tensor(spent),
        segments=segments,
        task=meant,
    )


def _each(players: PlayersLike | Sequence[PlayersLike]) -> list[PlayersLike]:
    """Return a list with the players of each image, or with a single entry if all images have the same."""
    several = isinstance(players, Tensor | np.ndarray) and players.ndim == 3
    if isinstance(players, (list, tuple)):
        several = not all(isinstance(number, Integral) for number in players) or not players
    if not several:
        return [players]
    if not len(players):
        raise UserError("players: none given; must be rows and columns, or label maps (H, W)")
    return list(players)


def _removal_game(
    classifier: Classifier, removal: str | Mapping[str, Any], players: Players, link: str, max_batch: int
) -> ModelGame:
    """Return the game in which absent players are removed from the pixels."""
    masking = build_masking(removal, classifier, players, key="removal")
    if not isinstance(masking, tuple(removals().values())):
        raise UserError(f"removal={removal}: does not remove pixels; must be one of {', '.join(removals())}")
    return ModelGame(classifier, masking, link, max_batch)


def _arranged(
    players: Sequence[Players], phi: Sequence[Tensor], stderr: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return values, standard errors and label maps in the shapes of ``Explanation``.

    Args:
        players: Players of each image.
        phi: Values of each image (P, K).
        stderr: Standard errors of each image (P, K).
    """
    first = players[0]
    if isinstance(first, PlayerGrid) and all(each == first for each in players):
        return first.to_grid(torch.stack(phi)), first.to_grid(torch.stack(stderr)), None
    values, errors = (pad_sequence(list(each), batch_first=True, padding_value=torch.nan).mT for each in (phi, stderr))
    numbers = [torch.arange(each.num_players, dtype=torch.float64).view(1, -1, 1) for each in players]
    labels = [each.to_map(number)[0, 0] for each, number in zip(players, numbers, strict=True)]
    return values, errors, torch.stack(labels).int()


def _classifier(
    model: nn.Module, pixels: tuple[Sequence[float], Sequence[float]], image: Tensor, task: Task
) -> tuple[Classifier, int]:
    """Return the model with its pixel normalization, and the number of classes of its output for an image.

    Networks whose modules are known to allow it are copied and made faster; the model itself is not changed.
    """
    size = (image.shape[2], image.shape[3])

    def behind(network: nn.Module, num_classes: int) -> Classifier:
        classifier = Classifier(network, *pixels, size, num_classes)
        # The model itself is not moved.
        classifier.mean, classifier.std = classifier.mean.to(image), classifier.std.to(image)
        return classifier

    classifier = model if isinstance(model, Classifier) else behind(Logits(model), 0)
    num_classes = outputs_of(classifier, image, task).shape[1]
    if not takes_channels_last(model):
        return classifier, num_classes
    if isinstance(model, Classifier):
        return frozen_copy(model), num_classes
    plain = isinstance(classifier.network, Logits) and classifier.network.dtype == torch.float32
    return (frozen_copy(behind(model, num_classes)) if plain else classifier), num_classes


def _image_size(images: Images, given: tuple[int, int] | None, stated: Mapping[str, Any]) -> tuple[int, int]:
    """Return height and width: the given ones, those of the tensors, or those that the model states."""
    first = images[0] if isinstance(images, (list, tuple)) and len(images) else images
    if given is not None:
        return given[0], given[1]
    if isinstance(first, Tensor):
        return first.shape[-2], first.shape[-1]
    if "input_size" in stated:
        return stated["input_size"][-2], stated["input_size"][-1]
    raise UserError("image_size: missing; give the height and width to resize images to, as in image_size=(224, 224)")
