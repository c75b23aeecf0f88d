"""Progress of long work: what, how far, how long left. Changes no result."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

QUIET_EVERY = 10.0
"""Seconds between two lines where standard error is no terminal (a log file, CI)."""


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows a bar on standard error (plain lines where that is no terminal); yields a function that advances it."""
    if not sys.stderr.isatty():
        yield _Lines(title, total).advance
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(show_speed=True))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task(title, total=total)
        yield lambda count: bars.advance(task, count)


class _Lines:
    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        self.start = self.said = monotonic()

    def advance(self, count: int) -> None:
        self.done += count
        now = monotonic()
        if now - self.said >= QUIET_EVERY or (self.done >= self.total and count):
            self.said = now
            rate = self.done / max(now - self.start, 1e-9)
            left = (self.total - self.done) / rate if rate else float("inf")
            print(f"{self.title}: {self.done} of {self.total}, {rate:.1f}/s, {left:.0f} s left", file=sys.stderr, flush=True)
