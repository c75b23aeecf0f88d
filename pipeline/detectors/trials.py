"""One design built from features and looked at with many draws: what a trial of a search computes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.detectors.base import Detector
from pipeline.detectors.building import Stream, build_bank, factor_group
from pipeline.detectors.committee import CommitteeDetector
from pipeline.detectors.design import Design
from pipeline.fingerprints.committees import Committees
from pipeline.fingerprints.features import Features, Layout
from pipeline.fingerprints.joint import PooledMoments


def build_committees(
    stream: Stream, layout: Layout, classes: int, design: Design, moments: Mapping[str, PooledMoments]
) -> CommitteeDetector:
    """The committee detector of a design; ``moments`` of every source rest on no choice, so a search gathers them once.

    Raises:
        WhorlError: the features are too few for this design.
    """
    bank, attacks = build_bank(stream, layout, classes, design.fingerprints, design.selection), design.fingerprints.fit_attacks
    groups = [factor_group(bank, name, design.detector, moments, attacks) for name in bank.names]
    return CommitteeDetector(bank, Committees.join(groups, bank.starts, attacks))


@dataclass(frozen=True)
class Replayed:
    """Draws made beforehand, one an image: all trials of a search meet the same, so that what differs is the design.

    Attributes:
        values: (N,) in [0, 1).
    """

    values: npt.NDArray[np.float32]

    def uniform(self, name: str, shape: tuple[int, ...] = ()) -> npt.NDArray[np.float32]:
        """The draws; raises ValueError where more than one an image is asked for."""
        if shape:
            raise ValueError(f"{name} needs draws of shape {shape}, where one an image was made")
        return self.values


def scores_of_draws(detector: Detector, images: Features, draws: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The scores of N images with each of L draws, (L, N).

    Args:
        detector: one that draws a single number an image.
        images: N of them.
        draws: (N, L) in [0, 1).
    """
    return np.stack([detector.scores(images.neurons, images.predicted, Replayed(column)) for column in draws.T])
