from base64 import b64decode
from html.parser import HTMLParser

import pandas as pd
import pytest
from matplotlib.figure import Figure

from fastshap_lab.report import Section, save_figure, write_page

ATTACK = "\"><script>alert('x')</script>"


class Elements(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.elements = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def attributes(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def figure(tmp_path):
    path = tmp_path / "figure.png"
    save_figure(Figure(figsize=(3, 2)), path)
    return path


def test_the_page_carries_its_figures_and_loads_nothing(tmp_path, figure):
    sections = [
        Section("Errors", "First.\n\nSecond.", {"Table": pd.DataFrame({"r2": [0.5]})}, {"Figure": figure}),
        Section("Training"),
    ]
    write_page(tmp_path / "report.html", "Digits", {"seed": "0"}, sections)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Elements(html)
    (image,) = page.attributes("img")
    kind, data = image["src"].split(",")
    assert kind == "data:image/png;base64"
    assert b64decode(data) == figure.read_bytes()
    assert image["width"] == str(3 * 96)
    assert [link["href"] for link in page.attributes("a")] == ["#section-1", "#section-2"]
    assert [section["id"] for section in page.attributes("section")] == ["section-1", "section-2"]
    assert len(page.attributes("p")) == 2
    assert not page.attributes("link")
    assert not page.attributes("script")
    assert "http" not in html.replace("http-equiv", "")
    assert html.index("Second.") < html.index("Table") < html.index("<img")


def test_warnings_stand_above_everything_else(tmp_path):
    path = tmp_path / "report.html"
    write_page(path, "Digits", {"seed": "0"}, [Section("Training")], [f"lower it {ATTACK}", "and that"])
    html = path.read_text(encoding="utf-8")
    assert html.index("lower it") < html.index("and that") < html.index("<dl>")
    assert len([one for one in Elements(html).attributes("p") if one.get("class") == "warning"]) == 2
    assert "<script" not in html


def test_everything_from_data_is_escaped(tmp_path, figure):
    table = pd.DataFrame({ATTACK: [ATTACK]}, index=pd.Index([ATTACK], name=f"{ATTACK} index"))
    sections = [Section(ATTACK, ATTACK, {ATTACK: table}, {ATTACK: figure})]
    write_page(tmp_path / "report.html", ATTACK, {ATTACK: ATTACK}, sections)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 14
    assert Elements(html).attributes("img")[0]["alt"] == ATTACK


def test_a_missing_figure_leaves_the_old_page(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        write_page(path, "Digits", {}, [Section("Maps", figures={"Figure": tmp_path / "missing.png"})])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
