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
class Flagged:
    """How often the successes of one attack are flagged.

    Attributes:
        ids: of N images.
        shares: (N,) in [0, 1], of all draws and calibrations (see ``objectives.flagged_shares``).
    """

    ids: Sequence[str]
    shares: Floats


Design = Mapping[str, Flagged]
"""Attack to its images as one design flags them."""


def mean_detection(design: Design, params: EvaluationParams) -> Estimate:
    """Detection, the mean over attacks, each of which counts the same; its interval resamples images, with all attacks on them.

    Args:
        design: at least one attack, each with an image.
        params: the interval's confidence, resamples and seed.

    Returns:
        Without an interval where no resample differs from the value, which would claim certainty.
    """
    return _estimate(*_resampled(design, params), params.confidence)


def change_of_detection(now: Design, before: Design, params: EvaluationParams) -> Estimate:
    """The difference of two designs' ``mean_detection`` on the same images, which are resampled together.

    Thresholds, and what was fitted, stay as they are: the interval says what other images would, not another split or seed.

    Raises:
        ValueError: the designs do not have the same images.
    """
    if {attack: list(one.ids) for attack, one in now.items()} != {attack: list(one.ids) for attack, one in before.items()}:
        raise ValueError("the two designs have different images, where the same were expected")
    (value, spread), (other, apart) = _resampled(now, params), _resampled(before, params)
    return _estimate(value - other, spread - apart, params.confidence)


def _resampled(design: Design, params: EvaluationParams) -> tuple[float, Floats]:
    """The mean detection, and the same of every resample; NaN of one that an attack has no image in."""
    ids = sorted({key for one in design.values() for key in one.ids})
    rows = {key: row for row, key in enumerate(ids)}
    # Sums of whole numbers do not depend on their order.
    parts = [(np.array([rows[key] for key in one.ids], np.intp), np.rint(SCALE * one.shares)) for one in design.values()]

    def means(weights: Floats) -> Floats:
        counts = [weights[mine] for mine, _ in parts]
        with np.errstate(invalid="ignore"):
            found: Floats = np.mean(
                [shares @ count / count.sum(0) / SCALE for (_, shares), count in zip(parts, counts, strict=True)], axis=0
            )
        return found

    rng = generator(params.bootstrap_seed, "bootstrap")
    spread = [means(weights) for weights in resampled_weights(rng, len(ids), params.bootstrap)]
    return float(means(np.ones((len(ids), 1)))[0]), np.concatenate(spread)


def _estimate(value: float, spread: Floats, confidence: float) -> Estimate:
    if (np.isnan(spread) | (spread == value)).all():
        return Estimate(value, None, None)
    return Estimate(value, *percentile_interval(spread, confidence))
