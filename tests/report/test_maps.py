import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from fastshap_lab.errors import UserError
from fastshap_lab.report import class_maps, comparison, save_figure, subset_maps

WHITE = (255, 255, 255)


def drawn(figure):
    """Return the figure's cells in drawing order (colour bars hold no image), each as its pixels (h, w, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    height = len(pixels)
    cells = []
    for axes in figure.axes:
        if axes.images:
            box = axes.get_window_extent()
            top, bottom = height - box.y1, height - box.y0
            cells.append(pixels[round(top) : round(bottom), round(box.x0) : round(box.x1)])
    return cells


def player_colour(cell, row, column, grid):
    """Return the colour in the middle of one player's square."""
    y = int((row + 0.5) / grid[0] * cell.shape[0])
    x = int((column + 0.5) / grid[1] * cell.shape[1])
    return tuple(int(channel) for channel in cell[y, x])


def colour_limits(figure):
    return [
        axes.images[0].get_clim()[1] for axes in figure.axes if axes.images and axes.images[0].get_array().ndim == 2
    ]


def frame_widths(figure):
    return [axes.spines["top"].get_linewidth() for axes in figure.axes if axes.images]


def texts(figure):
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def black(num_images, height=16, width=16):
    return np.zeros((num_images, height, width, 3))


def test_zero_is_white_positive_red_negative_blue():
    maps = np.array([[[0.0, 2.0], [-2.0, 0.0]]])
    _, cell = drawn(comparison(black(1), {"explainer": maps}))
    assert player_colour(cell, 0, 0, (2, 2)) == player_colour(cell, 1, 1, (2, 2)) == WHITE
    red, _, blue = player_colour(cell, 0, 1, (2, 2))
    assert red > 150 > blue
    red, _, blue = player_colour(cell, 1, 0, (2, 2))
    assert blue > 150 > red


def test_a_map_of_zeros_is_white_and_a_missing_value_is_not():
    maps = np.zeros((2, 2, 2))
    maps[1] = np.nan
    _, zeros, _, missing = drawn(comparison(black(2), {"explainer": maps}))
    assert player_colour(zeros, 0, 0, (2, 2)) == WHITE
    assert player_colour(missing, 0, 0, (2, 2)) == (153, 153, 153)


def test_zero_is_white_whatever_the_scale():
    for scale in (1e-9, 0.3, 7e5):
        maps = np.array([[[0.0, 0.1 * scale], [-scale, 0.0]]])
        _, cell = drawn(comparison(black(1), {"explainer": maps}))
        assert player_colour(cell, 0, 0, (2, 2)) == WHITE


def test_a_map_fills_the_area_of_its_image_whatever_the_aspect():
    maps = np.zeros((1, 3, 6))
    maps[0, 2, 5] = 1.0
    image, cell = drawn(comparison(black(1, 24, 48), {"explainer": maps}))
    assert abs(cell.shape[1] / cell.shape[0] - 2) < 0.05
    assert np.abs(np.subtract(cell.shape, image.shape)).max() <= 1
    assert player_colour(cell, 2, 5, (3, 6)) != WHITE
    assert player_colour(cell, 2, 4, (3, 6)) == player_colour(cell, 1, 5, (3, 6)) == WHITE


def test_each_row_has_one_scale_for_all_its_columns():
    columns = {"explainer": np.full((2, 2, 2), 0.5), "exact": np.stack([np.full((4, 4), -3.0), np.full((4, 4), 0.1)])}
    assert colour_limits(comparison(black(2), columns)) == [3.0, 3.0, 0.5, 0.5]


def test_each_pipeline_has_its_own_scale():
    pipelines = {"first": np.full((2, 2, 2), 0.5), "second": np.full((2, 2, 2), -3.0)}
    captions = {"first": ["says 3 (0.81)", "says 5 (0.64)"], "second": ["says 8 (0.50)", "says 5 (0.99)"]}
    figure = subset_maps(black(2), pipelines, captions, ["label: 3", "label: 5"])
    assert colour_limits(figure) == [0.5, 0.5, 3.0, 3.0]
    assert {"label: 3", "first", "second", "says 5 (0.64)", "says 8 (0.50)"} <= set(texts(figure))


def test_infinity_does_not_set_the_scale():
    assert colour_limits(comparison(black(1), {"explainer": np.array([[[np.inf, 2.0]]])})) == [2.0]


def test_the_predicted_class_and_a_differing_label_are_framed():
    probabilities, labelled = np.array([[0.2, 0.7, 0.1], [0.2, 0.7, 0.1]]), np.eye(3, dtype=bool)[[1, 2]]
    figure = class_maps(
        black(2), np.zeros((2, 3, 2, 2)), probabilities, ["cat", "dog", "bird"], ["dog", "bird"], labelled
    )
    plain, framed = min(frame_widths(figure)), max(frame_widths(figure))
    assert frame_widths(figure) == [plain, plain, framed, plain, plain, plain, framed, framed]
    assert {"label: bird\npredicted: dog", "p = 0.70"} <= set(texts(figure))


