"""The base classes of methods that use only a model's outputs, for altered copies of an image."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import InstanceOf
from torch import Tensor, nn

from fastshap_lab.attribution.base import AttributionMethod, Kind, baseline_colour, hooked, task_of
from fastshap_lab.attribution.recording import find_token_network
from fastshap_lab.components import Count
from fastshap_lab.errors import UserError
from fastshap_lab.models.game import ModelGame
from fastshap_lab.models.maskings import Constant
from fastshap_lab.models.tasks import Multiclass
from fastshap_lab.models.tokens import token_grid
from fastshap_lab.shapley.game import LINKS
from fastshap_lab.shapley.players import PlayerGrid, Players, Segments, as_players

# Largest number of rows and of columns of a default grid: that of patches of 16 pixels on an image of 224 pixels.
MAX_GRID_SIDE = 14

Classes = slice | Tensor
"""Classes to explain: a slice, or class indices (E,)."""

GivenPlayers = tuple[int, int] | InstanceOf[Players] | InstanceOf[Tensor] | InstanceOf[np.ndarray]
"""Rows and columns of a grid, a label map (H, W), or ``shapley.Players``, the same for all images."""


class PerturbationMethod(AttributionMethod):
    """Base class of methods that compare a model's outputs for altered copies of an image.

    Images are explained one at a time, with ``max_batch`` copies per pass. Copies do not depend on the class, so the
    maps of all classes cost as many passes as the map of one.

    Args:
        model: Model that maps images to logits.
        baseline: Colour of absent pixels, one number per channel in units of the input; by default the model's mean
            colour.
        link: Entry of ``shapley.game.LINKS``, the space in which outputs are compared; by default ``softmax``, or the
            first link of a ``Classifier``'s task.
        bf16: Whether passes run in bfloat16: about twice as fast on processors with bfloat16 arithmetic, with maps as
            precise as their smallest differences are large. The last linear layer keeps its dtype, because logits
            rounded to 8 bits would hide most differences.
        max_batch: Number of copies per pass.

    Raises:
        UserError: The link is unknown, or is a softmax for a model with a single logit.

    Example:
        >>> class MinusBaseline(PerturbationMethod):
        ...     def _explain(self, image, colour, classes):
        ...         whole, empty = self._values(torch.stack([image, colour.expand_as(image)]), classes)
        ...         return (whole - empty).view(-1, 1, 1)
        >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # logit k is the mean of channel k
        >>> MinusBaseline(model, link="logits").attribute(torch.full((1, 2, 4, 4), 3.0), target=0).tolist()
        [[[3.0]]]
    """

    kind: ClassVar[Kind] = "attribution"

    def __init__(
        self,
        model: nn.Module,
        baseline: Sequence[float] | None = None,
        link: str | None = None,
        bf16: bool = False,
        max_batch: Count = 32,
    ) -> None:
        super().__init__(model, max_batch)
        link = link or task_of(model).links[0]
        if link not in LINKS:
            raise UserError(f"{type(self).__name__}: link={link}: unknown; must be one of {', '.join(LINKS)}")
        self.baseline, self.link, self.bf16 = baseline, link, bf16

    def _check_answer(self, answer: Any) -> None:
        super()._check_answer(answer)
        if answer.shape[1] == 1 and self.link in Multiclass.links:
            raise UserError(
                f"{type(self).__name__}: link={self.link}: needs two classes or more, and the model has one logit; "
                "choose sigmoid or logits"
            )

    @torch.no_grad()
    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        colour = baseline_colour(self.model, image, self.baseline)
        chosen = zip(image, target.tolist(), strict=True)
        return torch.stack([self._explain(one, colour, slice(k, k + 1))[0] for one, k in chosen])

    @torch.no_grad()
    def _attribute_all(self, image: Tensor) -> Tensor:
        colour = baseline_colour(self.model, image, self.baseline)
        return torch.stack([self._explain(one, colour, slice(None)) for one in image])

    @torch.no_grad()
    def _attribute_classes(self, image: Tensor, classes: Tensor) -> Tensor:
        colour = baseline_colour(self.model, image, self.baseline)
        chosen = zip(image, classes, strict=True)
        return torch.stack([self._explain(one, colour, wanted) for one, wanted in chosen])

    @abstractmethod
    def _explain(self, image: Tensor, colour: Tensor, classes: Classes) -> Tensor:
        """Return the maps (E, rows, columns) of one image (C, H, W) for some classes. It runs without gradients."""

    def _values(self, copies: Tensor, classes: Classes) -> Tensor:
        """Return the outputs (M, E), after the link, for copies (M, C, H, W)."""
        link = LINKS[self.link]
        return torch.cat([link(self._logits(part))[:, classes] for part in copies.split(self.max_batch)])

    def _logits(self, copies: Tensor) -> Tensor:
        """Return the logits (B, K) of at most ``max_batch`` copies."""
        if not self.bf16:
            return self.model(copies)
        device, linears = copies.device.type, [m for m in self.model.modules() if isinstance(m, nn.Linear)]
        # A distilled DeiT has two last layers.
        heads = [layer for layer in linears if layer.out_features == linears[-1].out_features]

        def enter(layer: nn.Linear, args: tuple[Tensor]) -> tuple[Tensor]:
            torch.set_autocast_enabled(device, False)
            return (args[0].to(layer.weight.dtype),)

        def leave(layer: nn.Linear, args: tuple[Tensor], output: Tensor) -> None:
            torch.set_autocast_enabled(device, True)

        hooks: list[Callable[[], Any]] = []
        for head in heads:
            hooks += [partial(head.register_forward_pre_hook, enter), partial(head.register_forward_hook, leave)]
        with torch.autocast(device, torch.bfloat16), hooked(hooks):
            return self.model(copies).to(copies.dtype)


class PlayersMethod(PerturbationMethod):
    """Base class of methods that attribute the output to players; absent players take the baseline colour.

    Maps have one value per patch if the players are a grid, and are as large as the image if they are segments.

    Args:
        model: Model that maps images to logits.
        players: Players of every image, see ``GivenPlayers``; by default the patches of ``default_grid``.
        baseline: Colour of absent players, one number per channel in units of the input; by default the model's mean
            colour.
        link: Space of the values, see ``PerturbationMethod``.
        bf16: Run passes in bfloat16, see ``PerturbationMethod``.
        max_batch: Number of copies per pass.

    Raises:
        UserError: The players are no grid or label map; from ``attribute``: they do not fit the images.

    Example:
        >>> class FirstIn(PlayersMethod):
        ...     def _values_of_players(self, game, image):
        ...         alone = torch.eye(game.num_players, dtype=torch.bool).unsqueeze(0)
        ...         return game.values(image, alone) - game.null(image).unsqueeze(1)
        >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # logit k is the mean of channel k
        >>> image = torch.tensor([[[[8.0, 0.0], [4.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]]])
        >>> FirstIn(model, players=(2, 2), link="logits").attribute(image, target=0).tolist()
        [[[2.0, 0.0], [1.0, 0.0]]]
    """

    def __init__(
        self,
        model: nn.Module,
        players: GivenPlayers | None = None,
        baseline: Sequence[float] | None = None,
        link: str | None = None,
        bf16: bool = False,
        max_batch: Count = 32,
    ) -> None:
        super().__init__(model, baseline, link, bf16, max_batch)
        self.players = given_players(players)
        # Each pixel has the full value of its segment, so a map of segments does not add up.
        of_grid = not isinstance(self.players, Players) or isinstance(self.players, PlayerGrid)
        self.unit = self.link if of_grid else None

    def _explain(self, image: Tensor, colour: Tensor, classes: Classes) -> Tensor:
        size = image.shape[1], image.shape[2]
        players = as_players(default_grid(self.model, size) if self.players is None else self.players, size)
        masking = Constant(self._logits, players, colour.flatten().tolist())
        game = ModelGame(self._logits, masking, self.link, self.max_batch)
        phi = self._values_of_players(game, image.unsqueeze(0))[:, :, classes]
        return (players.to_grid(phi) if isinstance(players, PlayerGrid) else players.to_map(phi))[0]

    @abstractmethod
    def _values_of_players(self, game: ModelGame, image: Tensor) -> Float[Tensor, "1 P K"]:
        """Return the attributions of the players of one image (1, C, H, W)."""


def given_players(players: GivenPlayers | None) -> tuple[int, int] | Players | None:
    """Return the given players; a label map becomes ``Segments``, which checks it at once."""
    return Segments(players) if isinstance(players, Tensor | np.ndarray) else players


def faded(
    image: Float[Tensor, "C H W"], masks: Float[Tensor, "M H W"], colour: Float[Tensor, "C 1 1"]
) -> Float[Tensor, "M C H W"]:
    """Return copies of an image, each a blend of the image and a colour by the weights of a mask.

    Args:
        image: Image.
        masks: Weights in [0, 1]: 1 keeps the image's pixel, 0 replaces it by the colour.
        colour: Colour of the hidden part, in units of the image.

    Example:
        >>> faded(torch.full((1, 1, 1), 8.0), torch.tensor([[[0.25]]]), torch.zeros(1, 1, 1)).item()
        2.0
    """
    return torch.addcmul(colour, masks.unsqueeze(1), image - colour)


def finest_grid(model: nn.Module, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of the finest grid that divides an image into equal patches.

    For a vision transformer it is its own grid of patches, if that divides the image. Otherwise it has as many rows and
    columns as possible up to 14; it has only 1 where the side is a prime above 14.

    Args:
        model: Model to explain.
        image_size: Height and width in pixels.

    Example:
        >>> finest_grid(nn.Identity(), (28, 17))
        (14, 1)
    """
    network = find_token_network(model)
    if network is not None:
        rows, columns = token_grid(network)
        if network.dynamic_img_size:
            rows, columns = network.patch_embed.dynamic_feat_size(image_size)
        if image_size[0] % rows == 0 and image_size[1] % columns == 0:
            return rows, columns
    finest = [max(n for n in range(1, min(side, MAX_GRID_SIDE) + 1) if side % n == 0) for side in image_size]
    return finest[0], finest[1]


def default_grid(model: nn.Module, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return the ``finest_grid`` of an image if it has more than one row and column.

    Args:
        model: Model to explain.
        image_size: Height and width in pixels.

    Raises:
        UserError: The grid has a single row or column.

    Example:
        >>> default_grid(nn.Identity(), (224, 32))
        (14, 8)
    """
    grid = finest_grid(model, image_size)
    if min(grid) == 1:
        height, width = image_size
        raise UserError(
            f"no grid of 2 to {MAX_GRID_SIDE} rows and columns divides {height}×{width} pixels: name one with players=…"
        )
    return grid
