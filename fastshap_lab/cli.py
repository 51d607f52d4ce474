"""The command line: compose the configuration, plan, run; and one clear line where something is wrong."""

import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from fastshap_lab.config import Config, did_you_mean
from fastshap_lab.errors import UserError


def main(config_dir: Path) -> None:
    """Run ``train.py``.

    Exit status: 0 when everything asked for is there, 2 after a mistake the user can mend, which is one line on
    standard error (``debug=true`` adds the traceback), 1 after anything else.

    Args:
        config_dir: Holds ``config.yaml`` and the groups.
    """
    ConfigStore.instance().store(name="schema", node=Config)
    # W&B writes a YAML null as None; Hydra would take it for a word.
    sys.argv[1:] = [re.sub(r"=None$", "=null", argument) for argument in sys.argv[1:]]
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # exceptions come here instead of being printed as tracebacks
    with _one_line_errors():
        hydra.main(version_base="1.3", config_path=str(config_dir.resolve()), config_name="config")(_run)()


def _run(config: DictConfig) -> None:
    with _one_line_errors():  # here too: Hydra announces exceptions of its job in its own way
        from fastshap_lab.stages import pipeline  # imports slowly: --help and mistyped keys need not wait for it

        console = Console(highlight=False)
        given = list(HydraConfig.get().overrides.task)

        def compose(overrides: list[str]) -> Config:
            keys = {_key(override) for override in overrides}
            return typed(hydra.compose("config", [one for one in given if _key(one) not in keys] + overrides))

        runs = pipeline.plan(typed(config), compose)
        pipeline.show(runs, console)
        if not config.dry_run:
            pipeline.execute(runs, console)


def _key(override: str) -> str:
    return override.split("=")[0].lstrip("+~")


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if "debug=true" in sys.argv[1:]:
            traceback.print_exc()
        Console(stderr=True, highlight=False).print(f"error: {one_line(error)}", soft_wrap=True, markup=False)
        sys.exit(2)


def typed(config: DictConfig) -> Config:
    """Return a composed configuration as the dataclass it was checked against.

    Raises:
        UserError: A value that has no default is missing.
    """
    missing = OmegaConf.missing_keys(config)
    if missing:
        raise UserError(f"{sorted(missing)[0]}: missing, it has no default")
    return OmegaConf.to_object(config)


def one_line(error: Exception) -> str:
    """Return an error as one line that says what, where, and what would be right."""
    text = str(error)
    if isinstance(error, UserError):
        return text
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return f"{group}={choice}: unknown, {did_you_mean(choice, error.options)}"
    if found := re.search(r"Could not override '([^']+)'", text):
        return unknown_key(found[1])
    if isinstance(error.__cause__, OmegaConfBaseException):
        text = f"{error.__cause__}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    details = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    key = details.get("full_key", "")
    return f"{key}: {lines[0]}" if key else lines[0]


def unknown_key(key: str) -> str:
    """Return the line for a key the schema does not know, with the nearest one it does."""
    parts, known = key.split("."), Config
    for depth, part in enumerate(parts):
        if not is_dataclass(known):
            break
        types = {field.name: field.type for field in fields(known)}
        if part not in types:
            where = ".".join(parts[:depth])
            return f"{key}: unknown key{f' of {where}' if where else ''}, {did_you_mean(part, types)}"
        known = types[part]
    return f"{key}: unknown key"
