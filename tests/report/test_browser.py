"""Pages in a real browser, a Chromium that is found: clicks and keys, the numbers that are shown, what is requested."""

import numpy as np
import pandas as pd
import pytest

from fastshap_lab.report import (
    Explorer,
    GameAnswers,
    Panel,
    Section,
    Table,
    View,
    budget_curves,
    drawn_curves,
    save_figure,
    strongest_first,
    write_page,
)
from tests.browsing import number_in, opened, until

pytestmark = pytest.mark.browser

ATTACK = "</script><img src=x onerror=\"document.title='bad'\"><script>document.title='bad'</script>"
GRID, CLASSES, IMAGES = (2, 3), 4, 5
PLAYERS = GRID[0] * GRID[1]


def values(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape) / 10


def view(name: str, seed: int, right: list[bool]) -> View:
    """Return a view in which everything is known that can be, the last image's exact values excepted."""
    phi = values(seed, IMAGES, CLASSES, PLAYERS)
    order = strongest_first(phi[:, 0])
    present = np.ones((IMAGES, 2 + PLAYERS, PLAYERS), dtype=bool)
    present[:, 1] = False
    for image in range(IMAGES):
        for step in range(PLAYERS):
            present[image, 2 + step, order[image, : step + 1]] = False
    answers = present.astype(float) @ phi.swapaxes(1, 2) + 0.1 + 0.01 * (~present).sum(axis=2, keepdims=True)
    return View(
        name,
        np.array([np.roll(np.arange(CLASSES), image) for image in range(IMAGES)]),
        np.tile([0.6, 0.25, 0.1, 0.05], (IMAGES, 1)),
        ["cat", "dog", "eel", "cat", "dog"],
        [
            Panel("explainer", phi, comparable=True),
            Panel("exact", phi[:4] + 0.01, np.abs(phi[:4]) / 10, comparable=True, note="true values"),
            Panel("Grad-CAM", np.abs(phi[:, :1]), kind="saliency", adds_up=False),
        ],
        GRID,
        "softmax",
        np.array(right),
        GameAnswers(present[:4], answers[:4]),
    )


def explorer() -> Explorer:
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 8, 12, 3), np.uint8)
    return Explorer(
        images,
        [f"test image {number}" for number in range(IMAGES)],
        ["cat", "dog", "eel", "fox"],
        [view("A", 1, [True, True, False, True, False]), view("B", 2, [True, False, False, True, True])],
        ["cat", "dog", "fox", "cat", "fox"],
        ["all right", "only A right", "all wrong", "all right", "only B right"],
    )


def results() -> Table:
    methods = [f"method {number}" for number in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1)]
    r2 = np.linspace(0.1, 0.9123456, 10)
    bounds = {"r2": r2, "r2_low": r2 - 0.01, "r2_high": r2 + 0.01}
    return Table(pd.DataFrame({"method": methods, **bounds, "spearman": r2 / 3, "mse": r2 / 1e5, "seconds": r2 * 1000}))


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    spent = [16, 32, 64, 1024]
    curves = {"alone": pd.Series([0.4], index=[0]), "refined": pd.Series([0.5, 0.6, 0.75, 0.9], index=spent)}
    curves["kriging"] = pd.Series([0.1, 0.8], index=spent[2:])
    figure = budget_curves(curves, "A")
    save_figure(figure, path.with_name("curves.png"))
    drawn = {"Curves": path.with_name("curves.png")}, {"Curves": drawn_curves(figure)}
    sections = [Section("Errors", "Some text.", {"Errors of methods": results()}, *drawn)]
    summary = {"Explained": "5 images", "How true": "89 % [88, 91]"}
    write_page(path, "Report", summary, sections, ["one"], explorer(), "explainer = fsl.load_explainer(…)")
    return path


def close(value: float, largest: float) -> object:
    """Return what a number is that went through eight bits and three digits."""
    return pytest.approx(value, abs=largest / 254 + 0.006 * abs(value) + 1e-9)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 400, 1280, 1920, 2560])
def test_everything_fits_any_width_in_both_themes(browser, page_path, tmp_path, width, theme):
    with opened(browser, page_path, width, theme) as page:
        until(page, "explorer.owner")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        boxes = page.evaluate(
            "[...document.querySelectorAll('.wide')].map((one) => [one.scrollWidth, one.clientWidth])"
        )
        assert all(content <= room for content, room in boxes)
        shown = page.locator("figure.results").inner_text()
        for text in ("0.912", "[0.902, 0.922]", "0.304", "MSE · 10⁶", "9.12", "912"):
            assert text in shown
        page.screenshot(path=tmp_path / "page.png", full_page=True)


