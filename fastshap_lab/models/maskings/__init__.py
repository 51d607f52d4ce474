"""Maskings, which show a model that players are absent; one per file."""

from collections.abc import Mapping
from typing import Any

from fastshap_lab.components import build, lookup, name_and_params
from fastshap_lab.models.classifier import Model
from fastshap_lab.models.maskings.attention import AttentionMask
from fastshap_lab.models.maskings.base import Masking
from fastshap_lab.models.maskings.blur import Blur
from fastshap_lab.models.maskings.constant import Constant
from fastshap_lab.models.maskings.mask_channel import MaskChannel
from fastshap_lab.models.maskings.mask_token import MaskToken
from fastshap_lab.models.maskings.mean import Mean
from fastshap_lab.models.maskings.pixels import PixelMasking
from fastshap_lab.models.maskings.rise_blur import RISEBlur
from fastshap_lab.models.maskings.token_drop import TokenDrop
from fastshap_lab.shapley.players import Players

__all__ = [
    "MASKINGS",
    "AttentionMask",
    "Blur",
    "Constant",
    "MaskChannel",
    "MaskToken",
    "Masking",
    "Mean",
    "RISEBlur",
    "TokenDrop",
    "build_masking",
    "removals",
]

MASKINGS: dict[str, type[Masking]] = {
    "mask_channel": MaskChannel,
    "zero": Constant,  # the name without a colour
    "mean": Mean,
    "blur": Blur,
    "attention": AttentionMask,
    "token_drop": TokenDrop,
    "mask_token": MaskToken,
    "constant": Constant,
    "rise_blur": RISEBlur,
}


def build_masking(
    masking: str | Mapping[str, Any], classifier: Model, players: Players, key: str = "surrogate.masking"
) -> Masking:
    """Return a masking of a classifier.

    Args:
        masking: Entry of ``MASKINGS``: its name, or ``{name: …, params: {…}}``.
        classifier: Model that maps images to logits.
        players: Players of the images.
        key: Configuration key of the masking, for error lines.

    Raises:
        UserError: The masking is unknown, its arguments are wrong, or it does not fit the classifier or the players.
    """
    name, params = name_and_params(masking, key)
    lookup(MASKINGS, key, name)
    return build(MASKINGS, key, name, params, classifier=classifier, players=players)


def removals() -> dict[str, type[Masking]]:
    """Return the maskings that fit any classifier: those of pixels that need no additional channel."""
    return {name: kind for name, kind in MASKINGS.items() if issubclass(kind, PixelMasking) and not kind.extra_channels}
