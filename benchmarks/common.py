"""What every benchmark shares: paired timing, the statistics of a comparison, and how its table is printed and kept.

A ratio is always ours over the peer's in the unit of its row: of images per second above 1 is better, of robust accuracy
and of norms below 1.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from threadpoolctl import threadpool_limits

from pipeline.results.machine import processor

T = TypeVar("T")
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

CONFIDENCE = 0.95
RESAMPLES = 10_000
FEWEST = 10
"""Images that a bootstrap takes at least."""


@dataclass(frozen=True)
class Spread:
    """An estimate with its interval; None where there is nothing to divide by."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Row:
    """One comparison, as ``--json`` writes it.

    Attributes:
        question: what the script asks.
        case: the attack, its budget, and the peer with its version.
        ours: our value, in ``unit``.
        peer: the peer's, on the same images.
        unit: ``images/s``, ``robust accuracy``, ``success``, ``mean L2``, ``mean Linf``, ``MiB`` or another that the row's case explains.
        ratio: ours over the peer's; None (``null``) where that is undefined.
        ratio_low: lower bound of its 95 % interval.
        ratio_high: upper bound.
    """

    question: str
    case: str
    ours: float | None
    peer: float | None
    unit: str
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None


Pair = tuple[float | None, float | None]
"""Our value and the peer's."""


def row(question: str, case: str, values: Pair, unit: str, ratio: Spread) -> Row:
    """A row of a pair and its ratio."""
    return Row(question, case, *values, unit, ratio.value, ratio.low, ratio.high)


def means(ours: Floats, peer: Floats) -> Pair:
    """The means of two sets of the same size; None for empty ones."""
    return (float(ours.mean()), float(peer.mean())) if len(ours) else (None, None)


@dataclass(frozen=True)
class Entry:
    """A row and what the table alone says about it."""

    row: Row
    note: str


@dataclass(frozen=True)
class Timed(Generic[T]):
    """Seconds of every round, and what the warm-up run returned."""

    seconds: list[float]
    result: T


def one_thread() -> None:
    """Holds torch and the BLAS under NumPy to one thread for the rest of the process."""
    torch.set_num_threads(1)
    threadpool_limits(1)


def alternate(contestants: Mapping[str, Callable[[], T]], rounds: int, patience: float = math.inf) -> dict[str, Timed[T]]:
    """Times every contestant once a round, after one warm-up run each; wall-clock time, on the CPU.

    What else the machine does then slows all of a round alike, so ratios are taken within rounds. Every second round runs
    backwards, and every round starts one further, so that nobody always follows the same neighbour.

    Args:
        contestants: what to time, by name.
        rounds: how often.
        patience: whose warm-up takes more than this many times as long as the first one's sits the rounds out: the time
            of the warm-up is all that is known of it.
    """
    warm_ups = {name: _timed(run) for name, run in contestants.items()}
    first = next(iter(warm_ups.values()))[0]
    names = [name for name, (taken, _) in warm_ups.items() if taken <= patience * first]
    seconds: dict[str, list[float]] = {name: [] if name in names else [taken] for name, (taken, _) in warm_ups.items()}
    for number in range(rounds):
        shift = number % len(names)
        order = names[shift:] + names[:shift]
        for name in order if number % 2 == 0 else reversed(order):
            seconds[name].append(_timed(contestants[name])[0])
    return {name: Timed(seconds[name], warm_ups[name][1]) for name in contestants}


