import errno
import json
import subprocess
import sys
from base64 import b64decode
from dataclasses import fields, replace
from html import unescape
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image

from fastshap_lab import inference
from fastshap_lab.checkpoints import save_model
from fastshap_lab.errors import UserError
from fastshap_lab.inference import AmortizedExplainer, Explanation, load_classifier, load_explainer, load_surrogate
from fastshap_lab.metrics.value_function import coalition_values
from fastshap_lab.models.freezing import frozen_copy
from fastshap_lab.shapley import LINKS, exact_shapley_values
from tests import small

IMAGE = small.images(5)
KINDS = ["unet", "vit"]


def assert_same(explanation: Explanation, expected: Explanation, **close: float) -> None:
    for name in ("images", "values", "probabilities", "efficiency_gap"):
        torch.testing.assert_close(getattr(explanation, name), getattr(expected, name), **close)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("kind", KINDS)
def test_values_add_up_to_the_game_they_explain(kind, link):
    explainer = small.explainer(kind, link=link)
    explanation, game = explainer.explain(IMAGE), explainer.game()
    total = game.grand(IMAGE) - game.null(IMAGE)
    assert explanation.values.shape == (5, 3, 2, 3)
    torch.testing.assert_close(explanation.values.sum(dim=(2, 3)), total, rtol=1e-5, atol=1e-5)
    raw = explainer.network(IMAGE)
    torch.testing.assert_close(explanation.efficiency_gap, total - raw.sum(dim=1), rtol=1e-5, atol=1e-5)
    # The gap is shared out equally, and players stay in their places.
    expected = raw + explanation.efficiency_gap.unsqueeze(1) / 6
    torch.testing.assert_close(explanation.values[:, :, 1, 0], expected[:, 3], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(explainer(IMAGE), expected, rtol=1e-5, atol=1e-5)
    assert (explanation.link, explanation.classes) == (link, ["cat", "dog", "eel"])


def test_without_normalization_values_are_the_networks():
    explainer = small.explainer(normalization="none")
    torch.testing.assert_close(explainer(IMAGE), explainer.network(IMAGE))
    assert explainer.explain(IMAGE).efficiency_gap.abs().min() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_network_explains_exactly(kind):
    class Perfect(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return exact.float()

    explainer = small.explainer(kind)
    exact = exact_shapley_values(explainer.game(), IMAGE)
    explainer.network = Perfect()
    explanation = explainer.explain(IMAGE)
    assert explanation.efficiency_gap.abs().max() < 1e-5
    torch.testing.assert_close(explanation.values.flatten(2).transpose(1, 2), exact.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bundled", [True, False])
def test_a_loaded_explainer_repeats_the_saved_one_bit_by_bit(kind, bundled, tmp_path):
    changes = {} if bundled else {"classifier": None}
    explainer = small.explainer(kind, grid=(4, 6), **changes)
    save_model(tmp_path / "model", explainer, small.explainer_description(kind, grid=(4, 6), **changes))
    loaded = load_explainer(tmp_path / "model")
    assert_same(loaded.explain(IMAGE), explainer.explain(IMAGE), rtol=0, atol=0)
    assert torch.equal(loaded.attribute(IMAGE), explainer.attribute(IMAGE))


def test_images_may_come_as_anything_that_shows_them(tmp_path):
    explainer = small.explainer()
    pixels = (IMAGE * 255).round().to(torch.uint8)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    paths = [tmp_path / f"{index}.png" for index in range(5)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    expected = explainer.explain(pixels)
    torch.testing.assert_close(expected.images, pixels / 255)
    for given in (pixels / 255, list(pixels), pictures, paths, [str(path) for path in paths], [paths[0], *pixels[1:]]):
        assert_same(explainer.explain(given), expected, rtol=1e-6, atol=1e-6)
    for single in (pixels[2], pixels[2] / 255, pictures[2], paths[2]):
        one = explainer.explain(single)
        assert one.values.shape == (1, 3, 2, 3)
        torch.testing.assert_close(one.values, expected.values[2:3], rtol=1e-5, atol=1e-6)
    assert explainer.explain(pictures[0].resize((60, 40))).images.shape == (1, 3, 8, 12)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.rand(1, 3, 12, 8), r"shape \(1, 3, 12, 8\): must be \(3, 8, 12\)"),
        (torch.rand(3, 8, 12) + 1, "float between 0 and 1"),
        (torch.ones(3, 8, 12, dtype=torch.int32), "must be uint8"),
        ([], "no image given"),
    ],
)
def test_what_is_no_image_of_the_models_is_refused(given, message):
    explainer = small.explainer()
    for ask in (explainer.explain, explainer.attribute):
        with pytest.raises(UserError, match=message):
            ask(given)


@pytest.mark.parametrize("max_batch", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_chunks_change_only_rounding(kind, max_batch):
    explainer = small.explainer(kind)
    sizes: list[int] = []
    handle = explainer.network.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    chunked = explainer.explain(IMAGE, max_batch)
    handle.remove()
    assert [max(sizes), sum(sizes)] == [max_batch, 5]
    assert_same(chunked, explainer.explain(IMAGE), rtol=1e-5, atol=1e-6)


def test_explanations_are_ordinary_tensors_without_a_past():
    explanation = small.explainer().explain(IMAGE)
    for tensor in (explanation.values, explanation.probabilities, explanation.efficiency_gap):
        assert not tensor.requires_grad
        assert not tensor.is_inference()
    explanation.values.mul_(2)
    (explanation.values * torch.ones(3, 1, 1, requires_grad=True)).sum().backward()


def test_attribute_takes_a_class_for_all_one_each_or_the_most_probable():
    explainer = small.explainer()
    with torch.no_grad():  # so that no class is every image's
        explainer.classifier.network.fc.bias -= explainer.classifier(IMAGE).mean(dim=0)
    explanation = explainer.explain(IMAGE)
    values = explanation.values
    assert torch.equal(explainer.attribute(IMAGE, target=2), values[:, 2])
    each = [2, 0, 1, 1, 0]
    expected = torch.stack([values[i, k] for i, k in enumerate(each)])
    for target in (torch.tensor(each), each, tuple(each), np.array(each), [np.int64(k) for k in each]):
        assert torch.equal(explainer.attribute(IMAGE, target=target), expected)
    for target in (1, torch.tensor(1), np.int64(1), np.array(1), [1]):
        assert torch.equal(explainer.attribute(IMAGE, target=target), values[:, 1])
    best = explanation.probabilities.argmax(dim=1).tolist()
    assert len(set(best)) > 1
    assert torch.equal(explainer.attribute(IMAGE), torch.stack([values[i, k] for i, k in enumerate(best)]))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (1.7, "target of type float32: must be whole numbers"),
        (3, "target=3: classes are numbered 0 to 2"),
        (-1, "target=-1: classes are numbered 0 to 2"),
        (torch.tensor([0, 1, 2, 3, 0]), "target=3: classes are numbered 0 to 2"),
        (torch.tensor([0, 1, 2]), "must be one class for all images, or one for each of 5"),
    ],
)
def test_targets_that_are_no_classes_are_refused(target, message):
    with pytest.raises(UserError, match=message):
        AmortizedExplainer.attribute.__wrapped__(small.explainer(), IMAGE, target)


