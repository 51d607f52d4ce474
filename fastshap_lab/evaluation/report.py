"""The report of an evaluation: sections of a page, and their tables and figures as files."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from fastshap_lab.components import did_you_mean
from fastshap_lab.errors import UserError
from fastshap_lab.report import Explorer, Section, Table, drawn_curves, save_figure, write_table


@dataclass
class Report:
    """Sections of the page, whose tables and figures are written as files, too.

    Attributes:
        folder: Folder of the run.
        published: Numbers of a paper by table, row and column, which are shown beside the measured ones. The name of a
            row is the text in its columns, joined by commas.
        sections: Sections in the order of the page.
        tables: Tables by file name.
        figures: Paths of the figures by file name.
    """

    folder: Path
    published: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    sections: list[Section] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: dict[str, Path] = field(default_factory=dict)
    explorer: Explorer | None = None

    def add(
        self,
        title: str,
        text: str,
        tables: Mapping[tuple[str, str], pd.DataFrame | Table] | None = None,
        figures: Mapping[tuple[str, str], Figure] | None = None,
    ) -> None:
        """Write tables and figures as files and add a section that shows them.

        Args:
            title: Title of the section.
            text: Paragraphs, with an empty line between them.
            tables: Tables by file name and caption.
            figures: Figures by file name and caption.

        Raises:
            UserError: A published row does not exist in its table.
        """
        shown, figures = {}, figures or {}
        for (name, caption), given in (tables or {}).items():
            table = given if isinstance(given, Table) else Table(given)
            frame = self._beside_published(name, table.frame)
            self.tables[name], shown[caption] = frame, replace(table, frame=frame)
            write_table(frame, self.folder / "tables" / name)
        for (name, _), figure in figures.items():
            self.figures[name] = self.folder / "figures" / f"{name}.png"
            save_figure(figure, self.figures[name])
        curves = {caption: found for (_, caption), figure in figures.items() if (found := drawn_curves(figure))}
        drawn = {caption: self.figures[name] for name, caption in figures}
        self.sections.append(Section(title, text, shown, drawn, curves))

    def check_published(self) -> None:
        """Raise a ``UserError`` if published numbers belong to a table that the report does not have."""
        for name in self.published:
            if name not in self.tables:
                raise UserError(f"evaluate.published.{name}: no such table, {did_you_mean(name, self.tables)}")

    def _beside_published(self, name: str, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table with columns of published numbers, if there are any, to the right of the measured ones."""
        published = self.published.get(name, {})
        if not published:
            return table
        called = table.select_dtypes(include=["object", "string"]).agg(", ".join, axis=1).tolist()
        for row in published:
            if row not in called:
                raise UserError(f"evaluate.published.{name}.{row}: no such row, {did_you_mean(row, called)}")
        for column in dict.fromkeys(column for row in published.values() for column in row):
            values = [published.get(row, {}).get(column, float("nan")) for row in called]
            after = [place for place, name in enumerate(table) if name == column or name.startswith(f"{column}_")]
            table.insert(max(after, default=len(table.columns) - 1) + 1, f"{column}, published", values)
        return table
