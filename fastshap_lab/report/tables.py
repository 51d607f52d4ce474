"""Data frames as CSV for programs, Markdown and HTML for people."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup
from tabulate import tabulate

from fastshap_lab.files import write_atomically
from fastshap_lab.report.measures import measure_of

MISSING = "–"

_SMALL = 1e-2  # columns whose largest number is smaller have a power of ten in their head
_DECIMALS = 6  # of a number, at most
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_NUMERIC = Markup(' class="number"')
_HEAD = Markup('<th scope="col"{numeric} data-name="{name}" title="{about}">{title}</th>')
_INTERVAL = Markup(' <span class="interval">[{}, {}]</span>')


@dataclass(frozen=True)
class Table:
    """Results, and what their columns' names do not say.

    Attributes:
        frame: The results.
        higher_is_better: Of columns, where that is not what their names always mean; None where neither is.
        within: Columns: rows are compared with those that have the same in them.
        ties: Of columns, whether a test on the same images cannot tell each row from the best.
    """

    frame: pd.DataFrame
    higher_is_better: Mapping[str, bool | None] = field(default_factory=dict)
    within: Sequence[str] = ()
    ties: Mapping[str, Sequence[bool]] = field(default_factory=dict)

    def best(self, column: str, higher_is_better: bool | None) -> list[bool]:
        """Return which rows have the best value of a column, or one that is as good; none among fewer than two.

        Args:
            column: Name of it.
            higher_is_better: Its direction.
        """
        if higher_is_better is None or column not in self.frame:
            return [False] * len(self.frame)
        values = self.frame[column].reset_index(drop=True) * (1 if higher_is_better else -1)
        groups = values.groupby([self.frame[name].to_numpy() for name in self.within] or np.zeros(len(values)))
        found = (values == groups.transform("max")) & (groups.transform("count") > 1)
        if column in self.ties and found.any():
            found |= np.asarray(self.ties[column])
        return found.tolist()


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


def render_html(results: Table | pd.DataFrame) -> Markup:
    """Return an HTML table: three significant digits, intervals apart, the best in bold, everything escaped.

    A column of numbers that are all small has a power of ten in its head, which says why nothing has an exponent. Cells
    hold their numbers in full precision, for sorting and copying; heads their names in files, and what they mean.

    Args:
        results: With what is known of their columns.
    """
    table = results if isinstance(results, Table) else Table(results)
    frame = _with_index(table.frame)
    names, with_interval = _columns(frame)
    heads, columns = [], []
    for name in names:
        measure, values = measure_of(str(name)), frame[name]
        numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        power = _power(values) if pd.api.types.is_float_dtype(values) and measure.scaled else 0
        better = table.higher_is_better.get(str(name), measure.higher_is_better) if numeric else None
        best = table.best(str(name), better)
        direction = {None: "", True: "Higher is better.", False: "Lower is better."}[better]
        about = f"{measure.meaning} {direction}".strip()
        title = measure.title + (f" · 10{str(-power).translate(_SUPERSCRIPTS)}" if power else "")
        heads.append(_HEAD.format(numeric=_NUMERIC if numeric else "", name=name, about=about, title=title))
        cells = []
        for row, value in enumerate(values):
            text = Markup("{}").format(_readable_number(value, power))
            if name in with_interval and pd.notna(frame[f"{name}_low"].iloc[row]):
                ends = (_readable_number(frame[f"{name}_{end}"].iloc[row], power) for end in ("low", "high"))
                text += _INTERVAL.format(*ends)
            kinds = " ".join(["number"] * numeric + ["best"] * best[row])
            kinds = Markup(' class="{}"').format(kinds) if kinds else ""
            raw = Markup(' data-value="{}"').format(repr(float(value))) if numeric and pd.notna(value) else ""
            cells.append(Markup("<td{}{}>{}</td>").format(kinds, raw, text))
        columns.append(cells)
    body = Markup("").join(Markup("<tr>{}</tr>\n").format(Markup("").join(row)) for row in zip(*columns, strict=True))
    head = Markup("<tr>{}</tr>\n").format(Markup("").join(heads))
    return Markup("<table>\n<thead>\n{}</thead>\n<tbody>\n{}</tbody>\n</table>").format(head, body)


@dataclass(frozen=True)
class _Table:
    header: list[str]
    rows: list[list[str]]
    numeric: list[bool]  # per column: right-aligned


def _readable(frame: pd.DataFrame) -> _Table:
    frame = _with_index(frame)
    names, with_interval = _columns(frame)
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


def _columns(frame: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return the names of columns but for those of intervals' ends, and which of them have intervals."""
    with_interval = [name for name in frame if {f"{name}_low", f"{name}_high"} <= set(frame)]
    bounds = {f"{name}_{end}" for name in with_interval for end in ("low", "high")}
    return [name for name in frame if name not in bounds], with_interval


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


def _power(values: pd.Series) -> int:
    """Return the power of ten that the numbers of a column are shown in."""
    largest = values.abs().where(np.isfinite(values)).max()
    return math.floor(math.log10(largest)) if 0 < largest < _SMALL else 0


def _readable_number(value: object, power: int) -> str:
    """Return a value with three significant digits, whole numbers with all of theirs."""
    if not isinstance(value, Real) or isinstance(value, bool | np.bool_) or pd.isna(value):
        return _format(value)
    if isinstance(value, Integral):
        return f"{value:,}".replace("-", "−")
    number = float(value) / 10.0**power
    if not math.isfinite(number):
        return "∞" if number > 0 else "−∞"
    if number == 0:
        return "0"
    decimals = min(max(0, 2 - math.floor(math.log10(abs(number)))), _DECIMALS)
    text = f"{number:,.{decimals}f}".replace("-", "−")
    return text if float(f"{number:.{decimals}f}") else "≈ 0"
