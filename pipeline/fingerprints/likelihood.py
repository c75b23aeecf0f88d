"""Statistics over the drawn fingerprints of an image; in all of them higher is more suspicious."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DrawnMoments:
    """The Gaussians of each image's drawn fingerprints, all (N, m): clean (0) and attacked (1), deviations above 0."""

    mu0: npt.NDArray[np.floating]
    sd0: npt.NDArray[np.floating]
    mu1: npt.NDArray[np.floating]
    sd1: npt.NDArray[np.floating]


def log_normal(scores: npt.NDArray[np.floating], mu: npt.NDArray[np.floating], sd: npt.NDArray[np.floating]) -> Float64:
    """The log density log N(s; mu, sd), elementwise, in float64."""
    deviations = (scores - mu.astype(np.float64)) / sd
    density: Float64 = -0.5 * np.square(deviations) - np.log(sd, dtype=np.float64) - 0.5 * np.log(2 * np.pi)
    return density


def log_likelihood_ratio(scores: npt.NDArray[np.floating], moments: DrawnMoments) -> Float64:
    """Sum over the draw of log N(s; mu1, sd1) - log N(s; mu0, sd0) (Fisher et al. 2024, section 3).

    Args:
        scores: (N, m).
        moments: of the same fingerprints.

    Returns:
        (N,) float64.
    """
    attacked, clean = log_normal(scores, moments.mu1, moments.sd1), log_normal(scores, moments.mu0, moments.sd0)
    ratio: Float64 = (attacked - clean).sum(axis=1)
    return ratio


def vote(scores: npt.NDArray[np.floating], moments: DrawnMoments) -> Float64:
    """Share of the draw that lies nearer to the attacked mean, each distance in its own deviations (Fisher et al. 2024).

    Args:
        scores: (N, m).
        moments: of the same fingerprints.

    Returns:
        (N,) float64 in [0, 1].
    """
    attacked = np.abs(scores - moments.mu1.astype(np.float64)) / moments.sd1
    clean = np.abs(scores - moments.mu0.astype(np.float64)) / moments.sd0
    # A score that is no number votes for an attack: not being nearer to clean is what counts against it.
    share: Float64 = np.where(np.isnan(scores), True, attacked < clean).mean(axis=1)
    return share


def anomaly(scores: npt.NDArray[np.floating], moments: DrawnMoments) -> Float64:
    """Sum over the draw of -log N(s; mu0, sd0): how unlikely the scores are of a clean image; asks nothing of any attack.

    Args:
        scores: (N, m).
        moments: of the same fingerprints.

    Returns:
        (N,) float64.
    """
    unlikeliness: Float64 = -log_normal(scores, moments.mu0, moments.sd0).sum(axis=1)
    return unlikeliness


StatisticName = Literal["likelihood_ratio", "vote", "anomaly"]
STATISTICS: dict[StatisticName, Callable[[npt.NDArray[np.floating], DrawnMoments], Float64]] = {
    "likelihood_ratio": log_likelihood_ratio,
    "vote": vote,
    "anomaly": anomaly,
}
