"""What the explorer of a page shows: images, answers and maps, as a page embeds them."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from fastshap_lab.report.maps import COLOURS

MAX_IMAGES = 200
"""Images of a page, at most: with ten classes and thirty methods it stays below 10 MB."""

_SIDE = 320  # pixels of an image that is embedded, at most
_LOSSLESS = 64  # pixels of a side up to which images are kept as they are: of few pixels each one counts


def num_classes_shown(num_players: int) -> int:
    """Return of how many classes of an image a page holds maps, at most."""
    return 10 if num_players <= 64 else 5


def strongest_first(values: Float[np.ndarray, "n P"]) -> Int[np.ndarray, "n P"]:
    """Return the order in which a page removes players: by the eight bits that it knows of their values."""
    return np.argsort(-_codes(values, 8)[0], axis=-1, kind="stable")


@dataclass(frozen=True)
class Panel:
    """Maps of one method. It may know fewer images and classes than its view, which are then the view's first.

    Attributes:
        name: What it is called.
        values: Of the players, NaN where there are none.
        stderr: Their standard errors, if they are known.
        kind: ``attribution``, ``score`` or ``saliency``, as figures draw it.
        adds_up: Whether values have the unit of the game, in which they add up to answers.
        comparable: Whether it has its colours in common with others of the view that are.
        note: What it is, for a tooltip.
    """

    name: str
    values: Float[np.ndarray, "n e P"]
    stderr: Float[np.ndarray, "n e P"] | None = None
    kind: str = "attribution"
    adds_up: bool = True
    comparable: bool = False
    note: str = ""


@dataclass(frozen=True)
class GameAnswers:
    """What a game has answered to some coalitions of a view's first images.

    Attributes:
        coalitions: Present players; the first is everyone, the second nobody.
        values: For the view's classes.
    """

    coalitions: Bool[np.ndarray, "n C P"]
    values: Float[np.ndarray, "n C E"]


@dataclass(frozen=True)
class View:
    """One pipeline's answers to the images, and maps of them.

    Attributes:
        name: Of the pipeline.
        classes: Explained of each image, the foremost first.
        answers: Of the classifier, for these classes.
        predictions: What it says of each image, in words.
        panels: The explainer's maps first.
        grid: Rows and columns of players.
        space: Of the values, and of the answers that they add up to.
        right: Whether it is right about each image, where that is known.
        answers_of_game: To coalitions, where the evaluation knows them.
    """

    name: str
    classes: Int[np.ndarray, "N E"]
    answers: Float[np.ndarray, "N E"]
    predictions: Sequence[str]
    panels: Sequence[Panel]
    grid: tuple[int, int] | None
    space: str
    right: Bool[np.ndarray, " N"] | None = None
    answers_of_game: GameAnswers | None = None


@dataclass(frozen=True)
class Explorer:
    """Images and views of them.

    Attributes:
        images: RGB.
        names: Of the images.
        class_names: Of all classes.
        views: Of all images each.
        labels: What images show, nothing of those of which it is not known.
        groups: A name for each image's subset, of which there may be none.
        segments: The player that each pixel belongs to, where players are segments.
        answer: What a classifier's answer is called.
        bounded: Whether answers lie in [0, 1].
        noun: What a class is called.
    """

    images: UInt8[np.ndarray, "N H W 3"]
    names: Sequence[str]
    class_names: Sequence[str]
    views: Sequence[View]
    labels: Sequence[str] = ()
    groups: Sequence[str] = ()
    segments: Int[np.ndarray, "N H W"] | None = None
    answer: str = "probability"
    bounded: bool = True
    noun: str = "class"
    colours: Sequence[str] = field(default=COLOURS)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the page: images as WebP, values in eight bits with a scale for each map."""
        used = sorted({int(k) for view in self.views for k in view.classes.flat})
        return {
            "images": [_picture(image) for image in self.images],
            "size": list(self.images.shape[1:3]),
            "names": list(self.names),
            "labels": list(self.labels),
            "groups": list(self.groups),
            "classNames": {k: self.class_names[k] for k in used},
            "segments": None if self.segments is None else [_label_map(one) for one in self.segments],
            "answer": self.answer,
            "bounded": self.bounded,
            "noun": self.noun,
            "colours": list(self.colours),
            "views": [_view(view) for view in self.views],
        }


def _view(view: View) -> dict[str, Any]:
    game = view.answers_of_game
    return {
        "name": view.name,
        "classes": view.classes.tolist(),
        "answers": _plain(view.answers),
        "predictions": list(view.predictions),
        "right": None if view.right is None else view.right.tolist(),
        "grid": view.grid,
        "space": view.space,
        "panels": [
            {
                "name": panel.name,
                "note": panel.note,
                "addsUp": panel.adds_up,
                "comparable": panel.comparable,
                "kind": panel.kind,
                "values": _packed(panel.values if panel.kind == "attribution" else _from_zero(panel.values)),
                "stderr": None if panel.stderr is None else _packed(panel.stderr),
            }
            for panel in view.panels
        ],
        "game": None
        if game is None
        else {
            "coalitions": _base64(np.packbits(game.coalitions, axis=-1).tobytes()),
            "number": game.coalitions.shape[1],
            "values": _packed(game.values.swapaxes(1, 2), bits=16),
        },
    }


def _from_zero(values: np.ndarray) -> np.ndarray:
    """Return maps of scores and saliencies above the lowest value of each, as figures draw them."""
    return values - np.where(np.isfinite(values), values, np.inf).min(axis=-1, keepdims=True)


def _packed(values: Float[np.ndarray, "n e v"], bits: int = 8) -> dict[str, Any]:
    """Return numbers as small integers, each row divided by its largest one; what is not finite is the lowest."""
    codes, scale = _codes(values, bits)
    return {
        "shape": values.shape,
        "bits": bits,
        "codes": _base64(codes.astype(f"<i{bits // 8}").tobytes()),
        "scale": _base64(scale.astype("<f4").tobytes()),
    }


def _codes(values: Float[np.ndarray, "*shape v"], bits: int) -> tuple[np.ndarray, np.ndarray]:
    finite, most = np.isfinite(values), 2 ** (bits - 1) - 1
    known = np.where(finite, values, 0)
    scale = np.abs(known).max(axis=-1, keepdims=True).astype(np.float32)
    codes = np.rint(known / np.where(scale > 0, scale, 1) * most).clip(-most, most)
    return np.where(finite, codes, -most - 1), scale


def _plain(values: Float[np.ndarray, "N E"]) -> list[list[float | None]]:
    return [[float(f"{one:.7g}") if np.isfinite(one) else None for one in row] for row in values]


def _picture(image: UInt8[np.ndarray, "H W 3"]) -> str:
    picture = Image.fromarray(image)
    picture.thumbnail((_SIDE, _SIDE))
    return _webp(picture, lossless=max(image.shape) <= _LOSSLESS, quality=80)


def _label_map(segments: Int[np.ndarray, "H W"]) -> str:
    """Return segments as a picture whose red and green say the number."""
    channels = np.stack([segments % 256, segments // 256, np.zeros_like(segments)], axis=-1).astype(np.uint8)
    return _webp(Image.fromarray(channels), lossless=True)


def _webp(picture: Image.Image, **options: Any) -> str:
    content = BytesIO()
    picture.save(content, "webp", **options)
    return f"data:image/webp;base64,{_base64(content.getvalue())}"


def _base64(content: bytes) -> str:
    return b64encode(content).decode()
