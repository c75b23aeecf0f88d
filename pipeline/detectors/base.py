"""What every detector is."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

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
