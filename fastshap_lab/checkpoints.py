"""A model folder: ``config.json`` says how to build the model, ``model.safetensors`` holds its weights.

Written whole or not at all. Reading one unpickles nothing and imports no name found in it.
"""

import hashlib
import json
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from fastshap_lab.errors import UserError
from fastshap_lab.files import write_atomically

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


def save_model(folder: Path, module: nn.Module, description: dict[str, Any]) -> None:
    """Write a model folder, in place of one that is there.

    Args:
        folder: Where; its parents are made.
        module: Its ``state_dict`` is what is kept.
        description: What builds it, JSON values only; ``kind`` says which loader takes it.
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

    Raises:
        UserError: There is no such folder, or it holds something else than this kind of model.
    """
    path = Path(folder) / _CONFIG
    if not path.is_file():
        hint = ": it is a single file; weights are loaded from model folders alone" if Path(folder).is_file() else ""
        raise UserError(f"{folder}: no model folder ({_CONFIG} and {_WEIGHTS}, as a finished stage leaves them){hint}")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        found = description["kind"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: damaged or not a model's; export the model again") from None
    if found != kind:
        raise UserError(f"{folder}: holds a {found}, not a {kind}")
    return description


def load_weights(folder: Path | str, module: nn.Module, description: dict[str, Any]) -> None:
    """Fill a module with the weights of a model folder.

    Raises:
        UserError: They are missing, damaged, not those the description was written with, or fit another module.
    """
    path = Path(folder) / _WEIGHTS
    if not path.is_file():
        raise UserError(f"{path}: missing; export the model again")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != description.get("weights_sha256"):
        raise UserError(f"{path}: truncated or changed since it was written; export the model again")
    try:
        module.load_state_dict(load(content))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).split("\n\t")[-1].strip()
        raise UserError(f"{path}: does not fit the model in {_CONFIG}: {reason}") from None
    module.eval()


def read_state(path: Path | str) -> dict[str, Tensor]:
    """Return the weights in a file of someone else's: safetensors, or a PyTorch state dict.

    A state dict may lie under ``state_dict`` or ``model``, and its names may have the prefix that parallel or compiled
    training leaves.

    Raises:
        UserError: The file holds anything but tensors, of which nothing is run, or is damaged.
    """
    try:
        state = load_file(path) if Path(path).suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        # Of an unpickling error PyTorch's text says how to run what is in the file.
        reason = "holds other objects" if isinstance(error, UnpicklingError) else str(error).splitlines()[0]
        raise UserError(
            f"{path}: not a file of weights (safetensors, or torch.save of a state dict, tensors alone): {reason}"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: not a state dict: must map names to tensors")
    return {name.removeprefix("_orig_mod.").removeprefix("module."): value for name, value in state.items()}


@torch.no_grad()
def fill(network: nn.Module, state: dict[str, Tensor], path: Path | str) -> bool:
    """Fill a timm network with weights; return whether its head stayed as it was, because the classes differ.

    Raises:
        UserError: The weights are another network's.
    """
    heads = network.get_classifier()
    heads = heads if isinstance(heads, tuple) else (heads,)
    places = [name for name, module in network.named_modules() if any(module is head for head in heads)]
    own = network.state_dict()
    in_head = {name for name in own if any(name.startswith(f"{place}.") for place in places)}
    unfit = {name for name, tensor in own.items() if name not in state or state[name].shape != tensor.shape}
    if wrong := sorted(unfit - in_head):
        found = f"has shape {tuple(state[wrong[0]].shape)}" if wrong[0] in state else "is missing"
        raise UserError(f"{path}: not this network's weights: {wrong[0]} {found}, must be {tuple(own[wrong[0]].shape)}")
    if unknown := sorted(state.keys() - own.keys()):
        raise UserError(f"{path}: not this network's weights: it has no {unknown[0]}")
    replaced = bool(unfit)
    for name, tensor in own.items():
        if not (replaced and name in in_head):
            tensor.copy_(state[name])  # the network's own; nothing happens on the meta device, where this is a check
    return replaced
