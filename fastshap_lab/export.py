"""An explainer as one graph in one file, which needs nothing of this package to run."""

import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastshap_lab.components import lookup
from fastshap_lab.errors import UserError
from fastshap_lab.files import refuse_folder, replacing
from fastshap_lab.images import Images, to_tensor
from fastshap_lab.models.freezing import frozen_copy
from fastshap_lab.shapley import LINKS, NORMALIZATIONS, efficiency_gap

if TYPE_CHECKING:
    from fastshap_lab.inference import AmortizedExplainer

OUTPUTS = ("probabilities", "values", "efficiency_gap")
"""What a graph returns, by name and in this order."""

DESCRIPTION = "explainer"
"""The entry of an ONNX file's metadata, and with ``.json`` the extra file of a ``.pt2``, that says what it is of."""

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "int8": torch.float32}
"""What networks compute in, and of which PyTorch's graph is; that for int8 is quantized after."""

_NEEDED: dict[str, tuple[str, ...]] = {".onnx": ("onnx", "onnxscript", "onnxruntime"), ".pt2": ()}
_CALIBRATED = 16  # images at once: all that a network computes of them is kept in memory
_MAX_BYTES = 2**31 - 2**24  # of weights in one ONNX file, which is a protobuf: less than 2 GiB as a whole


class ExplainerGraph(nn.Module):
    """What an explainer says of pixels, with nothing left to choose.

    Args:
        explainer: Whose parts these are.
        dtype: In which networks compute. Pixels, answers, and what comes after the logits are float32 all the same.
    """

    null: Tensor | None

    def __init__(self, explainer: "AmortizedExplainer", dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network, self.surrogate, self.classifier = explainer.network, explainer.surrogate, explainer.classifier
        self.grid, self.dtype = explainer.grid, dtype
        self.link, self.normalization = LINKS[explainer.link], NORMALIZATIONS[explainer.normalization]
        self.predict = explainer.task.predict
        null = None
        if explainer.surrogate.masking.null_ignores_image:  # a constant of the graph, and a pass less for each image
            null = explainer.game().null(torch.zeros(1, 3, *self.grid.image_size, device=explainer.device))
        self.register_buffer("null", null)

    def forward(self, pixels: Float[Tensor, "B C H W"]) -> dict[str, Tensor]:
        """Return ``OUTPUTS`` of images in [0, 1]: (B, K), (B, K, rows, columns) and (B, K)."""
        image = pixels.to(self.dtype)
        full = self._logits(image, present=True)
        grand, raw = self.link(full), self.network(image).float()
        null = self.link(self._logits(image, present=False)) if self.null is None else self.null
        logits = full if self.classifier is None else self.classifier(image).float()
        values = self.grid.to_grid(self.normalization(raw, grand, null))
        return dict(zip(OUTPUTS, (self.predict(logits), values, efficiency_gap(raw, grand, null)), strict=True))

    def _logits(self, image: Tensor, present: bool) -> Tensor:
        """Return the surrogate's logits (B, K) of everyone, or of nobody."""
        coalition = torch.full((image.shape[0], 1, self.grid.num_players), present)
        return self.surrogate(image, coalition).squeeze(1).float()


def exported(explainer: "AmortizedExplainer", dtype: torch.dtype = torch.float32) -> torch.export.ExportedProgram:
    """Return an explainer's ``ExplainerGraph`` on the CPU for batches of any size, without gradients.

    BatchNorm is folded into convolutions.

    Args:
        explainer: Stays as it is.
        dtype: As for ``ExplainerGraph``.

    Raises:
        UserError: A network is no graph to PyTorch, or the task has no probabilities.
    """
    if explainer.task.answers != "probabilities":
        raise UserError(f"export: an explainer of the task {explainer.task.name} cannot be exported so far")
    graph = frozen_copy(ExplainerGraph(explainer, dtype)).to("cpu", memory_format=torch.contiguous_format)
    for part in graph.children():  # the networks, and not the null value
        part.to(dtype)
    pixels, batch = torch.rand(2, 3, *graph.grid.image_size), torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad():
            program = torch.export.export(graph, (pixels,), dynamic_shapes={"pixels": {0: batch}})
    except Exception as error:  # in as many ways as there are networks
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"the explainer cannot be exported, some of it is no graph to PyTorch: {reason}") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names files of this machine
    return program


