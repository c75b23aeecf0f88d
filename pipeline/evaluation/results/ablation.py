"""What a search says of each choice: which trials did best, which params matter, and what did not help."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.pareto import COST, DETECTION, OBJECTIVES
from pipeline.evaluation.plotting import percent
from pipeline.evaluation.results.effects import HARMED, HELPED, OPEN, Effect, TrialRow, layer_effects, plain, value_effects

BEST, WORST = 15, 5
"""Trials at either end that the page lists."""


@dataclass(frozen=True)
class AblationInputs:
    """A search as the page tells it.

    Attributes:
        study: its name.
        seed: of the search.
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
    seed: int
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
    return [name, layers, *map(plain, row.settings.values()), *(_shown(key, row.objectives[key]) for key in OBJECTIVES)]


def _shown(objective: str, value: float) -> str:
    return f"{value:,.0f}" if objective == COST else percent(value)


def _importance(found: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """A row a param, the most important for the first objective first."""
    names = list(dict.fromkeys(param for shares in found.values() for param in shares))
    names.sort(key=lambda param: [-found.get(name, {}).get(param, 0.0) for name in OBJECTIVES])
    return [[param, *(percent(found[name][param], 0) if name in found else "–" for name in OBJECTIVES)] for param in names]
