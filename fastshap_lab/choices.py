"""The choices in each group of the configuration: files, and entries of tables."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

CONFIGS = Path(__file__).resolve().parent / "configs"
"""Folder with ``config.yaml`` and, in a folder for each group, one file per choice."""

_LISTS = {"check": "evaluate.checks", "method": "evaluate.methods", "metric": "evaluate.metrics"}
# Groups with the choice ``all``. Checks have none, since all of them would take days: some train networks.
_WITH_ALL = ("method", "metric")
# Checks whose default arguments are written into the configuration, so that fingerprints contain them.
_STATED = ("masked_accuracy", "max_sensitivity", "randomization", "roar")


def choices(folder: Path | None = None) -> dict[str, list[str]]:
    """Return the choices of each group that ``config.yaml`` has a default for: no others can be chosen.

    Args:
        folder: Folder with further choices, ``<group>/<choice>.yaml``.
    """
    defaults = OmegaConf.load(CONFIGS / "config.yaml").defaults
    groups = sorted(group for entry in defaults if not isinstance(entry, str) for group in entry)
    found = {group: set(Tables.names(group)) if group in _LISTS else set() for group in groups}
    for place in (CONFIGS, *([] if folder is None else [folder])):
        for group in groups:
            found[group] |= {path.stem for path in place.glob(f"{group}/*.yaml")}
    return {group: sorted(names) for group, names in found.items()}


class Tables(ConfigSource):
    """Source of configurations that presents the entries of tables to Hydra as if each had a file.

    For example ``method=[rise]`` becomes ``evaluate.methods.rise``. A table is imported when one of its groups is used,
    which takes seconds.
    """

    @staticmethod
    def scheme() -> str:
        """Return the name of this source in search paths."""
        return "tables"

    @staticmethod
    def names(group: str) -> list[str]:
        """Return the choices of the group ``method``, ``metric`` or ``check``."""
        return [*_table(group), *(["all"] if group in _WITH_ALL else [])]

    def available(self) -> bool:
        """Return True: the source is always available."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Return whether a path is a group of this source."""
        return config_path.strip("/") in _LISTS

    def is_config(self, config_path: str) -> bool:
        """Return whether a path ``<group>/<choice>`` is a choice of this source."""
        group, _, name = config_path.strip("/").removesuffix(".yaml").partition("/")
        return group in _LISTS and name in self.names(group)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return the choices of a group."""
        return [] if results_filter == ObjectType.GROUP else sorted(self.names(config_path.strip("/")))

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the configuration of a choice ``<group>/<choice>``."""
        group, _, name = config_path.strip("/").removesuffix(".yaml").partition("/")
        table, package = _table(group), f"{_LISTS[group]}.{name}"
        content: dict[str, Any] = {"name": name}
        if name == "all" and group in _WITH_ALL:
            content, package = {"defaults": [*table]}, "_global_"
        elif group == "check" and name in _STATED:
            content["params"] = {key: one.default for key, one in inspect.signature(table[name]).parameters.items()}
        return ConfigResult(self.provider, config_path, OmegaConf.create(content), {"package": package})


def _table(group: str) -> Mapping[str, Any]:
    if group == "method":
        from fastshap_lab.attribution import METHODS

        return METHODS
    if group == "metric":
        from fastshap_lab.evaluation.metrics import comparable_metrics

        return comparable_metrics()
    from fastshap_lab.evaluation.checks import CHECKS

    return CHECKS
