"""Figures of checks: attention by block, overlays, distributions, the effect of settings."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from fastshap_lab.report.maps import _Cell, _draw, _relative, _Row

FOREGROUND = (0.85, 0.1, 0.15)


def layer_maps(
    image: Float[np.ndarray, "H W 3"],
    layers: Mapping[str, Float[np.ndarray, "L _ _"]],
    final: Mapping[str, Mapping[str, Float[np.ndarray, "_ _"]]],
) -> Figure:
    """Return a figure of one image: a row for each model with the map of every block, and below a row for each method.

    Args:
        image: RGB image in [0, 1].
        layers: Maps of the L blocks, from input to output, by the name of the model; models may differ in L.
        final: Maps by the name of the method and then of the model, for the models that the method applies to.
    """
    rows = []
    for model, maps in layers.items():
        cells = [_Cell(_relative(one, "saliency"), title=f"block {number}") for number, one in enumerate(maps, 1)]
        rows.append(_Row(model, [_Cell(image), *cells]))
    for method, by_model in final.items():
        cells = [_Cell(_relative(one, "saliency"), title=model) for model, one in by_model.items()]
        rows.append(_Row(method.replace("_", " "), [_Cell(image), *cells]))
    return _draw(rows, image.shape[:2], "Each map is stretched from white, its lowest value, to red, its highest.")


def overlays(
    images: Float[np.ndarray, "B H W 3"],
    maps: Mapping[str, Float[np.ndarray, "B H W"]],
    foregrounds: Mapping[str, Bool[np.ndarray, "B H W"]],
    titles: Sequence[str],
) -> Figure:
    """Return a figure with a column for each image, and rows with methods' maps and foregrounds over the grey image.

    Args:
        images: RGB images in [0, 1].
        maps: Maps in [0, 1], by the name of the method.
        foregrounds: Pixels above the threshold of the map, by the name of the method.
        titles: Text over each image.
    """
    rows = [_Row("", [_Cell(image, title=title) for image, title in zip(images, titles, strict=True)])]
    grey = images.mean(axis=-1, keepdims=True).repeat(3, axis=-1)  # only maps have colours
    for method, values in maps.items():
        name = method.replace("_", " ")
        heat = 0.45 * grey + 0.55 * colormaps["inferno"](values)[..., :3]
        tinted = np.where(foregrounds[method][..., None], 0.45 * grey + 0.55 * np.array(FOREGROUND), grey)
        rows += [_Row(name, [_Cell(one) for one in heat]), _Row(f"{name}, cut", [_Cell(one) for one in tinted])]
    key = (
        "Maps range from black (lowest) to yellow (highest). In rows named cut, red pixels are above Otsu's threshold."
    )
    return _draw(rows, images.shape[1:3], key)


def densities(counts: Mapping[str, Float[np.ndarray, " bins"]], edges: Float[np.ndarray, " ends"], what: str) -> Figure:
    """Return a figure of the densities of distributions, with a line for each.

    Args:
        counts: Number of values in each bin, by the name of the distribution; at least one must be above zero.
        edges: Edges of the bins (bins + 1).
        what: Label of the x-axis, the name of the values.
    """
    figure = Figure(figsize=(5.2, 3.6), layout="constrained", facecolor="white")
    axes = figure.add_subplot(xlabel=what, ylabel="density", xlim=(edges[0], edges[-1]))
    for name, found in counts.items():
        axes.stairs(found / (found.sum() * np.diff(edges)), edges, label=name, linewidth=1.4)
    _finish(axes)
    _name(axes.legend(fontsize=8, frameon=False))
    return figure


def setting_curves(tables: Mapping[str, pd.DataFrame], curves: Sequence[str]) -> Figure:
    """Return a figure with a panel for each setting and curves over its values; each model has a colour.

    Args:
        tables: Tables with the columns ``model``, the setting and the curves, by the name of the setting.
        curves: Names of the columns to draw, at most two; the second one is dashed.
    """
    figure = Figure(figsize=(3.6 * len(tables) + 2, 3.4), layout="constrained", facecolor="white")
    for panel, (setting, table) in enumerate(tables.items(), 1):
        axes = figure.add_subplot(1, len(tables), panel, xlabel=setting, ylabel="area under the curve")
        for colour, (model, found) in enumerate(table.groupby("model", sort=False)):
            for dash, curve in zip(("-", "--"), curves, strict=False):
                label = f"{model}, {curve}" if panel == 1 else None
                axes.plot(found[setting], found[curve], color=f"C{colour}", linestyle=dash, marker=".", label=label)
        _finish(axes)
    _name(figure.legend(loc="outside right upper", fontsize=8, frameon=False))
    return figure


def _finish(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def _name(legend: Legend) -> None:
    for text in legend.get_texts():
        text.set_parse_math(False)  # names may contain dollar signs, which must not be read as formulas
