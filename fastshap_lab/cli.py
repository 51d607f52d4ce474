"""The command line of ``train.py``: composes the configuration, plans and runs; mistakes become one clear line."""

import argparse
import errno
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from omegaconf import OmegaConf
from rich.console import Console

from fastshap_lab.choices import choices
from fastshap_lab.compose import compose, composed
from fastshap_lab.config import Config
from fastshap_lab.errors import Interrupted, UserError

_ROOM, _RIGHTS = "make room, or choose another {place}", "allow it, or choose another {place}"
# Advice for errors of the disk; ``place`` is the setting that says where files are written.
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

    The exit status is 0 when all requested results exist; 2 after a mistake that the user can correct, or if a file
    cannot be written, with one line on standard error (``debug=true`` adds the traceback); 130 after SIGINT (Ctrl-C)
    and 143 after SIGTERM, also with one line; 1 after any other error.

    After a signal, a training finishes its step and writes a checkpoint, from which the same command continues. A
    second signal, or one at any other time, ends the program at once.

    Args:
        arguments: Words after the program's name; those of the command line if None.
    """
    quiet_libraries()
    words = list(sys.argv[1:] if arguments is None else arguments)
    with one_line_errors(debug="debug=true" in map(str.lower, words)), signals_interrupt():
        parser = _parser("train.py" if arguments is None else "fastshap-lab train")
        flags, overrides = parser.parse_known_args(words)
        if unknown := [word for word in overrides if word.startswith("-")]:
            parser.error(f"{unknown[0]}: unknown")
        if flags.help:
            sys.stdout.write(_help(flags.config_dir))
        elif flags.cfg:
            sys.stdout.write(OmegaConf.to_yaml(composed(overrides, flags.config_dir)))
        else:
            _run(overrides, flags.config_dir)


class Parser(argparse.ArgumentParser):
    """A parser of command lines that reports mistakes in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise a ``UserError`` with the message."""
        raise UserError(f"{message}; {self.prog} --help lists the options")


def _parser(program: str) -> Parser:
    """Return the parser of the flags; the help is written by ``_help``, since it lists choices of the configuration."""
    parser = Parser(program, add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("-c", "--cfg", choices=["job"])
    parser.add_argument("-cd", "--config-dir", type=Path)
    return parser


def _help(folder: Path | None) -> str:
    """Return the text of ``--help``: examples of commands, and all choices."""
    listed = "\n".join(f"{group}: {', '.join(names)}" for group, names in choices(folder).items())
    return f"""\
Amortized Shapley explainers of image classifiers: train, reuse, evaluate.

python train.py                                    all stages on the digits, and a report
python train.py stage=surrogate data=cifar10       one stage, and what it needs
python train.py dry_run=true                       what would be done
python train.py prune=true                         delete kept results that no run refers to
python train.py --cfg job                          the whole configuration
python train.py --config-dir mine data=ours        choices of your own, here mine/data/ours.yaml
fastshap-lab train                                 the same, from any folder

Choices (group=choice):
{listed}

Every key, with its default and what it means: fastshap_lab/configs/config.yaml and docs/configuration.md.
"""


def _run(words: Sequence[str], folder: Path | None) -> None:
    """Plan the runs that overrides request, show the plan, and execute it."""
    config = compose(words, folder)
    # Slow imports come after composing, so that mistyped keys are reported at once.
    from fastshap_lab.runs.execute import conclude, execute
    from fastshap_lab.runs.plan import plan, show
    from fastshap_lab.runs.prune import prune
    from fastshap_lab.stages import STAGES
    from fastshap_lab.stages.imported import check_typed
    from fastshap_lab.training.trainer import device_of

    def again(choices: dict[str, str], overrides: list[str]) -> Config:
        others = [word for word in words if word.lstrip("+").partition("=")[0] not in choices]
        chosen = [f"{group}={choice}" for group, choice in choices.items()]
        found = compose([*chosen, *overrides, *others], folder)
        check_typed(found, words)
        return found

    check_typed(config, words)
    console = Console(highlight=False)
    if config.prune:
        prune(Path(config.runs_dir), console, config.dry_run)
        return
    runs = plan(config, again, STAGES, device_of(config.trainer))
    show(runs, console)
    if not config.dry_run:
        execute(runs, console)
        conclude(runs, console)


def quiet_libraries() -> None:
    """Shorten the busy waiting of PyTorch's threads, and silence Pillow; programs call it before they import PyTorch.

    PyTorch's threads spin while they wait for each other. On cores that other programs use, too, small networks ran at
    a twentieth of their speed; a short spin is faster there, and on idle cores as well. Pillow's warning about large
    pictures is not needed, since the package has its own limit, beyond which it raises an error.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    warnings.filterwarnings("ignore", r"Image size .* exceeds limit")


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise ``Interrupted`` within a block."""

    def interrupt(number: int, _: object) -> None:
        raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def one_line_errors(place: str = "runs_dir", *, debug: bool = False) -> Iterator[None]:
    """Turn a user's mistakes, errors of the disk and signals within a block into one line and an exit status.

    Args:
        place: Name of the setting that says where files are written.
        debug: Whether to print the traceback before the line.
    """
    try:
        yield
    except (UserError, OSError) as error:
        if isinstance(error, UserError):
            line = str(error)
        elif error.errno in _DISK:
            line = f"{error.filename or 'a file'}: {error.strerror}; {_DISK[error.errno].format(place=place)}"
        else:
            raise
        if debug:
            traceback.print_exc()
        say(f"error: {line}")
        sys.exit(2)
    except Interrupted as end:
        say(str(end))
        sys.exit(end.status)


def say(line: str) -> None:
    """Print a line on standard error."""
    Console(stderr=True, highlight=False).print(line, soft_wrap=True, markup=False)
