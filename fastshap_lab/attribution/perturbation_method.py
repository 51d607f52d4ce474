"""What methods that look at a model's answers alone share."""

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

# Rows and columns of a grid that nothing else determines, at most: those of patches of 16 on 224 pixels.
MAX_GRID_SIDE = 14

Classes = slice | Tensor
"""Which classes: a slice or their numbers."""

GivenPlayers = tuple[int, int] | InstanceOf[Players] | InstanceOf[Tensor] | InstanceOf[np.ndarray]
"""Rows and columns of a grid, a label map (H, W), or ``shapley.Players``; of every image the same."""


class PerturbationMethod(AttributionMethod):
    """Compares a model's answers to altered copies of an image.

    Images are explained one at a time, ``max_batch`` copies to a pass. Copies do not depend on the class, so that the
    maps of all classes cost the passes of one.

    Args:
        model: Takes images to logits.
        baseline: Colour of what is absent, in units of the input; by default the model's mean colour.
        link: Entry of ``shapley.game.LINKS``: the space the answers are compared in; by default ``softmax``, or the
            first of a ``Classifier``'s task.
        bf16: Run passes in bfloat16: about twice as fast where processors know it, maps as good as their smallest
            differences are large. The last linear layer stays as it is; logits rounded to 8 bits would hide most.
        max_batch: Copies per pass.
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
            raise UserError(f"{type(self).__name__}: link={link}: unknown, one of {', '.join(LINKS)} wanted")
        self.baseline, self.link, self.bf16 = baseline, link, bf16

    def _check_answer(self, answer: Any) -> None:
        super()._check_answer(answer)
        if answer.shape[1] == 1 and self.link in Multiclass.links:
            raise UserError(
                f"{type(self).__name__}: link={self.link}: the model has one logit, and nothing that it could exclude; "
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
        """Return the maps (K', rows, columns) of one image (C, H, W) for some classes; runs without gradients."""

    def _values(self, copies: Tensor, classes: Classes) -> Tensor:
        """Return the values (M, K') of copies (M, C, H, W)."""
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
    """Attributes an answer to players, of which an absent one takes the baseline colour.

    Maps have a number per patch where players are a grid, and are as large as the image where they are segments.

    Args:
        model: Takes images to logits.
        players: See ``GivenPlayers``; by default the patches of ``default_grid``.
        baseline: Colour of absent players, in units of the input; by default the model's mean colour.
        link: See ``PerturbationMethod``: the space of the values.
        bf16: See ``PerturbationMethod``.
        max_batch: Copies per pass.
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
        # A pixel carries its segment's value undivided: over an image these do not add up.
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
        """Return the values of the players of one image (1, C, H, W)."""


def given_players(players: GivenPlayers | None) -> tuple[int, int] | Players | None:
    """Return players as they are given, a label map as ``Segments``, so that a bad one is refused at once."""
    return Segments(players) if isinstance(players, Tensor | np.ndarray) else players


def faded(
    image: Float[Tensor, "C H W"], masks: Float[Tensor, "M H W"], colour: Float[Tensor, "C 1 1"]
) -> Float[Tensor, "M C H W"]:
    """Return copies of an image that keep of each pixel what a mask in [0, 1] says, and the colour for the rest."""
    return torch.addcmul(colour, masks.unsqueeze(1), image - colour)


def finest_grid(model: nn.Module, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of a grid that divides an image.

    The patches of a plain vision transformer; of other models, or where these do not divide the image, the finest with
    14 or fewer each way, which is a single one where the side is a larger prime.
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
    """Return the ``finest_grid``.

    Raises:
        UserError: It has a single row or column.
    """
    grid = finest_grid(model, image_size)
    if min(grid) == 1:
        height, width = image_size
        raise UserError(
            f"no grid of 2 to {MAX_GRID_SIDE} rows and columns divides {height}×{width} pixels: name one with players=…"
        )
    return grid
