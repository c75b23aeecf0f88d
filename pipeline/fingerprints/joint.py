"""Means and covariances of the kept neurons, class by class: what a joint test over several fingerprints is fitted from.

A fingerprint's score is linear in the neurons, so the mean and the covariance of the scores of any fingerprints drawn together
are A mu and A Sigma A^T, where A has a row a fingerprint with 1/k at its neurons. One pass over the images gives those of every
draw that will ever be made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import WhorlError
from pipeline.fingerprints.candidates import group_rows
from pipeline.fingerprints.features import Features
from pipeline.fingerprints.scores import bag_means, fingerprint_scores, table_of

Floats = npt.NDArray[np.float64]

LENT = 5
"""Images' worth of what all classes have in common, in what is said of each: an attack's mean, the mean and the share of mistakes."""
WHOLE = 4000
"""Fingerprints whose covariance is made as a whole (122 MiB), which then is the faster way."""


@dataclass(frozen=True)
class ScoreMoments:
    """The mean (F,) and the covariance (F, F) of F fingerprints' scores, float64; or of C committees of them, with a leading C."""

    mean: Floats
    covariance: Floats

    def of(self, members: npt.NDArray[np.int64]) -> "ScoreMoments":
        """Those of C committees, (C, m) and (C, m, m), given by their rows, (C, m)."""
        return ScoreMoments(self.mean[members], self.covariance[members[:, :, None], members[:, None, :]])


@dataclass
class PooledMoments:
    """Count and mean of every predicted class, and the scatter around them, of one source of images: clean, mistaken, or an attack.

    The scatter is shared by the classes: a class has some hundred images, the neurons are thousands, and covariances differ
    less between classes than they are misjudged from so few images (Friedman, JASA 84, 1989: regularised discriminant
    analysis with full sharing). Merging is exact up to rounding; who adds in a fixed order gets the same bits.

    Attributes:
        counts: (K,) int64, images of each class.
        means: (K, D) float64, zero where a class has no image.
        scatter: (D, D) float64, sum over all images of the outer product of the deviation from their class's mean.
    """

    counts: npt.NDArray[np.int64]
    means: npt.NDArray[np.float64]
    scatter: npt.NDArray[np.float64]

    def freedom(self, label: int | None) -> int:
        """Degrees of freedom of the covariance: of that within classes, or, of all classes together (None), of the mixture's."""
        return int((self.counts - 1).clip(0).sum() if label is not None else max(self.counts.sum() - 1, 0))

    def mean(self, label: int | None) -> Floats:
        """The mean (D,) of a class, or of all images; of classes without any it means nothing."""
        mean: Floats = self.means[label] if label is not None else self.counts @ self.means / max(self.counts.sum(), 1)
        return mean

    @classmethod
    def empty(cls, classes: int, size: int) -> "PooledMoments":
        """The moments of no images, for K = ``classes`` and D = ``size`` neurons."""
        return cls(np.zeros(classes, np.int64), np.zeros((classes, size)), np.zeros((size, size)))

    def add(self, source: str, features: Features) -> None:
        """Adds those of a batch that count for its source (see ``group_rows``), in place.

        Raises:
            WhorlError: an activation is not finite.
        """
        rows = group_rows(source, features, None)
        for label in np.unique(features.predicted[rows]):
            self._add_class(int(label), features.neurons[rows & (features.predicted == label)].astype(np.float64))
        if not np.isfinite(self.means).all():
            raise WhorlError(f"An activation of the {source} images is not finite, where only finite numbers were expected.")

    def _add_class(self, label: int, neurons: npt.NDArray[np.float64]) -> None:
        """Chan, Golub and LeVeque (1983), for several variables at once."""
        here, there = int(self.counts[label]), len(neurons)
        mean = neurons.mean(axis=0)
        deviations, between = neurons - mean, mean - self.means[label]
        self.scatter += deviations.T @ deviations
        self.scatter += np.outer(between * (here * there / (here + there)), between)
        self.means[label] += between * (there / (here + there))
        self.counts[label] = here + there

    def scores(self, indices: npt.NDArray[np.int32], label: int | None) -> ScoreMoments | None:
        """The moments of fingerprints' scores on the images of one class, or of all (None); None where too few images are known.

        Args:
            indices: (F, k) columns of the neurons.
            label: the predicted class. Its mean is its own, its covariance that within all classes. Of all classes together
                both are those of the mixture, so the classes' distance is part of the covariance.
        """
        if (found := self._of_neurons(label)) is None:
            return None
        halfway = fingerprint_scores(found.covariance, indices)
        return ScoreMoments(
            fingerprint_scores(found.mean[None], indices)[0],
            fingerprint_scores(np.ascontiguousarray(halfway.T), indices).astype(np.float64),
        )

    def committees(self, indices: npt.NDArray[np.int32], members: npt.NDArray[np.int64], label: int | None) -> ScoreMoments | None:
        """Those of C committees of the fingerprints, bit for bit what ``scores`` and ``of`` give.

        Of a large bank only what a committee has in common is computed, a megabyte at a time: the whole (F, F) of ten thousand
        fingerprints is most of a gigabyte, of which 200 committees of 60 look at a hundredth.

        Args:
            indices: (F, k) columns of the neurons.
            members: (C, m) rows of ``indices``.
            label: as of ``scores``.
        """
        if len(indices) <= WHOLE:
            return (together := self.scores(indices, label)) and together.of(members)
        if (found := self._of_neurons(label)) is None:
            return None
        count, m = members.shape
        table, covariance = table_of(found.covariance), np.empty((count, m, m))
        for committee, rows in zip(covariance, members, strict=True):
            halfway = bag_means(table, indices[rows])
            committee[:] = bag_means(table_of(halfway), indices[rows]).T
        return ScoreMoments(fingerprint_scores(found.mean[None], indices)[0][members], covariance)

    def _of_neurons(self, label: int | None) -> ScoreMoments | None:
        """The mean (D,) and the covariance (D, D) of the neurons; None where too few images are known."""
        freedom, covariance, mean = self.freedom(label), self.scatter, self.mean(label)
        if not freedom or (label is not None and not self.counts[label]):
            return None
        if label is None:
            apart = self.means - mean
            covariance = covariance + (apart.T * self.counts) @ apart
        return ScoreMoments(mean, covariance / freedom)

    def leaning(self, clean: "PooledMoments") -> "PooledMoments":
        """An attack's moments with every class's mean drawn towards the class's clean mean plus the attack's mean shift over all classes.

        As if ``LENT`` further images had said so: a class that one success reached would else have its mixture's component
        centred on that one image (shrinkage towards a common effect, as of James and Stein 1961). Of a class that none reached
        the mean is what is common alone. Likewise for mistakes.
        """
        there = clean.counts > 0
        known = there & (self.counts > 0)
        shift = self.counts[known] @ (self.means[known] - clean.means[known]) / max(self.counts[known].sum(), 1)
        means, weight = self.means.copy(), self.counts[there, None] / (self.counts[there, None] + LENT)
        means[there] = weight * self.means[there] + (1 - weight) * (clean.means[there] + shift)
        return PooledMoments(self.counts, means, self.scatter)

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """As named arrays, for storage."""
        return {"counts": self.counts, "means": self.means, "scatter": self.scatter}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "PooledMoments":
        """The moments that ``to_arrays`` described."""
        return cls(arrays["counts"], arrays["means"], arrays["scatter"])
