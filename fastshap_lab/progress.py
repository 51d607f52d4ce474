"""Progress of long work, printed on standard error, since it is no result."""

import sys
import time
from collections.abc import Collection, Iterator
from typing import TypeVar

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

T = TypeVar("T")

EVERY = 30.0  # seconds between two plain lines


class Progress:
    """A progress bar on a terminal, which is removed at the end; elsewhere a plain line every 30 seconds.

    Args:
        title: Name of the work, shown before the bar.
        total: Number of all steps.
        done: Number of steps that an earlier start has done.
    """

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done, self.text = title, total, done, ""
        self._console, self._bar_is_shown = Console(stderr=True, highlight=False), sys.stderr.isatty()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
        )
        self._bar = rich.progress.Progress(
            *columns, console=self._console, transient=True, disable=not self._bar_is_shown
        )
        self._task = self._bar.add_task(title, total=total, completed=done, text="")

    def __enter__(self) -> "Progress":
        self._start = self._said = time.monotonic()
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, steps: int = 1) -> None:
        """Count a step, or several."""
        self.done += steps
        self._bar.advance(self._task, steps)
        now = time.monotonic()
        if not self._bar_is_shown and now - self._said >= EVERY:
            self._said = now
            line = f"{self.title:<10}  {self.done:,} of {self.total:,} after {now - self._start:.0f} s  {self.text}"
            self._console.print(line.rstrip(), soft_wrap=True, markup=False)

    def say(self, text: str) -> None:
        """Show a text beside the bar, and in the next plain line."""
        self.text = text
        self._bar.update(self._task, text=text)


def track(items: Collection[T], title: str) -> Iterator[T]:
    """Yield items, each of which is a step of long work, and show the progress.

    Args:
        items: Steps of the work.
        title: Name of the work, shown before the bar.
    """
    with Progress(title, len(items)) as progress:
        for item in items:
            yield item
            progress.advance()
