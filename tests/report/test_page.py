import json
import re
from base64 import b64decode, b64encode
from hashlib import sha256
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from fastshap_lab.report import Explorer, Panel, Section, View, num_classes_shown, save_figure, write_page

SVG = "http://www.w3.org/2000/svg"  # a name that nothing is loaded from
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
    assert page.attributes("script") == [{"type": "module"}]
    assert "http" not in html.replace("http-equiv", "").replace(SVG, "")
    assert html.index("Second.") < html.index("Table") < html.index("<img")


def test_warnings_stand_above_everything_else(tmp_path):
    path = tmp_path / "report.html"
    write_page(path, "Digits", {"seed": "0"}, [Section("Training")], [f"lower it {ATTACK}", "and that"])
    html = path.read_text(encoding="utf-8")
    assert html.index("lower it") < html.index("and that") < html.index("<dl>")
    assert len([one for one in Elements(html).attributes("p") if one.get("class") == "warning"]) == 2
    assert html.count("<script") == 1


def explorer(text="cat") -> Explorer:
    view = View(
        name=text,
        classes=np.array([[1, 0]]),
        answers=np.array([[0.75, 0.25]]),
        predictions=[text],
        panels=[Panel(text, np.array([[[0.5, -0.25], [np.nan, 1e-9]]]), note=text)],
        grid=(1, 2),
        space=text,
    )
    return Explorer(
        np.zeros((1, 2, 4, 3), np.uint8), [text], [text, text], [view], [text], [text], None, text, True, text
    )


def test_everything_from_data_is_escaped(tmp_path, figure):
    table = pd.DataFrame({ATTACK: [ATTACK]}, index=pd.Index([ATTACK], name=f"{ATTACK} index"))
    sections = [Section(ATTACK, ATTACK, {ATTACK: table}, {ATTACK: figure})]
    path = tmp_path / "report.html"
    write_page(path, ATTACK, {ATTACK: ATTACK}, sections, [ATTACK], explorer(f"</script>{ATTACK}"), ATTACK)
    html = path.read_text(encoding="utf-8")
    page = Elements(html)
    assert page.attributes("script") == [{"type": "application/json", "id": "explorer-data"}, {"type": "module"}]
    assert html.count("&lt;script&gt;") == 18
    assert "alert('x')" not in html
    assert page.attributes("img")[0]["alt"] == ATTACK


def test_the_policy_allows_the_scripts_and_styles_of_the_page_alone(tmp_path):
    write_page(tmp_path / "report.html", "Digits", {}, explorer=explorer())
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    (policy,) = [one["content"] for one in Elements(html).attributes("meta") if "http-equiv" in one]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for name, tag in (("style-src", "<style>"), ("script-src", '<script type="module">')):
        content = html.split(tag)[1].split(f"</{name.partition('-')[0]}>")[0]
        assert rules[name] == f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"
    assert not re.search(r"\son\w+=|\sstyle=|javascript:|eval\(|innerHTML", html)


def test_values_are_embedded_in_eight_bits_with_a_scale(tmp_path):
    write_page(tmp_path / "page.html", "Digits", {}, explorer=explorer())
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    data = json.loads(html.split('id="explorer-data">')[1].split("</script>")[0])
    (panel,) = data["views"][0]["panels"]
    codes = np.frombuffer(b64decode(panel["values"]["codes"]), np.int8).reshape(panel["values"]["shape"])
    scale = np.frombuffer(b64decode(panel["values"]["scale"]), np.float32)
    assert codes.tolist() == [[[127, -64], [-128, 127]]]
    assert scale.tolist() == [0.5, np.float32(1e-9)]
    assert data["views"][0]["answers"] == [[0.75, 0.25]]


def test_a_large_page_stays_below_ten_megabytes(tmp_path):
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (200, 7, 7, 3), np.uint8).repeat(32, 1).repeat(32, 2)
    images = np.clip(coarse + generator.normal(0, 8, coarse.shape), 0, 255).astype(np.uint8)  # with a camera's noise
    values = generator.normal(size=(200, num_classes_shown(64), 64))
    view = View(
        "one",
        np.tile(np.arange(10), (200, 1)),
        np.full((200, 10), 0.1),
        ["cat"] * 200,
        [Panel(f"method {number}", values) for number in range(30)],
        (8, 8),
        "value",
    )
    path = tmp_path / "page.html"
    write_page(path, "Large", {}, explorer=Explorer(images, ["image"] * 200, ["cat"] * 10, [view]))
    assert path.stat().st_size < 10e6
    assert num_classes_shown(65) == 5


def test_a_missing_figure_leaves_the_old_page(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        write_page(path, "Digits", {}, [Section("Maps", figures={"Figure": tmp_path / "missing.png"})])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
