import csv
import re

import numpy as np
import pandas as pd
import pytest

from fastshap_lab.report import Table, render_html, write_table

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
        (0.8535, "0.854"),
        (1 / 3, "0.333"),
        (0.9, "0.900"),
        (12345.6, "12,346"),
        (-0.02, "−0.0200"),
        (np.inf, "∞"),
        (3.0, "3.00"),
        (0.0, "0"),
        (NAN, "–"),
    ],
)
def test_numbers_have_three_significant_digits(value, shown):
    cells = [cell for _, cell in cells_of(Table(pd.DataFrame({"x": [value, 1.0]})))]
    assert cells == [shown, "1.00"]


def test_small_numbers_share_a_power_of_ten_which_stands_in_the_head():
    html = render_html(pd.DataFrame({"mse": [4.765e-5, 0.0001234], "mse_low": [4e-5, NAN], "mse_high": [5e-5, NAN]}))
    assert ">MSE · 10⁴</th>" in html
    assert '0.476 <span class="interval">[0.400, 0.500]</span></td>' in html
    assert 'data-value="4.765e-05"' in html  # what is sorted and copied
    assert "1.23</td>" in html


def test_p_values_stay_as_they_are_and_words_are_never_the_best():
    table = Table(pd.DataFrame({"p (minus the best)": [0.000999, 0.0042]}))
    assert [text for _, text in cells_of(table)] == ["0.000999", "0.00420"]
    words = Table(pd.DataFrame({"method": ["a", "b"], "hit": [1.0, 2.0]}), {"method": False, "hit": False})
    assert [kind for kind, _ in cells_of(words)] == ["plain", "number best", "plain", "number"]


def test_heads_say_what_columns_mean_and_which_direction_is_better():
    html = render_html(pd.DataFrame({"r2": [0.5], "masked KL": [1.0], "own_column": ["a"]}))
    assert re.search(r'data-name="r2" title="Share of the true values[^"]+ Higher is better.">R²</th>', html)
    assert re.search(r'data-name="masked KL" title="[^"]+ Of masked images. Lower is better.">masked KL</th>', html)
    assert '<th scope="col" data-name="own_column" title="">own column</th>' in html


def test_the_best_is_bold_and_so_is_what_a_test_cannot_tell_from_it():
    frame = pd.DataFrame({"model": list("aaabb"), "r2": [0.5, 0.7, 0.69, 0.2, 0.1], "mse": [3.0, 2.0, 1.0, NAN, 5.0]})
    marks = [
        kind for kind, _ in cells_of(Table(frame, within=("model",), ties={"r2": [False, False, True, False, False]}))
    ]
    assert [mark.split()[-1] == "best" for mark in marks[1::3]] == [False, True, True, True, False]
    assert [mark.split()[-1] == "best" for mark in marks[2::3]] == [False, False, True, False, False]
    turned = Table(frame, {"r2": False, "mse": None})
    assert [mark.split()[-1] == "best" for mark, _ in cells_of(turned)].index(True) == 13  # the last row's R², alone


def cells_of(table):
    """Return the class and the text of each cell."""
    found = re.findall(r'<td(?: class="([^"]*)")?(?: data-value="[^"]*")?>(.*?)</td>', render_html(table))
    return [(kind or "plain", text) for kind, text in found]


def test_a_named_index_is_a_column_and_an_unnamed_one_is_not(tmp_path):
    frame = pd.DataFrame({"r2": [0.5]})
    assert ">method</th>" in render_html(frame.set_index(pd.Index(["unet"], name="method")))
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
