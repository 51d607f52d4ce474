"""Versions and code digests of components, on which their results depend as on their arguments."""

import inspect
import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fastshap_lab.errors import UserError
from fastshap_lab.files import sha256

_OURS = ("fastshap_lab", "torch")  # the table of optimizers contains PyTorch's classes


def identity(table: Mapping[str, Any], name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return name, arguments and code of a component, which determine its results, for a key of the ``Store``.

    Args:
        table: Table of constructors by name.
        name: Name of the component in the table.
        params: Arguments from the configuration.

    Raises:
        UserError: A component from outside of the package has no ``version``, and its source cannot be read.
    """
    return {"name": name, "params": dict(params), "code": source(name, table[name]) or "version 1"}


def source(where: str, component: Any) -> str | None:
    """Return the version of a component, or a digest of the modules that define its class and the base classes.

    Return None for classes of PyTorch, as ``run.json`` contains its version, and for the package's own components in
    their first version. ``tests/test_versions.py`` makes sure that the ``version`` of one of these is increased when a
    change of its code changes its results.

    Args:
        where: Name of the component, for error lines.
        component: A class, a function, or a ``partial`` of one.

    Raises:
        UserError: The component has no ``version``, and its source cannot be read.
    """
    given = []
    while isinstance(component, partial):
        given.append(json.dumps([component.args, component.keywords], sort_keys=True, default=_called))
        component = component.func
    kind = component if hasattr(component, "__qualname__") else type(component)
    if _top(kind.__module__) in _OURS:
        number = getattr(component, "version", 1)
        return f"version {number}" if number > 1 else None
    stated = next((base for base in (component, *getattr(kind, "__mro__", (kind,))) if "version" in _own(base)), None)
    if stated is not None and _top(getattr(stated, "__module__", type(stated).__module__)) not in _OURS:
        return f"version {_own(stated)['version']}"
    bases = {base.__module__ for base in getattr(kind, "__mro__", ())}
    modules = {kind.__module__} | {base for base in bases if _top(base) == _top(kind.__module__) or _is_own(base)}
    try:
        return sha256(*given, *(inspect.getsource(sys.modules[module]) for module in sorted(modules)))
    except (OSError, TypeError, KeyError):
        raise UserError(
            f"{where}: its source cannot be read, so that changes would go unnoticed; give {kind.__qualname__} an "
            "attribute version"
        ) from None


def own_source(modules: set[str], network: Any) -> str:
    """Return the digest of the source of some modules and of the modules that define the user's parts of a network.

    Args:
        modules: Names of imported modules.
        network: The network.

    Raises:
        UserError: A source cannot be read.
    """
    kinds = set(map(type, network.modules()))
    found = modules | {kind.__module__ for kind in kinds if _is_own(kind.__module__) and kind.__module__ != "__main__"}
    # Of a script or a notebook, only the classes of the network count, not its other code.
    own = sorted((kind for kind in kinds if kind.__module__ == "__main__"), key=lambda kind: kind.__qualname__)
    try:
        return sha256(*(inspect.getsource(sys.modules[module]) for module in sorted(found)), *map(_of_class, own))
    except (OSError, TypeError, KeyError) as error:
        raise UserError(f"{', '.join(sorted(found))}: its source cannot be read: {error}") from None


def _of_class(kind: type) -> str:
    """Return the source of a class or, if there is none, as in an interactive session, the byte code of its methods."""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        code = [part.__code__ for part in vars(kind).values() if inspect.isfunction(part)]
        return repr([(part.co_name, part.co_code, part.co_names, *filter(_is_plain, part.co_consts)) for part in code])


def _is_plain(constant: Any) -> bool:
    return isinstance(constant, str | bytes | int | float | complex | None)


def _called(value: Any) -> str:
    return getattr(value, "__qualname__", type(value).__qualname__)


def _top(module: str) -> str:
    return module.partition(".")[0]


def _is_own(module: str) -> bool:
    """Return whether a module is the user's own, and not of this package, an installed library or Python."""
    file = getattr(sys.modules.get(module), "__file__", None)
    installed = file is None or {"site-packages", "dist-packages"} & set(Path(file).parts)
    return not installed and _top(module) not in (*_OURS, *sys.stdlib_module_names)


def _own(component: Any) -> Mapping[str, Any]:
    return getattr(component, "__dict__", {})
