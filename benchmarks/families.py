"""All stages for one timm model of each family, on real images: results, and error lines.

    python benchmarks/families.py <folder of CIFAR-10's parquet files>

Prints a Markdown table. Its numbers show that a stage works, not how good results can be, as trainings have one epoch
on a few hundred images. The cell of a surrogate is its masked KL on test images, that of an explainer its additive R²,
with the surrogate's masking in brackets.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import torch
from tabulate import tabulate

from fastshap_lab.models import build_classifier
from fastshap_lab.models.maskings import MASKINGS

# The smallest model of each family, without timm's test networks; models with patches of 14 get patches of 16.
FAMILIES = {
    "ResNet": ("resnet10t", None),
    "ConvNeXt": ("convnext_zepto_rms", None),
    "ViT, class token": ("vit_tiny_patch16_224", None),
    "ViT, mean-pooled": ("vit_medium_patch16_gap_256", None),
    "ViT, registers": ("vit_small_patch14_reg4_dinov2", 16),
    "DeiT, distilled": ("deit_tiny_distilled_patch16_224", None),
    "Swin": ("swin_tiny_patch4_window7_224", None),
    "Eva": ("eva02_tiny_patch14_224", 16),
}
SIZE = (64, 64)
SHOWN = [masking for masking in ("mask_channel", "attention", "token_drop") if masking in MASKINGS]
TRAINED = ("classifier", "surrogate", "explainer")
EXPLAINER = {"unet": ["explainer=unet", "explainer.params.channels=[16,32,64]"], "vit": ["explainer=vit"]}
BASE = [
    "data=hub",
    f"data.params.image_size=[{SIZE[0]},{SIZE[1]}]",
    "data.params.limit_train=300",
    "data.params.limit_test=60",
    "data.grid=[2,4]",
    "explainer.labels={evaluations: 8, copies: 0}",
    "references={val: 2, test: 2}",
    "evaluate={images_shown: 2, bootstrap: 100}",
    *(f"{stage}.{setting}" for stage in TRAINED for setting in ("epochs=1", "batch_size=32", "optim.lr=1e-4")),
]


def params(model: str, patch_size: int | None) -> dict[str, str | int]:
    """Return the entry's parameters."""
    return {"model": model} | ({"patch_size": patch_size} if patch_size else {})


def size_of(model: str, patch_size: int | None) -> int:
    """Return the number of the classifier's parameters."""
    half = [0.5] * 3
    with torch.device("meta"):
        network = build_classifier("timm", params(model, patch_size), SIZE, 10, half, half)
    return sum(parameter.numel() for parameter in network.parameters())


def train(*overrides: str) -> dict[str, str]:
    """Run ``train.py``, and return its line about each stage, or its error line under ``refused``."""
    words = [sys.executable, str(Path(__file__).parents[1] / "train.py"), *BASE, *overrides]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 2 and done.stderr.count("\n") == 1:
        return {"refused": done.stderr.removeprefix("error: ").strip()}
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\nended with status {done.returncode}:\n{done.stderr}")
    return {line.split()[0]: line for line in done.stdout.splitlines() if " s  " in line}


def measure(said: dict[str, str], stage: str, name: str) -> str:
    """Return a measure from a stage's line, or ``refused``."""
    found = re.search(rf"\b{name} (\S+)", said.get(stage, ""))
    return found[1] if found else "refused"


def row(family: str, model: str, patch_size: int | None, where: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the cells of a family, and the error lines."""
    start = time.perf_counter()
    chosen = [f"{group}=timm" for group in ("classifier", "surrogate")]
    chosen += [
        f"{group}.params.{key}={value}"
        for group in ("classifier", "surrogate")
        for key, value in params(model, patch_size).items()
    ]
    surrogates: dict[str, dict[str, str]] = {}
    explainers: dict[str, dict[str, str]] = {}
    for masking in SHOWN:
        # The ViT explainer explains the first surrogate with a masking of tokens; without one, it has an error line.
        explainer = "unet" if masking == "mask_channel" else "vit"
        stage = "all" if explainer not in explainers else "surrogate"
        said = train(*where, *chosen, f"surrogate.masking={masking}", *EXPLAINER[explainer], f"stage={stage}")
        surrogates[masking] = said
        if stage == "all" and "refused" not in said:
            explainers[explainer] = said | {"masking": masking}
    if "vit" not in explainers:
        explainers["vit"] = train(*where, *chosen, "surrogate.masking=mask_channel", *EXPLAINER["vit"])
    cells = {
        "family": family,
        "model": model,
        "parameters": f"{size_of(model, patch_size) / 1e6:.1f} M",
        "classifier": f"accuracy {measure(surrogates['mask_channel'], 'classifier', 'accuracy')}",
    }
    cells |= {f"surrogate {masking}": measure(said, "surrogate", "masked_kl") for masking, said in surrogates.items()}
    for name, said in explainers.items():
        game = f" ({said['masking']})" if "masking" in said else ""
        cells[f"explainer {name}"] = measure(said, "explainer", "additive_r2") + game
    cells["seconds"] = f"{time.perf_counter() - start:.0f}"
    refused = [said["refused"] for said in (*surrogates.values(), *explainers.values()) if "refused" in said]
    return cells, [f"{model}: {line}" for line in refused]


def main() -> None:
    """Print the table, and below it all error lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="folder of parquet files, as data.params.path of data=hub takes it")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/families"))
    parser.add_argument("--only", nargs="*", choices=list(FAMILIES), default=list(FAMILIES), metavar="FAMILY")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    rows, lines = [], []
    for family in arguments.only:
        where = [f"data.params.path={arguments.path.resolve()}", f"runs_dir={arguments.runs_dir.resolve()}"]
        cells, refused = row(family, *FAMILIES[family], where)
        rows.append(cells)
        lines += refused
        print(f"{family}: {cells}", file=sys.stderr)
    print(tabulate(rows, headers="keys", tablefmt="github"))
    print("\nRefused:\n")
    for line in lines:
        print(f"- {line}")


if __name__ == "__main__":
    main()
