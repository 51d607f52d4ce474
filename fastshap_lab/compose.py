"""Configurations from overrides, as users type them, and what is wrong with these in one line."""

import errno
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from fastshap_lab.components import did_you_mean
from fastshap_lab.config import Config
from fastshap_lab.errors import UserError

CONFIGS = Path(__file__).resolve().parent / "configs"
"""``config.yaml``, and one choice per file in each group."""

_ROOM, _RIGHTS = "make room, or choose another {place}", "allow it, or choose another {place}"
DISK = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "allow larger files (ulimit -f), or choose another {place}",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "choose a {place} where files can be written",
    errno.ENOTDIR: "choose a {place} that is a folder, or can become one",
    errno.EEXIST: "choose a {place} that is a folder, or can become one",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "see to the disk, or choose another {place}",
}
"""What a disk can refuse, and what would be right, of the setting that says where files are written."""


def as_hydra_wants(override: str) -> str:
    """Return an override with what Hydra is particular about mended.

    W&B writes a YAML null as None, which Hydra would take for a word. Keys the YAML does not mention need a ``++``:
    of a component's parameters, of which ``build`` knows whether they exist; everywhere else they are mistakes.

    Raises:
        UserError: It names no key.
    """
    if re.fullmatch(r"[+~]*(=.*)?", override, re.DOTALL):
        raise UserError(f"'{override}': names no key; key=value is wanted")
    override = re.sub(r"=None$", "=null", override.lstrip("+"))
    return re.sub(r"^(([\w.]+\.params|evaluate\.(pipelines|methods|metrics|checks|published))[.=])", r"++\1", override)


def one_line(error: Exception, place: str = "runs_dir") -> str:
    """Return an error as one line that says what, where, and what would be right.

    Args:
        error: A user's mistake, or what a disk refused.
        place: The setting that says where files are written.
    """
    text = str(error)
    if isinstance(error, UserError):
        return text
    if isinstance(error, OSError) and error.errno in DISK:
        return f"{error.filename or 'a file'}: {error.strerror}; {DISK[error.errno].format(place=place)}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        folders = [Path(folder, group) for folder in re.findall(r"path=file://(.*)", text)]  # that Hydra has searched
        known = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
        return f"{group}={choice}: unknown, {did_you_mean(choice, known)}"
    if found := re.search(r"Could not override '([^']+)'", text):
        return unknown_key(found[1])
    if isinstance(error, OverrideParseException):
        return f"{error.override.lstrip('+')}: cannot be read as key=value; quote what holds '=', ',' or brackets"
    if isinstance(error, HydraException) and not isinstance(error.__cause__, OmegaConfBaseException):
        return " ".join(text.split())
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
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