def test_parts_are_left_in_the_modes_they_were_in_after_errors_too():
    explainer = small.explainer().train()
    explainer.surrogate.eval()
    before = [part.training for part in explainer.modules()]
    assert len(set(before)) == 2
    explainer.explain(IMAGE)
    assert [part.training for part in explainer.modules()] == before
    explainer.network.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        explainer.explain(IMAGE)
    assert [part.training for part in explainer.modules()] == before


@pytest.mark.parametrize("max_batch", [0, -4])
def test_a_pass_has_an_image_or_more(max_batch):
    explainer, coalitions = small.explainer(), small.coalitions(5, 2, 6)
    for ask in (
        lambda: explainer.explain(IMAGE, max_batch),
        lambda: explainer.game(max_batch),
        lambda: coalition_values(explainer.game().values, IMAGE, coalitions, max_batch),
    ):
        with pytest.raises(UserError, match=f"max_batch={max_batch}: must be a whole number of 1 or more"):
            ask()


@torch.no_grad()
@pytest.mark.parametrize(
    ("task", "link", "to_probability"),
    [(None, "log_odds", LINKS["softmax"]), ("multilabel", "sigmoid", LINKS["sigmoid"])],
)
def test_probabilities_are_the_classifiers_where_it_is_bundled(task, link, to_probability):
    explainer = small.explainer(task=task, link=link)
    explanation = explainer.explain(IMAGE)
    assert explanation.source == "classifier"
    torch.testing.assert_close(explanation.probabilities, to_probability(explainer.classifier(IMAGE)))
    explainer.classifier = None
    alone = explainer.explain(IMAGE)
    assert alone.source == "surrogate"
    logits = explainer.surrogate(IMAGE, torch.ones(5, 1, 6, dtype=torch.bool))[:, 0]
    torch.testing.assert_close(alone.probabilities, to_probability(logits))
    torch.testing.assert_close(alone.values, explanation.values)
    assert (alone.probabilities - explanation.probabilities).abs().max() > 1e-3