def _timed(run: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    result = run()
    return time.perf_counter() - began, result


def speed_ratio(ours: Sequence[float], peer: Sequence[float]) -> Spread:
    """How many times as fast we are: the median over rounds of the peer's seconds over ours, and the interval of that median.

    A peer that sat the rounds out has one time, no pairs and so no interval.
    """
    if len(peer) != len(ours):
        return Spread(peer[0] / float(np.median(ours)), None, None)
    return median_spread(np.array(peer) / np.array(ours))


def median_spread(values: Floats) -> Spread:
    """The median with its distribution-free interval between two order statistics (the sign test inverted).

    The interval is the shortest symmetric one that covers the median with at least 95 %; below 6 values there is none,
    and it is the extremes, which cover it with 1 - 2^(1 - n).
    """
    ordered = np.sort(values)
    # The largest k with P(Binomial(n, 1/2) < k) <= 2.5 %: from the k-th smallest to the k-th largest.
    k = max(1, int(stats.binom.ppf((1 - CONFIDENCE) / 2, len(ordered), 0.5)))
    return Spread(float(np.median(ordered)), float(ordered[k - 1]), float(ordered[-k]))


def share_ratio(ours: Bools, peer: Bools) -> Spread:
    """The ratio of two shares of the same images, with the 95 % interval of its posterior.

    The four counts (both, ours alone, peer alone, neither) are multinomial under Jeffreys' prior, a half an image each.
    Unlike the bootstrap's, that interval does not shrink to a point where one of the shares is 0 or the two agree
    everywhere. Both 0 is a ratio of 1; only the peer's 0, None.
    """
    counts = np.array([(ours & peer).sum(), (ours & ~peer).sum(), (~ours & peer).sum(), (~ours & ~peer).sum()])
    drawn = np.random.default_rng(0).dirichlet(counts + 0.5, RESAMPLES)
    ratios = (drawn[:, 0] + drawn[:, 1]) / (drawn[:, 0] + drawn[:, 2])
    low, high = _percentiles(ratios)
    if not peer.any():
        return Spread(None if ours.any() else 1.0, low, high)
    return Spread(float(ours.sum() / peer.sum()), low, high)


def mean_ratio(ours: Floats, peer: Floats) -> Spread:
    """The ratio of two means over the same images, with the 95 % interval of a bootstrap that resamples images; none below 10."""
    if not len(ours) or not peer.any():
        return Spread(None, None, None)
    if len(ours) < FEWEST:
        return Spread(float(ours.mean() / peer.mean()), None, None)
    rows = np.random.default_rng(0).integers(0, len(ours), (RESAMPLES // 5, len(ours)))
    low, high = _percentiles(ours[rows].mean(1) / peer[rows].mean(1))
    return Spread(float(ours.mean() / peer.mean()), low, high)


def _percentiles(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def wilson(successes: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (Wilson 1927)."""
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    share, widening = successes / count, z * z / count
    centre = (share + widening / 2) / (1 + widening)
    half = z * math.sqrt(share * (1 - share) / count + widening / count / 4) / (1 + widening)
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(ours: Bools, peer: Bools) -> float:
    """McNemar's exact two-sided p-value: could a fair coin have split so the images on which the two differ?"""
    alone, other = int((ours & ~peer).sum()), int((~ours & peer).sum())
    return min(1.0, 2 * float(stats.binom.cdf(min(alone, other), alone + other, 0.5)))


def against(peer: str) -> str:
    """A peer's distribution with its version, as ``case`` names it."""
    return f"{peer} {version(peer)}"


def conditions() -> str:
    """What every caption ends with: torch's version, the processor, threads and the date."""
    return f"torch {torch.__version__}; {processor()}; threads: {torch.get_num_threads()}; {datetime.now(UTC):%Y-%m-%d}"


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """``--json`` and ``--out``, which every benchmark has."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows, as a JSON list, to FILE")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="also write the table and the rows to FOLDER/<script>.md and .json")


def publish(name: str, caption: str, entries: Sequence[Entry], options: argparse.Namespace) -> None:
    """Prints the table, and keeps it as ``keep`` does; arguments as there."""
    keep(name, caption, entries, options)
    print(_text(caption, entries))


def keep(name: str, caption: str, entries: Sequence[Entry], options: argparse.Namespace) -> None:
    """Writes what ``add_output_options`` let the user ask for; called along the way too, so that a long run loses nothing.

    Args:
        name: the script's, without ending.
        caption: what was measured, on what and how to read it; Markdown.
        entries: the table's rows.
        options: the parsed command line.
    """
    rows = as_json(entry.row for entry in entries)
    if options.json:
        options.json.write_text(rows)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{name}.md").write_text(f"# {name}\n\n{_text(caption, entries)}")
        (options.out / f"{name}.json").write_text(rows)


def _text(caption: str, entries: Sequence[Entry]) -> str:
    return f"{caption}\n\n{table(entries)}\n"


def as_json(rows: Iterable[Row]) -> str:
    """The rows as a JSON list, to six significant digits."""
    return json.dumps([{key: _short(value) for key, value in asdict(row).items()} for row in rows], indent=1, ensure_ascii=False) + "\n"


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def table(entries: Sequence[Entry]) -> str:
    """A Markdown table, padded so that it is one on a terminal too."""
    lines = [["case", "unit", "ours", "peer", "ratio", "95 %", "note"]]
    for entry in entries:
        found = entry.row
        low, high = figure(found.ratio_low), figure(found.ratio_high)
        interval = f"{low} to {high}" if low != high else low
        lines.append([found.case, found.unit, figure(found.ours), figure(found.peer), figure(found.ratio), interval, entry.note])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([padded[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *padded[1:]])


def figure(value: float | None) -> str:
    """Three significant digits, and below 10 at least three decimals; a dash for None."""
    if value is None:
        return "-"
    fewest = 3 if abs(value) < 10 else 0
    return f"{value:.{fewest if value == 0 else max(fewest, 2 - math.floor(math.log10(abs(value))))}f}"
