"""What can be chosen in each group of the configuration: a file each, or an entry of a table."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

CONFIGS = Path(__file__).resolve().parent / "configs"
"""``config.yaml``, and one choice per file in each group."""

_LISTS = {"check": "evaluate.checks", "method": "evaluate.methods", "metric": "evaluate.metrics"}
# Groups with a choice of all entries; all checks would take days, as some train networks.
_WITH_ALL = ("method", "metric")
# Checks whose arguments stand in the configuration when they are left at their defaults: fingerprints count them.
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
    """Gives Hydra the entries of tables as if each had a file: ``method=[rise]`` is ``evaluate.methods.rise``.

    Tables are imported when one of their groups is asked for, which takes seconds.
    """

    @staticmethod
    def scheme() -> str:
        """Return how search paths name it."""
        return "tables"

    @staticmethod
    def names(group: str) -> list[str]:
        """Return the choices of ``method``, ``metric`` or ``check``."""
        return [*_table(group), *(["all"] if group in _WITH_ALL else [])]

    def available(self) -> bool:
        """Return that it is there."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Return whether it has choices of a group."""
        return config_path.strip("/") in _LISTS

    def is_config(self, config_path: str) -> bool:
        """Return whether it has a choice, ``<group>/<choice>``."""
        group, _, name = config_path.strip("/").removesuffix(".yaml").partition("/")
        return group in _LISTS and name in self.names(group)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return the choices of a group."""
        return [] if results_filter == ObjectType.GROUP else sorted(self.names(config_path.strip("/")))

    def load_config(self, config_path: str) -> ConfigResult:
        """Return a choice."""
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
