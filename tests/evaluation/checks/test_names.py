"""Two checks of one kind, under different names, have nothing in common."""

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from fastshap_lab.components import build
from fastshap_lab.evaluation.checks import CHECKS
from fastshap_lab.evaluation.report import Report
from fastshap_lab.runs.store import Store

# Arguments of the first and of the second.
ASKED = {
    "attention_layers": ({"images": 1}, {"images": 2}),
    "coverage": ({}, {}),
    "mask_similarity": ({"images": 1}, {"images": 2}),
    "masked_accuracy": ({"fractions": [0.25]}, {"fractions": [0.75]}),
    "max_sensitivity": ({"draws": 1, "images": 2}, {"draws": 2, "images": 2}),
    "overdetermined": ({"methods": ["random"], "shares": [0.25]}, {"methods": ["random"], "shares": [0.5, 0.75]}),
    "randomization": ({"seeds": 1, "images": 1}, {"seeds": 1, "images": 2}),
    "roar": ({"methods": [], "fractions": [0.5], "seeds": 1, "epochs": 1},) * 2,
    "segmentation_overlay": ({}, {}),
    "vit_cx_settings": (
        {"thresholds": [0.1], "noises": [0.1], "images": 1},
        {"thresholds": [0.2, 0.3], "noises": [0.2], "images": 2, "step": 2},
    ),
}


@pytest.mark.parametrize("kind", CHECKS)
def test_two_checks_of_a_kind_have_tables_figures_and_numbers_of_their_own(evaluation, tmp_path, kind):
    def compared(folder: str, **chosen: dict[str, Any]) -> Report:
        report, store = Report(tmp_path / folder), Store(tmp_path / folder / "store")
        asked = replace(evaluation, report=report, store=store)
        for name, params in chosen.items():
            build(CHECKS, name, kind, params)(asked, name)
        return report

    first, second = ASKED[kind]
    together, alone = compared("together", **{kind: first, "another": second}), compared("alone", another=second)
    (title, another), figures, tables = (one.title for one in together.sections), together.figures, together.tables
    assert another == f"{title}: another" == alone.sections[0].title
    assert {name for name in figures if name.startswith("another")} == alone.figures.keys()
    assert {name for name in tables if name.startswith("another")} == alone.tables.keys()
    assert len(figures) > len(alone.figures) or not figures
    assert len(tables) > len(alone.tables) or not tables
    assert figures or tables
    for name, table in alone.tables.items():
        pd.testing.assert_frame_equal(*(one.drop(columns="seconds", errors="ignore") for one in (tables[name], table)))
