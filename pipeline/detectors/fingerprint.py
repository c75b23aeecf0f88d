"""The fingerprint detector: a few fingerprints of the predicted class's bank, drawn afresh for each image."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.detectors.base import check_inputs
from pipeline.fingerprints.bank import Bank, Fingerprints
from pipeline.fingerprints.draws import Draws, draw
from pipeline.fingerprints.likelihood import STATISTICS, DrawnMoments, StatisticName
from pipeline.fingerprints.scores import drawn_scores, fingerprint_scores


@dataclass(frozen=True)
class FingerprintDetector:
    """A statistic over a random draw from the bank (Fisher et al. 2024, section 3).

    Attributes:
        bank: the fingerprints of every class.
        statistic: what is computed over the draw.
        draw: fingerprints drawn for an image, m; of a bank that holds fewer, all are used.
    """

    bank: Bank
    statistic: StatisticName
    draw: int

    def scores(self, neurons: npt.NDArray[np.float32], predicted: npt.NDArray[np.int64], draws: Draws) -> npt.NDArray[np.float64]:
        """How suspicious each image is, (N,) float64: higher is more; see ``Detector.scores``.

        Raises:
            WhorlError: the neurons are not as many as the bank's layout has, or a class is not among the bank's.
        """
        check_inputs(self.bank, neurons, predicted)
        groups, scores = self.bank.class_group[predicted], np.empty(len(neurons))
        all_used = (self.bank.sizes <= self.draw)[groups]
        for group in np.unique(groups[all_used]):
            rows = np.flatnonzero(groups == group)
            scores[rows] = self._of_all(neurons[rows], self.bank.fingerprints.rows(*self.bank.starts[group : group + 2].tolist()))
        if len(rows := np.flatnonzero(~all_used)):
            drawn = draw(_Rows(draws, rows), self.bank.sizes[groups[rows]], self.draw) + self.bank.starts[groups[rows], None]
            scores[rows] = self._of_drawn(neurons[rows] if len(rows) < len(neurons) else neurons, drawn)
        return scores

    def _of_drawn(self, neurons: npt.NDArray[np.float32], which: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The statistic over fingerprints given by their rows in the bank, (N, m)."""
        prints = self.bank.fingerprints
        moments = DrawnMoments(prints.mu0[which], prints.sd0[which], prints.mu1[which], prints.sd1[which])
        return STATISTICS[self.statistic](drawn_scores(neurons, prints.indices[which]), moments)

    def _of_all(self, neurons: npt.NDArray[np.float32], prints: Fingerprints) -> npt.NDArray[np.float64]:
        """The statistic over all of a group's fingerprints, where there is nothing to draw."""
        moments = DrawnMoments(prints.mu0[None], prints.sd0[None], prints.mu1[None], prints.sd1[None])
        return STATISTICS[self.statistic](np.ascontiguousarray(fingerprint_scores(neurons, prints.indices)), moments)


@dataclass(frozen=True)
class _Rows:
    """Some rows of another source of draws."""

    draws: Draws
    rows: npt.NDArray[np.intp]

    def uniform(self, name: str, shape: tuple[int, ...] = ()) -> npt.NDArray[np.floating]:
        return self.draws.uniform(name, shape)[self.rows]
