"""One HTML page that needs nothing but itself: figures embedded, no scripts, everything from data escaped."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from fastshap_lab.files import write_atomically
from fastshap_lab.report.tables import render_html


@dataclass(frozen=True)
class Section:
    """A part of the page: text, then tables, then figures.

    Attributes:
        title: Stands over the section and in the table of contents.
        text: Paragraphs, with an empty line between them.
        tables: Results by caption.
        figures: PNG files by caption.
    """

    title: str
    text: str = ""
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    figures: Mapping[str, Path] = field(default_factory=dict)


def write_page(
    path: Path | str, title: str, summary: Mapping[str, str], sections: Sequence[Section], warnings: Sequence[str] = ()
) -> None:
    """Write the page, whole or not at all.

    Args:
        path: The HTML file to make or replace.
        title: Of the page.
        summary: What a reader wants to know first, by name.
        sections: In the order of the page.
        warnings: Lines that stand above everything else.
    """
    environment = Environment(
        loader=PackageLoader("fastshap_lab", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"table": render_html, "base64": _base64, "css_width": _css_width, "paragraphs": _paragraphs}
    template = environment.get_template("page.html.jinja")
    write_atomically(path, template.render(title=title, summary=summary, sections=sections, warnings=warnings))


def _base64(png: bytes) -> str:
    return b64encode(png).decode()


def _css_width(png: bytes) -> int:
    """Return the width that gives text its size on paper: ours have 150 pixels to an inch, a CSS inch has 96."""
    return int.from_bytes(png[16:20], "big") * 96 // 150  # the first field of the PNG header


def _paragraphs(text: str) -> list[str]:
    return [paragraph for paragraph in text.split("\n\n") if paragraph.strip()]
