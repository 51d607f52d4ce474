"""Training curves, and predicted against exact Shapley values."""

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

LINE_STYLES = ("-", "--", ":", "-.")
COUNTS = LinearSegmentedColormap.from_list("counts", ["#b5d0ea", "#08306b"])  # one point is seen on white


def training_curves(histories: Mapping[str, pd.DataFrame], panels: Mapping[str, Sequence[str]]) -> Figure:
    """Return a figure with one panel per metric and one line per run; colours tell runs apart, dashes columns.

    What was not logged is left out: a column of a run, or a panel that would stay empty.

    Args:
        histories: For each run what was logged, with a column ``epoch``; rows may hold NaN where a column was not due.
        panels: Columns to draw, by the title of their panel.
    """
    logged = {column for history in histories.values() for column in history.columns[history.notna().any()]}
    panels = {title: [name for name in names if name in logged] for title, names in panels.items()}
    panels = {title: names for title, names in panels.items() if names}

    num_columns = max(1, min(3, len(panels)))
    num_rows = max(1, ceil(len(panels) / num_columns))
    figure = Figure(figsize=(4.4 * num_columns, 3.3 * num_rows), layout="constrained", facecolor="white")
    for index, (title, names) in enumerate(panels.items()):
        axes = figure.add_subplot(num_rows, num_columns, index + 1)
        _draw_panel(axes, histories, names)
        axes.set_title(title, fontsize=10, parse_math=False)
    return figure


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
                color=f"C{run_index}",
                linestyle=LINE_STYLES[name_index % len(LINE_STYLES)],
                marker="." if len(points) < 30 else None,  # a line of one point is invisible without
                label=label,
            )
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    for text in axes.legend(fontsize=8, frameon=False).get_texts():
        text.set_parse_math(False)


def budget_curves(curves: Mapping[str, pd.Series], title: str) -> Figure:
    """Return a figure of R² by evaluations, which are each series' index; below zero a curve is cut off.

    Args:
        curves: By name. A value at zero evaluations is drawn as a horizontal line: it needs none.
        title: What stands over the figure.
    """
    figure = Figure(figsize=(5.2, 3.6), layout="constrained", facecolor="white")
    axes = figure.add_subplot(xlabel="evaluations of the game per image", ylabel="R²", ylim=(0, 1.02))
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


def scatter(exact: Float[np.ndarray, " n"], predicted: Float[np.ndarray, " n"], title: str) -> Figure:
    """Return a figure of predicted against exact Shapley values: their density, the identity line, and R².

    R² is that of the prediction itself, pooled over all values, not of a line fitted to it; it can be negative, and is
    a dash where the exact values are all equal.

    Args:
        exact: Exact or converged values.
        predicted: The explainer's, in the same order.
        title: What stands over the figure.
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
    # Bins on a log scale: most players matter little, and would hide the few that do.
    bins = axes.hexbin(exact, predicted, gridsize=60, extent=limits * 2, bins="log", mincnt=1, cmap=COUNTS, zorder=2)
    figure.colorbar(bins, ax=axes, label="values in a bin", shrink=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
