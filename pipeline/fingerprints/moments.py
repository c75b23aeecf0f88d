"""Streaming means and variances that merge over batches, shards and workers."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass
class Moments:
    """Count, mean and sum of squared deviations of F scores over the images seen so far.

    Merging is exact up to rounding (Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance",
    The American Statistician 37(3), 1983); who merges in a fixed order gets the same bits however the work was shared out.

    Attributes:
        count: images seen, the same for all F.
        mean: (F,) float64.
        m2: (F,) float64, sum of squared deviations from the mean.
    """

    count: int
    mean: npt.NDArray[np.float64]
    m2: npt.NDArray[np.float64]

    @classmethod
    def empty(cls, size: int) -> "Moments":
        """The moments of no images, for F = size scores."""
        return cls(0, np.zeros(size), np.zeros(size))

    @classmethod
    def of(cls, scores: npt.NDArray[np.floating]) -> "Moments":
        """The moments of one batch of scores, (N, F)."""
        if not len(scores):
            return cls.empty(scores.shape[1])
        mean = scores.mean(axis=0, dtype=np.float64)
        return cls(len(scores), mean, np.square(scores - mean).sum(axis=0))

    def update(self, scores: npt.NDArray[np.floating]) -> None:
        """Adds a batch of scores, (N, F), to what has been seen, in place."""
        merged = merge(self, Moments.of(scores))
        self.count, self.mean, self.m2 = merged.count, merged.mean, merged.m2

    def some(self, which: npt.NDArray[np.intp]) -> "Moments":
        """The moments of some of the F scores."""
        return Moments(self.count, self.mean[which], self.m2[which])

    def std(self, ddof: int = 1) -> npt.NDArray[np.float64]:
        """Standard deviations, (F,); NaN where no more than ``ddof`` images were seen."""
        if self.count <= ddof:
            return np.full(self.mean.shape, np.nan)
        return np.sqrt(self.m2 / (self.count - ddof))


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of the images of both; neither is changed."""
    count = a.count + b.count
    if not count:
        return Moments.empty(len(a.mean))
    delta = b.mean - a.mean
    share = b.count / count
    return Moments(count, a.mean + delta * share, a.m2 + b.m2 + np.square(delta) * (a.count * share))
