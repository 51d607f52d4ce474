"""The code of components: what a result of theirs depends on beside its arguments."""

import inspect
import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fastshap_lab.errors import UserError
from fastshap_lab.files import sha256

_OURS = ("fastshap_lab", "torch")  # the optimizers' table holds PyTorch's


def identity(table: Mapping[str, Any], name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a component's results depend on, for a key of the ``Store``: its entry, arguments and code.

    Args:
        table: Names and constructors.
        name: The entry.
        params: The arguments that were given.

    Raises:
        UserError: The source of a component from outside of the package cannot be read, and it states no version.
    """
    return {"name": name, "params": dict(params), "code": source(name, table[name]) or "version 1"}


def source(where: str, component: Any) -> str | None:
    """Return the version that a component states, or a digest of the modules of its class and of what that is built on.

    None of libraries' classes that the package is built on, whose versions stand in ``run.json``, and of the package's
    own in their first version: when a change of one changes its results, its ``version`` is raised, which
    ``tests/test_versions.py`` sees to.

    Args:
        where: The component, for errors.
        component: A class, a function, or a ``partial`` of one.

    Raises:
        UserError: The source cannot be read, and it states no version.
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
            f"{where}: its source cannot be read, so that nobody would notice a change; give {kind.__qualname__} an "
            "attribute version"
        ) from None


def own_source(modules: set[str], network: Any) -> str:
    """Return the digest of the source of some modules and of the user's own modules that a network consists of.

    Args:
        modules: Names of modules.
        network: Network of the user, or None.
    """
    kinds = set(map(type, network.modules()))
    found = modules | {kind.__module__ for kind in kinds if _is_own(kind.__module__) and kind.__module__ != "__main__"}
    # Of a program or a notebook what the network is made of counts, not whatever else is in it.
    own = sorted((kind for kind in kinds if kind.__module__ == "__main__"), key=lambda kind: kind.__qualname__)
    try:
        return sha256(*(inspect.getsource(sys.modules[module]) for module in sorted(found)), *map(_of_class, own))
    except (OSError, TypeError, KeyError) as error:
        raise UserError(f"{', '.join(sorted(found))}: its source cannot be read: {error}") from None


def _of_class(kind: type) -> str:
    """Return the source of a class or, where there is none, as in an interactive session, what it was compiled to."""
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
    """Return whether a module is the user's: neither the package's nor an installed library's nor Python's."""
    file = getattr(sys.modules.get(module), "__file__", None)
    installed = file is None or {"site-packages", "dist-packages"} & set(Path(file).parts)
    return not installed and _top(module) not in (*_OURS, *sys.stdlib_module_names)


def _own(component: Any) -> Mapping[str, Any]:
    return getattr(component, "__dict__", {})