def test_images_classes_and_maps_are_chosen_by_clicks_and_keys(browser, page_path):
    with opened(browser, page_path) as page:
        caption = page.locator("#caption")
        assert caption.inner_text() == "test image 0: label cat, predicted cat · map of cat: explainer"
        page.locator("#strip label").nth(1).click()
        assert caption.inner_text() == "test image 1: label dog, predicted dog · map of fox: explainer"
        page.keyboard.press("ArrowRight")
        assert caption.inner_text().startswith("test image 2: label fox, predicted eel")
        page.locator("#classes label").nth(2).hover()
        assert "map of cat" in caption.inner_text()
        page.locator("h1").hover()
        assert "map of eel" in caption.inner_text()  # a look changes nothing
        page.locator("#classes label").nth(1).click()
        page.keyboard.press("ArrowDown")
        page.locator("h1").hover()
        assert "map of cat" in caption.inner_text()
        assert page.evaluate("document.activeElement.closest('#classes') !== null")
        page.locator("#panels label").nth(1).click()
        assert caption.inner_text().endswith(": exact")
        page.keyboard.press("ArrowRight")
        assert caption.inner_text().endswith("Grad-CAM: not known of this image and class")
        page.locator("#views label").nth(1).click()
        assert page.locator("#strip .wrong").count() == 2


def test_filters_leave_the_images_that_were_asked_for(browser, page_path):
    with opened(browser, page_path) as page:
        page.get_by_label("classifier", exact=True).select_option("wrong")
        assert page.locator("#count").inner_text() == "2 of 5 images"
        assert page.locator("#caption").inner_text().startswith("test image 2")
        page.get_by_label("subset").select_option("only B right")
        assert page.locator("#strip input").count() == 1
        page.get_by_label("label", exact=True).select_option("cat")
        assert page.locator("#count").inner_text() == "0 of 5 images"
        page.locator("#views label").nth(1).click()  # of B, another image is wrong
        page.get_by_label("label", exact=True).select_option("all")
        page.get_by_label("subset").select_option("all")
        assert page.locator("#count").inner_text() == "2 of 5 images"


def test_a_player_has_its_value_error_and_rank(browser, page_path):
    phi = view("A", 1, [True] * 5).panels[0].values[0, 0]
    with opened(browser, page_path) as page:
        until(page, "explorer.owner")
        page.locator("#large").scroll_into_view_if_needed()
        player, box = page.locator("#player"), page.locator("#large").bounding_box()
        for number in range(PLAYERS):
            row, column = divmod(number, GRID[1])
            place = (column + 0.5) / GRID[1] * box["width"], (row + 0.5) / GRID[0] * box["height"]
            page.mouse.move(box["x"] + place[0], box["y"] + place[1])
            until(page, f"explorer.state.player === {number}")
            text = player.inner_text()
            assert text.startswith(f"Row {row + 1}, column {column + 1}: ")
            assert number_in(text, ": ") == close(phi[number], np.abs(phi).max())
            assert number_in(text, "rank ") == 1 + (phi > phi[number]).sum()
            assert number_in(text, "exact ") == close(phi[number] + 0.01, np.abs(phi + 0.01).max())
        page.locator("#panels label").nth(1).click()
        page.locator("#large").focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        until(page, "explorer.state.player !== null")
        number = page.evaluate("explorer.state.player")
        until(page, "document.querySelector('#player').textContent.includes('±')")
        assert number_in(player.inner_text(), "± ") == close(1.96 * abs(phi[number]) / 10, np.abs(phi).max() / 5)


