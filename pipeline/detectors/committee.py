"""The committee detector: a joint likelihood ratio over fingerprints of the predicted class's bank, which committee drawn afresh."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from pipeline.detectors.base import check_inputs
from pipeline.fingerprints.bank import Bank
from pipeline.fingerprints.committees import Committees, CommitteeScores
from pipeline.fingerprints.draws import Draws

ROWS = 1024
"""Images scored at a time: bounds the memory."""


@dataclass(frozen=True)
class CommitteeDetector:
    """The joint log-ratio of one of thousands of committees (see ``pipeline.fingerprints.committees``).

    Attributes:
        bank: the fingerprints of every class.
        committees: drawn from it, group by group in the bank's order.
    """

    bank: Bank
    committees: Committees

    @cached_property
    def module(self) -> CommitteeScores:
        """What computes the scores: for whoever wants gradients, or a GPU."""
        return CommitteeScores(self.committees, self.bank.fingerprints.indices)

    def choose(self, predicted: npt.NDArray[np.int64], draws: Draws) -> npt.NDArray[np.int64]:
        """The committee that each image meets, (N,): uniform among those of its predicted class's group."""
        groups = self.bank.class_group[predicted]
        drawn = draws.uniform("committee").astype(np.float64) * self.committees.sizes[groups]
        return drawn.astype(np.int64) + self.committees.starts[groups]

    def scores(self, neurons: npt.NDArray[np.float32], predicted: npt.NDArray[np.int64], draws: Draws) -> npt.NDArray[np.float64]:
        """How suspicious each image is, (N,) float64: higher is more; see ``Detector.scores``.

        Raises:
            WhorlError: the neurons are not as many as the bank's layout has, or a class is not among the bank's.
        """
        check_inputs(self.bank, neurons, predicted)
        which, scores = self.choose(predicted, draws), np.empty(len(neurons))
        with torch.inference_mode():
            for start in range(0, len(neurons), ROWS):
                rows = slice(start, start + ROWS)
                scores[rows] = self.module(torch.from_numpy(neurons[rows]), torch.from_numpy(which[rows])).numpy()
        return scores
