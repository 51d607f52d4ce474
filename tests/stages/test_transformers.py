"""Image classifiers of the library transformers, saved by itself: explained as they are, and trained further."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fastshap_lab.attribution import METHODS
from fastshap_lab.errors import UserError
from fastshap_lab.inference import load_classifier, load_explainer
from fastshap_lab.models import build_classifier
from tests.small_runs import RESNET, TINY, UNET, executed, planned

transformers = pytest.importorskip("transformers", reason="transformers is an extra: pip install '.[transformers]'")

PIXELS = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.4, 0.3]}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return the folder of a tiny vision transformer whose classes are those of the synthetic images, reversed."""
    folder, shape = tmp_path / "saved", {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    names = {number: f"shape {number}" for number in range(3)}
    config = transformers.ViTConfig(**shape, intermediate_size=16, image_size=16, patch_size=8, id2label=names)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(**PIXELS).save_pretrained(folder)
    return folder


def words(folder: Path, *more: str) -> list[str]:
    bare = [word for word in TINY if not word.startswith("classifier.")]
    return [*bare, *RESNET[1:], *UNET, "classifier=transformers", f"classifier.params.model={folder}", *more]


def test_a_saved_model_is_explained_as_it_is_and_loads_without_its_folder(saved, tmp_path):
    runs = executed("stage=explainer", f"runs_dir={tmp_path}", base=words(saved))
    found = json.loads((runs[0].model / "config.json").read_text())
    assert (found["network"]["mean"], found["network"]["std"]) == (PIXELS["image_mean"], PIXELS["image_std"])
    assert found["class_names"] == ["shape 0", "shape 1", "shape 2"]
    assert found["network"]["params"]["config"]["model_type"] == "vit"
    original = transformers.ViTForImageClassification.from_pretrained(saved).eval()
    image = torch.rand(2, 3, 16, 16)
    mean, std = (torch.tensor(PIXELS[f"image_{name}"]).view(3, 1, 1) for name in ("mean", "std"))
    for path in saved.iterdir():
        path.unlink()
    with torch.no_grad():
        torch.testing.assert_close(load_classifier(runs[0].model)(image), original((image - mean) / std).logits)
        twice = load_classifier(runs[0].model)(image.repeat(1, 1, 2, 2))  # positions are interpolated
    assert twice.shape == (2, 3)
    assert load_explainer(runs[-1].model).explain(image).source == "classifier"


def test_the_content_of_a_folder_counts_and_not_its_place(saved, tmp_path):
    def fingerprint(folder: Path) -> str:
        return planned("stage=classifier", base=words(folder))[0].fingerprint

    before = fingerprint(saved)
    moved = saved.rename(tmp_path / "moved")
    assert fingerprint(moved) == before
    model = transformers.ViTForImageClassification.from_pretrained(moved)
    model.classifier.bias.data += 1
    model.save_pretrained(moved)
    assert fingerprint(moved) != before


def test_the_head_alone_is_trained_where_it_is_new_and_the_rest_frozen(saved, tmp_path):
    more = ["stage=classifier", "classifier.epochs=1", "classifier.freeze=true", "data.params.num_classes=4"]
    (run,) = executed(*more, f"runs_dir={tmp_path}", base=words(saved))
    found, before = load_file(run.model / "model.safetensors"), transformers.AutoModel.from_pretrained(saved)
    assert found["network.model.classifier.weight"].shape == (4, 16)
    name, value = next(iter(before.embeddings.state_dict().items()))
    assert torch.equal(found[f"network.model.vit.embeddings.{name}"], value)
    assert run.data.class_names != ["shape 0", "shape 1", "shape 2"]


def test_a_model_of_the_same_network_starts_a_surrogate(saved, tmp_path):
    same = ["surrogate=transformers", f"surrogate.params.model={saved}", "surrogate.masking=constant"]
    base = [word for word in words(saved) if not word.startswith("surrogate.params.channels")]
    run = executed(*same, "surrogate.optim.lr=1e-12", "stage=surrogate", f"runs_dir={tmp_path}", base=base)[-1]
    assert run.measures()["test/kl"] < 1e-6
    with pytest.raises(UserError, match=r"^surrogate.masking=token_drop: Logits is not of timm's"):
        planned(*same, "surrogate.masking=token_drop", "stage=surrogate", base=base)


def test_what_cannot_be_is_one_line(saved, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"^classifier.params.depth: unknown to transformers"):
        planned("classifier.params.depth=2", base=words(saved))
    weights = saved / "model.safetensors"
    torch.save(load_file(weights), saved / "pytorch_model.bin")  # which is not opened instead
    weights.unlink()
    with pytest.raises(UserError, match=r"not an image classifier as save_pretrained writes it"):
        executed("stage=classifier", f"runs_dir={tmp_path}", base=words(saved))
    (saved / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match=r"model_type=bert: not supported, "):
        planned(base=words(saved))


@pytest.mark.parametrize(
    "hostile",
    [
        {"model_type": "timm_wrapper", "architecture": "resnet18", "model_args": {"checkpoint_path": "x"}},
        {"model_type": "resnet", "auto_map": {"AutoConfig": "evil--code.Config"}},
        {"model_type": "resnet", "use_timm_backbone": True, "backbone": "resnet18"},
        {"model_type": "vit", "_attn_implementation": "evil/kernel"},
        {"model_type": "vit", "hidden_size": {"a": 1}},
        {"model_type": "swinv2", "depths": [10**8]},  # a number for each of which the library would make
        {"model_type": "vit", "num_hidden_layers": 1001},
    ],
)
def test_descriptions_of_strangers_build_networks_of_numbers_alone(hostile):
    with pytest.raises(UserError, match=r"^(classifier\.)?params.config"), torch.device("meta"):
        build_classifier("transformers", {"config": hostile}, (16, 16), 3, [0.5] * 3, [0.5] * 3)


def test_methods_find_their_layers_or_say_that_they_do_not_apply(saved):
    with torch.device("cpu"):
        vit = build_classifier("transformers", {"config": _config(saved)}, (16, 16), 3, [0.5] * 3, [0.5] * 3).eval()
        shape = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
        params = {"config": {"model_type": "resnet", **shape}}
        resnet = build_classifier("transformers", params, (16, 16), 3, [0.5] * 3, [0.5] * 3).eval()
    image = torch.rand(2, 3, 16, 16)
    assert METHODS["grad_cam"].supports(vit) == "no layer with spatial features is found: name one with layer=…"
    assert "has no attention between all of its tokens" in METHODS["rollout"].supports(vit)
    assert METHODS["saliency"](vit).attribute(image).shape == (2, 16, 16)
    assert METHODS["grad_cam"](resnet).attribute(image).ndim == 3


def _config(folder: Path) -> dict:
    config = json.loads((folder / "config.json").read_text())
    return {key: value for key, value in config.items() if not isinstance(value, dict) and not key.startswith("_")}
