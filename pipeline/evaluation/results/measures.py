"""The two figures of a run that its metrics do not hold: means over attacks, and the group with most false alarms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluation.bootstrap import percentile_interval, resampled_weights, tally
from pipeline.evaluation.metrics import evaluate_table, percent
from pipeline.evaluation.score_table import CLEAN, DetectorScores, read_detectors
from pipeline.evaluation.verdict import Rate, rate
from pipeline.params.evaluation import EvaluationParams
from pipeline.random import generator

MEAN = "mean"
"""What the mean over attacks is called beside them."""
Floats = npt.NDArray[np.float64]


def mean_over_attacks(scores: pa.Table, params: EvaluationParams) -> dict[str, float | None]:
    """Each measure's mean over the attacks, with the same resamples of images as every other interval.

    Args:
        scores: a row per (detector, attack, image, seed).
        params: the ``evaluation`` section.

    Returns:
        ``<detector>.mean.<measure>``, with ``_low`` and ``_high``; the measures of an attack as in ``metrics.intervals``. An attack
        that never succeeded is left out; a detector without any other has no entry. Where the mean is exactly 0 or 1 there is
        no interval: resampling would claim certainty.
    """
    detectors, alphas = read_detectors(scores), {percent(alpha): alpha for alpha in params.alphas}
    images = len(next(iter(detectors.values())).correct) if detectors else 0
    rng = generator(params.bootstrap_seed, "bootstrap")
    known = {name: [attack for attack, hit in each.attacks.items() if len(hit.images)] for name, each in detectors.items()}
    point = _means(detectors, known, np.ones((images, 1)), alphas)
    parts = [_means(detectors, known, weights, alphas) for weights in resampled_weights(rng, images, params.bootstrap)] if point else []
    flat: dict[str, float | None] = {}
    for name, (value,) in point.items():
        certain = value in (0.0, 1.0)
        low, high = (None, None) if certain else percentile_interval(np.concatenate([part[name] for part in parts]), params.confidence)
        flat |= {name: float(value), f"{name}_low": low, f"{name}_high": high}
    return flat


def _means(
    detectors: Mapping[str, DetectorScores], known: Mapping[str, Sequence[str]], weights: Floats, alphas: Mapping[str, float]
) -> dict[str, Floats]:
    measures = ["auroc", "auroc_correct_only", *(f"tpr_at_{name}" for name in alphas)]
    found = {}
    for name, each in detectors.items():
        values = tally(each, weights, alphas) if known[name] else {}
        for measure in measures if values else []:
            found[f"{name}.{MEAN}.{measure}"] = np.mean([values[f"{attack}.{measure}"].ratio() for attack in known[name]], axis=0)
    return found


@dataclass(frozen=True)
class Largest:
    """The calibration group of which most clean images are flagged: its name, how many groups there are, its images, the share."""

    group: str
    groups: int
    images: int
    rate: Rate | None


def largest_group(scores: pa.Table, detector: str, alpha: float, params: EvaluationParams) -> Largest | None:
    """The group with the largest share of false alarms, of equals the first by name; None where there is no clean image."""
    clean = scores.filter(pc.and_(pc.equal(scores["detector"], detector), pc.equal(scores["attack"], CLEAN)))
    flagged, group = clean["p_value"].to_numpy() <= alpha, clean["group"].to_numpy(zero_copy_only=False)
    names = sorted(set(group.tolist()))
    if not names:
        return None
    most = max(names, key=lambda name: float(flagged[group == name].mean()))
    found = evaluate_table(clean.filter(pc.equal(clean["group"], most)), params.model_copy(update={"alphas": (alpha,)}))
    images = found[f"{detector}.clean.images"] or 0.0
    return Largest(most, len(names), int(images), rate(found, f"{detector}.clean.fpr_at_{percent(alpha)}"))