def test_the_answer_without_players_is_the_games_where_it_is_known(browser, page_path):
    one = view("A", 1, [True] * 5)
    phi, order = one.panels[0].values[0, 0], strongest_first(one.panels[0].values[:, 0])[0]
    with opened(browser, page_path) as page:
        until(page, "explorer.owner")
        answer, known = page.locator("#answer"), one.answers_of_game.values[0, :, 0]
        assert number_in(answer.inner_text(), "is ") == close(known[0], 0.01)
        assert number_in(answer.inner_text(), "nobody present, ") == close(known[1], 0.01)
        for step in range(3):
            page.locator("#strongest").click()
            until(page, f"document.querySelector('#answer').textContent.includes('Without {step + 1} ')")
            text = answer.inner_text()
            assert "(evaluated)" in text
            assert number_in(text, "is ") == close(known[2 + step], 0.01)
            assert number_in(text, "Predicted: ") == close(
                known[0] - phi[order[: step + 1]].sum(), 3 * np.abs(phi).max()
            )
        page.locator("#large").focus()
        page.keyboard.press("Escape")
        until(page, "document.querySelector('#answer').textContent.includes('All present')")
        weakest = int(order[-1])
        row, column = divmod(weakest, GRID[1])
        page.locator("#large").scroll_into_view_if_needed()
        box = page.locator("#large").bounding_box()
        page.mouse.click(
            box["x"] + (column + 0.5) / GRID[1] * box["width"], box["y"] + (row + 0.5) / GRID[0] * box["height"]
        )
        until(page, "document.querySelector('#answer').textContent.includes('not evaluated')")
        assert number_in(answer.inner_text(), "evaluated: ") == close(known[0] - phi[weakest], np.abs(phi).max())
        assert "removed" in page.locator("#player").inner_text()
        page.locator("#strip label").nth(4).click()  # of which the game has said nothing
        page.locator("#strongest").click()
        until(page, "document.querySelector('#answer').textContent.includes('changes by')")


def test_zero_is_clear_and_the_slider_leads_from_the_image_to_the_map(browser, tmp_path):
    phi = np.array([[[1.0, 0.0, -1.0]]])
    one = View("", np.array([[0]]), np.array([[1.0]]), ["cat"], [Panel("explainer", phi)], (1, 3), "value")
    path = tmp_path / "page.html"
    write_page(path, "Colours", {}, explorer=Explorer(np.full((1, 3, 3, 3), 102, np.uint8), ["one"], ["cat"], [one]))
    with opened(browser, path) as page:
        until(page, "explorer.owner")

        def colours(mix: int) -> list[list[int]]:
            page.locator("#mix").fill(str(mix))
            page.wait_for_timeout(100)
            read = """() => {
                const drawn = document.querySelector('#large'), copy = new OffscreenCanvas(drawn.width, drawn.height);
                const context = copy.getContext('2d', {willReadFrequently: true});
                context.drawImage(drawn, 0, 0);
                const at = (share) => context.getImageData(drawn.width * share, drawn.height / 2, 1, 1).data;
                return [1 / 6, 1 / 2, 5 / 6].map((share) => [...at(share)].slice(0, 3));
            }"""
            return page.evaluate(read)

        assert colours(0) == [[102] * 3] * 3
        assert colours(100) == [[178, 24, 43], [255] * 3, [33, 102, 172]]  # the figures' red, white, and blue
        assert colours(50)[1] == [102] * 3


def test_segments_are_players_too(browser, tmp_path):
    segments = np.array([[[0, 0, 1], [0, 2, 2], [300, 2, 2]]])
    phi = np.full((1, 1, 301), np.nan)
    phi[0, 0, [0, 1, 2, 300]] = 0.5, -0.25, 0.0, 0.125
    one = View("", np.array([[0]]), np.array([[1.0]]), ["cat"], [Panel("values", phi)], None, "value")
    path = tmp_path / "page.html"
    images = np.zeros((1, 3, 3, 3), np.uint8)
    write_page(path, "Segments", {}, explorer=Explorer(images, ["one"], ["cat"], [one], segments=segments))
    with opened(browser, path) as page:
        until(page, "explorer.owner")
        assert page.evaluate("[...explorer.owner]") == segments.flatten().tolist()
        page.locator("#large").scroll_into_view_if_needed()
        box = page.locator("#large").bounding_box()
        page.mouse.move(box["x"] + 5, box["y"] + box["height"] - 5)
        until(page, "document.querySelector('#player').textContent.startsWith('Segment 301: +0.126, rank 2 of 4')")


