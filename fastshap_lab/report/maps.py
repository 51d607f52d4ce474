"""Figures of heatmaps beside the images that they explain: red raises a class's output, blue lowers it."""

import textwrap
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from math import sqrt
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from fastshap_lab.errors import UserError
from fastshap_lab.files import replacing

# ColorBrewer's RdBu, reversed, with a white centre in place of light grey.
COLOURS = ("#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#ffffff", "#fddbc7", "#f4a582", "#d6604d", "#b2182b")

# The number of colours is odd, so that zero has a colour of its own; NaN is grey, to distinguish it from zero.
BLUE_WHITE_RED = LinearSegmentedColormap.from_list("blue_white_red", COLOURS, N=257).with_extremes(bad="0.6")

FIGURE_FORMATS = ("png", "svg", "pdf", "jpg", "jpeg", "webp")

KEY = "Red raises the output, blue lowers it, white is zero; each row has its own scale."

# Lengths are in inches. All positions are computed, so that text and pictures do not overlap for any number of cells.
CELL = 0.95
GAP = 0.12
LINE = 0.165
ROW_TEXT = 1.35
BAR = 0.09
BAR_TEXT = 0.85
FONT = 9.0  # points
CHARACTER = 0.55 * FONT / 72  # mean width of a character

FRAMES: dict[str, dict[str, object]] = {
    "plain": {"color": "0.75", "linewidth": 0.6},
    "predicted": {"color": "black", "linewidth": 2.2},
    "label": {"color": "#1a7f37", "linewidth": 2.2, "linestyle": (0, (2.5, 1.2))},
}


@dataclass(frozen=True)
class _Cell:
    picture: np.ndarray  # an image (H, W, 3), or one value per player (grid_h, grid_w)
    title: str = ""
    caption: str = ""
    frame: str = "plain"


@dataclass(frozen=True)
class _Row:
    text: str
    cells: list[_Cell]


def class_maps(
    images: Float[np.ndarray, "B H W 3"],
    maps: Float[np.ndarray, "B K *players"],
    answers: Float[np.ndarray, "B K"],
    class_names: Sequence[str],
    labels: Sequence[str] | None = None,
    labelled: Bool[np.ndarray, "B K"] | None = None,
    row_names: Sequence[str] | None = None,
    value_name: str = "Shapley value",
    max_classes: int = 10,
    classes: Sequence[int] | None = None,
    segments: Int[np.ndarray, "B H W"] | None = None,
    ranks: Float[np.ndarray, "B K"] | None = None,
    marked: Bool[np.ndarray, "B K"] | None = None,
    said: Sequence[str] | None = None,
    answer_format: str = "p = {:.2f}",
) -> Figure:
    """Return a figure with a row for each image: the image, then the map of each class, on one colour scale.

    Classes are in their own order. If there are more than ``max_classes``, each row shows those with the highest ranks,
    the highest first. A solid frame marks predicted classes, a dashed frame the label's classes that are not predicted.

    Args:
        images: RGB images in [0, 1].
        maps: Attributions, for the players of a grid (rows, columns) or for P segments.
        answers: Outputs of the model, which are printed under the maps; usually probabilities.
        class_names: Names of the K classes.
        labels: Label of each image, in words.
        labelled: Which classes belong to the label.
        row_names: Name of each image.
        value_name: Name of the values that colours represent.
        max_classes: Maximum number of maps in a row.
        classes: Indices of the classes to show, in this order. None: as described above.
        segments: Index of the segment of each pixel, if players are segments.
        ranks: Ranks by which classes are chosen. None: ``answers``.
        marked: Which classes are predicted. None: the one with the highest rank.
        said: Prediction for each image, in words. None: the name of the class with the highest rank.
        answer_format: Format string for an output.
    """
    num_classes = maps.shape[1]
    if classes is None and num_classes <= max_classes:
        classes = range(num_classes)
    rows, ranks = [], answers if ranks is None else ranks
    best = ranks.argmax(axis=1)
    marked = np.arange(num_classes) == best[:, None] if marked is None else marked
    said = [class_names[k] for k in best] if said is None else said
    differing = "" if labelled is None else "; dashed: the label, where it differs"
    labelled = np.zeros_like(marked) if labelled is None else labelled
    for index, (image, image_maps, row_answers) in enumerate(zip(images, maps, answers, strict=True)):
        order = np.argsort(-ranks[index], kind="stable")[:max_classes] if classes is None else classes
        cells = [
            _Cell(
                image_maps[k] if segments is None else image_maps[k][segments[index]],
                title=class_names[k] if index == 0 or classes is None else "",
                caption=answer_format.format(row_answers[k]),
                frame="predicted" if marked[index, k] else "label" if labelled[index, k] else "plain",
            )
            for k in order
        ]
        text = [] if row_names is None else [row_names[index]]
        text += [] if labels is None else [f"label: {labels[index]}"]
        text += [f"predicted: {said[index]}"]
        rows.append(_Row("\n".join(text), [_Cell(image), *cells]))
    player = "patch" if segments is None else "segment"
    frames = f" Solid frame: predicted class{differing}." if (marked | labelled).any() else ""
    return _draw(rows, images.shape[1:3], f"{value_name} of each {player}. {KEY}{frames}")


