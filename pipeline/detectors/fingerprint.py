"""The fingerprint detector: a few fingerprints of the predicted class's bank, drawn afresh for each image."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.detectors.base import check_inputs
from pipeline.fingerprints.bank import Bank
from pipeline.fingerprints.draws import Draws, draw
from pipeline.fingerprints.likelihood import STATISTICS, DrawnMoments, StatisticName
from pipeline.fingerprints.scores import drawn_scores


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
        groups = self.bank.class_group[predicted]
        sizes, starts = self.bank.sizes[groups], self.bank.starts[groups]
        scores = np.empty(len(neurons))
        drawn = np.minimum(sizes, self.draw)
        for m in np.unique(drawn):
            rows = np.flatnonzero(drawn == m)
            which = draw(_Rows(draws, rows), sizes[rows], int(m)) + starts[rows, None]
            scores[rows] = self._statistic(neurons[rows] if len(rows) < len(neurons) else neurons, which)
        return scores

    def _statistic(self, neurons: npt.NDArray[np.float32], which: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The statistic over fingerprints given by their rows in the bank, (N, m)."""
        prints = self.bank.fingerprints
        moments = DrawnMoments(prints.mu0[which], prints.sd0[which], prints.mu1[which], prints.sd1[which])
        return STATISTICS[self.statistic](drawn_scores(neurons, prints.indices[which]), moments)


@dataclass(frozen=True)
class _Rows:
    """Some rows of another source of draws."""

    draws: Draws
    rows: npt.NDArray[np.intp]

    def uniform(self, name: str, shape: tuple[int, ...] = ()) -> npt.NDArray[np.floating]:
        return self.draws.uniform(name, shape)[self.rows]
