"""One HTML page that needs nothing but itself: pictures, scripts and styles embedded, everything from data escaped."""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from fastshap_lab.files import write_atomically
from fastshap_lab.report.explorer import Explorer
from fastshap_lab.report.tables import Table, render_html

_STYLES = ("page.css", "explorer.css", "curves.css")
_SCRIPTS = ("numbers.js", "maps.js", "explorer.js", "tables.js", "curves.js", "page.js")  # in turn, one module


@dataclass(frozen=True)
class Section:
    """A part of the page: text, then tables, then figures.

    Attributes:
        title: Stands over the section and in the table of contents.
        text: Paragraphs, with an empty line between them.
        tables: Results by caption.
        figures: PNG files by caption.
        curves: What ``drawn_curves`` says of some of these figures, by caption: a browser shows their values.
    """

    title: str
    text: str = ""
    tables: Mapping[str, Table | pd.DataFrame] = field(default_factory=dict)
    figures: Mapping[str, Path] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


def write_page(
    path: Path | str,
    title: str,
    summary: Mapping[str, str],
    sections: Sequence[Section] = (),
    warnings: Sequence[str] = (),
    explorer: Explorer | None = None,
    code: str = "",
) -> None:
    """Write the page, whole or not at all.

    Args:
        path: The HTML file to make or replace.
        title: Of the page.
        summary: What a reader wants to know first, by name; lines are kept.
        sections: In the order of the page.
        warnings: Lines that stand above everything else.
        explorer: Images to look into.
        code: Lines to paste.
    """
    environment = Environment(
        loader=PackageLoader("fastshap_lab.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "table": render_html,
        "embedded": _embedded,
        "base64": _base64,
        "css_width": _css_width,
        "paragraphs": _paragraphs,
    }
    style, script = (_joined(names) for names in (_STYLES, _SCRIPTS))
    page = environment.get_template("page.html.jinja").render(
        title=title,
        summary=summary,
        sections=sections,
        warnings=warnings,
        code=code,
        data=None if explorer is None else _embedded(explorer.to_json()),
        style=Markup(style),
        script=Markup(script),
        # Whatever slipped through, the browser would neither run nor load it.
        policy=f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'",
    )
    write_atomically(path, page)


def _joined(names: Sequence[str]) -> str:
    """Return files of this package, one after the other."""
    folder = files(__name__)
    return "\n" + "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


def _source(text: str) -> str:
    """Return how a policy calls an element by its content."""
    return f"'sha256-{_base64(sha256(text.encode()).digest())}'"


def _embedded(values: Any) -> Markup:
    """Return plain values as JSON that ends no element, with no number that JSON has no word for."""
    return htmlsafe_json_dumps(values, dumps=json.dumps, allow_nan=False, separators=(",", ":"))


def _base64(content: bytes) -> str:
    return b64encode(content).decode()


def _css_width(png: bytes) -> int:
    """Return the width that gives text its size on paper: ours have 150 pixels to an inch, a CSS inch has 96."""
    return int.from_bytes(png[16:20], "big") * 96 // 150  # the first field of the PNG header


def _paragraphs(text: str) -> list[str]:
    return [paragraph for paragraph in text.split("\n\n") if paragraph.strip()]
