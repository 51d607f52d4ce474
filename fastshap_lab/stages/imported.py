"""Networks of the user's own code, named on the command line as ``package.module:factory``."""

import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from fastshap_lab.config import Config
from fastshap_lab.errors import UserError
from fastshap_lab.files import sha256
from fastshap_lab.models import IMPORT
from fastshap_lab.models.foreign import hand_over, handed_over, is_handed_over
from fastshap_lab.runs.sources import own_source


def check_typed(config: Config, typed: Sequence[str]) -> None:
    """Check that code is imported only if the command line names it, and not if a file or a sweep does.

    Args:
        config: The whole configuration.
        typed: Words of the command line.

    Raises:
        UserError: A file or a sweep names code to import.
    """
    keys = {"classifier.path": config.classifier.path, "surrogate.params.path": config.surrogate.params.get("path")}
    named = {"classifier.path": config.classifier.name, "surrogate.params.path": config.surrogate.name}
    for key, path in keys.items():
        if named[key] != IMPORT or path is None:
            continue
        if "WANDB_SWEEP_ID" in os.environ:
            raise UserError(f"{key}={path}: a sweep must not import code; train this network without a sweep")
        if f"{key}={path}" not in [word.lstrip("+") for word in typed]:
            raise UserError(
                f"{key}={path}: comes from a file, and code is imported only if the command line names it; add "
                f"{key}={path} to the command"
            )


def own_module(path: str, key: str) -> nn.Module:
    """Return the network that a user's factory makes; it is called once, and this process builds networks from it.

    If the program has registered a network under this path, return that one.

    Args:
        path: ``package.module:factory``; the module is searched on Python's path, then in the working directory.
        key: Key in the configuration, for error lines.

    Raises:
        UserError: There is no such factory, it fails, or it does not return a ``torch.nn.Module``.
    """
    if is_handed_over(path):
        return handed_over(path)
    name, colon, attribute = path.partition(":")
    if not (colon and name and attribute):
        raise UserError(f"{key}={path}: must have the form package.module:factory")
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path contains strings
        sys.path.append(os.getcwd())  # noqa: PTH109
    try:
        factory: Any = importlib.import_module(name)
        for part in attribute.split("."):
            factory = getattr(factory, part)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # so that random weights, and with them the fingerprint, are the same in each process
            module = factory()
    except Exception as error:  # the user's code may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{key}={path}: {type(error).__name__}: {reason}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"{key}={path}: returns a {type(module).__name__}, must return a torch.nn.Module")
    hand_over(path, module)
    return module


def identity(path: str, key: str) -> dict[str, str]:
    """Return what identifies a user's network: its path, and digests of its weights, source and attributes.

    Args:
        path: ``package.module:factory``, or the name under which the program has registered a network.
        key: Key in the configuration, for error lines.

    Raises:
        UserError: The network cannot be made (see ``own_module``), or its source cannot be read.
    """
    module = own_module(path, key)
    name = path.partition(":")[0]
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
    source, built_with = own_source({name} - {""}, module), sha256(_attributes(module))
    return {"path": path, "weights": sha256(save(state)), "source": source, "attributes": built_with}


def _attributes(module: nn.Module) -> str:
    """Return the plain attributes of a module and its submodules, which its outputs may depend on, as JSON."""
    named = [
        (name, type(part).__qualname__, {key: value for key, value in vars(part).items() if key[0] != "_"})
        for name, part in module.named_modules()
    ]
    for _, _, attributes in named:
        attributes.pop("training", None)
    return json.dumps(
        named, skipkeys=True, default=lambda value: getattr(value, "__qualname__", type(value).__qualname__)
    )