def describe(explainer: "AmortizedExplainer", precision: str) -> dict[str, Any]:
    """Return what the user of an exported file must know and cannot see from its inputs and outputs.

    Args:
        explainer: Explainer that is exported.
        precision: ``float32``, ``float16`` or ``int8``.
    """
    return {
        "kind": "amortized Shapley explainer",
        "classes": explainer.class_names,
        "link": explainer.link,
        "normalization": explainer.normalization,
        "source": "surrogate" if explainer.classifier is None else "classifier",  # of the probabilities
        "image_size": list(explainer.grid.image_size),
        "grid": list(explainer.grid.shape),
        "precision": precision,
        "pixels": "(batch, 3, height, width), float32, RGB in [0, 1]",
        "probabilities": "(batch, classes)",
        "values": "(batch, classes, rows, columns), Shapley values in units of the link",
        "efficiency_gap": "(batch, classes), what raw values missed of the total, before normalization",
    }


def export(
    explainer: "AmortizedExplainer",
    path: str | Path,
    precision: str = "float32",
    calibration: Images | None = None,
    replace: bool = False,
) -> None:
    """Write an explainer as a graph, whole or not at all, as ``AmortizedExplainer.export`` describes.

    Args:
        explainer: Explainer to export.
        path: File to write; its suffix, ``.onnx`` or ``.pt2``, chooses the format.
        precision: ``float32``, ``float16`` or ``int8``.
        calibration: Images that ranges of activations are measured on, for ``int8``.
        replace: Whether an existing file is replaced.
    """
    path = Path(path)
    if path.suffix not in _NEEDED:
        raise UserError(f"{path}: the suffix says what to write, .onnx or, of torch.export, .pt2; choose one of them")
    lookup(PRECISIONS, "precision", precision)
    if precision == "int8" and path.suffix != ".onnx":
        raise UserError(f"{path}: int8 is for .onnx alone; choose that, or float16")
    if (precision == "int8") != (calibration is not None):
        raise UserError("calibration: images are wanted for int8, to find the ranges of activations, and for it alone")
    refuse_folder(path)
    if path.exists() and not replace:
        raise UserError(f"{path}: exists; choose another name, or have it replaced")
    if missing := [package for package in _NEEDED[path.suffix] if not find_spec(package)]:
        raise UserError(f"{path}: needs {' and '.join(missing)}; pip install 'fastshap-lab[export]'")
    seen = None if calibration is None else to_tensor(calibration, explainer.grid.image_size).numpy()
    description = json.dumps(describe(explainer, precision), ensure_ascii=False)
    with warnings.catch_warnings(), replacing(path) as temporary:
        warnings.simplefilter("ignore")  # PyTorch's exporters warn of what they use of PyTorch and Python
        program = exported(explainer, PRECISIONS[precision])
        if path.suffix == ".pt2":
            torch.export.save(program, temporary, extra_files={f"{DESCRIPTION}.json": description})
        elif seen is None:
            _to_onnx(program, description).save(temporary, external_data=False)
        else:
            _quantize(_to_onnx(program, description), temporary, seen)


def _to_onnx(program: torch.export.ExportedProgram, description: str) -> torch.onnx.ONNXProgram:
    size = sum(tensor.nbytes for tensor in (*program.state_dict.values(), *program.constants.values()))
    if size > _MAX_BYTES:
        raise UserError(f"{size / 2**30:.1f} GiB of weights, and an ONNX file has room for 2; choose .pt2, or float16")
    onnx = torch.onnx.export(
        program,
        input_names=["pixels"],
        output_names=OUTPUTS,
        dynamic_shapes={"pixels": {0: "batch"}},
        verbose=False,
    )
    assert onnx is not None  # or it had raised
    for node in onnx.model.graph:
        node.metadata_props.clear()  # where in PyTorch's graph it is from, longer than the node
    onnx.model.metadata_props[DESCRIPTION] = description
    return onnx


def _quantize(onnx: torch.onnx.ONNXProgram, path: Path, images: np.ndarray) -> None:
    """Write a graph whose convolutions and products are of integers, in the ranges that images (N, 3, H, W) need."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Batches(CalibrationDataReader):
        left = iter(np.split(images, range(_CALIBRATED, len(images), _CALIBRATED)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.left, None)
            return None if batch is None else {"pixels": batch}

    onnx.model.metadata_props["onnx.quant.pre_process"] = "onnxruntime.quant"  # PyTorch has done so; else it warns
    quantize_static(
        onnx.model_proto,
        path,
        Batches(),
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
    )
