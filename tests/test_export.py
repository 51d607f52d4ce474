"""What is exported answers as the explainer does, where there is nothing of this package."""

import json
import re
import subprocess
import sys
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from fastshap_lab import export
from fastshap_lab.errors import UserError
from fastshap_lab.export import OUTPUTS, exported
from fastshap_lab.inference import AmortizedExplainer
from fastshap_lab.models.maskings import MASKINGS
from tests import small
from tests.parts import first

ROOT = Path(__file__).parents[1]
needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="onnx, onnxscript or onnxruntime is not installed",
)

# Each line in: a file, pixels. What comes of them goes to the pixels' folder, under the outputs' names.
RUN = {
    ".onnx": """
import sys, numpy as np, onnxruntime
for path, given in zip(sys.argv[1::2], sys.argv[2::2]):
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    np.savez(given + ".npz", **dict(zip(names, session.run(names, {"pixels": np.load(given)}))))
    open(given + ".json", "w").write(session.get_modelmeta().custom_metadata_map["explainer"])
sys.exit(bool({"torch", "fastshap_lab"} & sys.modules.keys()))
""",
    ".pt2": """
import sys, numpy as np, torch
for path, given in zip(sys.argv[1::2], sys.argv[2::2]):
    files = {"explainer.json": ""}
    graph = torch.export.load(path, extra_files=files).module()
    np.savez(given + ".npz", **{name: x.numpy() for name, x in graph(torch.from_numpy(np.load(given))).items()})
    open(given + ".json", "w").write(files["explainer.json"])
sys.exit(bool({"fastshap_lab", "timm"} & sys.modules.keys()))
""",
}


def explainer_of(name: str, size: int = 32, **changes) -> AmortizedExplainer:
    """Return an explainer of square pictures with 4 × 4 players, of large ones with large patches."""
    described = deepcopy(small.explainer_description(name, grid=(4, 4)))
    parts = [described["network"], described["surrogate"]["classifier"], described["classifier"]]
    for part in parts:
        part["image_size"] = [size, size]
        for params in (part["params"], part["params"].get("backbone", {}).get("params", {})):
            if "patch_size" in params:
                params["patch_size"] = size // 8
    kept = {key: described[key] for key in ("network", "surrogate", "classifier")}
    kept["surrogate"] |= changes.pop("surrogate", {})
    return small.explainer(name, **(kept | changes))


def ran(path: Path, batches: list[torch.Tensor]) -> tuple[dict, list[dict[str, np.ndarray]]]:
    """Return the description and the outputs of a file, in a process that imports nothing of ours."""
    given = [path.with_name(f"{number}.npy") for number in range(len(batches))]
    for place, batch in zip(given, batches, strict=True):
        np.save(place, batch.numpy())
    words = [str(word) for place in given for word in (path, place)]
    subprocess.run([sys.executable, "-I", "-c", RUN[path.suffix], *words], cwd=path.parent, check=True)
    outputs = [dict(np.load(f"{place}.npz")) for place in given]
    return json.loads(Path(f"{given[0]}.json").read_text(encoding="utf-8")), outputs


