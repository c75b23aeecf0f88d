"""How well detectors tell attacked images from clean ones, as plain values with intervals."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.evaluation.bootstrap import Tally, percentile_interval, resampled_weights, tally
from pipeline.evaluation.estimates import UNDEFINED, Estimate
from pipeline.evaluation.score_table import DetectorScores, read_detectors
from pipeline.params.evaluation import EvaluationParams
from pipeline.random import generator


def auroc(negatives: npt.NDArray[np.floating], positives: npt.NDArray[np.floating]) -> float | None:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties half (Mann and Whitney 1947).

    None where either side is empty.
    """
    if not len(negatives) or not len(positives):
        return None
    ranked = np.sort(negatives)
    below = np.searchsorted(ranked, positives, side="left") + np.searchsorted(ranked, positives, side="right")
    return float(below.sum() / (2 * len(negatives) * len(positives)))


def wilson(successes: int, n: int, confidence: float) -> Estimate:
    """A share with its Wilson score interval (Wilson, JASA 22, 1927); undefined where n is 0."""
    if not n:
        return UNDEFINED
    from scipy.stats import binomtest  # here, for it takes most of a second to import

    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Estimate(successes / n, float(interval.low), float(interval.high))


def intervals(
    detectors: Mapping[str, DetectorScores],
    *,
    alphas: Sequence[float],
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[str, Estimate]:
    """Detection and false alarms of several detectors on the same test images, with percentile bootstrap intervals.

    What is resampled are images, not rows (Efron and Tibshirani 1993, sections 13.3 and 8): the clean row, all attacked
    rows and all seeds of an image move together, and every detector meets the same resamples. A value is the mean over
    seeds; its interval is that of this mean. A resample without a clean or without an attacked image is left out.

    A measure that is exactly 0 or 1 is so in every resample too, which would claim certainty. A share gets its Wilson
    interval over the images instead. So does an AUROC over k pairs of a clean and an attacked image with no image in two
    of them: each pair is in order with the AUROC as its chance, independently of the others (Hoeffding, JASA 58, 1963,
    section 5), however clean and attacked scores of one image hang together, and all k were in order (or none). That is
    wider than it need be, since the other pairs are left out; where there is no such pair, nothing is known: 0 to 1.

    Args:
        detectors: name to its scores; all have the same images.
        alphas: false-alarm rates; an image is flagged when its p-value is at most that.
        confidence: of the intervals, such as 0.95.
        resamples: bootstrap resamples, B.
        seed: of the resamples.

    Returns:
        ``<detector>.<attack>.<measure>`` to its estimate. Measures of an attack: ``auroc`` (against all clean images),
        ``auroc_correct_only`` (against those classified right), ``tpr_at_<percent>``. Measures of ``clean``:
        ``fpr_at_<percent>`` and ``fpr_at_<percent>_correct_only``.
    """
    if not detectors:
        return {}
    images = len(next(iter(detectors.values())).correct)
    point = _measures(detectors, np.ones((images, 1)), alphas)
    rng = generator(seed, "bootstrap")
    parts = [_measures(detectors, weights, alphas) for weights in resampled_weights(rng, images, resamples)] if images else []
    return {name: _estimate(value, [part[name] for part in parts], confidence) for name, value in point.items()}


def evaluate_table(table: pa.Table, params: EvaluationParams) -> dict[str, float | None]:
    """All figures of a scores table, flat.

    Args:
        table: a row per (detector, attack, image, seed), the attack ``clean`` standing for none; columns as in
            ``score_table.COLUMNS``.
        params: the ``evaluation`` section.

    Returns:
        For each measure of ``intervals`` its value, and with the endings ``_low`` and ``_high`` its interval, None where it
        is undefined; and ``<detector>.<attack>.images``, how many images it rests on (successful attacks; all clean
        images), ``<detector>.clean.images_correct_only``.

    Raises:
        WhorlError: the table contradicts itself.
    """
    detectors = read_detectors(table)
    estimates = intervals(
        detectors, alphas=params.alphas, confidence=params.confidence, resamples=params.bootstrap, seed=params.bootstrap_seed
    )
    flat: dict[str, float | None] = {}
    for name, scores in detectors.items():
        flat[f"{name}.clean.images"] = float(len(scores.correct))
        flat[f"{name}.clean.images_correct_only"] = float(scores.correct.sum())
        flat |= {f"{name}.{attack}.images": float(len(hit.images)) for attack, hit in scores.attacks.items()}
    for name, estimate in estimates.items():
        flat |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return flat


def percent(alpha: float) -> str:
    """A rate as it stands in a measure's name: 0.05 is ``5``."""
    return f"{100 * alpha:g}"


def _measures(detectors: Mapping[str, DetectorScores], weights: npt.NDArray[np.float64], alphas: Sequence[float]) -> dict[str, Tally]:
    return {
        f"{name}.{measure}": value
        for name, scores in detectors.items()
        for measure, value in tally(scores, weights, {percent(alpha): alpha for alpha in alphas}).items()
    }


def _estimate(point: Tally, parts: Sequence[Tally], confidence: float) -> Estimate:
    value = float(point.ratio()[0])
    if np.isnan(value):
        return UNDEFINED
    if value in (0.0, 1.0):
        return wilson(round(value) * point.units, point.units, confidence) if point.units else Estimate(value, 0.0, 1.0)
    values = np.concatenate([part.ratio() for part in parts])
    if np.isnan(values).all():
        return Estimate(value, None, None)
    return Estimate(value, *percentile_interval(values, confidence))
