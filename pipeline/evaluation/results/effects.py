"""What each choice of a search did: the trials that made it beside those that did not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import ttest_ind

from pipeline.evaluation.pareto import COST, OBJECTIVES

FEWEST = 3
"""Trials on either side of a choice, below which nothing is said of it."""
CONFIDENCE = 0.95
HELPED, HARMED, OPEN, FEW = "helped", "did harm", "made no difference that these trials can tell", "too few trials"
CHOICES = ("pooling", "prefer")
"""Settings of which each value is compared with all others, beside the layers and their k."""


@dataclass(frozen=True)
class TrialRow:
    """A trial that worked.

    Attributes:
        number: its own; 0 is the params file as it stood.
        layers: layer to its k; those left out are absent.
        settings: draw, directions, shrinkage, pooling, effect_size and prefer.
        objectives: of ``pareto.OBJECTIVES``.
    """

    number: int
    layers: Mapping[str, int]
    settings: Mapping[str, Any]
    objectives: Mapping[str, float]


@dataclass(frozen=True)
class Effect:
    """A choice, how many trials made it and how many did not, and by objective the two means and what is said of the difference."""

    choice: str
    made: int
    left: int
    means: Mapping[str, tuple[float, float]]
    words: Mapping[str, str]


def values_of(rows: Sequence[TrialRow]) -> npt.NDArray[np.float64]:
    """(N, 4) the objectives in the order of ``pareto.OBJECTIVES``."""
    return np.array([[row.objectives[name] for name in OBJECTIVES] for row in rows], np.float64)


def layer_effects(rows: Sequence[TrialRow], layers: Sequence[str]) -> list[Effect]:
    """Each layer in against out."""
    return [effect(f"{layer} in", rows, [layer in row.layers for row in rows]) for layer in layers]


def value_effects(rows: Sequence[TrialRow], layers: Sequence[str]) -> list[Effect]:
    """Each k of each layer against its other k, and each value of the other choices against the others."""
    found = []
    for layer in layers:
        inside = [row for row in rows if layer in row.layers]
        sizes = sorted({row.layers[layer] for row in inside})
        found += _each(f"{layer}: k", inside, sizes, [row.layers[layer] for row in inside])
    for name in CHOICES:
        found += _each(name, rows, sorted({row.settings[name] for row in rows}), [row.settings[name] for row in rows])
    return found


def _each(name: str, rows: Sequence[TrialRow], values: Sequence[Any], chosen: Sequence[Any]) -> list[Effect]:
    """Each value against the others; of two, one against the other, since the reverse says the same."""
    if len(values) < 2:
        return []
    if len(values) == 2:
        low, high = values
        return [effect(f"{name} = {plain(high)}, not {plain(low)}", rows, [value == high for value in chosen])]
    return [effect(f"{name} = {plain(one)}", rows, [value == one for value in chosen]) for one in values]


def plain(value: Any) -> str:
    """A value of a setting, a number without trailing zeros."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def effect(choice: str, rows: Sequence[TrialRow], made: Sequence[bool]) -> Effect:
    """The means of the trials that made a choice and of those that did not; their difference is judged by Welch's interval (1947).

    Args:
        choice: in words.
        rows: N trials.
        made: N, whether each made it.
    """
    mask, values = np.array(made, np.bool_), values_of(rows)
    sides = [values[mask], values[~mask]]
    if not all(map(len, sides)):
        return Effect(choice, len(sides[0]), len(sides[1]), {}, dict.fromkeys(OBJECTIVES, FEW))
    means = {name: (float(sides[0][:, at].mean()), float(sides[1][:, at].mean())) for at, name in enumerate(OBJECTIVES)}
    words = {name: _judged(sides[0][:, at], sides[1][:, at], 1 if name != COST else -1) for at, name in enumerate(OBJECTIVES)}
    return Effect(choice, len(sides[0]), len(sides[1]), means, words)


def _judged(made: npt.NDArray[np.float64], left: npt.NDArray[np.float64], sign: int) -> str:
    if min(len(made), len(left)) < FEWEST:
        return FEW
    if np.ptp(made) == 0 and np.ptp(left) == 0:
        return OPEN
    interval = ttest_ind(sign * made, sign * left, equal_var=False).confidence_interval(CONFIDENCE)
    return HELPED if interval.low > 0 else HARMED if interval.high < 0 else OPEN
