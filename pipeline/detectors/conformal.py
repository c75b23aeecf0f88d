"""Split conformal calibration: p-values whose false-alarm rate holds whatever the distribution of the scores."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ArtifactError, WhorlError
from pipeline.fingerprints.features import POOLED, group_name


def group_classes(fit_predicted: npt.NDArray[np.int64], classes: int, calibration_images: int, alpha: float) -> dict[int, str]:
    """Which calibration group each predicted class belongs to; decided from ``fit``, before any calibration score exists.

    A class has a group of its own where at least 4 / alpha calibration images are expected to be predicted as it, its
    share of the fit predictions times ``calibration_images``; the others are pooled. While the pooled group itself is
    expected to have fewer and another group is left, the smallest of those joins it.

    Args:
        fit_predicted: (n,) classes predicted for all clean images of ``fit``, misclassified ones included.
        classes: the number of classes, K.
        calibration_images: how many images ``calibrate`` has.
        alpha: the promised false-alarm rate.

    Returns:
        Each class from 0 to K - 1, with its group: its own number, or ``pooled``.

    Raises:
        WhorlError: ``fit`` has no images, or predictions outside of the classes; or ``calibrate`` has fewer than
            1 / alpha - 1 images, where even the smallest p-value, 1 / (n + 1), is above alpha: nothing could ever be flagged,
            and the promise would hold for want of any alarm.
    """
    # Rounded, since the reciprocal of a rate such as 1/49 may come out a trace above the whole number.
    if calibration_images < (least_images := math.ceil(round(1 / alpha, 9)) - 1):
        raise WhorlError(
            f"The calibrate split has {calibration_images} images, where at least {least_images} were expected: "
            f"with fewer no image can ever be flagged at calibration.alpha, {alpha:g}."
        )
    if not len(fit_predicted) or not 0 <= fit_predicted.min() <= fit_predicted.max() < classes:
        raise WhorlError(
            f"The fit split has {len(fit_predicted)} predictions, of {np.unique(fit_predicted).tolist()[:20]}, "
            f"where some, from 0 to {classes - 1}, were expected."
        )
    expected = np.bincount(fit_predicted, minlength=classes) / len(fit_predicted) * calibration_images
    least = 4 / alpha
    pooled = set(np.flatnonzero(expected < least).tolist())
    for label in np.argsort(expected, kind="stable").tolist():
        if not pooled or expected[list(pooled)].sum() >= least:
            break
        pooled.add(label)
    return {label: POOLED if label in pooled else group_name(label) for label in range(classes)}


@dataclass(frozen=True)
class Calibration:
    """The clean scores that p-values are taken from; one detector's, since scores of two detectors do not compare.

    Attributes:
        groups: group to its calibration scores, float64, rising.
        class_group: predicted class to its group.
    """

    groups: dict[str, npt.NDArray[np.float64]]
    class_group: dict[int, str]

    @classmethod
    def fit(cls, scores: npt.NDArray[np.float64], predicted: npt.NDArray[np.int64], class_group: Mapping[int, str]) -> "Calibration":
        """Sorts calibration scores into groups.

        Args:
            scores: (n,) scores of all clean ``calibrate`` images, misclassified ones included, and of nothing else.
            predicted: (n,) their predicted classes.
            class_group: predicted class to its group, as ``group_classes`` gives it.

        Raises:
            WhorlError: a score is no number, or a class has no group.
        """
        if np.isnan(scores).any():
            raise WhorlError(f"{int(np.isnan(scores).sum())} of {len(scores)} calibration scores are no numbers, where none was expected.")
        groups = _groups_of(predicted, class_group)
        names = dict.fromkeys(class_group.values())
        return cls({name: np.sort(scores[groups == name]).astype(np.float64) for name in names}, dict(class_group))

    def p_values(
        self, scores: npt.NDArray[np.float64], predicted: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.str_]]:
        """The p-values (1 + #{calibration scores >= s}) / (n + 1) within each image's group (Vovk et al. 2005, ch. 4).

        For a fresh clean image of the group the chance that p <= alpha is at most alpha, over calibration set and image; ties
        count towards a higher p. A score that is no number gets the smallest p there is.

        Args:
            scores: (N,) higher is more suspicious.
            predicted: (N,) predicted classes.

        Returns:
            p: (N,) float64 in (0, 1], and the images' groups, (N,) strings. A group without calibration images gives p = 1.

        Raises:
            WhorlError: a class has no group.
        """
        groups = _groups_of(predicted, self.class_group)
        p = np.empty(len(scores))
        for name in np.unique(groups):
            rows, calibration = groups == name, self.groups[name]
            # Where s is NaN the position is beyond all, as for an infinite score.
            at_least = len(calibration) - np.searchsorted(calibration, scores[rows], side="left")
            p[rows] = (1 + at_least) / (len(calibration) + 1)
        return p, groups

    def counts(self) -> dict[str, int]:
        """Group to the number of its calibration images."""
        return {name: len(scores) for name, scores in self.groups.items()}

    def to_arrays(self) -> tuple[dict[str, npt.NDArray[np.generic]], dict[str, Any]]:
        """The calibration as named arrays and plain values (which JSON holds), for storage."""
        starts = np.cumsum([0, *map(len, self.groups.values())], dtype=np.int64)
        plain = {"groups": list(self.groups), "class_group": {str(label): name for label, name in self.class_group.items()}}
        return {"scores": np.concatenate(list(self.groups.values())), "starts": starts}, plain

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], plain: Mapping[str, Any]) -> "Calibration":
        """The calibration that ``to_arrays`` described.

        Raises:
            ArtifactError: the arrays contradict each other, or the scores of a group do not rise.
        """
        names, starts, scores = plain["groups"], arrays["starts"], arrays["scores"]
        class_group = {int(label): name for label, name in plain["class_group"].items()}
        if len(starts) != len(names) + 1 or starts[-1] != len(scores) or not set(class_group.values()) <= set(names):
            raise ArtifactError(f"The calibration has {len(scores)} scores and the groups {names}, which do not fit together.")
        groups = {name: scores[start:stop] for name, start, stop in zip(names, starts, starts[1:], strict=False)}
        if unsorted := [name for name, group in groups.items() if not (np.diff(group) >= 0).all()]:
            raise ArtifactError(f"The calibration scores of the groups {unsorted} do not rise, where sorted ones were expected.")
        return cls(groups, class_group)


def _groups_of(predicted: npt.NDArray[np.int64], class_group: Mapping[int, str]) -> npt.NDArray[np.str_]:
    """Each image's group, (N,)."""
    labels, positions = np.unique(predicted, return_inverse=True)
    if unknown := [label for label in labels.tolist() if label not in class_group]:
        raise WhorlError(
            f"Images are predicted as {unknown}, which have no calibration group, where one of {sorted(class_group)} was expected."
        )
    names = np.array([class_group[label] for label in labels.tolist()], dtype=np.str_)
    return names[positions]
