"""Figures of curves and points: trainings, deletion and insertion, predicted against exact Shapley values."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

_MAX_IN_PANEL = 5  # largest number of runs whose names fit into a panel
LINE_STYLES = ("-", "--", ":", "-.")
COUNTS = LinearSegmentedColormap.from_list("counts", ["#b5d0ea", "#08306b"])  # a single point is visible on white


def training_curves(histories: Mapping[str, pd.DataFrame], panels: Mapping[str, Sequence[str]]) -> Figure:
    """Return a figure with a panel for each measure and a line for each run; colours are runs, dashes are columns.

    Columns that were not logged, and panels without columns, are left out.

    Args:
        histories: Logged values of each run, by its name, with a column ``epoch``; a row has NaN where a column was not
            logged.
        panels: Names of columns to draw, by the title of their panel.
    """
    logged = {column for history in histories.values() for column in history.columns[history.notna().any()]}
    panels = {title: [name for name in names if name in logged] for title, names in panels.items()}
    panels = {title: names for title, names in panels.items() if names}

    num_columns = max(1, min(3, len(panels)))
    num_rows = max(1, ceil(len(panels) / num_columns))
    many = len(histories) > _MAX_IN_PANEL
    size = 4.4 * num_columns + 2.6 * many, max(3.3 * num_rows, 0.19 * len(histories) * many)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    for index, (title, names) in enumerate(panels.items()):
        axes = figure.add_subplot(num_rows, num_columns, index + 1)
        _draw_panel(axes, histories, names)
        axes.set_title(title, fontsize=10, parse_math=False)
        if many:
            axes.get_legend().remove()
            axes.set_title(" and dashed ".join([title, *names[1:]]), fontsize=10, parse_math=False)
    if many:
        lines = [Line2D([], [], color=_colour(number), label=run) for number, run in enumerate(histories)]
        for text in figure.legend(handles=lines, loc="outside right upper", fontsize=8, frameon=False).get_texts():
            text.set_parse_math(False)
    return figure


def _colour(number: int) -> str:
    # After the first ten colours come lighter versions of them.
    return f"C{number}" if number < 10 else to_hex(colormaps["tab20"](2 * number % 20 + 1))


def _draw_panel(axes: Axes, histories: Mapping[str, pd.DataFrame], names: Sequence[str]) -> None:
    for run_index, (run, history) in enumerate(histories.items()):
        for name_index, name in enumerate(names):
            if name not in history:
                continue
            points = history[["epoch", name]].dropna()
            label = name if len(histories) == 1 else run if len(names) == 1 else f"{run}, {name}"
            axes.plot(
                points["epoch"],
                points[name],
                color=_colour(run_index),
                linestyle=LINE_STYLES[name_index % len(LINE_STYLES)],
                marker="." if len(points) < 30 else None,  # without markers, a line of one point is invisible
                label=label,
            )
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    for text in axes.legend(fontsize=8, frameon=False).get_texts():
        text.set_parse_math(False)


def budget_curves(curves: Mapping[str, pd.Series], title: str, height: str = "R²") -> Figure:
    """Return a figure of R², or another fraction, by the number of evaluations; values below zero are not shown.

    Args:
        curves: Values by name, with the number of evaluations as index. A curve whose only index is 0 is drawn as a
            horizontal line.
        title: Title of the figure.
        height: Label of the y-axis.
    """
    figure = Figure(figsize=(5.2, 3.6), layout="constrained", facecolor="white")
    axes = figure.add_subplot(xlabel="evaluations of the game per image", ylabel=height, ylim=(0, 1.02))
    axes.set_xscale("log", base=2)
    axes.set_title(title, fontsize=10, parse_math=False)
    for number, (name, curve) in enumerate(curves.items()):
        if list(curve.index) == [0]:
            axes.axhline(curve.iloc[0], color="0.4", linewidth=0.8, linestyle="--", label=name)
        else:
            axes.plot(curve.index, curve, color=f"C{number}", marker=".", label=name)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    for text in axes.legend(fontsize=8, frameon=False).get_texts():
        text.set_parse_math(False)
    return figure


def removal_curves(
    curves: Mapping[str, Float[np.ndarray, " _"]], what: str, height: str, baseline: str | None = None
) -> Figure:
    """Return a figure of a model's output while units are deleted or inserted; the legend has the order of the curves.

    Args:
        curves: Means over images at equal steps from none to all units, by name.
        what: ``"deleted"`` or ``"inserted"``, for the label of the x-axis.
        height: Label of the y-axis.
        baseline: Name of the curve that others are compared with, which is drawn black.
    """
    figure = Figure(figsize=(7.2, max(3.6, 0.19 * len(curves))), layout="constrained", facecolor="white")
    axes = figure.add_subplot(xlabel=f"share of the image {what}", ylabel=height, xlim=(0, 1))
    for number, (name, curve) in enumerate(curves.items()):
        place, style = np.linspace(0, 1, len(curve)), LINE_STYLES[number // 10 % len(LINE_STYLES)]
        black = {"color": "black", "linewidth": 2} if name == baseline else {"color": f"C{number % 10}"}
        axes.plot(place, curve, linestyle=style, label=name.replace("_", " "), **black)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def method_curves(panels: Mapping[str, pd.DataFrame], x: str, y: str = "", baseline: str | None = None) -> Figure:
    """Return a figure with a panel for each table, a line for each column over the index, and one legend for all.

    Args:
        panels: Tables with a column for each method, by the panel's title; an index of words is spaced evenly.
        x: Label of the x-axis, which shows the index.
        y: Label of the y-axis, if titles do not tell what the columns contain.
        baseline: Name of the column that others are compared with, which is drawn black.
    """
    names = list(dict.fromkeys(name for table in panels.values() for name in table))
    size = (4.2 * len(panels) + 2.4, max(3.6, 0.19 * len(names)))
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    lines = {}
    for place, (title, table) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), place + 1, xlabel=x, ylabel="" if place else y)
        axes.set_title(title, fontsize=10, parse_math=False)
        for number, name in enumerate(names):
            if name in table:
                style = LINE_STYLES[number // 10 % len(LINE_STYLES)]
                black = {"color": "black", "linewidth": 2} if name == baseline else {"color": f"C{number % 10}"}
                [lines[name]] = axes.plot(table.index, table[name], marker=".", linestyle=style, **black)
        if pd.api.types.is_integer_dtype(table.index):
            axes.xaxis.get_major_locator().set_params(integer=True)
        elif not pd.api.types.is_numeric_dtype(table.index):
            axes.tick_params(axis="x", labelrotation=90, labelsize=8)
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    labels = [name.replace("_", " ") for name in lines]
    legend = figure.legend(lines.values(), labels, loc="outside right upper", fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def scatter(exact: Float[np.ndarray, " n"], predicted: Float[np.ndarray, " n"], title: str) -> Figure:
    """Return a figure of predicted against exact Shapley values: their density, the identity line, and R².

    R² is that of the predictions, pooled over all values, not that of a fitted line; it can be negative, and is a dash
    if all exact values are equal.

    Args:
        exact: Exact or converged values.
        predicted: Values of the explainer, in the same order.
        title: Title of the figure.
    """
    low, high = min(exact.min(), predicted.min()), max(exact.max(), predicted.max())
    pad = 0.05 * (high - low) or 1.0
    limits = (low - pad, high + pad)
    residual, total = np.square(exact - predicted).sum(), np.square(exact - exact.mean()).sum()
    r2 = f"{1 - residual / total:.3f}" if total > 0 else "–"

    figure = Figure(figsize=(5.2, 4.6), layout="constrained", facecolor="white")
    axes = figure.add_subplot(
        xlim=limits, ylim=limits, aspect="equal", xlabel="exact Shapley value", ylabel="predicted Shapley value"
    )
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.axline((low, low), slope=1, color="0.4", linewidth=0.8)
    axes.text(0.04, 0.96, f"R² = {r2}\nn = {len(exact):,}", transform=axes.transAxes, va="top")
    # Counts have a log scale, as most players have values near zero and would hide the few that have not.
    bins = axes.hexbin(exact, predicted, gridsize=60, extent=limits * 2, bins="log", mincnt=1, cmap=COUNTS, zorder=2)
    figure.colorbar(bins, ax=axes, label="values in a bin", shrink=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def relations(measures: pd.DataFrame, x: str, ys: Sequence[str], groups: Sequence[str]) -> Figure:
    """Return a figure with a panel for each measure against another one, and a labelled point for each row of a table.

    Labels are to the right of each panel, in the order of their points and connected to them by thin lines, so that
    they do not overlap.

    Args:
        measures: Table with a column for each measure, whose index labels the points.
        x: Name of the column on all x-axes.
        ys: Names of the columns on the y-axes, one for each panel.
        groups: Group of each row; points of a group have the same colour.
    """
    line, tall = 0.16, max(3.2, 0.16 * len(measures) + 1.0)  # inches
    wide = 3.4 + 0.068 * max(len(str(label)) for label in measures.index)
    figure = Figure(figsize=(wide * len(ys), tall), layout="constrained", facecolor="white")
    colours = {group: f"C{number}" for number, group in enumerate(dict.fromkeys(groups))}
    for panel, y in enumerate(ys):
        axes = figure.add_subplot(1, len(ys), panel + 1, xlabel=x, ylabel=y)
        axes.margins(0.08)
        axes.scatter(measures[x], measures[y], s=22, c=[colours[group] for group in groups], zorder=3)
        order = np.argsort(measures[y].to_numpy(), kind="stable")
        low, high = axes.get_ylim()
        axes.set(ylim=(low, high))
        heights = _apart((measures[y].to_numpy()[order] - low) / (high - low), line / (tall - 0.6))
        for row, height in zip(order, heights, strict=True):
            axes.annotate(
                str(measures.index[row]),
                (measures[x].iloc[row], measures[y].iloc[row]),
                (1.04, height),
                textcoords="axes fraction",
                fontsize=8,
                va="center",
                color=colours[groups[row]],
                arrowprops={"arrowstyle": "-", "color": "0.75", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 2},
                annotation_clip=False,
                parse_math=False,
            )
        axes.grid(color="0.93")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _apart(places: np.ndarray, gap: float) -> np.ndarray:
    """Return ascending positions in [0, 1], moved up until they are a gap apart, and down if they would exceed 1."""
    steps = gap * np.arange(len(places))
    up = np.maximum.accumulate(places - steps)
    return np.minimum(up, 1 - steps[-1]) + steps


def drawn_curves(figure: Figure) -> list[dict[str, Any]]:
    """Return the curves of a figure's panels as plain values, for a page to draw; none where it holds anything else.

    Args:
        figure: Of this module, or of others that draw lines.
    """
    panels = []
    for axes in figure.axes:
        lines = [line for line in axes.lines if not line.get_label().startswith("_")]
        if axes.collections or axes.images or axes.patches or not lines or len(lines) < len(axes.lines):
            return []
        panel = {
            "title": axes.get_title(),
            "x": axes.get_xlabel(),
            "y": axes.get_ylabel(),
            "logarithmic": axes.get_xscale() == "log",
            "lines": [_line(line, axes) for line in lines],
        }
        panels.append(panel)
    return panels


def _line(line: Line2D, axes: Axes) -> dict[str, Any]:
    level = line.get_transform() != axes.transData  # which has no places of its own
    points = zip(axes.get_xlim() if level else line.get_xdata(), line.get_ydata(), strict=True)
    known = [(float(f"{x:.6g}"), float(f"{y:.6g}")) for x, y in points if np.isfinite([x, y]).all()]
    return {"name": line.get_label(), "level": level, "points": known}
