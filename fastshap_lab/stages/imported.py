"""A network of one's own code, named on the command line as ``package.module:factory``."""

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
    """Check that code which a configuration imports was named by the user, and not by a file.

    Args:
        config: The whole configuration.
        typed: Words of the command line.

    Raises:
        UserError: It stands in a file, or a sweep has chosen it.
    """
    keys = {"classifier.path": config.classifier.path, "surrogate.params.path": config.surrogate.params.get("path")}
    named = {"classifier.path": config.classifier.name, "surrogate.params.path": config.surrogate.name}
    for key, path in keys.items():
        if named[key] != IMPORT or path is None:
            continue
        if "WANDB_SWEEP_ID" in os.environ:
            raise UserError(f"{key}={path}: code is imported for the user alone, not for a sweep")
        if f"{key}={path}" not in [word.lstrip("+") for word in typed]:
            raise UserError(
                f"{key}={path}: stands in a file, and code is imported where the command line itself names it alone: "
                f"type {key}={path}"
            )


def own_module(path: str, key: str) -> nn.Module:
    """Return what a factory of the user's returns, called once, and let networks be built of it in this process.

    A module that a program has handed over under this path needs no factory.

    Args:
        path: ``package.module:factory``; the module is looked for where Python's are, then in the working directory.
        key: Of the configuration, for errors.

    Raises:
        UserError: There is no such factory, it fails, or it returns no module.
    """
    if is_handed_over(path):
        return handed_over(path)
    name, colon, attribute = path.partition(":")
    if not (colon and name and attribute):
        raise UserError(f"{key}={path}: package.module:factory is wanted")
    if os.getcwd() not in sys.path:  # noqa: PTH109 - a word of sys.path
        sys.path.append(os.getcwd())  # noqa: PTH109
    try:
        factory: Any = importlib.import_module(name)
        for part in attribute.split("."):
            factory = getattr(factory, part)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # what is random in it is the same in each process, or it would never be found again
            module = factory()
    except Exception as error:  # the user's own code fails in its own ways
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{key}={path}: {type(error).__name__}: {reason}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"{key}={path}: returns a {type(module).__name__}, and a torch.nn.Module is wanted")
    hand_over(path, module)
    return module


def identity(path: str, key: str) -> dict[str, str]:
    """Return what identifies one's own network: digests of its weights, its source, and its attributes.

    Args:
        path: ``package.module:factory``; without a module, what a program has handed over under this path.
        key: Configuration key of the path, for error messages.
    """
    module = own_module(path, key)
    name = path.partition(":")[0]
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
    source, built_with = own_source({name} - {""}, module), sha256(_attributes(module))
    return {"path": path, "weights": sha256(save(state)), "source": source, "attributes": built_with}


def _attributes(module: nn.Module) -> str:
    """Return plain attributes of a module and its parts, which decide over its answers as weights do."""
    named = [
        (name, type(part).__qualname__, {key: value for key, value in vars(part).items() if key[0] != "_"})
        for name, part in module.named_modules()
    ]
    for _, _, attributes in named:
        attributes.pop("training", None)
    return json.dumps(
        named, skipkeys=True, default=lambda value: getattr(value, "__qualname__", type(value).__qualname__)
    )
