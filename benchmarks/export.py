"""Images per second and sizes of explainers in PyTorch, compiled and as ONNX files, and the loss by less precision.

    python benchmarks/export.py [MODEL … --images FOLDER]

Without a model, untrained networks are measured. With trained models and images, int8 is calibrated on half of the
images, and the table has R² of the values with less precision against those of float32 on the other half.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch
from tabulate import tabulate

from fastshap_lab.export import PRECISIONS, ExplainerGraph
from fastshap_lab.images import images_in, to_tensor
from fastshap_lab.inference import AmortizedExplainer, build_amortized, load_explainer
from fastshap_lab.models.freezing import frozen_copy
from fastshap_lab.models.specs import ExplainerSpec

RESNET = {"name": "resnet", "params": {"channels": [32, 64, 128, 256], "depths": [1] * 4, "strides": [2, 1, 2, 2, 2]}}
VIT = {"name": "vit", "params": {"patch_size": 4, "width": 96, "depth": 4, "num_heads": 4, "mlp_width": 192}}
TINY = {"name": "timm", "params": {"model": "vit_tiny_patch16_224"}}
UNET = {"name": "unet", "params": {"channels": [16, 32, 64, 128]}}
UNTRAINED = {
    "UNet, ResNet, 32 px": (UNET, RESNET, "mask_channel", 32, 8),
    "ViT, 32 px": ({"name": "vit", "params": {"backbone": VIT}}, VIT, "token_drop", 32, 8),
    "UNet, ResNet, 224 px": (UNET, RESNET, "mask_channel", 224, 14),
    "ViT-Tiny/16, 224 px": ({"name": "vit", "params": {"backbone": TINY}}, TINY, "token_drop", 224, 14),
}
BATCHES = (1, 16)


def untrained(network: dict[str, Any], classifier: dict[str, Any], masking: str, size: int, side: int) -> Any:
    """Return an explainer of square images and ten classes, and of ``side``² players, as it is before training."""
    pixels = {"image_size": [size, size], "num_classes": 10, "mean": [0.5] * 3, "std": [0.25] * 3}
    description = {
        "network": network | pixels | {"grid": [side, side]},
        "surrogate": {"classifier": classifier | pixels, "masking": masking, "grid": [side, side]},
        "classifier": classifier | pixels,
        "link": "softmax",
        "normalization": "additive",
        "class_names": [str(number) for number in range(10)],
    }
    torch.manual_seed(0)
    return build_amortized(ExplainerSpec.from_json(description)).eval()


def per_second(variants: dict[str, Callable[[], object]], images: int, seconds: float) -> dict[str, float]:
    """Return images per second, by the median; variants take turns, so that a busy machine is busy for all."""
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for run in variants.values():
        run()
    end = time.perf_counter() + seconds * len(variants)
    while time.perf_counter() < end or len(next(iter(taken.values()))) < 5:
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
    return {name: images / median(each) for name, each in taken.items()}


def compiled(explainer: AmortizedExplainer) -> Callable[[torch.Tensor], object] | None:
    """Return the compiled graph; none where compiling does not work, as without a C++ compiler."""
    torch.compiler.reset()  # otherwise, compilations of earlier explainers count against the limit
    graph = torch.compile(frozen_copy(ExplainerGraph(explainer)), dynamic=False)
    try:
        with torch.inference_mode():
            graph(torch.rand(1, 3, *explainer.grid.image_size))
    except Exception as error:
        print(f"torch.compile: {str(error).splitlines()[0]}")
        return None
    return graph


def sessions(
    explainer: AmortizedExplainer, images: torch.Tensor, threads: int
) -> tuple[dict[str, onnxruntime.InferenceSession], dict[str, float]]:
    """Return a function that runs the file of each precision, and the sizes of the files in MB."""
    found, sizes, options = {}, {}, onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    with TemporaryDirectory() as folder:
        for precision in PRECISIONS:
            path = Path(folder, f"{precision}.onnx")
            explainer.export(path, precision, calibration=images if precision == "int8" else None)
            sizes[precision] = path.stat().st_size / 1e6
            found[precision] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return found, sizes


def rows(
    name: str, explainer: AmortizedExplainer, images: torch.Tensor, trained: bool, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return the lines of the table of an explainer, one for each size of a batch."""
    seen, others = images.chunk(2)
    graph, (files, sizes) = compiled(explainer), sessions(explainer, seen, arguments.threads)
    values = {precision: file.run(["values"], {"pixels": others.numpy()})[0] for precision, file in files.items()}
    expected = explainer.explain(others).values.numpy()
    lines = []
    for size in BATCHES:
        batch = images[:size]
        variants: dict[str, Callable[[], object]] = {"eager": lambda batch=batch: explainer.explain(batch)}
        if graph is not None:
            variants["compiled"] = torch.inference_mode()(lambda batch=batch: graph(batch))
        for precision, file in files.items():
            variants[precision] = lambda file=file, batch=batch: file.run(None, {"pixels": batch.numpy()})
        line: dict[str, Any] = {"explainer": name, "batch": size} | per_second(variants, size, arguments.seconds)
        line |= {f"{precision}, MB": sizes[precision] for precision in files}
        line["largest difference"] = f"{np.abs(values['float32'] - expected).max():.1e}"
        if trained:
            line |= {f"R² {key}": r2(values[key], expected) for key in ("float16", "int8")}
        print(line, file=sys.stderr)
        lines.append(line)
    return lines


def r2(found: np.ndarray, expected: np.ndarray) -> float:
    """Return R² of other values as a prediction of the first ones, over all images, players and classes."""
    return float(1 - np.square(found - expected).sum() / np.square(expected - expected.mean()).sum())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL", help="run folders or model folders")
    parser.add_argument("--images", type=Path, help="folder of images like those that the models were trained on")
    parser.add_argument("--most", type=int, default=256, help="largest number of images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3, help="seconds of measurement for each number in the table")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = []
    for path in arguments.models:
        explainer = load_explainer(path)
        images = to_tensor(sorted(images_in(arguments.images))[: arguments.most], explainer.grid.image_size)
        found += rows(path.name, explainer, images, True, arguments)
    for name, parts in UNTRAINED.items() if not arguments.models else ():
        explainer = untrained(*parts)
        found += rows(name, explainer, torch.rand(32, 3, *explainer.grid.image_size), False, arguments)
    print(tabulate(found, headers="keys", tablefmt="github", floatfmt=".4g"))


if __name__ == "__main__":
    main()