def test_many_classes_show_the_most_probable_of_each_row():
    probabilities = np.array([[0.1, 0.5, 0.0, 0.4], [0.0, 0.1, 0.7, 0.2]])
    maps = np.arange(4.0).reshape(1, 4, 1, 1) * np.ones((2, 1, 2, 2))
    figure = class_maps(black(2), maps, probabilities, ["a", "b", "c", "d"], max_classes=2)
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles == ["", "b", "d", "", "c", "d"]
    shown = [axes.images[0].get_array()[0, 0] for axes in figure.axes if axes.images and axes.get_title()]
    assert shown == [1.0, 3.0, 2.0, 3.0]


def test_chosen_classes_stand_in_the_order_they_are_named_in():
    maps = np.arange(4.0).reshape(1, 4, 1, 1) * np.ones((2, 1, 2, 2))
    figure = class_maps(black(2), maps, np.full((2, 4), 0.25), ["a", "b", "c", "d"], classes=[3, 1])
    assert [axes.get_title() for axes in figure.axes if axes.images] == ["", "d", "b", "", "", ""]
    assert [axes.images[0].get_array()[0, 0] for axes in figure.axes if axes.get_title()] == [3.0, 1.0]


def test_other_answers_than_probabilities_are_written_ranked_and_named_as_they_are_told():
    maps, answers = np.zeros((1, 3, 2, 2)), np.array([[31.5, -2.0, 0.25]])
    told = {"ranks": np.array([[0.1, 2.0, 0.5]]), "marked": np.zeros((1, 3), bool), "said": ["b -2"]}
    figure = class_maps(black(1), maps, answers, ["a", "b", "c"], max_classes=2, answer_format="{:.4g}", **told)
    assert [axes.get_title() for axes in figure.axes if axes.images] == ["", "b", "c"]
    said = texts(figure)
    assert {"predicted: b -2", "-2", "0.25"} <= set(said)
    assert not any("Solid frame" in text for text in said)
    assert len(set(frame_widths(figure))) == 1
    both = class_maps(black(1), maps, answers, ["a", "b", "c"], marked=np.array([[True, True, False]]))
    widths = frame_widths(both)
    assert widths[1] == widths[2] == max(widths) > widths[3]


def test_names_are_no_formulas():
    names = ["$\\frac", "cost in $"]
    drawn(class_maps(black(1), np.zeros((1, 2, 2, 2)), np.array([[0.5, 0.5]]), names, row_names=["$x_"]))


def test_long_text_meets_neither_picture_nor_row():
    long = "great white shark, white shark, man-eater, Carcharodon carcharias"
    figure = class_maps(
        black(2), np.zeros((2, 10, 2, 2)), np.full((2, 10), 0.1), [long] * 10, labels=[long] * 2, row_names=[long] * 2
    )
    FigureCanvasAgg(figure).draw()
    boxes = [text.get_window_extent() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    boxes = [box for box in boxes if box.width > 1]  # what is empty or hidden measures one pixel at most
    boxes += [axes.get_window_extent() for axes in figure.axes if axes.images]
    for index, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.count_overlaps(boxes[:index]) == 0


def test_no_images_leave_the_key():
    figure = subset_maps(black(0), {"first": np.zeros((0, 2, 2))}, {"first": []}, [])
    assert drawn(figure) == []
    assert any("white is zero" in text.replace("\n", " ") for text in texts(figure))


@pytest.mark.parametrize(("inches", "pixels"), [((4, 3), (600, 450)), ((1, 200), (40, 8000))])
def test_saved_figures_are_png_of_a_sensible_size(tmp_path, inches, pixels):
    save_figure(Figure(figsize=inches), tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.format == "PNG"
        assert image.size == pixels


@pytest.mark.parametrize(
    ("name", "start"),
    [("a.svg", b"<?xml"), ("a.PDF", b"%PDF"), ("a.jpg", b"\xff\xd8"), ("a.b.png", b"\x89PNG"), ("plain", b"\x89PNG")],
)
def test_the_suffix_says_the_format(tmp_path, name, start):
    save_figure(Figure(figsize=(1, 1)), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_a_suffix_that_is_no_figures_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"a\.txt: the suffix must be one of \.png, \.svg"):
        save_figure(Figure(), tmp_path / "a.txt")


def test_a_figure_that_cannot_be_drawn_leaves_no_file(tmp_path):
    figure = Figure()
    figure.text(0.5, 0.5, r"$\frac$")
    with pytest.raises(ValueError, match="frac"):
        save_figure(figure, tmp_path / "broken.png")
    assert list(tmp_path.iterdir()) == []
