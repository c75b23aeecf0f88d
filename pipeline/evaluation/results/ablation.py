"""What a search says of each choice: which trials did best, which params matter, and what did not help."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import ttest_ind

from pipeline.evaluation.pareto import COST, DETECTION, OBJECTIVES
from pipeline.evaluation.plotting import percent

BEST, WORST = 15, 5
"""Trials at either end that the page lists."""
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
class AblationInputs:
    """A search as the page tells it.

    Attributes:
        study: its name.
        rows: the trials that worked, by number.
        failed: how many did not.
        layers: all that the search could use.
        front: numbers on the Pareto front.
        chosen: the number that is proposed.
        importance: objective to param to its share of the objective's variance; an objective without variance has none.
        held_out: the family that ``unseen`` leaves out.
        looks: before what ``after_looks`` measures is sent.
        alpha: the false-alarm rate.
        note: in what the search differs from the run beside it; None where in nothing.
    """

    study: str
    rows: Sequence[TrialRow]
    failed: int
    layers: Sequence[str]
    front: set[int]
    chosen: int
    importance: Mapping[str, Mapping[str, float]]
    held_out: str
    looks: int
    alpha: float
    note: str | None


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


def ablation_section(inputs: AblationInputs) -> dict[str, Any]:
    """What the page prints."""
    rows = sorted(inputs.rows, key=lambda row: (-row.objectives[OBJECTIVES[0]], row.number))
    layers, others = layer_effects(inputs.rows, inputs.layers), value_effects(inputs.rows, inputs.layers)
    columns = [*rows[0].settings]
    cut = len(rows) > BEST + WORST
    return {
        "study": inputs,
        "objectives": OBJECTIVES,
        "columns": ["trial", "layers (k)", *columns, *OBJECTIVES],
        "best": [_row(inputs, row) for row in (rows[:BEST] if cut else rows)],
        "between": [_row(inputs, row) for row in rows[BEST:-WORST] if row.number in (0, inputs.chosen)] if cut else [],
        "worst": [_row(inputs, row) for row in rows[-WORST:]] if cut else [],
        "importance": _importance(inputs.importance),
        "layers": [_effect(effect) for effect in layers],
        "others": [_effect(effect) for effect in others],
        "sentences": [sentence for name in DETECTION for sentence in not_helpful(name, [*layers, *others])],
    }


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
        return [effect(f"{name} = {_plain(high)}, not {_plain(low)}", rows, [value == high for value in chosen])]
    return [effect(f"{name} = {_plain(one)}", rows, [value == one for value in chosen]) for one in values]


def _plain(value: Any) -> str:
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


def not_helpful(objective: str, effects: Sequence[Effect]) -> list[str]:
    """Sentences that name what helped an objective, what did harm and what made no difference."""
    said = []
    for words, opening in ((HELPED, "helped"), (HARMED, "did harm"), (OPEN, "made no difference that these trials can tell")):
        names = [each.choice for each in effects if each.words[objective] == words]
        said.append(f"{', '.join(f'`{name}`' for name in names) or 'nothing'} {opening}")
    return [f"**{objective}**: {'; '.join(said)}."]


def _effect(found: Effect) -> list[str]:
    cells = [f"{_shown(name, made)} / {_shown(name, left)}" for name, (made, left) in found.means.items()] or ["–"] * len(OBJECTIVES)
    return [found.choice, f"{found.made} / {found.left}", *cells, found.words[OBJECTIVES[0]]]


def _row(inputs: AblationInputs, row: TrialRow) -> list[str]:
    marks = {"now": row.number == 0, "proposed": row.number == inputs.chosen, "front": row.number in inputs.front}
    name = ", ".join([str(row.number), *(mark for mark, yes in marks.items() if yes)])
    layers = ", ".join(f"{layer} {k}" for layer, k in row.layers.items())
    return [name, layers, *map(_plain, row.settings.values()), *(_shown(key, row.objectives[key]) for key in OBJECTIVES)]


def _shown(objective: str, value: float) -> str:
    return f"{value:,.0f}" if objective == COST else percent(value)


def _importance(found: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """A row a param, the most important for the first objective first."""
    names = list(dict.fromkeys(param for shares in found.values() for param in shares))
    names.sort(key=lambda param: [-found.get(name, {}).get(param, 0.0) for name in OBJECTIVES])
    return [[param, *(percent(found[name][param], 0) if name in found else "–" for name in OBJECTIVES)] for param in names]
