"""What an evaluation writes: sections of a page, and their tables and figures as files."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from fastshap_lab.components import did_you_mean
from fastshap_lab.errors import UserError
from fastshap_lab.report import Section, save_figure, write_table


@dataclass
class Report:
    """Sections of the page; their tables and figures are files of their own, too.

    Attributes:
        folder: Of the run.
        published: Numbers of a paper by table, row and column, that stand beside ours; a row is called by the text in
            its columns, joined by commas.
    """

    folder: Path
    published: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    sections: list[Section] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: dict[str, Path] = field(default_factory=dict)

    def add(
        self,
        title: str,
        text: str,
        tables: dict[tuple[str, str], pd.DataFrame] | None = None,
        figures: dict[tuple[str, str], Figure] | None = None,
    ) -> None:
        """Write tables and figures as files and add a section that shows them.

        Args:
            title: Title of the section.
            text: Paragraphs, with an empty line between them.
            tables: Tables by file name and caption.
            figures: Figures by file name and caption.

        Raises:
            UserError: A published row is none of a table's.
        """
        tables = {
            (name, caption): self._beside_published(name, table) for (name, caption), table in (tables or {}).items()
        }
        figures = figures or {}
        for (name, _), table in tables.items():
            self.tables[name] = table
            write_table(table, self.folder / "tables" / name)
        for (name, _), figure in figures.items():
            self.figures[name] = self.folder / "figures" / f"{name}.png"
            save_figure(figure, self.figures[name])
        shown = {caption: table for (_, caption), table in tables.items()}
        drawn = {caption: self.figures[name] for name, caption in figures}
        self.sections.append(Section(title, text, shown, drawn))

    def check_published(self) -> None:
        """Raise a ``UserError`` where published numbers belong to a table that the report does not have."""
        for name in self.published:
            if name not in self.tables:
                raise UserError(f"evaluate.published.{name}: no such table, {did_you_mean(name, self.tables)}")

    def _beside_published(self, name: str, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table with the published numbers, if there are any, each to the right of ours."""
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
