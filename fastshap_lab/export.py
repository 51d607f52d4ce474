"""Export of an explainer as one graph in one file, which runs without this package."""

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
"""Names of a graph's outputs, in this order."""

DESCRIPTION = "explainer"
"""Key of the description in an ONNX file's metadata; with ``.json`` the name of the extra file in a ``.pt2``."""

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "int8": torch.float32}
"""Number format of the graph that PyTorch exports for each precision; for int8 the graph is quantized afterwards."""

_NEEDED: dict[str, tuple[str, ...]] = {".onnx": ("onnx", "onnxscript", "onnxruntime"), ".pt2": ()}
_CALIBRATED = 16  # number of images in a calibration batch, for which all activations are kept in memory
_MAX_BYTES = 2**31 - 2**24  # largest size of the weights in an ONNX file, a protobuf, which must be below 2 GiB


class ExplainerGraph(nn.Module):
    """An explainer as a function of pixels alone, with all settings fixed.

    Args:
        explainer: Explainer to export, whose networks are shared.
        dtype: Number format of the networks. Pixels, outputs, and all computations after the logits are float32.
    """

    null: Tensor | None

    def __init__(self, explainer: "AmortizedExplainer", dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network, self.surrogate, self.classifier = explainer.network, explainer.surrogate, explainer.classifier
        self.grid, self.dtype = explainer.grid, dtype
        self.link, self.normalization = LINKS[explainer.link], NORMALIZATIONS[explainer.normalization]
        self.predict = explainer.task.predict
        null = None
        if explainer.surrogate.masking.null_ignores_image:  # a constant in the graph saves a pass for each image
            null = explainer.game().null(torch.zeros(1, 3, *self.grid.image_size, device=explainer.device))
        self.register_buffer("null", null)

    def forward(self, pixels: Float[Tensor, "B C H W"]) -> dict[str, Tensor]:
        """Return the ``OUTPUTS`` for images in [0, 1]: (B, K), (B, K, rows, columns) and (B, K)."""
        image = pixels.to(self.dtype)
        full = self._logits(image, present=True)
        grand, raw = self.link(full), self.network(image).float()
        null = self.link(self._logits(image, present=False)) if self.null is None else self.null
        logits = full if self.classifier is None else self.classifier(image).float()
        values = self.grid.to_grid(self.normalization(raw, grand, null))
        return dict(zip(OUTPUTS, (self.predict(logits), values, efficiency_gap(raw, grand, null)), strict=True))

    def _logits(self, image: Tensor, present: bool) -> Tensor:
        """Return the surrogate's logits (B, K) for the grand coalition, or for the null coalition."""
        coalition = torch.full((image.shape[0], 1, self.grid.num_players), present)
        return self.surrogate(image, coalition).squeeze(1).float()


def exported(explainer: "AmortizedExplainer", dtype: torch.dtype = torch.float32) -> torch.export.ExportedProgram:
    """Return an explainer's ``ExplainerGraph`` as exported by PyTorch on the CPU, for batches of any size.

    It has no gradients, and BatchNorm is folded into convolutions.

    Args:
        explainer: Explainer to export; it is not changed.
        dtype: Number format of the networks.

    Raises:
        UserError: PyTorch cannot export a network as a graph, or the task has no probabilities.
    """
    if explainer.task.answers != "probabilities":
        raise UserError(f"export: an explainer of the task {explainer.task.name} cannot be exported so far")
    graph = frozen_copy(ExplainerGraph(explainer, dtype)).to("cpu", memory_format=torch.contiguous_format)
    for part in graph.children():  # the networks, without the null value
        part.to(dtype)
    pixels, batch = torch.rand(2, 3, *graph.grid.image_size), torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad():
            program = torch.export.export(graph, (pixels,), dynamic_shapes={"pixels": {0: batch}})
    except Exception as error:  # the kind of error depends on the network
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"the explainer cannot be exported, some of it is no graph to PyTorch: {reason}") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it contains paths of this machine
    return program


def describe(explainer: "AmortizedExplainer", precision: str) -> dict[str, Any]:
    """Return the description of an exported file: what its user cannot see from the inputs and outputs.

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
        calibration: Images on which ``int8`` measures the ranges of activations; None for the other precisions.
        replace: Whether to replace an existing file.

    Raises:
        UserError: The suffix, the precision or the calibration is wrong, the file exists, packages are missing, or the
            explainer cannot be exported.
    """
    path = Path(path)
    if path.suffix not in _NEEDED:
        raise UserError(f"{path}: the suffix chooses the format: .onnx, or .pt2 of torch.export; choose one of them")
    lookup(PRECISIONS, "precision", precision)
    if precision == "int8" and path.suffix != ".onnx":
        raise UserError(f"{path}: int8 is for .onnx alone; choose that, or float16")
    if (precision == "int8") != (calibration is not None):
        raise UserError("calibration: int8 needs images, to measure the ranges of activations; no other precision does")
    refuse_folder(path)
    if path.exists() and not replace:
        raise UserError(f"{path}: exists; choose another name, or have it replaced")
    if missing := [package for package in _NEEDED[path.suffix] if not find_spec(package)]:
        raise UserError(f"{path}: needs {' and '.join(missing)}; pip install 'fastshap-lab[export]'")
    seen = None if calibration is None else to_tensor(calibration, explainer.grid.image_size).numpy()
    description = json.dumps(describe(explainer, precision), ensure_ascii=False)
    with warnings.catch_warnings(), replacing(path) as temporary:
        warnings.simplefilter("ignore")  # PyTorch's exporters warn about their own use of PyTorch and Python
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
        raise UserError(
            f"{size / 2**30:.1f} GiB of weights: an ONNX file can hold less than 2; choose .pt2, or float16"
        )
    onnx = torch.onnx.export(
        program,
        input_names=["pixels"],
        output_names=OUTPUTS,
        dynamic_shapes={"pixels": {0: "batch"}},
        verbose=False,
    )
    assert onnx is not None  # it raises an error instead of returning None
    for node in onnx.model.graph:
        node.metadata_props.clear()  # notes on the node's origin in PyTorch's graph, which are longer than the node
    onnx.model.metadata_props[DESCRIPTION] = description
    return onnx


def _quantize(onnx: torch.onnx.ONNXProgram, path: Path, images: np.ndarray) -> None:
    """Write a graph with integer convolutions and matrix products, for the activations of images (N, 3, H, W)."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Batches(CalibrationDataReader):
        left = iter(np.split(images, range(_CALIBRATED, len(images), _CALIBRATED)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.left, None)
            return None if batch is None else {"pixels": batch}

    # PyTorch has preprocessed the graph already; without this note ONNX Runtime would warn.
    onnx.model.metadata_props["onnx.quant.pre_process"] = "onnxruntime.quant"
    quantize_static(
        onnx.model_proto,
        path,
        Batches(),
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
    )