def test_maps_give_every_pixel_the_value_of_its_player():
    explanation = small.explainer(grid=(2, 3)).explain(IMAGE)
    maps = explanation.maps()
    assert maps.shape == (5, 3, 8, 12)
    for row in range(8):
        for column in range(12):
            assert torch.equal(maps[:, :, row, column], explanation.values[:, :, row // 4, column // 4])


def test_the_game_of_an_explainer_is_its_surrogates():
    explainer = small.explainer(link="log_odds")
    game, coalitions = explainer.game(max_batch=3), small.coalitions(5, 2, 6)
    expected = LINKS["log_odds"](explainer.surrogate(IMAGE, coalitions))
    torch.testing.assert_close(game.values(IMAGE, coalitions), expected, rtol=1e-4, atol=1e-5)
    assert game.max_batch == 3


def test_a_surrogate_is_frozen_once_until_its_weights_change_or_move(monkeypatch):
    explainer, coalitions, copies = small.explainer(), small.coalitions(5, 2, 6), []
    monkeypatch.setattr(inference, "frozen_copy", lambda surrogate: copies.append(0) or frozen_copy(surrogate))

    def follows(image: torch.Tensor = IMAGE) -> None:
        expected = LINKS["softmax"](explainer.surrogate.eval()(image, coalitions))
        torch.testing.assert_close(explainer.game().values(image, coalitions), expected, rtol=1e-4, atol=1e-5)

    for _ in range(3):
        explainer.explain(IMAGE)
        follows()
    assert len(copies) == 1
    with torch.no_grad():
        explainer.surrogate.classifier.network.fc.weight.mul_(-1)
    follows()
    explainer.load_state_dict(small.explainer(seed=1).state_dict())
    follows()
    explainer.double()
    follows(IMAGE.double())
    assert len(copies) == 4
    assert not any("frozen_copy" in name for name in explainer.state_dict())


def test_plot_writes_a_picture(tmp_path):
    explainer: AmortizedExplainer = small.explainer()
    path = tmp_path / "new" / "maps.png"
    figure = explainer.explain(IMAGE[:2]).plot(path)
    assert figure.axes
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height > 100


@pytest.mark.parametrize(("classes", "shown"), [(None, ["cat", "dog", "eel"]), (["eel", 0], ["eel", "cat"])])
def test_plot_draws_the_classes_it_is_asked_for_in_the_format_of_the_suffix(classes, shown, tmp_path):
    figure = small.explainer().explain(IMAGE[:2]).plot(tmp_path / "maps.svg", classes)
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == shown
    assert "<svg" in (tmp_path / "maps.svg").read_text(encoding="utf-8")


def test_an_explanation_keeps_its_images_when_the_callers_change():
    given = IMAGE.clone()
    explanation = small.explainer().explain(given)
    given.zero_()
    assert torch.equal(explanation.images, IMAGE)


def test_a_part_of_an_explanation_is_the_explanation_of_some_images():
    explanation = small.explainer().explain(IMAGE, refine=8)
    assert (len(explanation), len(explanation[1:3]), [len(one) for one in explanation]) == (5, 2, [1] * 5)
    assert_same(explanation[-1], explanation[4:], rtol=0, atol=0)
    assert torch.equal(explanation[1:3].stderr, explanation.stderr[1:3])
    with pytest.raises(IndexError):
        explanation[5]


@pytest.mark.parametrize("refine", [0, 8])
def test_a_saved_explanation_comes_back_as_it_was(refine, tmp_path):
    explanation = small.explainer().explain(IMAGE, refine=refine)[1:4]
    path = tmp_path / "new" / "explanation.npz"
    explanation.save(path)
    loaded = Explanation.load(path)
    for field in fields(Explanation):
        expected, found = getattr(explanation, field.name), getattr(loaded, field.name)
        assert torch.equal(found, expected) if isinstance(expected, torch.Tensor) else found == expected
    arrays = np.load(path, allow_pickle=False)  # without this package
    assert np.array_equal(arrays["values"], explanation.values)
    assert json.loads(str(arrays["description"]))["classes"] == ["cat", "dog", "eel"]
    assert ("stderr" in arrays) == bool(refine)
    assert [file.name for file in path.parent.iterdir()] == ["explanation.npz"]


def embedded(path: Path) -> dict[str, Any]:
    """Return what a page's explorer holds."""
    return json.loads(path.read_text(encoding="utf-8").split('id="explorer-data">')[1].split("</script>")[0])


@pytest.mark.parametrize("refine", [0, 8])
def test_an_explanation_is_a_page_where_its_name_ends_in_html(refine, tmp_path):
    explanation = small.explainer().explain(IMAGE, refine=refine)
    explanation.save(tmp_path / "page.html")
    found = embedded(tmp_path / "page.html")
    (view,), (panel,) = found["views"], found["views"][0]["panels"]
    order = explanation.probabilities.argsort(dim=1, descending=True)
    assert view["classes"] == order.tolist()
    assert view["answers"] == pytest.approx(explanation.probabilities.gather(1, order).numpy(), rel=1e-6)
    assert view["predictions"] == [explanation.classes[best] for best in order[:, 0].tolist()]
    assert found["names"] == [f"image {number}" for number in range(1, 6)]
    codes, scale = (
        np.frombuffer(b64decode(panel["values"][name]), kind) for name, kind in (("codes", "i1"), ("scale", "<f4"))
    )
    values = codes.reshape(5, 3, 6) / 127 * scale.reshape(5, 3, 1)
    expected = np.take_along_axis(explanation.values.flatten(2).numpy(), order[..., None].numpy(), axis=1)
    assert values == pytest.approx(expected, abs=float(np.abs(expected).max()) / 250)
    assert (panel["stderr"] is not None) == bool(refine)
    explanation.save_page(tmp_path / "page.html", list("abcde"), ["eel"])
    assert embedded(tmp_path / "page.html")["views"][0]["classes"] == [[2]] * 5
    assert embedded(tmp_path / "page.html")["names"] == list("abcde")


def test_explanations_are_joined(tmp_path):
    explanation = small.explainer().explain(IMAGE, refine=8)
    assert_same(Explanation.joined([explanation[:2], explanation[2], explanation[3:]]), explanation, rtol=0, atol=0)


def test_an_explanation_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    explanation, path = small.explainer().explain(IMAGE), tmp_path / "explanation.npz"
    explanation.save(path)
    before = path.read_bytes()

    def half(file: BinaryIO, **_: np.ndarray) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(OSError, match="No space"):
        explanation[:2].save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def arrays_of(explanation: Explanation, **changes: np.ndarray) -> dict[str, np.ndarray]:
    explanation.save("whole.npz")
    return dict(np.load("whole.npz")) | changes


@pytest.mark.parametrize(
    ("write", "line"),
    [
        (lambda whole: None, "No such file"),
        (lambda whole: Path("it.npz").write_text("no archive"), "File is not a zip file"),
        (lambda whole: Path("it.npz").write_bytes(Path("whole.npz").read_bytes()[:-30]), "not a zip file"),
        (lambda whole: np.savez_compressed("it.npz", **whole), "it is compressed"),
        (lambda whole: np.savez("it.npz", values=whole["values"]), "description is not a file in the archive|descr"),
        (lambda whole: np.savez("it.npz", **whole, more=whole["values"]), "more"),
        (lambda whole: np.savez("it.npz", **whole | {"values": np.array([{}])}), "allow_pickle=False"),
        (lambda whole: np.savez("it.npz", **whole | {"images": whole["images"][:1]}), "its images have shape"),
        (lambda whole: np.savez("it.npz", **whole | {"values": whole["values"][:, 0]}), "values"),
        (lambda whole: np.savez("it.npz", **whole | {"probabilities": whole["evaluations"]}), "probabilities"),
        (lambda whole: np.savez("it.npz", **whole | {"description": np.array("{")}), "Expecting property name"),
        (
            lambda whole: np.savez("it.npz", **whole | {"description": np.array('{"classes": ["a"], "link": "softmax",'
            ' "source": "surrogate", "stderr": null}')}),
            "its names are not those of 3 classes",
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_no_explanation_is_refused_in_one_line(write, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(arrays_of(small.explainer().explain(IMAGE)))
    with pytest.raises(UserError, match=line) as error:
        Explanation.load("it.npz")
    assert str(error.value).startswith("it.npz: no explanation as Explanation.save writes it: ")
    assert "\n" not in str(error.value)


def test_an_explanation_says_in_words_what_it_is():
    explanation = small.explainer().explain(small.images(12))
    best = explanation.probabilities.max(dim=1)
    lines = repr(explanation).splitlines()
    assert lines[0] == (
        "Explanation of 12 images: Shapley values of 2×3 players for 3 classes (cat, dog, eel), link softmax, "
        "not refined"
    )
    assert lines[2].split() == ["0", explanation.classes[best.indices[0]], f"{best.values[0]:.3f}"]
    assert lines[-1].strip() == "and 2 more"
    assert len(lines) == 13
    refined = replace(explanation[:1], stderr=explanation.values[:1], evaluations=torch.tensor([40]))
    assert "1 image:" in repr(refined)
    assert "refined with 40 evaluations each" in repr(refined)


def test_a_notebook_shows_the_first_images_and_runs_nothing_of_a_strangers():
    attack = "\"><script>alert('x')</script>"
    explanation = replace(small.explainer().explain(small.images(12)), classes=["cat", attack, "eel"])
    html = explanation._repr_html_()
    assert "<script" not in html
    assert html.count("<img") == 1
    assert "The first 8:" in html
    text, png = (part.split('"')[0] for part in (html.partition('alt="')[2], html.partition("base64,")[2]))
    assert attack in unescape(text)
    assert png == explanation[:8]._repr_html_().partition("base64,")[2].split('"')[0]
    with Image.open(BytesIO(b64decode(png))) as picture:
        assert picture.width < 1000
    assert len(html) < 300_000


REFINEMENT = {
    "evaluations": [2, 16, 60],
    "error": [0.02, 0.2, 1.0],
    "target_factor": [1.0, 1.0, 1.5],
    "others_factor": [1.0, 0.5, 0.5],
}


@pytest.fixture(scope="module")
def refinable():
    return small.explainer("unet", refinement=REFINEMENT)


def test_refined_by_every_coalition_values_are_exact(refinable):
    exact = exact_shapley_values(refinable.game(), IMAGE)
    explanation = refinable.explain(IMAGE, refine=2**6)
    torch.testing.assert_close(explanation.values.flatten(2).transpose(1, 2), exact.float(), rtol=1e-5, atol=1e-5)
    assert explanation.stderr.max() < 1e-6
    assert (explanation.evaluations == 2**6 - 2).all()


def test_evidence_comes_closer_and_says_how_close(refinable):
    exact = exact_shapley_values(refinable.game(), IMAGE).float()
    explained = [refinable.explain(IMAGE, refine=budget) for budget in (0, 20, 56)]
    errors = [(one.values.flatten(2).transpose(1, 2) - exact).square().mean().item() for one in explained]
    assert errors == sorted(errors, reverse=True)
    assert explained[0].stderr is None
    assert explained[1].stderr.shape == explained[1].values.shape
    assert explained[1].stderr.mean() > explained[2].stderr.mean() > 0
    for one in explained:
        torch.testing.assert_close(one.values.sum(dim=(2, 3)), explained[0].values.sum(dim=(2, 3)), atol=1e-5, rtol=0)
        assert torch.equal(one.probabilities, explained[0].probabilities)


@pytest.mark.parametrize("tolerance", [None, 0.2])
def test_neighbours_and_passes_change_no_refined_value(refinable, tolerance):
    together = refinable.explain(IMAGE, refine=40, tolerance=tolerance)
    apart = [refinable.explain(image, refine=40, tolerance=tolerance, max_batch=3) for image in IMAGE]
    for name in ("values", "stderr", "evaluations"):
        torch.testing.assert_close(getattr(together, name), torch.cat([getattr(one, name) for one in apart]))
    again = refinable.explain(IMAGE, refine=40, tolerance=tolerance, seed=1)
    assert not torch.equal(again.values, together.values)


def test_a_tolerance_stops_early_where_it_is_met(refinable):
    loose, strict = (refinable.explain(IMAGE, refine=62, tolerance=tolerance) for tolerance in (0.5, 1e-6))
    assert (loose.evaluations < 62).any()
    assert (strict.evaluations == 62).all()
    met = loose.evaluations < 62
    spread = loose.values.amax(dim=(2, 3)) - loose.values.amin(dim=(2, 3))
    assert (loose.stderr.amax(dim=(2, 3)) <= 0.5 * spread)[met].all()


def test_a_saved_explainer_refines_as_it_did(refinable, tmp_path):
    save_model(tmp_path / "model", refinable, small.explainer_description("unet", refinement=REFINEMENT))
    expected, loaded = (one.explain(IMAGE, refine=20) for one in (refinable, load_explainer(tmp_path / "model")))
    assert torch.equal(loaded.values, expected.values)
    assert torch.equal(loaded.stderr, expected.stderr)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"refine": 1}, "refine=1: must be 2 or more"),
        ({"refine": -4}, "refine=-4: must be 2 or more"),
        ({"refine": 8, "tolerance": 0.0}, "tolerance=0.0: must be above 0"),
    ],
)
def test_a_refinement_that_makes_no_sense(refinable, settings, line):
    with pytest.raises(UserError, match=line):
        refinable.explain(IMAGE, **settings)


@pytest.mark.parametrize("refinement", [None, {"evaluations": [2], "ridge": [1.0], "target_factor": [1.0]}])
def test_an_explainer_without_references_refines_with_the_posteriors_own_errors(refinement, tmp_path):
    """Explainers from before refinement by kriging had other references, which say nothing now."""
    description = small.explainer_description("unet", refinement=refinement)
    save_model(tmp_path / "model", small.explainer("unet"), description)
    explainer = load_explainer(tmp_path / "model")
    exact, errors = exact_shapley_values(explainer.game(), IMAGE).float(), []
    for budget in (2, 20, 40, 56):
        explanation = explainer.explain(IMAGE, refine=budget)
        error, stderr = explanation.values.flatten(2).mT - exact, explanation.stderr.flatten(2).mT
        errors.append(error.square().mean().item())
    assert errors == sorted(errors, reverse=True)
    assert (error.abs() <= 4 * stderr).double().mean() > 0.9  # of random weights, whose answer knows nothing


def test_run_folders_load_as_their_model_folders_do(tmp_path):
    explainer = small.explainer()
    described = small.explainer_description()
    names = {"class_names": described["class_names"]}
    parts = {
        "classifier": (load_classifier, explainer.classifier, {"network": described["classifier"]} | names),
        "surrogate": (load_surrogate, explainer.surrogate, {"surrogate": described["surrogate"]} | names),
        "explainer": (load_explainer, explainer, described),
    }
    for kind, (load, module, description) in parts.items():
        run = tmp_path / kind
        save_model(run / "model", module, description | {"kind": kind})
        (run / "run.json").write_text(json.dumps({"stage": kind, "status": "finished"}))
        for folder in (run, str(run), run / "model"):
            for name, tensor in load(folder).state_dict().items():
                assert torch.equal(tensor, module.state_dict()[name])


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("run", "run: a run of stage 'evaluate', status 'finished', without a model; a finished run of the stage"),
        ("empty", "empty: no model folder"),
        ("google/vit-base-patch16-224", "google/vit-base-patch16-224: no model folder"),
        ("https://huggingface.co/google/vit", "no model folder"),
        ("hf-hub:timm/resnet18", "no model folder"),
        ("nul\0", "no model folder"),
        ("long" * 2000, "cannot be read: File name too long"),
    ],
)
@pytest.mark.parametrize("load", [load_classifier, load_surrogate, load_explainer])
def test_what_is_no_folder_of_a_model_is_one_line(load, given, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    if load is load_explainer and given.startswith("google/"):  # a name of the hub, which the others do not load from
        line = "google/vit-base-patch16-224: no such folder here, and it cannot be fetched from the hub: "
    for folder in ("run", "empty"):
        Path(folder).mkdir()
    Path("run/run.json").write_text(json.dumps({"stage": "evaluate", "status": "finished"}))
    with pytest.raises(UserError) as error:
        load(given)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_serving_imports_little(tmp_path):
    folders = [tmp_path / kind for kind in KINDS]
    for kind, folder in zip(KINDS, folders, strict=True):
        save_model(folder, small.explainer(kind), small.explainer_description(kind))
    code = """
import sys
import torch
import fastshap_lab as fsl
for folder in sys.argv[1:]:
    explanation = fsl.load_explainer(folder).explain(torch.rand(2, 3, 8, 12))
heavy = {"datasets", "hydra", "jinja2", "lightning", "matplotlib", "omegaconf", "pandas", "rich", "scipy", "skimage"}
heavy |= {"sklearn", "torch._dynamo", "torchmetrics", "wandb"}
print(sorted(heavy & sys.modules.keys()))
explanation.plot()
print("matplotlib" in sys.modules)
"""
    words = [sys.executable, "-c", code, *map(str, folders)]
    done = subprocess.run(words, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert (done.stdout.split("\n"), done.stderr) == (["[]", "True", ""], "")
