"""One thing changed at a time: what a change does to detection on ``tune``, image by image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.bootstrap import percentile_interval, resampled_weights
from pipeline.evaluation.estimates import Estimate
from pipeline.evaluation.game import SCALE
from pipeline.params.evaluation import EvaluationParams
from pipeline.random import generator

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shares:
    """What a share of one source is a ratio of, image by image.

    Attributes:
        ids: of N images, at least one.
        above: (N,) what is added up above the line.
        below: (N,) below it.
        empty: the share where nothing is below the line; NaN where there is none.
    """

    ids: Sequence[str]
    above: Floats
    below: Floats
    empty: float = np.nan


Design = Mapping[str, Shares]
"""Attack (or ``clean``) to a share of its images, as one design has it."""


def mean_share(design: Design, params: EvaluationParams) -> Estimate:
    """The mean over attacks, each of which counts the same; its interval resamples images, with all attacks on them.

    Args:
        design: at least one attack.
        params: the interval's confidence, resamples and seed.

    Returns:
        Without an interval where no resample differs from the value, which would claim certainty.
    """
    return _estimate(*_resampled(design, params), params.confidence)


def change_of_share(now: Design, before: Design, params: EvaluationParams) -> Estimate:
    """The difference of two designs' ``mean_share`` on the same images, which are resampled together.

    Thresholds, and what was fitted, stay as they are: the interval says what other images would, not another split or seed.

    Raises:
        ValueError: the designs do not have the same images.
    """
    if {attack: list(one.ids) for attack, one in now.items()} != {attack: list(one.ids) for attack, one in before.items()}:
        raise ValueError("the two designs have different images, where the same were expected")
    (value, spread), (other, apart) = _resampled(now, params), _resampled(before, params)
    return _estimate(value - other, spread - apart, params.confidence)


def _resampled(design: Design, params: EvaluationParams) -> tuple[float, Floats]:
    """The mean share, and the same of every resample; NaN of one that an attack has no share in."""
    ids = sorted({key for one in design.values() for key in one.ids})
    rows = {key: row for row, key in enumerate(ids)}
    # Sums of whole numbers do not depend on their order.
    parts = [
        (np.array([rows[key] for key in one.ids], np.intp), np.rint(SCALE * np.stack([one.above, one.below])), one.empty)
        for one in design.values()
    ]

    def means(weights: Floats) -> Floats:
        shares = []
        for mine, both, empty in parts:
            above, below = both @ weights[mine]
            shares.append(np.divide(above, below, out=np.full(len(below), empty), where=below > 0))
        found: Floats = np.mean(shares, axis=0)
        return found

    rng = generator(params.bootstrap_seed, "bootstrap")
    spread = [means(weights) for weights in resampled_weights(rng, len(ids), params.bootstrap)]
    return float(means(np.ones((len(ids), 1)))[0]), np.concatenate(spread)


def _estimate(value: float, spread: Floats, confidence: float) -> Estimate:
    if (np.isnan(spread) | (spread == value)).all():
        return Estimate(value, None, None)
    return Estimate(value, *percentile_interval(spread, confidence))
