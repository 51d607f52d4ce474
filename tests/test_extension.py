"""What CONTRIBUTING.md promises: a component is a class, a line in its table and a configuration, and nothing else."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastshap_lab.cli import main
from fastshap_lab.data import DATASETS, ImageDataModule
from fastshap_lab.data.base import SPLITS, Split
from fastshap_lab.data.splits import TensorImages
from fastshap_lab.inference import load_explainer, load_surrogate
from fastshap_lab.models.explainers import EXPLAINERS, Explainer
from fastshap_lab.models.maskings import MASKINGS
from fastshap_lab.models.maskings.pixels import PixelMasking
from fastshap_lab.shapley.players import PlayerGrid
from tests.small_runs import RESNET, TINY


class Stripes(ImageDataModule):
    """Dark and bright stripes that lie or stand, on images higher than wide.

    Args:
        num_images: Of each split.
    """

    def __init__(self, num_images: int = 32) -> None:
        super().__init__(["lying", "standing"], (16, 12))
        self.num_images = num_images

    def load(self, split: Split) -> TensorImages:
        generator = torch.Generator().manual_seed(SPLITS.index(split))
        labels = torch.arange(self.num_images) % 2
        rows, columns = torch.meshgrid(torch.arange(16), torch.arange(12), indexing="ij")
        images = torch.where(labels.bool()[:, None, None], columns, rows) % 2 * 150  # (N, H, W)
        noise = torch.randint(0, 100, (self.num_images, 3, 16, 12), generator=generator)
        return TensorImages((images.unsqueeze(1) + noise).to(torch.uint8), labels)

    def content(self) -> Iterator[bytes]:
        yield repr(self.num_images).encode()


class Negative(PixelMasking):
    """Show the negative of absent players: an answer to nobody that is known, and differs between images."""

    null_ignores_image = False

    def layers(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        return pixels, -pixels


class Pooled(Explainer):
    """A player's values follow from its mean colour alone.

    Args:
        width: Of the hidden layer.
    """

    def __init__(
        self, grid: PlayerGrid, num_classes: int, mean: Sequence[float], std: Sequence[float], width: int = 4
    ) -> None:
        super().__init__(grid, num_classes, mean, std)
        self.layers = nn.Sequential(nn.Linear(3, width), nn.GELU(), nn.Linear(width, num_classes))

    def predict(self, pixels: Tensor) -> Tensor:
        return self.layers(F.adaptive_avg_pool2d(pixels, self.grid.shape).flatten(2).transpose(1, 2))


@pytest.fixture
def extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Add a line to each table, and a folder of configurations; return the folder."""
    monkeypatch.setitem(DATASETS, "stripes", Stripes)
    monkeypatch.setitem(MASKINGS, "negative", Negative)
    monkeypatch.setitem(EXPLAINERS, "pooled", Pooled)
    for group, text in {
        "data": "name: stripes\nparams: {num_images: 24}\ngrid: [4, 2]\n",
        "explainer": "name: pooled\nparams: {width: 6}\nepochs: 1\n",
    }.items():
        (tmp_path / "configs" / group).mkdir(parents=True)
        (tmp_path / "configs" / group / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "configs"


def test_components_from_outside_go_through_all_stages_and_load_again(extended, monkeypatch):
    tiny = [word for word in TINY if not word.startswith("data")]
    chosen = ["data=mine", "explainer=mine", "surrogate.masking=negative", "explainer.params.width=5"]
    monkeypatch.setattr(sys, "argv", ["train.py", "--config-dir", str(extended), *chosen, *tiny, *RESNET])
    main()

    assert [*Path().glob("runs/evaluate/stripes-*-pooled-*/report.html")]
    [surrogate] = Path().glob("runs/surrogate/*/model")
    [folder] = Path().glob("runs/explainer/stripes-*-pooled-*/model")
    game, explainer = load_surrogate(surrogate), load_explainer(folder)
    assert type(game.masking) is Negative
    assert type(explainer.network) is Pooled
    assert explainer.network.layers[0].out_features == 5

    image = Stripes().load("test").images[:4].float() / 255
    explanation = explainer.explain(image)
    assert explanation.classes == ["lying", "standing"]
    assert explanation.values.shape == (4, 2, 4, 2)
    with torch.inference_mode():
        whole, nobody = (game.classifier.network(sign * game.classifier.normalize(image)) for sign in (1, -1))
    total = whole.softmax(dim=-1) - nobody.softmax(dim=-1)
    torch.testing.assert_close(explanation.values.sum(dim=(2, 3)), total, rtol=1e-4, atol=1e-5)


def test_the_command_line_lists_and_checks_them_like_its_own(extended, monkeypatch, capsys):
    for word, line in {
        "data.name=stripe": "error: data.name=stripe: unknown, did you mean stripes?",
        "surrogate.masking=negativ": "error: surrogate.masking=negativ: unknown, did you mean negative?",
        "explainer.params.widht=3": "error: explainer.params.widht: unknown to pooled, did you mean width?",
    }.items():
        words = ["--config-dir", str(extended), "data=mine", "explainer=mine", word]
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        with pytest.raises(SystemExit, match="2"):
            main()
        assert capsys.readouterr().err.startswith(line)
