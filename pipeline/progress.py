"""Progress of long work: what, how far, how long left. Changes no result."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

QUIET_EVERY = 10.0
"""Seconds between two lines where standard error is no terminal (a log file, CI)."""
WINDOW = 3600.0
"""Seconds that a bar's rate is taken over. A shard can take minutes, and with less than two shards in it there is no rate."""


@contextmanager
def progress(title: str, total: int, finished: int = 0) -> Iterator[Callable[[int], None]]:
    """Shows how far work is, its rate and the time left, as a bar on standard error (plain lines where that is no terminal).

    Args:
        title: what is counted.
        total: how much of it there is.
        finished: how much of that was there before; it is no part of the rate.

    Yields:
        A function that advances it.
    """
    if not sys.stderr.isatty():
        yield _Lines(title, total, finished).advance
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(), _Rate(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), speed_estimate_period=WINDOW) as bars:
        task = bars.add_task(title, total=total, completed=finished)
        yield lambda count: bars.advance(task, count)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else _pace(speed))


def _pace(rate: float) -> str:
    """A rate a second; of what takes long, the seconds of each."""
    return f"{rate:.1f}/s" if rate >= 0.1 or not rate else f"{1 / rate:.0f} s each"


class _Lines:
    def __init__(self, title: str, total: int, finished: int) -> None:
        self.title, self.total, self.done, self.finished = title, total, finished, finished
        self.start = self.said = monotonic()
        if finished:
            print(f"{title}: {finished} of {total} were there already", file=sys.stderr, flush=True)

    def advance(self, count: int) -> None:
        self.done += count
        now = monotonic()
        if now - self.said >= QUIET_EVERY or (self.done >= self.total and count):
            self.said = now
            rate = (self.done - self.finished) / max(now - self.start, 1e-9)
            left = (self.total - self.done) / rate if rate else float("inf")
            print(f"{self.title}: {self.done} of {self.total}, {_pace(rate)}, {left:.0f} s left", file=sys.stderr, flush=True)
