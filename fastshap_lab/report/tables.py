"""Data frames as CSV for programs, Markdown and HTML for people."""

from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup
from tabulate import tabulate

from fastshap_lab.files import write_atomically

MISSING = "–"


def write_table(frame: pd.DataFrame, stem: Path | str) -> None:
    """Write ``stem.csv`` in full precision and ``stem.md`` for reading.

    A named index becomes the first columns, an unnamed one is dropped. In Markdown numbers have four significant
    digits, and columns ``x``, ``x_low``, ``x_high`` become one: ``0.853 [0.841, 0.866]``.

    Args:
        frame: The results.
        stem: Path of both files without their suffix.
    """
    stem = Path(stem)
    table = _readable(frame)
    rows = [[cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in [table.header, *table.rows]]
    markdown = tabulate(
        rows[1:],
        headers=rows[0],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["right" if numeric else "left" for numeric in table.numeric] if table.rows else None,
    )
    write_atomically(stem.with_name(f"{stem.name}.csv"), _with_index(frame).to_csv(index=False, lineterminator="\n"))
    write_atomically(stem.with_name(f"{stem.name}.md"), markdown + "\n")


def render_html(frame: pd.DataFrame) -> Markup:
    """Return an HTML table, its cells formatted as in Markdown and escaped.

    Args:
        frame: The results.
    """
    table = _readable(frame)
    alignment = [Markup(' class="number"') if numeric else "" for numeric in table.numeric]

    def row(cells: list[str], tag: str) -> Markup:
        template = Markup("<{tag}{alignment}>{cell}</{tag}>")
        content = (
            template.format(tag=tag, alignment=align, cell=cell) for align, cell in zip(alignment, cells, strict=True)
        )
        return Markup("<tr>{}</tr>\n").format(Markup("").join(content))

    head = row(table.header, "th")
    body = Markup("").join(row(cells, "td") for cells in table.rows)
    return Markup("<table>\n<thead>\n{}</thead>\n<tbody>\n{}</tbody>\n</table>").format(head, body)


@dataclass(frozen=True)
class _Table:
    header: list[str]
    rows: list[list[str]]
    numeric: list[bool]  # per column: right-aligned


def _readable(frame: pd.DataFrame) -> _Table:
    frame = _with_index(frame)
    with_interval = [name for name in frame if {f"{name}_low", f"{name}_high"} <= set(frame)]
    bounds = {f"{name}_{end}" for name in with_interval for end in ("low", "high")}
    names = [name for name in frame if name not in bounds]
    columns = []
    for name in names:
        cells = [_format(value) for value in frame[name]]
        if name in with_interval:
            intervals = zip(cells, frame[f"{name}_low"], frame[f"{name}_high"], strict=True)
            cells = [_with_interval(cell, low, high) for cell, low, high in intervals]
        columns.append(cells)
    return _Table(
        header=[str(name) for name in names],
        rows=[list(cells) for cells in zip(*columns, strict=True)],
        numeric=[pd.api.types.is_numeric_dtype(frame[name]) for name in names],
    )


def _with_index(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.reset_index() if any(name is not None for name in frame.index.names) else frame


def _with_interval(cell: str, low: float, high: float) -> str:
    return cell if pd.isna(low) or pd.isna(high) else f"{cell} [{_format(low)}, {_format(high)}]"


def _format(value: object) -> str:
    if pd.isna(value):
        return MISSING
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, Real) and not isinstance(value, Integral):
        return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"  # seconds and counts without an exponent
    return str(value)
