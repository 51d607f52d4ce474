"""The code of components from outside of the package: a setting like any other, for it can change a result."""

import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fastshap_lab.attribution import METHODS
from fastshap_lab.data import DATASETS
from fastshap_lab.errors import UserError
from fastshap_lab.evaluation.checks import CHECKS
from fastshap_lab.evaluation.measures import MEASURES
from fastshap_lab.files import sha256
from fastshap_lab.metrics import METRICS
from fastshap_lab.models import CLASSIFIERS, PRETRAININGS
from fastshap_lab.models.explainers import EXPLAINERS
from fastshap_lab.models.maskings import MASKINGS
from fastshap_lab.shapley import LINKS, NORMALIZATIONS, SAMPLERS
from fastshap_lab.training.optim import OPTIMIZERS

_TABLES: dict[str, Mapping[str, Any]] = {
    "CHECKS": CHECKS,
    "CLASSIFIERS": CLASSIFIERS,
    "DATASETS": DATASETS,
    "EXPLAINERS": EXPLAINERS,
    "LINKS": LINKS,
    "MASKINGS": MASKINGS,
    "MEASURES": MEASURES,
    "METHODS": METHODS,
    "METRICS": METRICS,
    "NORMALIZATIONS": NORMALIZATIONS,
    "OPTIMIZERS": OPTIMIZERS,
    "PRETRAININGS": PRETRAININGS,
    "SAMPLERS": SAMPLERS,
}
_OURS = ("fastshap_lab", "torch")  # the optimizers' table holds PyTorch's


def with_sources(settings: dict[str, Any], *further: str) -> dict[str, Any]:
    """Return settings with the code of the components that they name, where these are from outside of the package.

    A name counts for every table that has it. Settings that name the package's own components alone stay as they are.

    Args:
        settings: Plain values.
        further: Names of components that the settings do not hold.

    Raises:
        UserError: The source of a component cannot be read, and it states no version.
    """
    names = {*_words(settings), *further}
    sources = {
        f"{title}[{name}]": source
        for title, table in _TABLES.items()
        for name in sorted(names & table.keys())
        if (source := _source(f"{title}[{name!r}]", table[name])) is not None
    }
    return settings | ({"sources": sources} if sources else {})


def _words(settings: Any) -> Iterator[str]:
    if isinstance(settings, str):
        yield settings
    elif isinstance(settings, Mapping | list | tuple):
        for value in settings.values() if isinstance(settings, Mapping) else settings:
            yield from _words(value)


def _source(where: str, component: Any) -> str | None:
    """Return the version that a component states, or a digest of the modules of its class and of what that is built on.

    None of the package's own, and of libraries' classes that it is built on, whose versions stand in ``run.json``.
    """
    given = []
    while isinstance(component, partial):
        given.append(json.dumps([component.args, component.keywords], sort_keys=True, default=_called))
        component = component.func
    kind = component if hasattr(component, "__qualname__") else type(component)
    if _top(kind.__module__) in _OURS:
        return None
    if isinstance(version := getattr(component, "version", None), str | int | float):
        return f"version {version}"
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
    """Return the digest of some modules' source and of those that define the user's own parts of a network."""
    found = modules | {kind.__module__ for kind in map(type, network.modules()) if _is_own(kind.__module__)}
    try:
        return sha256(*(inspect.getsource(sys.modules[module]) for module in sorted(found)))
    except (OSError, TypeError, KeyError) as error:
        raise UserError(f"{', '.join(sorted(found))}: its source cannot be read: {error}") from None


def _called(value: Any) -> str:
    return getattr(value, "__qualname__", type(value).__qualname__)


def _top(module: str) -> str:
    return module.partition(".")[0]


def _is_own(module: str) -> bool:
    """Return whether a module is the user's: neither the package's nor an installed library's nor Python's."""
    file = getattr(sys.modules.get(module), "__file__", None)
    installed = file is None or {"site-packages", "dist-packages"} & set(Path(file).parts)
    return not installed and _top(module) not in (*_OURS, *sys.stdlib_module_names)
