"""Explainers on the way to others and back, by a stand-in of the hub."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from PIL import Image

import fastshap_lab as fsl
from fastshap_lab.checkpoints import save_model
from fastshap_lab.commands import main
from fastshap_lab.errors import UserError
from fastshap_lab.inference import load_explainer
from fastshap_lab.sharing import pull
from tests import small
from tests.hub_stand_in import TOKEN, hub_stand_in

MODEL = Path("runs/explainer/mine-01234567")


def written_run(folder: Path, stage: str, parents: dict[str, Path], **measures: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = {"stage": stage, "status": "finished", "parents": {role: str(path) for role, path in parents.items()}}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "metrics.json").write_text(json.dumps(measures))


@pytest.fixture(autouse=True)
def _somewhere(tmp_path, monkeypatch):
    """Go to a folder with the runs of an explainer and of its evaluation."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("HF_HUB_CACHE", str(tmp_path / "cache")), ("HF_TOKEN_PATH", str(tmp_path / "token"))):
        monkeypatch.setattr(constants, name, value)
    classifier = Path("runs/classifier/mine-89abcdef")
    written_run(classifier, "classifier", {}, **{"test/accuracy": 0.9861, "test/cross_entropy": float("nan")})
    written_run(MODEL, "explainer", {"classifier": classifier}, **{"test/additive_r2": 0.875})
    measures = {"A/r2": 0.893, "A/r2_low": 0.872, "A/r2_high": 0.915, "B/r2": 0.1}
    ends = {"A": MODEL, "B": MODEL.with_name("another-76543210")}
    written_run(Path("runs/evaluate/mine-fedcba98"), "evaluate", ends, **measures)
    config = {"data": {"name": "hub", "params": {"path": "ylecun/mnist"}}, "seed": 3}
    (MODEL / "config.yaml").write_text(yaml.safe_dump(config))
    save_model(MODEL / "model", small.explainer(), small.explainer_description())
    Image.fromarray((small.images(1)[0] * 255).byte().permute(1, 2, 0).numpy()).save("cat.png")


@pytest.fixture
def hub(monkeypatch):
    with hub_stand_in() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def assert_same(explainer, other):
    image = small.images(2, seed=5)
    torch.testing.assert_close(explainer.explain(image).values, other.explain(image).values, rtol=0, atol=0)
    assert explainer.class_names == other.class_names


def test_what_is_saved_loads_and_its_card_says_what_the_run_has_measured():
    explainer = load_explainer(MODEL)
    explainer.save_pretrained("out/shared", license="apache-2.0", images="cat.png")
    assert_same(explainer, load_explainer("out/shared"))
    assert sorted(path.name for path in Path("out/shared").iterdir()) == [
        "README.md",
        "config.json",
        "maps.png",
        "model.safetensors",
    ]
    head, card = Path("out/shared/README.md").read_text().removeprefix("---\n").split("\n---\n", 1)
    facts = yaml.safe_load(head)
    assert (facts["license"], facts["library_name"], facts["pipeline_tag"]) == (
        "apache-2.0",
        "fastshap_lab",
        "image-classification",
    )
    for line in (
        "# shared",
        "Shapley values of 2×3 image patches for 3 classes of an image model, in one forward pass.",
        "![Pictures, and the Shapley values of their patches](maps.png)",
        "- The model: `resnet`, for images of 8×12 pixels. It is part of this explainer, and predictions are its own.",
        '["cat", "dog", "eel"]',
        "`hub`, `ylecun/mnist`, seed `3`.",
        "| `classifier` | accuracy 0.9861 |",
        "| `explainer` | additive r2 0.875 |",
        "- `A`: R² 0.893 [0.872, 0.915]",
        'explainer = fsl.load_explainer("shared")',
        "`apache-2.0`, of these weights. The data have their own.",
    ):
        assert line in card.splitlines()
    assert "`B`" not in card


def test_a_card_tells_no_places_on_a_disk_and_shows_names_as_they_are():
    config = {"data": {"name": "folder", "params": {"path": "/home/me/secret"}}, "seed": 0}
    (MODEL / "config.yaml").write_text(yaml.safe_dump(config))
    names = ["</details><script>", "```\n# no heading", "[x](y)"]
    save_model(MODEL / "model", small.explainer(), small.explainer_description(class_names=names))
    load_explainer(MODEL).save_pretrained("shared", "mit")
    card = Path("shared/README.md").read_text()
    assert "secret" not in card
    assert "`folder`, seed `0`." in card
    assert "maps.png)" not in card
    assert f"\n```json\n{json.dumps(names)}\n```\n" in card
    assert "\n# no heading" not in card


def test_without_a_run_the_card_says_that_nothing_is_known():
    shutil.copytree(MODEL / "model", "alone")
    load_explainer("alone").save_pretrained("shared", "mit")
    card = Path("shared/README.md").read_text()
    assert "Not known: this card was not written from the run that trained it." in card
    assert "Not measured against true Shapley values." in card
    assert "accuracy" not in card


