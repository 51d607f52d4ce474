"""Attribution methods against captum, pytorch-grad-cam and the authors' RISE; and the cost of each of our methods.

    python benchmarks/methods.py --parts equal defaults vit_cx costs

One image of 224 pixels, ViT-Tiny/16 and ResNet18 with random weights, on the processor. Prints Markdown tables:

- equal: the same passes and batch size, in float32. A ratio above 1 means that ours takes less time.
- defaults: our defaults against theirs, with bfloat16 if the rank correlation of its map and float32's is above 0.99.
- vit_cx: the fraction of its time for making and clustering masks.
- costs: passes (images that went through the model, forward and backward), seconds, and peak memory minus that of the
  loaded network, for each of our methods in a process of its own. It needs Linux.

Times are medians over repetitions in which both take turns. A line is printed for each library that is not installed.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from skimage.data import astronaut
from skimage.transform import resize
from tabulate import tabulate
from torch import Tensor, nn

from fastshap_lab.attribution import METHODS, upsample
from fastshap_lab.attribution.features import find_layers
from fastshap_lab.attribution.rise import RISE, RandomMasks
from fastshap_lab.attribution.vit_cx import ViTCX
from fastshap_lab.models.zoo import timm_model

NETWORKS = {"ViT-Tiny/16": "vit_tiny_patch16_224", "ResNet18": "resnet18"}
SIZE, TARGET, BATCH = 224, 3, 16
PARTS = ("equal", "defaults", "vit_cx", "costs")
Runs = dict[str, Callable[[], Any]]


def network(name: str) -> nn.Module:
    """Return a network that takes normalized images, the same at every call."""
    torch.manual_seed(0)
    return timm_model(1000, (SIZE, SIZE), 3, NETWORKS[name]).eval()


def image() -> Tensor:
    """Return a photograph, normalized."""
    pixels = torch.from_numpy(resize(astronaut(), (SIZE, SIZE), anti_aliasing=True)).float()
    return ((pixels - 0.5) / 0.25).permute(2, 0, 1).unsqueeze(0).contiguous()


def alternating(variants: Runs, arguments: argparse.Namespace) -> dict[str, float]:
    """Return the median seconds of each; variants take turns, so that a busy machine is busy for all."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    for repetition in range(arguments.repetitions + 1):  # the first one warms up
        for name, run in variants.items():
            start = clock()
            run()
            if repetition:
                seconds[name].append(clock() - start)
    return {name: median(each) for name, each in seconds.items()}


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Return Spearman's, ties broken by place."""
    ranks = torch.stack([each.flatten().argsort(stable=True).argsort().double() for each in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


def of_captum(model: nn.Module, x: Tensor, batch: int) -> Runs:
    """Return captum's methods by the names of ours."""
    from captum import attr

    noise = 0.15 * float(x.max() - x.min())
    window = {"sliding_window_shapes": (3, 32, 32), "strides": (3, 16, 16), "baselines": 0, "target": TARGET}
    probabilities = attr.Occlusion(lambda copies: model(copies).softmax(dim=1))
    runs: Runs = {
        "saliency": lambda: attr.Saliency(model).attribute(x, TARGET),
        "integrated_gradients": lambda: attr.IntegratedGradients(model).attribute(
            x, target=TARGET, n_steps=BATCH, internal_batch_size=batch
        ),
        "smoothgrad": lambda: attr.NoiseTunnel(attr.Saliency(model)).attribute(
            x, nt_samples=BATCH, nt_samples_batch_size=batch, stdevs=noise, target=TARGET, abs=False
        ),
        "occlusion": lambda: probabilities.attribute(x, **window, perturbations_per_eval=batch),
    }
    if not on_tokens(model):  # it takes features to be laid out in rows and columns
        layer = find_layers(model)[0]
        runs["signed_grad_cam"] = lambda: attr.LayerGradCam(model, layer).attribute(x, TARGET)
    return runs


def of_grad_cam(model: nn.Module, x: Tensor, target: int | None) -> Runs:
    """Return pytorch-grad-cam's methods by the names of ours, in batches of 16 as is its default."""
    import pytorch_grad_cam as theirs
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def to_feature_map(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (14, 14))

    theirs.score_cam.tqdm = SimpleNamespace(tqdm=iter)  # it is not to be charged for drawing a bar
    targets = None if target is None else [ClassifierOutputTarget(target)]
    given = {"target_layers": find_layers(model)[:1], "reshape_transform": to_feature_map if on_tokens(model) else None}

    def run(method: Any) -> Any:
        with method(model=model, **given) as cam:
            return cam(input_tensor=x, targets=targets)

    return {"grad_cam": partial(run, theirs.GradCAM), "score_cam": partial(run, theirs.ScoreCAM)}


def on_tokens(model: nn.Module) -> bool:
    """Return whether a network works on tokens."""
    return hasattr(model, "patch_embed")


def plain_rise(model: nn.Module, x: Tensor, masks: Tensor) -> Tensor:
    """Return maps (K, H, W) as RISE's authors have them: all copies at once, 100 to a pass; masks are there before."""
    with torch.no_grad():
        copies = masks.unsqueeze(1) * x
        answers = torch.cat([model(part).softmax(dim=1) for part in copies.split(100)])
        return (answers.T @ masks.flatten(1)).unflatten(1, (SIZE, SIZE)) / len(masks) / 0.5


def equal(name: str, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a line for each method that another library has, too."""
    model, x = network(name), image()
    options: dict[str, dict[str, Any]] = {"integrated_gradients": {"steps": BATCH}, "smoothgrad": {"samples": BATCH}}
    for library, rivals in libraries(model, x, BATCH, TARGET).items():
        for method, theirs in rivals.items():
            ours = METHODS[method](model, **options.get(method, {}), max_batch=BATCH)
            many = 1 if method in ("occlusion", "score_cam") else 5
            runs: Runs = {"ours": lambda ours=ours: ours.attribute(x, TARGET), "theirs": theirs}
            seconds = alternating({side: partial(repeat, run, many) for side, run in runs.items()}, arguments)
            yield line(name, method, library, seconds["ours"] / many, seconds["theirs"] / many)


def defaults(name: str, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a line for each of the methods that take long, and Grad-CAM."""
    model, x = network(name), image()
    rivals = libraries(model, x, 1, None)
    masks = RandomMasks(arguments.masks, (SIZE, SIZE), 7, 0.5, 0)(x, 0, arguments.masks)
    rivals["authors' way"] = {"rise": lambda: plain_rise(model, x, masks)}
    for library, runs in rivals.items():
        for method in [each for each in ("occlusion", "score_cam", "rise", "grad_cam") if each in runs]:
            options = {"num_masks": arguments.masks} if method == "rise" else {}
            asked = METHODS[method](model, **options)
            ours: Runs = {"float32": partial(explain, asked, x)}
            correlation = float("nan")
            if method != "grad_cam":
                ours["bfloat16"] = partial(explain, METHODS[method](model, **options, bf16=True), x)
                correlation = rank_correlation(ours["float32"](), ours["bfloat16"]())
            seconds = alternating({**ours, "theirs": runs[method]}, arguments)
            chosen = "bfloat16" if correlation > 0.99 else "float32"
            made = line(name, method, library, seconds[chosen], seconds["theirs"])
            extra = {"precision": chosen, "rank correlation": f"{correlation:.4f}"}
            yield made | extra | {"ratio in float32": f"{seconds['theirs'] / seconds['float32']:.2f}"}


def explain(method: Any, x: Tensor) -> Tensor:
    """Return the map of the top class at image size; of RISE those of all classes, as its authors' way gives."""
    return method.attribute_all(x)[0] if isinstance(method, RISE) else upsample(method.attribute(x), (SIZE, SIZE))


def vit_cx(name: str, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a line for each threshold, of a vision transformer; making masks has the pass that they come from in it."""
    model, x = network(name), image()
    if ViTCX.supports(model):
        return
    for threshold in (0.1, 0.02):  # the default; and one that leaves about the paper's 63 masks of a trained network
        method = ViTCX(model, threshold=threshold)
        runs: Runs = {"masks": partial(method.image_masks, x[0]), "all": partial(method.attribute, x, TARGET)}
        seconds = alternating(runs, arguments)
        number, share = len(method.image_masks(x[0])), seconds["masks"] / seconds["all"]
        times = {"making them, s": f"{seconds['masks']:.3f}", "all, s": f"{seconds['all']:.3f}"}
        yield {"network": name, "threshold": threshold, "masks": number} | times | {"share": f"{share:.1%}"}


def costs(name: str, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a line for each method."""
    context = get_context("forkserver")  # whose server computes nothing, so that its children may use all threads
    context.set_forkserver_preload(["fastshap_lab.attribution", "timm", "skimage.data", "skimage.transform"])
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        each = [pool.submit(cost, name, method, torch.get_num_threads()) for method in arguments.methods]
        for method, done in zip(arguments.methods, each, strict=True):
            yield {"network": name, "method": method} | done.result()


def cost(name: str, method: str, threads: int) -> dict[str, Any]:
    """Return what one method costs, in a process of its own."""
    torch.set_num_threads(threads)
    model, x = network(name), image()
    if METHODS[method].supports(model):
        return {"forward": "not applicable"}
    with torch.no_grad():
        model(x)
    passes = {"forward": 0, "backward": 0}

    def count_backward(gradient: Tensor) -> None:
        passes["backward"] += len(gradient)

    def count(module: nn.Module, args: tuple[Tensor, ...], logits: Tensor) -> None:
        passes["forward"] += len(logits)
        if logits.requires_grad:
            logits.register_hook(count_backward)

    handle, explainer = model.register_forward_hook(count), METHODS[method](model)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = resident("VmRSS"), time.perf_counter()
    explainer.attribute(x, TARGET)
    seconds, peak = time.perf_counter() - start, resident("VmHWM") - before
    handle.remove()
    return passes | {"seconds": f"{seconds:.2f}", "peak, MB": round(peak / 1e3)}


def resident(key: str) -> int:
    """Return memory of this process, in kB."""
    return next(int(row.split()[1]) for row in Path("/proc/self/status").read_text().splitlines() if key in row)


def libraries(model: nn.Module, x: Tensor, batch: int, target: int | None) -> dict[str, Runs]:
    """Return the methods of each installed library."""
    makers = {"captum": partial(of_captum, model, x, batch), "pytorch_grad_cam": partial(of_grad_cam, model, x, target)}
    for library in makers:
        if not find_spec(library):
            print(f"{library} is not installed: left out")
    return {library: make() for library, make in makers.items() if find_spec(library)}


def repeat(run: Callable[[], Any], times: int) -> None:
    """Call several times."""
    for _ in range(times):
        run()


def line(name: str, method: str, library: str, ours: float, theirs: float) -> dict[str, Any]:
    """Return what both tables of comparisons have."""
    times = {"ours, s": f"{ours:.4f}", "theirs, s": f"{theirs:.4f}", "ratio": f"{theirs / ours:.2f}"}
    return {"network": name, "method": method, "against": library} | times


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD",
                        help="methods of the part costs")  # fmt: skip
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--cpu-time", action="store_true", help="measure CPU time of all threads, for a machine that others use, too"
    )
    parser.add_argument("--masks", type=int, default=512, help="number of RISE's masks in the part defaults")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "Input Tensor 0 did not already require gradients")  # of captum
    kind = "processor seconds" if arguments.cpu_time else "seconds"
    print(
        f"{torch.get_num_threads()} threads, PyTorch {torch.__version__}, {kind}, {arguments.repetitions} repetitions"
    )
    for part in arguments.parts:
        work = {"equal": equal, "defaults": defaults, "vit_cx": vit_cx, "costs": costs}[part]
        lines = []
        for name in arguments.networks:
            for row in work(name, arguments):
                lines.append(row)
                print(row, file=sys.stderr)
        print(f"\n## {part}\n\n{tabulate(lines, headers='keys', tablefmt='github', disable_numparse=True)}", flush=True)


if __name__ == "__main__":
    main()