def test_tables_sort_filter_and_copy(browser, page_path):
    with opened(browser, page_path, permissions=["clipboard-read", "clipboard-write"]) as page:
        figure = page.locator("figure.results")

        def column(number: int) -> list[str]:
            return figure.locator(f"tbody tr:not(.below) td:nth-child({number})").all_inner_texts()

        figure.get_by_role("button", name="method", exact=True).click()
        assert column(1) == [f"method {number}" for number in range(1, 11)]  # as numbers go
        assert figure.locator("th").first.get_attribute("aria-sort") == "ascending"
        figure.get_by_role("button", name="R²", exact=True).click()
        assert column(1)[0] == "method 1"
        assert figure.locator("td.best").first.inner_text().startswith("0.912")
        figure.get_by_role("button", name="R²", exact=True).focus()
        assert page.get_by_role("tooltip").filter(visible=True).inner_text().endswith("Higher is better.")
        page.keyboard.press("Enter")
        assert column(1)[0] == "method 10"
        figure.get_by_role("searchbox").fill("method 1")
        assert column(1) == ["method 10", "method 1"]
        figure.get_by_role("button", name="Copy").click()
        until(page, "document.querySelector('.tools button').textContent === 'copied'")
        header, first, _ = page.evaluate("navigator.clipboard.readText()").split("\n")
        assert header == "method\tr2\tspearman\tmse\tseconds"
        assert [float(cell) for cell in first.split("\t")[1:]] == pytest.approx([0.1, 0.1 / 3, 1e-6, 100])


def test_curves_have_their_values_at_the_pointer_and_by_keys(browser, page_path):
    with opened(browser, page_path) as page:
        drawing, shown = page.locator(".curves-panel > svg"), page.locator(".values")
        assert page.get_by_role("img", name="Curves").count() == 0  # the picture is for where no script runs
        place = "evaluations of the game per image"
        assert shown.inner_text() == f"{place} 1,024:  refined 0.900;  kriging 0.800;  alone 0.400"
        drawing.scroll_into_view_if_needed()
        box = drawing.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.15, box["y"] + box["height"] / 2)
        assert shown.inner_text() == f"{place} 16:  refined 0.500;  alone 0.400"
        drawing.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert shown.inner_text() == f"{place} 64:  refined 0.750;  alone 0.400;  kriging 0.100"


def test_what_comes_from_data_does_nothing(browser, tmp_path):
    one = View(
        ATTACK,
        np.array([[0]]),
        np.array([[1.0]]),
        [ATTACK],
        [Panel(ATTACK, np.ones((1, 1, 2)), note=ATTACK)],
        (1, 2),
        ATTACK,
    )
    other = View("b", np.array([[0]]), np.array([[1.0]]), [ATTACK], [Panel("c", np.ones((1, 1, 2)))], (1, 2), "d")
    images = np.zeros((1, 2, 2, 3), np.uint8)
    explored = Explorer(images, [ATTACK], [ATTACK], [one, other], [ATTACK], [ATTACK], None, ATTACK, True, ATTACK)
    path = tmp_path / "page.html"
    sections = [Section(ATTACK, ATTACK, {ATTACK: pd.DataFrame({ATTACK: [ATTACK] * 12, "r2": [0.5] * 12})})]
    write_page(path, "good", {ATTACK: ATTACK}, sections, [ATTACK], explored, ATTACK)
    with opened(browser, path) as page:
        until(page, "explorer.owner")
        page.locator("figure.results th button").first.click()
        assert page.title() == "good"
        assert page.locator("img[src=x]").count() == 0
        assert ATTACK in page.locator("#caption").inner_text()


def test_a_thousand_classes_and_thirty_methods_open_within_a_second(browser, tmp_path):
    phi = values(0, 200, 10, 64)
    classes = np.stack([np.random.default_rng(number).permutation(1000)[:10] for number in range(200)])
    panels = [Panel(f"method {number}", phi) for number in range(30)]
    one = View("one", classes, np.full((200, 10), 0.1), ["cat"] * 200, panels, (8, 8), "value")
    images = np.random.default_rng(0).integers(0, 256, (200, 7, 7, 3), np.uint8).repeat(32, 1).repeat(32, 2)
    path = tmp_path / "page.html"
    names = [f"class {number}" for number in range(1000)]
    write_page(path, "Large", {}, explorer=Explorer(images, ["image"] * 200, names, [one]))
    with opened(browser, path) as page:
        until(page, "explorer.owner")
        assert page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd") < 1000
        assert page.locator("#panels canvas").count() == 30


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(browser, page_path, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    with opened(browser, page_path, theme=theme) as page:
        until(page, "explorer.owner")
        found = axe.Axe().run(page).response["violations"]
        assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found] == []
