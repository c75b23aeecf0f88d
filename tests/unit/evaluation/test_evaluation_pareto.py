"""The Pareto front and the choice from it, against their definitions spelled out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.evaluation.pareto import COST, DETECTION, OBJECTIVES, choose, front
from pipeline.evaluation.pareto_figure import pareto_figure

VALUES = arrays(np.float64, st.tuples(st.integers(1, 12), st.just(4)), elements=st.integers(0, 3).map(float))


def _dominates(a: dict[str, float], b: dict[str, float]) -> bool:
    no_worse = a[COST] <= b[COST] and all(a[name] >= b[name] for name in DETECTION)
    return no_worse and a != b


@given(VALUES)
def test_the_front_holds_what_no_other_trial_dominates(values: np.ndarray) -> None:
    trials = [dict(zip(OBJECTIVES, row, strict=True)) for row in values.tolist()]
    assert front(values).tolist() == [not any(_dominates(other, trial) for other in trials) for trial in trials]


@given(VALUES, st.integers(0, 4))
def test_what_is_proposed_is_on_the_front_and_the_best_that_is_cheap_enough(values: np.ndarray, limit: int) -> None:
    numbers = [10 + row for row in range(len(values))]
    row = numbers.index(choose(values, numbers, limit))
    assert front(values)[row]
    cheap = values[values[:, 3] <= limit]
    if len(cheap):
        assert values[row, 3] <= limit
        assert values[row, :3].mean() == pytest.approx(cheap[:, :3].mean(axis=1).max())
    else:
        assert values[row, 3] == values[:, 3].min()


def test_ties_go_to_the_cheaper_then_to_the_earlier() -> None:
    values = np.array([[0.5, 0.5, 0.5, 3.0], [0.6, 0.4, 0.5, 2.0], [0.6, 0.4, 0.5, 2.0]])
    assert choose(values, [7, 9, 8], 5) == 8


def test_the_figure_shows_every_trial_once_in_each_panel_and_marks_the_two() -> None:
    rng = np.random.default_rng(0)
    values, numbers = np.column_stack([rng.random((9, 3)), rng.integers(100, 900, 9)]), [0, 1, 2, 3, 5, 6, 7, 8, 9]
    best = {number for number, yes in zip(numbers, front(values), strict=True) if yes}
    figure = pareto_figure(numbers, values, best, 5)
    for column, ax in enumerate(figure.axes):
        beaten, on_front, now, proposed = (np.asarray(marks.get_offsets()) for marks in ax.collections)
        shown = np.concatenate([beaten, on_front])
        assert sorted(map(tuple, shown)) == sorted(map(tuple, values[:, [3, column]]))
        assert {tuple(point) for point in on_front} == {tuple(values[numbers.index(number), [3, column]]) for number in best}
        assert now.tolist() == [values[0, [3, column]].tolist()] and proposed.tolist() == [values[4, [3, column]].tolist()]