def assert_same(explainer: AmortizedExplainer, batch: torch.Tensor, found: dict) -> None:
    expected = explainer.explain(batch)
    assert list(found) == list(OUTPUTS)
    assert expected.values.std() > 1e-3  # the comparison says something
    for name in OUTPUTS:
        torch.testing.assert_close(torch.as_tensor(found[name]), getattr(expected, name), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "suffix", "size", "batches"),
    [
        pytest.param("unet", ".onnx", 32, (1, 2, 7), marks=needs_onnx),
        pytest.param("vit", ".onnx", 32, (1, 2, 7), marks=needs_onnx),
        pytest.param("unet", ".pt2", 32, (1, 7), marks=pytest.mark.extended),
        *(
            pytest.param(name, ".onnx", size, (1, 2, 7, 64), marks=[needs_onnx, pytest.mark.slow])
            for name in ("unet", "vit")
            for size in (32, 224)
        ),
    ],
)
def test_a_file_answers_as_the_explainer_where_there_is_nothing_of_ours(name, suffix, size, batches, tmp_path):
    explainer, path = explainer_of(name, size, link="log_odds"), tmp_path / f"e{suffix}"
    before = {key: tensor.clone() for key, tensor in explainer.state_dict().items()}
    explainer.export(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert str(ROOT).encode() not in path.read_bytes()  # nor where this was
    assert all(torch.equal(tensor, before[key]) for key, tensor in explainer.state_dict().items())
    images = [small.images(number, (size, size), seed=number) for number in batches]
    described, outputs = ran(path, images)
    for batch, found in zip(images, outputs, strict=True):
        assert_same(explainer, batch, found)
    expected = {"classes": ["cat", "dog", "eel"], "link": "log_odds", "grid": [4, 4], "source": "classifier"}
    assert expected.items() <= described.items()


def masked(masking: str) -> AmortizedExplainer:
    name = "vit" if masking in small.OF_TOKENS else "unet"
    network = small.network("vit" if name == "vit" else "resnet", image_size=(32, 32))
    return explainer_of(name, surrogate={"masking": masking, "classifier": network})


@pytest.mark.parametrize(
    "masking",
    [pytest.param(name, marks=[] if name in ("token_drop", "mean") else pytest.mark.slow) for name in MASKINGS],
)
def test_every_masking_is_one_graph(masking):
    explainer = masked(masking)
    graph = exported(explainer).module()
    for number in (1, 3):
        batch = small.images(number, (32, 32))
        assert_same(explainer, batch, graph(batch))


def test_without_a_classifier_probabilities_are_the_surrogates():
    explainer = explainer_of("unet", classifier=None, link="sigmoid", normalization="none")
    batch = small.images(3, (32, 32))
    assert_same(explainer, batch, exported(explainer).module()(batch))
    assert export.describe(explainer, "float32")["source"] == "surrogate"


@needs_onnx
@pytest.mark.parametrize(("precision", "share", "least"), first(1, [("int8", 0.4, 0.9), ("float16", 0.6, 0.9999)]))
def test_less_precision_is_a_smaller_file_and_little_error(precision, share, least, tmp_path):
    network = small.network("unet", image_size=(32, 32)) | {"params": {"channels": [32, 64, 128]}, "grid": [4, 4]}
    explainer, batch, path = explainer_of("unet", network=network), small.images(32, (32, 32)), tmp_path / "e.onnx"
    explainer.export(path, precision, calibration=batch if precision == "int8" else None)
    assert path.stat().st_size < share * sum(tensor.nbytes for tensor in explainer.state_dict().values())
    described, (found,) = ran(path, [batch])
    assert described["precision"] == precision
    assert found["values"].dtype == np.float32
    values = explainer.explain(batch).values
    error = (torch.as_tensor(found["values"]) - values).square().sum() / (values - values.mean()).square().sum()
    assert least < 1 - error < 1


@needs_onnx
def test_the_lines_of_the_readme_run_a_file(tmp_path):
    explainer, batch = explainer_of("unet"), small.images(3, (32, 32))
    explainer.export(tmp_path / "explainer.onnx")
    np.save(tmp_path / "pixels.npy", batch.numpy())
    (code,) = re.findall(
        r"```python\n(import json\n.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert {*re.findall(r"^import (\w+)", code, re.MULTILINE)} == {"json", "numpy", "onnxruntime"}
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    expected = []
    for explanation in explainer.explain(batch):
        probability, best = explanation.probabilities[0].max(dim=0)
        place = "{} {}".format(*divmod(int(explanation.values[0, best].argmax()), 4))
        expected.append(f"{explanation.classes[best]} {probability:.3f}, most of all for the patch in {place}")
    assert done.stdout.splitlines() == expected


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"path": "e.h5"}, "e.h5: the suffix chooses the format: .onnx, or .pt2 of torch.export"),
        ({"path": "e.pt2", "precision": "half"}, "precision=half: unknown"),
        ({"path": "there.pt2"}, "there.pt2: exists; choose another name, or have it replaced"),
        ({"path": "folder.pt2", "replace": True}, "folder.pt2: is a folder, and a file must be written in its place"),
        ({"path": "e.pt2", "precision": "int8"}, "e.pt2: int8 is for .onnx alone"),
        ({"path": "e.onnx", "precision": "int8"}, "calibration: int8 needs images"),
        ({"path": "e.pt2", "calibration": []}, "calibration: int8 needs images"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_everything_as_it_is(words, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there.pt2").write_text("theirs")
    Path("folder.pt2").mkdir()
    with pytest.raises(UserError) as error:
        small.explainer().export(**words)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"there.pt2", "folder.pt2"}
    assert Path("there.pt2").read_text() == "theirs"


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(export._NEEDED, ".pt2", ("torch", "no_such_package"))
    with pytest.raises(UserError, match=r"needs no_such_package; pip install 'fastshap-lab\[export\]'"):
        small.explainer().export(tmp_path / "e.pt2")


class OfTwoMinds(torch.nn.Module):
    """No graph: what it does depends on what it sees."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.new_zeros(len(pixels), 6, 3) if pixels.sum() > 0 else pixels.new_ones(len(pixels), 6, 3)


def test_what_is_no_graph_is_one_line_and_what_was_there_stays(tmp_path):
    explainer, path = small.explainer(), tmp_path / "e.pt2"
    explainer.network = OfTwoMinds()
    path.write_text("theirs")
    with pytest.raises(UserError, match=r"^the explainer cannot be exported, .*: [^\n]+$"):
        explainer.export(path, replace=True)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("e.pt2", "theirs")]