def comparison(
    images: Float[np.ndarray, "B H W 3"],
    columns: Mapping[str, Float[np.ndarray, "B _ _"]],
    row_text: Sequence[str] | None = None,
    notes: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """Return a figure with a row for each image: the image, then a map for each column, on one colour scale.

    Args:
        images: RGB images in [0, 1].
        columns: Maps to compare, by the title of their column; they have the same units, and their grids may differ.
        row_text: Text before each image.
        notes: Text under each map, for some of the columns.
    """
    notes = notes or {}
    rows = []
    for index, image in enumerate(images):
        cells = [
            _Cell(maps[index], title=name if index == 0 else "", caption=notes[name][index] if name in notes else "")
            for name, maps in columns.items()
        ]
        rows.append(_Row("" if row_text is None else row_text[index], [_Cell(image), *cells]))
    return _draw(rows, images.shape[1:3], KEY)


def gallery(
    images: Float[np.ndarray, "B H W 3"],
    methods: Mapping[str, tuple[np.ndarray, str]],
    row_text: Sequence[str] | None = None,
) -> Figure:
    """Return a figure with a row for each image: the image, then a map for each method, each on its own scale.

    Args:
        images: RGB images in [0, 1].
        methods: Maps (B, rows, columns) and their kind, by the name of the method; sizes and units may differ. An
            ``attribution`` is divided by its largest absolute value, a ``score`` or ``saliency`` stretched to [0, 1].
        row_text: Text before each image.
    """
    rows = []
    for index, image in enumerate(images):
        cells = [
            _Cell(_relative(maps[index], kind), title=name.replace("_", " ") if index == 0 else "")
            for name, (maps, kind) in methods.items()
        ]
        rows.append(_Row("" if row_text is None else row_text[index], [_Cell(image), *cells]))
    key = (
        "Each map has its own scale: attributions are divided by their largest absolute value, red raises the "
        "output, blue lowers it, white is zero; scores and saliencies are stretched from white to red."
    )
    return _draw(rows, images.shape[1:3], key)


def _relative(values: np.ndarray, kind: str) -> np.ndarray:
    """Return a map scaled to [-1, 1], or to [0, 1] if it is no attribution; a constant map becomes zero."""
    finite = values[np.isfinite(values)]
    low = finite.min(initial=np.inf) if kind != "attribution" else 0.0
    size = np.abs(finite - low).max(initial=0.0)
    return (values - low) / size if size > 0 else np.where(np.isfinite(values), 0.0, values)


def subset_maps(
    images: Float[np.ndarray, "B H W 3"],
    pipelines: Mapping[str, Float[np.ndarray, "B _ _"]],
    captions: Mapping[str, Sequence[str]],
    titles: Sequence[str],
) -> Figure:
    """Return a figure with a column for each image: the image on top, then its map from each pipeline.

    Args:
        images: RGB images in [0, 1].
        pipelines: Maps of each pipeline, by its name; a pipeline is a row of the figure with its own colour scale.
        captions: Text under each map, by the name of the pipeline.
        titles: Text over each image.
    """
    rows = [_Row("", [_Cell(image, title=title) for image, title in zip(images, titles, strict=True)])]
    for name, maps in pipelines.items():
        cells = [_Cell(values, caption=caption) for values, caption in zip(maps, captions[name], strict=True)]
        rows.append(_Row(name, cells))
    return _draw(rows, images.shape[1:3], KEY)


def image_rows(rows: Mapping[str, Float[np.ndarray, "B H W 3"]], key: str) -> Figure:
    """Return a figure with a row for each kind of picture and a column for each image.

    Args:
        rows: RGB pictures in [0, 1], by the text before their row.
        key: Explanation of the figure, which is printed above it.
    """
    drawn = [_Row(name, [_Cell(picture) for picture in pictures]) for name, pictures in rows.items()]
    return _draw(drawn, next(iter(rows.values())).shape[1:3], key)


def save_figure(figure: Figure, path: Path | str) -> None:
    """Write a figure, whole or not at all.

    At 150 dots per inch, fewer where a side would grow beyond 8000 pixels.

    Args:
        figure: Any matplotlib figure.
        path: Path of the file, which is replaced if it exists. The suffix determines the format, one of
            ``FIGURE_FORMATS``; without a suffix it is PNG.

    Raises:
        UserError: The suffix is not one of ``FIGURE_FORMATS``.
    """
    format_ = figure_format(path)
    dpi = min(150.0, 8000 / max(figure.get_size_inches()))
    with replacing(path) as temporary:
        figure.savefig(temporary, format=format_, dpi=dpi)


def figure_format(path: Path | str) -> str:
    """Return the format of a figure's file, which the suffix of its path determines, as for ``save_figure``."""
    format_ = Path(path).suffix.lower().removeprefix(".") or "png"
    if format_ not in FIGURE_FORMATS:
        raise UserError(f"{path}: the suffix must be one of {', '.join(f'.{known}' for known in FIGURE_FORMATS)}")
    return format_


def inline_figure(figure: Figure, text: str) -> str:
    """Return a figure as a self-contained HTML element with a small PNG.

    Args:
        figure: Any matplotlib figure.
        text: Alternative text for readers who cannot see the figure.
    """
    png = BytesIO()
    figure.savefig(png, format="png", dpi=min(96.0, 2000 / max(figure.get_size_inches())))
    return f'<img src="data:image/png;base64,{b64encode(png.getvalue()).decode()}" alt="{escape(text)}">'


def _draw(rows: list[_Row], image_size: tuple[int, int], key: str) -> Figure:
    """Return a figure of the cells, whose positions are computed in inches from the top left.

    Args:
        rows: Rows of cells; maps in a row share a colour scale.
        image_size: Height and width in pixels; cells have the same ratio, so that maps match their images.
        key: Explanation of the figure, which is printed above it.
    """
    image_height, image_width = image_size
    cell_width = CELL * max(1.0, sqrt(image_width / image_height))  # captions need their width in portrait too
    cell_height = cell_width * image_height / image_width
    text_width = ROW_TEXT if any(row.text for row in rows) else 0.0
    num_columns = max((len(row.cells) for row in rows), default=0)
    width = GAP + text_width + num_columns * (cell_width + GAP) + BAR + BAR_TEXT

    rows = [_wrap_row(row, cell_width) for row in rows]
    key = _wrap(key, width - 2 * GAP, max_lines=9)
    key_height = GAP + _text_height([key]) + GAP
    title_heights = [_text_height([cell.title for cell in row.cells]) for row in rows]
    row_heights = [
        max(cell_height + _text_height([cell.caption for cell in row.cells]), _text_height([row.text])) + GAP
        for row in rows
    ]
    height = key_height + sum(title_heights) + sum(row_heights) + GAP

    figure = Figure(figsize=(width, height), facecolor="white")

    def axes_at(left: float, top: float, axes_width: float) -> Axes:
        bottom = height - top - cell_height
        return figure.add_axes((left / width, bottom / height, axes_width / width, cell_height / height))

    figure.text(GAP / width, 1 - GAP / height, key, fontsize=FONT, color="0.3", va="top", parse_math=False)
    top = key_height
    for row, title_height, row_height in zip(rows, title_heights, row_heights, strict=True):
        top += title_height
        figure.text(GAP / width, 1 - top / height, row.text, fontsize=FONT, va="top", parse_math=False)
        maps = [cell.picture for cell in row.cells if cell.picture.ndim == 2]
        limit = _limit(maps)
        scale = ScalarMappable(Normalize(-limit, limit), BLUE_WHITE_RED)
        left = GAP + text_width
        for cell in row.cells:
            _draw_cell(axes_at(left, top, cell_width), cell, scale)
            left += cell_width + GAP
        if maps:
            bar = figure.colorbar(scale, cax=axes_at(left, top, BAR))
            bar.set_ticks([-limit, 0, limit], labels=[f"−{limit:.3g}", "0", f"{limit:.3g}"], fontsize=FONT)
            bar.outline.set(edgecolor="0.75", linewidth=0.6)
        top += row_height
    return figure


def _draw_cell(axes: Axes, cell: _Cell, scale: ScalarMappable) -> None:
    if cell.picture.ndim == 3:
        axes.imshow(cell.picture.clip(0, 1), aspect="auto")
    else:
        axes.imshow(cell.picture, cmap=scale.cmap, norm=scale.norm, aspect="auto", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    # Names may contain dollar signs, which must not be read as formulas.
    axes.set_title(cell.title, fontsize=FONT, pad=4, parse_math=False)
    axes.set_xlabel(cell.caption, fontsize=FONT, labelpad=3, parse_math=False)
    axes.spines[:].set(**FRAMES[cell.frame])


def _limit(maps: list[np.ndarray]) -> float:
    """Return the largest finite absolute value, or 1 if it is zero."""
    largest = [np.abs(values[np.isfinite(values)]).max(initial=0.0) for values in maps]
    return float(max(largest, default=0.0)) or 1.0


def _wrap_row(row: _Row, cell_width: float) -> _Row:
    cells = [
        _Cell(cell.picture, _wrap(cell.title, cell_width), _wrap(cell.caption, cell_width), cell.frame)
        for cell in row.cells
    ]
    return _Row(_wrap(row.text, ROW_TEXT - GAP), cells)


def _wrap(text: str, inches: float, max_lines: int = 3) -> str:
    """Return a text whose lines are wrapped at a width in inches and cut after ``max_lines`` each."""
    characters = int(inches / CHARACTER)
    wrapped = []
    for line in text.splitlines():
        pieces = textwrap.wrap(line, characters)
        if len(pieces) > max_lines:
            pieces[max_lines - 1 :] = [f"{pieces[max_lines - 1][: characters - 1]}…"]
        wrapped += pieces
    return "\n".join(wrapped)


def _text_height(texts: list[str]) -> float:
    return LINE * max((len(text.splitlines()) for text in texts), default=0)
