"""The command line: compose the configuration, plan, run; and one clear line where something is wrong."""

import errno
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from fastshap_lab.components import did_you_mean
from fastshap_lab.config import Config, validated
from fastshap_lab.errors import Interrupted, UserError

CONFIGS = Path(__file__).resolve().parent / "configs"
"""``config.yaml``, and one choice per file in each group."""

_ROOM, _RIGHTS = "make room, or choose another {place}", "allow it, or choose another {place}"
# What a disk can refuse, and what would be right, of the setting that says where files are written.
_DISK = {
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``train.py``, or ``fastshap-lab train``.

    Exit status: 0 when everything asked for is there; 2 after a mistake the user can mend or a file that cannot be
    written, which is one line on standard error (``debug=true`` adds the traceback); 130 after SIGINT (Ctrl-C), 143
    after SIGTERM, also one line; 1 after anything else.

    A signal lets a training finish its step and write a checkpoint, from which the same command goes on; a second one,
    or one at any other time, ends the program at once.

    Args:
        arguments: The words after the program's name; by default those it was started with.
    """
    ConfigStore.instance().store(name="schema", node=Config)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # exceptions come here instead of being printed as tracebacks
    quiet_libraries()
    with one_line_errors(), signals_interrupt():
        sys.argv[1:] = [as_hydra_wants(word) for word in (sys.argv[1:] if arguments is None else arguments)]
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")(_run)()


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


def _run(config: DictConfig) -> None:
    with one_line_errors():  # here too: Hydra announces exceptions of its job in its own way
        # What imports slowly: --help and mistyped keys need not wait for it.
        from fastshap_lab.runs.execute import conclude, execute
        from fastshap_lab.runs.plan import plan, show
        from fastshap_lab.runs.prune import prune
        from fastshap_lab.stages import STAGES
        from fastshap_lab.training.trainer import device_of

        given = list(HydraConfig.get().overrides.task)

        def compose(choices: dict[str, str], overrides: list[str]) -> Config:
            kept = [one for one in given if one.split("=")[0] not in choices]
            chosen = [f"{group}={choice}" for group, choice in choices.items()]
            return validated(hydra.compose("config", chosen + [as_hydra_wants(one) for one in overrides] + kept))

        console = Console(highlight=False)
        checked = validated(config)
        if checked.prune:
            prune(Path(checked.runs_dir), console, checked.dry_run)
            return
        runs = plan(checked, compose, STAGES, device_of(checked.trainer))
        show(runs, console)
        if not checked.dry_run:
            execute(runs, console)
            conclude(runs, console)


def quiet_libraries() -> None:
    """Let libraries be less busy; for programs, before PyTorch is first imported.

    PyTorch's threads spin while they wait for each other: on cores that others use too, small networks ran at a
    twentieth of their speed. A short spin is faster there, and alone, too. Pillow warns of large pictures; ours is the
    limit that counts, and it is an error.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    warnings.filterwarnings("ignore", r"Image size .* exceeds limit")


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise ``Interrupted``."""

    def interrupt(number: int, _: object) -> None:
        raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def one_line_errors(place: str = "runs_dir") -> Iterator[None]:
    """Make one line on standard error, and an exit status, of mistakes that the user can mend and of signals.

    Args:
        place: The setting that says where files are written.
    """
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, HydraException) and error.errno not in _DISK:
            raise
        _trace()
        say(f"error: {one_line(error, place)}")
        sys.exit(2)
    except AssertionError as error:
        if not str(error).startswith("Unexpected type"):  # OmegaConf's, of a key within what is null
            raise
        _trace()
        say("error: classifier.pretrain: this classifier is not pretrained; classifier=mae_vit is")
        sys.exit(2)
    except Interrupted as end:
        say(str(end))
        sys.exit(end.status)


def _trace() -> None:
    if "debug=true" in map(str.lower, sys.argv[1:]):
        traceback.print_exc()


def say(line: str) -> None:
    """Print a line on standard error."""
    Console(stderr=True, highlight=False).print(line, soft_wrap=True, markup=False)


def one_line(error: Exception, place: str = "runs_dir") -> str:
    """Return an error as one line that says what, where, and what would be right; ``place`` as for the above."""
    text = str(error)
    if isinstance(error, UserError):
        return text
    if isinstance(error, OSError) and error.errno in _DISK:
        return f"{error.filename or 'a file'}: {error.strerror}; {_DISK[error.errno].format(place=place)}"
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
