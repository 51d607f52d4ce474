"""Finished runs, tables and an explainer's answers of an earlier version, small enough to be kept: ``golden.zip``.

``python -m tests.golden`` makes them anew, after a change that is meant to change them, and only then.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import torch
from safetensors.torch import save

import fastshap_lab as fsl
from tests.small_runs import TINY, executed

ARCHIVE = Path(__file__).with_name("golden.zip")

_NETWORK = "{width: 8, depth: 2, num_heads: 2, mlp_width: 8}"
OVERRIDES = [
    "method=[explainer,grad_cam,leave_one_out,saliency]",
    "metric=all",
    "check=[randomization,max_sensitivity]",
    "evaluate.methods.leave_one_out.params.players=[2,2]",
    "evaluate.metrics.segmentation.params.confidence=0",
    "evaluate.checks.max_sensitivity.params={draws: 2}",
    "evaluate.checks.randomization.params={seeds: 1}",
    "evaluate.images=20",
    "evaluate.pipelines={"
    "A: {classifier: resnet_slim, surrogate: resnet_slim, explainer: unet_slim, overrides: "
    "['classifier.params.channels=[4,4,8,8]', 'surrogate.params.channels=[4,4,8,8]', "
    "'explainer.params.channels=[4,8]']}, "
    "B: {classifier: vit_slim, surrogate: vit_slim, explainer: vit_slim, overrides: "
    f"['classifier.params={_NETWORK}', 'surrogate.params={_NETWORK}']}}}}",
]
"""Of the ``TINY`` configuration: two pipelines, four methods, all metrics, two checks."""


def write() -> None:
    """Make the runs and keep what later ones read, tables and answers."""
    with TemporaryDirectory() as folder, ZipFile(ARCHIVE, "w") as archive:

        def put(name: str, content: bytes) -> None:
            archive.writestr(ZipInfo(name, (2026, 11, 24, 0, 0, 0)), content, ZIP_DEFLATED, compresslevel=9)

        answers = {"images": torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte()}
        for run in executed(f"runs_dir={folder}", *OVERRIDES, base=TINY):
            patterns = ["tables/*.csv"] if run.stage == "evaluate" else ["*.*", "model/*", "labels/*"]
            for path in sorted(path for pattern in patterns for path in run.folder.glob(pattern)):
                place = path.name if run.stage == "evaluate" else path.relative_to(folder)
                content = path.read_bytes().replace(folder.encode(), b"runs") if path.is_file() else b""
                put(f"{'tables' if run.stage == 'evaluate' else 'runs'}/{place}", content)
            if run.stage == "explainer":
                answers[run.folder.name] = fsl.load_explainer(run.folder).explain(answers["images"]).values.contiguous()
        put("answers.safetensors", save(answers))


if __name__ == "__main__":
    write()
