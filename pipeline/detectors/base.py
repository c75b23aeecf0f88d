"""What every detector is."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.errors import WhorlError
from pipeline.fingerprints.bank import Bank
from pipeline.fingerprints.draws import Draws


class Detector(Protocol):
    """Turns what the classifier did with an image into one number."""

    def scores(self, neurons: npt.NDArray[np.float32], predicted: npt.NDArray[np.int64], draws: Draws) -> npt.NDArray[np.float64]:
        """How suspicious each image is: higher is more.

        An image's score depends on that image and its own draws alone, never on what else is in the batch. A score that is
        no number (from activations that are none) counts as more suspicious than any.

        Args:
            neurons: (N, D) activations.
            predicted: (N,) predicted classes.
            draws: the randomness for these N images; one that is not random ignores it.

        Returns:
            (N,) float64.

        Raises:
            WhorlError: the neurons or classes are not those that the detector was fitted for.
        """
        ...


def check_inputs(bank: Bank, neurons: npt.NDArray[np.float32], predicted: npt.NDArray[np.int64]) -> None:
    """Raises WhorlError unless there are as many neurons as the bank's layout has, and only classes that it knows."""
    if neurons.shape != (len(predicted), bank.layout.size):
        raise WhorlError(
            f"The detector was given neurons of shape {neurons.shape} for {len(predicted)} predictions, "
            f"where ({len(predicted)}, {bank.layout.size}) was expected."
        )
    classes = len(bank.class_group)
    if len(predicted) and not 0 <= predicted.min() <= predicted.max() < classes:
        raise WhorlError(
            f"The detector was given predictions from {predicted.min()} to {predicted.max()}, where 0 to {classes - 1} was expected."
        )