def test_pushed_and_loaded_by_its_name_it_is_the_same(hub, capsys):
    words = ["push", str(MODEL), "me/mine", "--license", "mit", "--images", "cat.png"]
    for _ in range(2):  # the second time it is there
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 0
        assert f"{hub.address}/me/mine" in capsys.readouterr().out
    assert sorted(hub.files["me/mine"]) == ["README.md", "config.json", "maps.png", "model.safetensors"]
    assert 'fsl.load_explainer("me/mine")' in hub.files["me/mine"]["README.md"].decode()
    assert_same(load_explainer(MODEL), fsl.load_explainer("me/mine"))
    assert sorted(hub.fetched) == ["config.json", "model.safetensors"]
    fsl.load_explainer("me/mine")
    assert len(hub.fetched) == 2  # from the cache
    with pytest.raises(SystemExit) as end:
        main(["pull", "me/mine", "there/mine"])
    assert end.value.code == 0
    assert capsys.readouterr().out == "there/mine\n"
    assert_same(load_explainer(MODEL), load_explainer("there/mine"))
    assert not Path("there/mine/config.json").is_symlink()
    with pytest.raises(UserError, match="there/mine: exists; choose another name"):
        pull("me/mine", Path("there/mine"))


def test_the_command_explains_with_a_model_of_the_hub(hub, capsys):
    load_explainer(MODEL).push_to_hub("me/mine", "mit")
    for option in ([], ["--parquet"]):
        with pytest.raises(SystemExit) as end:
            main(["explain", "me/mine", "cat.png", "--out", "out", *option])
        assert end.value.code == 0
    assert len(fsl.read_explanations("out")) == 1


def test_a_folder_comes_before_the_hub(hub):
    shutil.copytree(MODEL / "model", "me/mine")
    load_explainer("me/mine")
    assert hub.fetched == []


def test_a_strangers_model_is_bounded_and_its_weights_fetched_after_its_description(hub):
    load_explainer(MODEL).push_to_hub("me/mine", "mit")
    good = dict(hub.files["me/mine"])
    huge = json.loads(good["config.json"])
    huge["network"]["params"]["channels"] = [2**20] * 6
    for name, content, line, fetched in (
        ("config.json", json.dumps({"model_type": "bert"}).encode(), "damaged or not a model's", ["config.json"]),
        (
            "config.json",
            json.dumps({"kind": "classifier"}).encode(),
            "holds a classifier, not a explainer",
            ["config.json"],
        ),
        (
            "config.json",
            json.dumps(huge).encode(),
            "does not fit|damaged|more than",
            ["config.json", "model.safetensors"],
        ),
        ("model.safetensors", b"no weights", "truncated or changed", ["config.json", "model.safetensors"]),
    ):
        hub.files["me/mine"] = good | {name: content}
        hub.fetched.clear()
        shutil.rmtree("cache", ignore_errors=True)
        with pytest.raises(UserError, match=line) as raised:
            load_explainer("me/mine")
        assert "\n" not in str(raised.value)
        assert sorted(hub.fetched) == fetched
    hub.files["me/mine"] = {"README.md": b"# a model of something else"}
    with pytest.raises(UserError, match=r"me/mine: holds no config.json, and so no model of this package"):
        load_explainer("me/mine")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["explain", "you/none", "cat.png", "--out", "out"],
            "you/none: no such folder here, and it cannot be fetched from",
        ),
        (
            ["explain", "runs/explainer/none", "cat.png", "--out", "out"],
            "runs/explainer/none: no model folder, and",
        ),
        (["pull", "mine", "there"], "mine: user/name of the hub is wanted"),
        (
            ["push", "runs/explainer/none", "me/mine", "--license", "mit"],
            "runs/explainer/none: no model folder, and no",
        ),
        (["push", str(MODEL), "mine", "--license", "mit"], "mine: user/name of the hub is wanted"),
        (["push", str(MODEL), "me/mine"], "the following arguments are required: --license"),
        (["push", str(MODEL), "me/mine", "--license", "all mine"], "license=all mine: the hub's name of one is wanted"),
        (["push", str(MODEL), "me/mine", "--license", "mit", "--images", "dog.png"], "dog.png: no such file or folder"),
    ],
)
def test_a_mistake_is_one_line(words, line, hub, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {line}")
    assert said.err.count("\n") == 1
    assert not hub.files


def test_who_may_not_write_is_told_so(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(
        UserError, match=r"^me/mine: cannot be pushed to the hub: .*\(401\); .*HF_TOKEN, says who you are$"
    ):
        load_explainer(MODEL).push_to_hub("me/mine", "mit")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"^me/mine: cannot be pushed to the hub: "):
        load_explainer(MODEL).push_to_hub("me/mine", "mit")
    assert not list(Path().glob(".*"))


def test_a_folder_that_exists_is_left_alone():
    Path("shared").mkdir()
    with pytest.raises(UserError, match="shared: exists; choose another name"):
        load_explainer(MODEL).save_pretrained("shared", "mit")
    explainer = small.explainer()
    explainer.spec = None
    with pytest.raises(UserError, match="this explainer was not loaded from a model folder"):
        explainer.save_pretrained("other", "mit")
    assert sorted(path.name for path in Path().iterdir()) == ["cat.png", "runs", "shared"]
