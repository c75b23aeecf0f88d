"""Measures over weighted images, for many weightings at once: the inner part of the bootstrap."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.score_table import DetectorScores

_CHUNK = 128
"""Resamples computed at a time: a few megabytes for ten thousand images, whatever the number of resamples."""

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tally:
    """Numerator and denominator of a measure for each of b weightings, both (b,) and whole numbers.

    Whole numbers below 2^53 add up exactly in float64, so a measure does not depend on the order of summation, and so
    not on the number of threads.

    Attributes:
        numerator: (b,).
        denominator: (b,).
        units: how many independent yes-or-no observations the measure holds before any weighting, whatever the seeds: for
            a share its images; for an area the pairs of a clean and an attacked image that can be formed with no image in
            two of them.
    """

    numerator: Float64
    denominator: Float64
    units: int

    def ratio(self) -> Float64:
        """The measure, (b,); NaN where the denominator is 0."""
        measure = np.full(len(self.numerator), np.nan)
        np.divide(self.numerator, self.denominator, out=measure, where=self.denominator > 0)
        return measure


def resampled_weights(rng: np.random.Generator, images: int, resamples: int) -> Iterator[Float64]:
    """How often each image is in each bootstrap resample, in chunks of (images, b) whole numbers, ``resamples`` columns in all."""
    for start in range(0, resamples, _CHUNK):
        b = min(_CHUNK, resamples - start)
        drawn = rng.integers(0, images, size=(b, images)) + np.arange(b)[:, None] * images
        counts = np.bincount(drawn.ravel(), minlength=b * images).reshape(b, images)
        yield np.ascontiguousarray(counts.T, dtype=np.float64)


def percentile_interval(resampled: Float64, confidence: float) -> tuple[float, float]:
    """The ends of the percentile interval (Efron and Tibshirani 1993, section 13.3); undefined (NaN) resamples are left out.

    Args:
        resampled: (b,), at least one of them defined.
        confidence: of the interval, such as 0.95.
    """
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def tally(scores: DetectorScores, weights: Float64, alphas: Mapping[str, float]) -> dict[str, Tally]:
    """All measures of one detector.

    Args:
        scores: of n images.
        weights: (n, b), how often each image counts, for b weightings.
        alphas: the name of each rate to the rate.

    Returns:
        ``<attack>.<measure>`` to its tally, as in ``metrics.intervals``.
    """
    measures = {}
    for name, alpha in alphas.items():
        flagged, right = (scores.p_values <= alpha).sum(axis=0), scores.correct
        measures[f"clean.fpr_at_{name}"] = _share(flagged, weights, scores.seeds)
        measures[f"clean.fpr_at_{name}_correct_only"] = _share(flagged[right], weights[right], scores.seeds)
        for attack, hit in scores.attacks.items():
            detected = (hit.p_values <= alpha).sum(axis=0)
            measures[f"{attack}.tpr_at_{name}"] = _share(detected, weights[hit.images], scores.seeds)
    everyone = np.ones_like(scores.correct)
    for ending, mask in (("", everyone), ("_correct_only", scores.correct)):
        measures |= {f"{attack}.auroc{ending}": value for attack, value in _aurocs(scores, weights, mask).items()}
    return measures


def _share(counts: npt.NDArray[np.int64], weights: Float64, seeds: int) -> Tally:
    """Weighted mean over images and seeds of a yes or no that ``counts`` (n,) seeds said yes to."""
    return Tally(counts.astype(np.float64) @ weights, seeds * weights.sum(axis=0), len(counts))


def _aurocs(scores: DetectorScores, weights: Float64, mask: npt.NDArray[np.bool_]) -> dict[str, Tally]:
    """Attack to the AUROC of its images against the clean ones of a mask, ties half, mean over seeds.

    With the clean weights added up along the sorted clean scores, an attacked image's weighted number of clean images
    below it is one look-up a resample, so the cost is that of the look-ups, not of all pairs.
    """
    clean = np.flatnonzero(mask)
    attacked = {attack: weights[hit.images] for attack, hit in scores.attacks.items()}
    numerators = {attack: np.zeros(weights.shape[1]) for attack in scores.attacks}
    for seed in range(scores.seeds):
        order = np.argsort(scores.scores[seed, clean], kind="stable")
        ranked = scores.scores[seed, clean][order]
        below = np.concatenate([np.zeros((1, weights.shape[1])), np.cumsum(weights[clean[order]], axis=0)])
        for attack, hit in scores.attacks.items():
            low = np.searchsorted(ranked, hit.scores[seed], side="left")
            high = np.searchsorted(ranked, hit.scores[seed], side="right")
            wins = np.einsum("ib,ib->b", below[low], attacked[attack])
            ties = np.flatnonzero(high > low)
            numerators[attack] += 2 * wins + np.einsum("ib,ib->b", below[high[ties]] - below[low[ties]], attacked[attack][ties])
    total = weights[clean].sum(axis=0)
    return {
        attack: Tally(
            numerators[attack], 2 * scores.seeds * total * times.sum(axis=0), _disjoint_pairs(clean, scores.attacks[attack].images)
        )
        for attack, times in attacked.items()
    }


def _disjoint_pairs(clean: npt.NDArray[np.intp], attacked: npt.NDArray[np.int64]) -> int:
    """How many (clean, attacked) pairs can be formed so that no image is in two of them, nor paired with itself."""
    return min(len(clean), len(attacked), len(np.union1d(clean, attacked)) // 2)
