"""The command line: compose the configuration, plan, run; and one clear line where something is wrong."""

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from fastshap_lab.compose import CONFIGS, DISK, as_hydra_wants, one_line
from fastshap_lab.config import Config, validated
from fastshap_lab.errors import Interrupted, UserError


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


def _run(config: DictConfig) -> None:
    with one_line_errors():  # here too: Hydra announces exceptions of its job in its own way
        # What imports slowly: --help and mistyped keys need not wait for it.
        from fastshap_lab.runs.execute import conclude, execute
        from fastshap_lab.runs.plan import plan, show
        from fastshap_lab.runs.prune import prune
        from fastshap_lab.stages import STAGES
        from fastshap_lab.stages.imported import check_typed
        from fastshap_lab.training.trainer import device_of

        given = list(HydraConfig.get().overrides.task)

        def compose(choices: dict[str, str], overrides: list[str]) -> Config:
            kept = [one for one in given if one.split("=")[0] not in choices]
            chosen = [f"{group}={choice}" for group, choice in choices.items()]
            composed = hydra.compose("config", chosen + [as_hydra_wants(one) for one in overrides] + kept)
            return of_the_user(composed)

        def of_the_user(composed: DictConfig) -> Config:
            complete = validated(composed)
            check_typed(complete, sys.argv[1:])
            return complete

        console = Console(highlight=False)
        checked = of_the_user(config)
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
        if isinstance(error, OSError) and not isinstance(error, HydraException) and error.errno not in DISK:
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
