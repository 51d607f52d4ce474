"""Code digests of components, which are part of a stage's settings, since code can change a result."""

from collections.abc import Iterator, Mapping
from typing import Any

from fastshap_lab.attribution import METHODS
from fastshap_lab.data import DATASETS
from fastshap_lab.evaluation.checks import CHECKS
from fastshap_lab.evaluation.feeders import FEEDERS
from fastshap_lab.evaluation.sections import SECTIONS
from fastshap_lab.metrics import METRICS
from fastshap_lab.models import CLASSIFIERS, PRETRAININGS
from fastshap_lab.models.explainers import EXPLAINERS
from fastshap_lab.models.maskings import MASKINGS
from fastshap_lab.runs.sources import source as component_source
from fastshap_lab.shapley import LINKS, NORMALIZATIONS, SAMPLERS
from fastshap_lab.training.optim import OPTIMIZERS

_TABLES: dict[str, Mapping[str, Any]] = {
    "CHECKS": CHECKS,
    "CLASSIFIERS": CLASSIFIERS,
    "DATASETS": DATASETS,
    "EXPLAINERS": EXPLAINERS,
    "FEEDERS": FEEDERS,
    "LINKS": LINKS,
    "MASKINGS": MASKINGS,
    "METHODS": METHODS,
    "METRICS": METRICS,
    "NORMALIZATIONS": NORMALIZATIONS,
    "OPTIMIZERS": OPTIMIZERS,
    "PRETRAININGS": PRETRAININGS,
    "SAMPLERS": SAMPLERS,
    "SECTIONS": SECTIONS,
}


def with_sources(settings: dict[str, Any], *further: str) -> dict[str, Any]:
    """Return settings with the code digests or versions of the components that they name.

    A word in the settings counts as a name in every table that contains it. Settings stay as they are if all components
    are the package's own and in their first version.

    Args:
        settings: Plain values.
        further: Names of components that are not in the settings.

    Raises:
        UserError: A component from outside of the package has no ``version``, and its source cannot be read.
    """
    names = {*_words(settings), *further}
    sources = {
        f"{title}[{name}]": found
        for title, table in _TABLES.items()
        for name in sorted(names & table.keys())
        if (found := component_source(f"{title}[{name!r}]", table[name])) is not None
    }
    return settings | ({"sources": sources} if sources else {})


def _words(settings: Any) -> Iterator[str]:
    if isinstance(settings, str):
        yield settings
    elif isinstance(settings, Mapping | list | tuple):
        for value in settings.values() if isinstance(settings, Mapping) else settings:
            yield from _words(value)
