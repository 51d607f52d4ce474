"""Model folders: ``config.json`` describes how to build the model, ``model.safetensors`` holds its weights.

A folder is written whole or not at all. Folders of strangers can be read safely: nothing is unpickled, no name in them
is imported, and reading takes memory and time in proportion to the file of weights, whatever the description says.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastshap_lab.errors import UserError
from fastshap_lab.files import open_file, write_atomically
from fastshap_lab.models.heads import in_heads
from fastshap_lab.models.specs import Spec
from fastshap_lab.models.zoo import adapted

M = TypeVar("M", bound=nn.Module)
S = TypeVar("S", bound=Spec)

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_REMEDY = "delete the folder and run the command that made it again, or get another copy of it"

# Limits of a description, in bytes and levels. The names of 20,000 classes take half a megabyte, an explainer's
# backbone 6 levels.
_CONFIG_BYTES, _CONFIG_DEPTH = 4 * 2**20, 16
# Largest number of calls of PyTorch while a network is built: networks of timm make up to 14 for each of their tensors.
_CALLS, _CALLS_PER_TENSOR = 1000, 30
# Calls that initialize weights. On the meta device they would have no effect but a slow import of PyTorch's compiler.
_FILL = frozenset(f"{name}_" for name in ("add", "clamp", "erfinv", "fill", "mul", "normal", "uniform", "zero"))
# Largest size of the buffers that a network computes when it is built (masks of windows, coordinates), beyond the size
# of its weights.
_COMPUTED_BYTES = 64 * 2**20


def save_model(folder: Path, module: nn.Module, description: dict[str, Any]) -> None:
    """Write a model folder; an existing one is replaced.

    Args:
        folder: Folder to write; its parents are created.
        module: Model whose ``state_dict`` is saved.
        description: Description of the model as JSON values, see ``Spec.to_json``.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    weights = save(tensors)
    config = {**description, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    beside, old = (folder.with_name(f".{folder.name}.{uuid4().hex[:8]}") for _ in range(2))
    try:
        write_atomically(beside / _WEIGHTS, weights)
        write_atomically(beside / _CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        if folder.exists():  # a folder cannot replace one that holds files
            folder.replace(old)
        beside.replace(folder)
    finally:
        if old.exists() and not folder.exists():
            old.replace(folder)
        for leftover in (beside, old):
            shutil.rmtree(leftover, ignore_errors=True)


def read_description(folder: Path | str, kind: str) -> dict[str, Any]:
    """Return the description in a model folder.

    Args:
        folder: Model folder, or run folder with a ``model`` folder in it.
        kind: Kind of model to expect: ``classifier``, ``surrogate``, ``explainer`` or ``encoder``.

    Raises:
        UserError: There is no such folder, or it holds another kind of model.
    """
    path = Path(folder) / _CONFIG
    if not path.is_file():
        hint = ": it is a single file; weights are loaded from model folders alone" if Path(folder).is_file() else ""
        raise UserError(f"{folder}: no model folder ({_CONFIG} and {_WEIGHTS}, as a finished stage writes them){hint}")
    try:
        with open_file(path) as file:
            content = file.read(_CONFIG_BYTES + 1)
        if len(content) > _CONFIG_BYTES:
            raise ValueError(f"more than {_CONFIG_BYTES:,} bytes")
        description = json.loads(content)
        if _depth(description) > _CONFIG_DEPTH:
            raise ValueError(f"more than {_CONFIG_DEPTH} levels")
        found = description["kind"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: damaged, or not of a model ({_brief(error)}); {_REMEDY}") from None
    if found != kind:
        raise UserError(f"{folder}: holds a {_brief(found)}, not a {kind}")
    return description


def read_spec(folder: Path | str, kind: type[S]) -> S:
    """Return the description in a model folder as a ``Spec``.

    Args:
        folder: Model folder, or run folder with a ``model`` folder in it.
        kind: Class of the description to expect, for example ``ExplainerSpec``.

    Raises:
        UserError: There is no such folder, it holds another kind of model, or its description is damaged.
    """
    return _parsed(folder, kind, read_description(folder, kind.kind))


def load_model(folder: Path | str, kind: type[S], builder: Callable[[S], M], without: str | None = None) -> M:
    """Return the model in a folder, in evaluation mode on the CPU.

    The model is first built on the meta device, where it takes no memory, in a number of steps that the weights limit.
    It is built with memory only if the weights fit it.

    Args:
        folder: Model folder.
        kind: Class of the description to expect.
        builder: Function that builds the model from its description.
        without: Prefix of the names of weights that are ignored, or None.

    Raises:
        UserError: The folder is missing or damaged, holds another kind of model, or its weights do not fit the
            description or were changed since they were written.
    """
    description, path = read_description(folder, kind.kind), Path(folder) / _WEIGHTS
    spec = _parsed(folder, kind, description)
    if not path.is_file():
        raise UserError(f"{path}: missing; {_REMEDY}")
    try:
        with open_file(path) as file, safe_open(path, "pt") as weights:
            names = [name for name in weights.keys() if not (without and name.startswith(without))]  # noqa: SIM118
            state = {name: weights.get_tensor(name) for name in names}  # mapped into memory, not read yet
            _check_skeleton(Path(folder), state, lambda: builder(spec))
            unchanged = hashlib.file_digest(file, "sha256").hexdigest() == description.get("weights_sha256")
            if not (unchanged and os.path.samestat(os.fstat(file.fileno()), path.stat())):  # both are the same file
                raise ValueError("its digest differs from that in the description")
            module = _built(Path(folder), lambda: builder(spec))
            module.load_state_dict(state)
    except (OSError, ValueError, MemoryError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{path}: truncated or changed since it was written ({_brief(error)}); {_REMEDY}") from None
    return module.eval()


def _parsed(folder: Path | str, kind: type[S], description: dict[str, Any]) -> S:
    try:
        return kind.from_json(description)
    except UserError as error:
        raise UserError(f"{Path(folder) / _CONFIG}: damaged ({_brief(error)}); {_REMEDY}") from None


def _check_skeleton(folder: Path, state: dict[str, Tensor], builder: Callable[[], nn.Module]) -> None:
    """Raise a ``UserError`` if weights do not fit the model, or the model would be far larger than its weights."""
    # The random state is restored: what a training draws after it has loaded a model must not depend on this check.
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _Bounded(_CALLS + _CALLS_PER_TENSOR * len(state)):
        skeleton = _built(folder, builder)
    own, size = skeleton.state_dict(), sum(tensor.nbytes for tensor in state.values())
    if mismatch := _mismatch(own, state):
        raise UserError(f"{folder / _WEIGHTS}: does not fit the model in {_CONFIG}: {mismatch}; {_REMEDY}")
    computed = sum(buffer.nbytes for name, buffer in skeleton.named_buffers() if name not in own)
    if computed > _COMPUTED_BYTES + size:
        raise UserError(
            f"{folder / _CONFIG}: describes a model with {size:,} bytes of weights that computes {computed:,} further "
            f"bytes; at most {_COMPUTED_BYTES + size:,} are allowed"
        )


def _built(folder: Path, builder: Callable[[], M]) -> M:
    try:
        return builder()
    except UserError as error:
        raise UserError(f"{folder / _CONFIG}: {_brief(error)}") from None
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, MemoryError) as error:
        raise UserError(f"{folder / _CONFIG}: damaged ({_brief(error)}); {_REMEDY}") from None


class _Bounded(TorchFunctionMode):
    """Allows a number of calls of PyTorch, then raises a ``UserError``; calls that initialize weights do nothing.

    Args:
        calls: Number of calls.
    """

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.left -= 1
        if self.left < 0:
            raise UserError(f"describes more layers than {_WEIGHTS} has weights for")
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _FILL:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _depth(value: Any) -> int:
    """Return the number of levels of lists and objects in a JSON value."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return depth


def _brief(error: object) -> str:
    """Return an error's text as one line of limited length, since it may quote a stranger's file."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]} …"


def _mismatch(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Return the first difference of weights from a network's own in name, shape or number format; "" if they fit."""
    for name, tensor in sorted(own.items()):
        found, shape = given.get(name), tuple(tensor.shape)
        if found is None:
            return f"{name} is missing, must be {shape}"
        if found.shape != tensor.shape:
            return f"{name} has shape {tuple(found.shape)}, must be {shape}"
        if found.dtype != tensor.dtype and not (found.is_floating_point() and tensor.is_floating_point()):
            return f"{name} is of {found.dtype}, must be of {tensor.dtype}"
    unknown = sorted(given.keys() - own.keys())
    return f"it has no {_brief(unknown[0])}" if unknown else ""


def read_state(path: Path | str) -> dict[str, Tensor]:
    """Return the weights in any file of weights: safetensors, or a PyTorch state dict.

    A state dict may be stored under ``state_dict`` or ``model``, and its names may have the prefix that parallel or
    compiled training adds.

    Raises:
        UserError: The file is damaged, or holds objects that are no tensors; no code in it is run.
    """
    try:
        state = load_file(path) if Path(path).suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # unpickling arbitrary bytes raises any kind of error
        # The text of PyTorch's unpickling error is left out: it advises to run the code in the file.
        reason = "holds other objects" if isinstance(error, UnpicklingError) else _brief(error)
        raise UserError(
            f"{path}: not a file of weights (safetensors, or torch.save of a state dict with tensors alone): {reason}"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: not a state dict: must map names to tensors")
    return {name.removeprefix("_orig_mod.").removeprefix("module."): value for name, value in state.items()}


@torch.no_grad()
def fill(network: nn.Module, state: dict[str, Tensor], path: Path | str) -> bool:
    """Load weights into a network, and return whether its head kept its own ones since the numbers of classes differ.

    Args:
        network: Network to load into, changed in place.
        state: Weights by name.
        path: File of the weights, for error lines.

    Raises:
        UserError: The weights belong to another network.
    """
    own, in_head = network.state_dict(), in_heads(network)

    def compared(state: dict[str, Tensor]) -> tuple[bool, str]:
        replaced = any(name not in state or state[name].shape != own[name].shape for name in in_head)
        left = in_head if replaced else set()
        fitting = {name: tensor for name, tensor in own.items() if name not in left}
        return replaced, _mismatch(fitting, {name: tensor for name, tensor in state.items() if name not in left})

    replaced, mismatch = compared(state)
    if mismatch:
        try:
            converted = adapted(network, state)
        except (KeyError, RuntimeError, ValueError, AttributeError, IndexError):  # timm cannot convert these weights
            converted = state
        replaced, still = compared(converted)
        if still:
            raise UserError(f"{path}: holds weights of another network: {mismatch}")
        state = converted
    fitting = {name: tensor for name, tensor in own.items() if not (replaced and name in in_head)}
    for name, tensor in fitting.items():
        tensor.copy_(state[name])  # on the meta device, where this function is a check, nothing is copied
    return replaced
