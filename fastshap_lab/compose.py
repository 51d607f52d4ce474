"""Composes the configuration from the words of a command. No other module uses Hydra; its errors become one line."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_origin

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from fastshap_lab.choices import CONFIGS, Tables, choices
from fastshap_lab.components import did_you_mean
from fastshap_lab.config import Config, validated
from fastshap_lab.errors import UserError


def compose(words: Sequence[str], folder: Path | None = None) -> Config:
    """Return the configuration that overrides make, with every value within its range.

    Args:
        words: Overrides as on the command line of ``train.py``: ``key=value`` and ``group=choice``; later ones win.
        folder: Folder with further choices, see ``composed``.

    Raises:
        UserError: An override is a mistake, a value is missing or out of range, or there is no such folder.
    """
    config = composed(words, folder)
    with _in_one_line(folder):
        return validated(config)


def composed(words: Sequence[str], folder: Path | None = None) -> DictConfig:
    """Return the configuration as it is written: values may be missing, out of range, or refer to others (``${…}``).

    Args:
        words: Overrides: ``key=value`` and ``group=choice``; later ones win.
        folder: Folder with further choices, as ``<group>/<choice>.yaml``. Files of the package are found before them,
            and entries of tables after them.

    Raises:
        UserError: An override is a mistake, or there is no such folder.
    """
    if folder is not None and not folder.is_dir():
        raise UserError(f"--config-dir {folder}: no such folder")
    paths = [*([] if folder is None else [f"file://{folder.resolve()}"]), "tables://"]
    given = [f"hydra.searchpath={paths}", *(_as_hydra_wants(word) for word in words)]
    Plugins.instance().register(Tables)
    ConfigStore.instance().store(name="schema", node=Config)
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"), _in_one_line(folder):
        try:
            return hydra.compose("config", given)
        except AssertionError as error:
            if (key := _below_null(given)) is None:
                raise
            raise UserError(key) from error


def unknown_key(key: str) -> str:
    """Return the error line for a key that is not in the schema, with the most similar one that is."""
    parts, known = key.split("."), Config
    for depth, part in enumerate(parts):
        if get_origin(known) is dict:  # the user chooses its keys
            known = get_args(known)[1]
            continue
        if not is_dataclass(known):
            break
        types = {field.name: field.type for field in fields(known)}
        if part not in types:
            where = ".".join(parts[:depth])
            return f"{key}: unknown key{f' of {where}' if where else ''}, {did_you_mean(part, types)}"
        known = types[part]
    return f"{key}: unknown key"


def _as_hydra_wants(word: str) -> str:
    """Return an override in the form that Hydra needs.

    W&B writes a YAML null as None, which Hydra would read as a word. Keys that are not in the YAML files need ``++``.
    They are allowed among a component's parameters, where ``build`` checks them; everywhere else they are mistakes.

    Raises:
        UserError: The override names no key, or one of Hydra's own, which would have no effect.
    """
    if re.fullmatch(r"[+~]*(=.*)?", word, re.DOTALL):
        raise UserError(f"'{word}': names no key; must be key=value")
    word = re.sub(r"=None$", "=null", word.lstrip("+"))
    if own := re.match(r"~?(hydra([./@][^=]*)?)(=|$)", word):
        raise UserError(unknown_key(own[1]))
    return re.sub(r"^(([\w.]+\.params|evaluate\.(pipelines|methods|metrics|checks|published))[.=])", r"++\1", word)


@contextmanager
def _in_one_line(folder: Path | None) -> Iterator[None]:
    """Turn errors of Hydra and OmegaConf into a ``UserError``."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_line(error, folder)) from error


def _line(error: Exception, folder: Path | None) -> str:
    """Return one line for an error of Hydra or OmegaConf: what, where, and what would be right."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return f"{group}={choice}: unknown, {did_you_mean(choice, choices(folder).get(group, []))}"
    if isinstance(error, OverrideParseException):
        return f"{error.override.lstrip('+')}: cannot be read as key=value; quote what holds '=', ',' or brackets"
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if not isinstance(cause, OmegaConfBaseException):
        return " ".join(str(error).partition("\n3. To sweep")[0].split())  # without Hydra's advice to use --multirun
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        return unknown_key(cause.full_key)
    return ": ".join(filter(None, (cause.full_key, str(cause).splitlines()[0])))


def _below_null(given: Sequence[str]) -> str | None:
    """Return the error line for the first override of a key inside a value that is null, or None if there is none.

    OmegaConf raises an ``AssertionError`` for it, which does not name the key.
    """
    values = [word for word in given if "." in word.partition("=")[0]]
    before = [word for word in given if word not in values]  # choices of files, wherever they stand
    for word in values:
        with suppress(HydraException):
            try:
                hydra.compose("config", [*before, word])
            except AssertionError:
                key, config = word.partition("=")[0].lstrip("+~"), hydra.compose("config", before)
                parts = key.split(".")
                for depth in range(1, len(parts)):
                    parent = ".".join(parts[:depth])
                    if OmegaConf.select(config, parent) is None:
                        return _NULL.get(parent, f"{key}: {parent} is null; set it as a whole, {parent}=…")
        before.append(word)
    return None


_NULL = {"classifier.pretrain": "classifier.pretrain: this classifier is not pretrained; classifier=mae_vit is"}
