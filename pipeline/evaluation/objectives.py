"""What a search looks for, from scores on ``tune``: thresholds come from other images than those that they are held against."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import comb

from pipeline.evaluation.metrics import auroc


@dataclass(frozen=True)
class Drawn:
    """The scores of N images of one source, each with L draws.

    Attributes:
        scores: (L, N) higher is more suspicious.
        groups: (N,) the calibration group of each image's predicted class.
        halves: (N,) bool, the half that the image is in, attacked or not.
    """

    scores: npt.NDArray[np.float64]
    groups: npt.NDArray[np.str_]
    halves: npt.NDArray[np.bool_]


def cross_fitted(images: Drawn, clean: Drawn) -> npt.NDArray[np.float64]:
    """The conformal p-values of images against the clean images of the other half, (1 + #{clean scores >= s}) / (n + 1).

    As with a guard, one draw of every clean image makes the calibration, and it stays what it is however often an image is looked
    at. Each of the draws makes one, so that no figure hangs on a single calibration.

    Args:
        images: of any source, L draws of N images.
        clean: the clean images of the same split, C draws.

    Returns:
        (C, L, N) in (0, 1], within each image's group; 1 where the other half has no clean image of it.
    """
    p = np.ones((len(clean.scores), *images.scores.shape))
    for half in (False, True):
        for group in np.unique(images.groups):
            known = (clean.halves != half) & (clean.groups == group)
            rows = np.flatnonzero((images.halves == half) & (images.groups == group))
            for calibration, reference in enumerate(np.sort(clean.scores[:, known], axis=1)):
                at_least = len(reference) - np.searchsorted(reference, images.scores[:, rows], side="left")
                p[calibration][:, rows] = (1 + at_least) / (len(reference) + 1)
    return p


def after_looks(flags: npt.NDArray[np.bool_], looks: int) -> float:
    """Detection of what an attacker sends who has looked first: E[p (1 - p)^a] / E[(1 - p)^a] over images.

    Args:
        flags: (..., L, N): L draws of N images, under any number of calibrations, which are pooled.
        looks: a.

    Returns:
        The share; 1 where no image would be sent.
    """
    caught, sent = caught_and_sent(flags, looks)
    return float(caught.sum() / sent.sum()) if sent.any() else 1.0


def caught_and_sent(flags: npt.NDArray[np.bool_], looks: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Of each image the chance that it is sent and then detected, p (1 - p)^a, and that it is sent, (1 - p)^a; see ``after_looks``.

    An image that a fresh draw flags with probability p is sent only if a looks did not flag it. Both are estimated without bias from L > a
    draws an image, c of them flagged (Hoeffding 1948: the mean over all choices of a looks and, of the first, of one more draw):
    C(L - c, a) / C(L, a) · c / (L - a), and C(L - c, a) / C(L, a).

    Args:
        flags: as there.
        looks: a.

    Returns:
        Both (N,), means over the calibrations.
    """
    draws, flagged = flags.shape[-2], flags.sum(axis=-2).reshape(-1, flags.shape[-1])
    sent = comb(draws - flagged, looks) / comb(draws, looks)
    return (sent * flagged).mean(axis=0) / (draws - looks), sent.mean(axis=0)


def detection_figures(clean: Drawn, attacked: Mapping[str, Drawn], alpha: float, looks: int) -> dict[str, float]:
    """The figures of one detector.

    Args:
        clean: of the clean images.
        attacked: attack to the scores of its successes; one without any has no figures.
        alpha: an image is flagged when its p-value is at most that.
        looks: as ``after_looks``.

    Returns:
        ``false_alarms``, and of each attack ``NAME.detected``, ``NAME.after_looks``, ``NAME.auroc``, all shares.
    """
    figures = {"false_alarms": float((cross_fitted(clean, clean) <= alpha).mean())}
    for name, images in attacked.items():
        if not images.scores.size:
            continue
        flags = cross_fitted(images, clean) <= alpha
        figures[f"{name}.detected"] = float(flags.mean())
        figures[f"{name}.after_looks"] = after_looks(flags, looks)
        areas = [auroc(negatives, positives) for negatives, positives in zip(clean.scores, images.scores, strict=True)]
        figures[f"{name}.auroc"] = float(np.mean([area or 0.0 for area in areas]))
    return figures


def mean_of(figures: Mapping[str, float], attacks: Sequence[str], measure: str) -> float:
    """The mean of a measure over some attacks, each of which counts the same."""
    return float(np.mean([figures[f"{name}.{measure}"] for name in attacks]))
