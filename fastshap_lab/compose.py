"""Composing the configuration from the words of a command: all that there is of Hydra, and its errors in one line."""

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
    """Return the configuration that the words ask for. Every value is within its range.

    Args:
        words: Overrides as on the command line of ``train.py``.
        folder: Folder with the user's own choices, searched before the package's.
    """
    config = composed(words, folder)
    with _in_one_line(folder):
        return validated(config)


def composed(words: Sequence[str], folder: Path | None = None) -> DictConfig:
    """Return the same as it is written: values may be missing, out of range, or name others (``${…}``).

    Args:
        words: ``key=value`` and ``group=choice``; later ones win.
        folder: Has further choices, as ``<group>/<choice>.yaml``. Files of the package come before them, and entries of
            tables after.

    Raises:
        UserError: A word is a mistake, or there is no such folder.
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
    """Return the line for a key the schema does not know, with the nearest one it does."""
    parts, known = key.split("."), Config
    for depth, part in enumerate(parts):
        if get_origin(known) is dict:  # whose keys are the user's
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
    """Return an override with what Hydra is particular about mended.

    W&B writes a YAML null as None, which Hydra would take for a word. Keys the YAML does not mention need a ``++``:
    of a component's parameters, of which ``build`` knows whether they exist; everywhere else they are mistakes.

    Raises:
        UserError: It names no key, or one of Hydra's own, which would change nothing.
    """
    if re.fullmatch(r"[+~]*(=.*)?", word, re.DOTALL):
        raise UserError(f"'{word}': names no key; key=value is wanted")
    word = re.sub(r"=None$", "=null", word.lstrip("+"))
    if own := re.match(r"~?(hydra([./@][^=]*)?)(=|$)", word):
        raise UserError(unknown_key(own[1]))
    return re.sub(r"^(([\w.]+\.params|evaluate\.(pipelines|methods|metrics|checks|published))[.=])", r"++\1", word)


@contextmanager
def _in_one_line(folder: Path | None) -> Iterator[None]:
    """Make a ``UserError`` of what Hydra and OmegaConf say of mistakes."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_line(error, folder)) from error


def _line(error: Exception, folder: Path | None) -> str:
    """Return one line that says what, where, and what would be right."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return f"{group}={choice}: unknown, {did_you_mean(choice, choices(folder).get(group, []))}"
    if isinstance(error, OverrideParseException):
        return f"{error.override.lstrip('+')}: cannot be read as key=value; quote what holds '=', ',' or brackets"
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if not isinstance(cause, OmegaConfBaseException):
        return " ".join(str(error).partition("\n3. To sweep")[0].split())  # Hydra's third way would be --multirun
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        return unknown_key(cause.full_key)
    return ": ".join(filter(None, (cause.full_key, str(cause).splitlines()[0])))


def _below_null(given: Sequence[str]) -> str | None:
    """Return the line for the first override that names a key within what is null, if one does.

    OmegaConf says it by an assertion, which does not say where.
    """
    values = [word for word in given if "." in word.partition("=")[0]]
    before = [word for word in given if word not in values]  # what chooses files, wherever it stands
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
