"""Which trials of a search no other one beats, and which of them is proposed."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

DETECTION = ("fitted", "unseen", "after_looks")
"""The objectives to be high: shares."""
COST = "cost"
"""The objective to be low: operations an image."""
OBJECTIVES = (*DETECTION, COST)


def front(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which of N trials are on the Pareto front: no other is at least as good in every objective and better in one.

    Args:
        values: (N, 4), columns as in ``OBJECTIVES``.

    Returns:
        (N,) bool.
    """
    losses = values * np.where(np.array(OBJECTIVES) == COST, 1, -1)
    no_worse = (losses[:, None] <= losses[None]).all(axis=-1)
    better = (losses[:, None] < losses[None]).any(axis=-1)
    return np.asarray(~(no_worse & better).any(axis=0))


def choose(values: npt.NDArray[np.float64], numbers: Sequence[int], cost_limit: float) -> int:
    """The trial to propose: on the front, not dearer than the limit, with the best mean of the three shares of detection.

    Ties go to the cheaper, then to the earlier. Where every trial is dearer, the cheapest is proposed.

    Args:
        values: (N, 4), N at least 1.
        numbers: of the N trials.
        cost_limit: operations an image.

    Returns:
        Its number.
    """
    on_front = np.flatnonzero(front(values)).tolist()
    cost, detection = values[:, OBJECTIVES.index(COST)], values[:, : len(DETECTION)].mean(axis=1)
    affordable = [row for row in on_front if cost[row] <= cost_limit]
    if not affordable:
        return numbers[min(on_front, key=lambda row: (cost[row], numbers[row]))]
    return numbers[min(affordable, key=lambda row: (-detection[row], cost[row], numbers[row]))]
