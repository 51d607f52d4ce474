import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from fastshap_lab.report import (
    budget_curves,
    drawn_curves,
    method_curves,
    relations,
    save_figure,
    scatter,
    training_curves,
)

NAN = float("nan")


def corner(figure):
    return figure.axes[0].texts[0].get_text()


def test_a_panel_per_metric_a_line_per_run_and_nothing_for_what_was_not_logged(tmp_path):
    vit = pd.DataFrame(
        {"epoch": [0, 0, 1, 1], "train/loss": [NAN, 4.0, NAN, 2.0], "val/loss": [5.0, NAN, 3.0, NAN], "val/r2": NAN}
    )
    unet = pd.DataFrame({"epoch": [0], "train/loss": [1.0]})
    panels = {"loss": ["train/loss", "val/loss"], "R²": ["val/r2"], "time": ["seconds"]}
    figure = training_curves({"vit": vit, "$unet": unet}, panels)
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["vit, train/loss", "vit, val/loss", "$unet, train/loss"]
    assert axes.lines[0].get_xydata().tolist() == [[0, 4], [1, 2]]
    assert axes.lines[1].get_xydata().tolist() == [[0, 5], [1, 3]]
    save_figure(figure, tmp_path / "curves.png")


def test_no_history_gives_an_empty_figure(tmp_path):
    figure = training_curves({}, {"loss": ["train/loss"]})
    assert figure.axes == []
    save_figure(figure, tmp_path / "curves.png")


@pytest.mark.parametrize(
    ("predicted", "r2"), [([0.0, 2.0, 4.0], "1.000"), ([2.0, 2.0, 2.0], "0.000"), ([4.0, 2.0, 0.0], "-3.000")]
)
def test_r2_is_that_of_the_prediction_itself(predicted, r2):
    figure = scatter(np.array([0.0, 2.0, 4.0]), np.array(predicted), "digits")
    assert corner(figure) == f"R² = {r2}\nn = 3"
    assert figure.axes[0].get_xlim() == figure.axes[0].get_ylim()


def test_every_value_is_in_a_bin():
    exact = np.random.default_rng(0).normal(size=1000)
    bins = scatter(exact, 0.5 * exact, "digits").axes[0].collections[0]
    assert bins.get_array().sum() == 1000


def test_equal_exact_values_have_no_r2(tmp_path):
    figure = scatter(np.ones(4), np.ones(4), "$constant")
    assert corner(figure) == "R² = –\nn = 4"
    save_figure(figure, tmp_path / "scatter.png")


def test_labels_of_points_meet_neither_each_other_nor_the_border_however_close_the_points_are():
    names = [f"${number} by a surrogate" for number in range(14)]
    kl = np.concatenate([np.full(9, 0.1), np.linspace(0.2, 3, 5)])
    measures = pd.DataFrame({"KL": kl, "accuracy": 0.9 - 0.2 * kl, "loss": 0.5}, index=names)
    figure = relations(measures, "KL", ["accuracy", "loss"], ["A", "B"] * 7)
    FigureCanvasAgg(figure).draw()
    for axes, column in zip(figure.axes, ("accuracy", "loss"), strict=True):
        np.testing.assert_allclose(axes.collections[0].get_offsets(), measures[["KL", column]])
        assert sorted(text.get_text() for text in axes.texts) == sorted(names)
        boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the lines to their points
        for index, box in enumerate(boxes):
            assert axes.bbox.x1 < box.x0 < box.x1 < figure.bbox.x1
            assert 0 < box.y0 < box.y1 < figure.bbox.y1
            assert box.count_overlaps(boxes[:index]) == 0


def test_many_methods_are_told_apart_in_one_legend_that_fits():
    names = ["random", *(f"$method_{number}" for number in range(27))]
    shares = pd.DataFrame({name: [1.0, 0.5, NAN] for name in names}, index=[0.0, 0.3, 1.0])
    steps = pd.DataFrame({"random": [1.0, 0.2], "late": [0.4, 0.3]}, index=["head", "blocks.1"])
    figure = method_curves({"A": shares, "B": steps}, "share")
    FigureCanvasAgg(figure).draw()
    first, second = figure.axes
    looks = [(line.get_color(), line.get_linestyle()) for line in first.lines]
    assert len(set(looks)) == len(names)
    np.testing.assert_allclose(first.lines[1].get_xdata(), [0, 0.3, 1])
    assert [text.get_text() for text in second.get_xticklabels()] == ["head", "blocks.1"]
    assert (second.lines[0].get_color(), second.lines[0].get_linestyle()) == looks[0]  # as in the other panel
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*(name.replace("_", " ") for name in names), "late"]
    box = legend.get_window_extent()
    assert box.y0 > 0
    assert first.bbox.x1 < second.bbox.x1 < box.x0 < box.x1 < figure.bbox.x1


def test_the_names_of_many_runs_stand_beside_the_panels(tmp_path):
    history = pd.DataFrame({"epoch": [0, 1], "train/kl": [1.0, 0.5], "val/kl": [0.9, 0.4]})
    histories = {f"run {number} by a long name": history for number in range(14)}
    figure = training_curves(histories, {"KL divergence": ["train/kl", "val/kl"]})
    (axes,), (legend,) = figure.axes, figure.legends
    assert axes.get_legend() is None
    assert [text.get_text() for text in legend.get_texts()] == list(histories)
    assert len({line.get_color() for line in axes.lines}) == 14
    figure.savefig(tmp_path / "curves.png")  # a warning, where there is no room, is an error
    assert axes.get_position().width > 0.4


def test_a_page_gets_the_curves_of_a_figure_that_holds_nothing_else():
    spent = pd.Series([0.5, float("nan"), 0.987654321], index=[16, 32, 64])
    (panel,) = drawn_curves(budget_curves({"alone": pd.Series([0.4], index=[0]), "$refined$": spent}, "one"))
    assert panel["logarithmic"]
    assert (panel["title"], panel["x"], panel["y"]) == ("one", "evaluations of the game per image", "R²")
    alone, refined = panel["lines"]
    assert alone["level"]
    assert {height for _, height in alone["points"]} == {0.4}
    assert refined == {"name": "$refined$", "level": False, "points": [(16, 0.5), (64, 0.987654)]}
    history = pd.DataFrame({"epoch": [0, 1], "a": [2.0, 1.0], "b": [float("nan"), 3.0]})
    panels = drawn_curves(training_curves({"run": history}, {"A": ["a"], "B": ["b"]}))
    assert [panel["title"] for panel in panels] == ["A", "B"]
    assert panels[1]["lines"] == [{"name": "b", "level": False, "points": [(1, 3)]}]
    assert drawn_curves(scatter(np.arange(5.0), np.arange(5.0), "points")) == []
