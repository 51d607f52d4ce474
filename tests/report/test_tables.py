import csv

import numpy as np
import pandas as pd
import pytest

from fastshap_lab.report import render_html, write_table

NAN = float("nan")
RESULTS = pd.DataFrame(
    {
        "method": ["explainer", "a|b"],
        "r2": [0.85312345678, NAN],
        "r2_low": [0.84110001, NAN],
        "r2_high": [0.8659999, NAN],
        "calls": [1, 123456],
        "exact": [False, True],
    }
)


def markdown_rows(path):
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in path.read_text().splitlines()]


def test_csv_keeps_columns_and_precision(tmp_path):
    write_table(RESULTS, tmp_path / "k=0.5")
    with (tmp_path / "k=0.5.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert list(first) == list(RESULTS.columns)
    assert [float(first[name]) for name in ("r2", "r2_low", "r2_high")] == [0.85312345678, 0.84110001, 0.8659999]
    assert (second["method"], second["r2"], second["calls"]) == ("a|b", "", "123456")


def test_markdown_folds_intervals_and_aligns_numbers(tmp_path):
    write_table(RESULTS, tmp_path / "errors")
    header, (rule,), first, second = markdown_rows(tmp_path / "errors.md")
    assert header == ["method", "r2", "calls", "exact"]
    assert first == ["explainer", "0.8531 [0.8411, 0.866]", "1", "no"]
    assert second == [r"a\|b", "–", "123456", "yes"]
    assert [cell.endswith(":") for cell in rule.split("|")] == [False, True, True, True]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.853, "0.853"),
        (1 / 3, "0.3333"),
        (1.5e-7, "1.5e-07"),
        (12345.6, "12346"),
        (-0.02, "-0.02"),
        (np.inf, "inf"),
        (3.0, "3"),
    ],
)
def test_numbers_have_four_significant_digits(value, shown):
    assert f'<td class="number">{shown}</td>' in render_html(pd.DataFrame({"x": [value]}))


def test_a_named_index_is_a_column_and_an_unnamed_one_is_not(tmp_path):
    frame = pd.DataFrame({"r2": [0.5]})
    assert "<th>method</th>" in render_html(frame.set_index(pd.Index(["unet"], name="method")))
    write_table(frame, tmp_path / "plain")
    assert (tmp_path / "plain.csv").read_text() == "r2\n0.5\n"


def test_an_empty_table_is_a_header(tmp_path):
    write_table(RESULTS.head(0), tmp_path / "empty")
    assert "method" in (tmp_path / "empty.md").read_text()
    assert "<tbody>\n</tbody>" in render_html(RESULTS.head(0))


def test_html_escapes_headers_and_cells():
    html = render_html(pd.DataFrame({"<b>": ["<script>alert(1)</script>"]}))
    assert "<script" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;" in html
