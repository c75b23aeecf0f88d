"""From the features of ``fit`` to a detector, in memory: for searches, for the game and for banks of one's own.

The stages of the chain take the same steps, shard by shard.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.detectors.base import Detector
from pipeline.detectors.committee import CommitteeDetector
from pipeline.detectors.conformal import Calibration, group_classes
from pipeline.detectors.fingerprint import FingerprintDetector
from pipeline.errors import WhorlError
from pipeline.fingerprints.assembly import assemble
from pipeline.fingerprints.bank import Bank
from pipeline.fingerprints.candidates import block_moments, concatenate
from pipeline.fingerprints.committees import Committees, Factored, factor
from pipeline.fingerprints.draws import Draws
from pipeline.fingerprints.features import CLEAN, POOLED, Features, Layout, group_name
from pipeline.fingerprints.joint import PooledMoments
from pipeline.fingerprints.sampling import distinct, sample_block
from pipeline.fingerprints.selection import Selected, select
from pipeline.params.detectors import CommitteeDetectorParams, DetectorParams, FingerprintDetectorParams
from pipeline.params.fingerprints import FingerprintParams, SelectionParams
from pipeline.random import generator

Stream = Callable[[Sequence[str]], Iterable[tuple[str, Features]]]
"""Sources (``clean`` and attacks) to the batches of their ``fit`` features, each with its source, in a fixed order."""


def group_class(name: str) -> int | None:
    """The class of a group, None for the pooled one: the inverse of ``group_name``."""
    return None if name == POOLED else int(name)


def build_bank(stream: Stream, layout: Layout, classes: int, fingerprints: FingerprintParams, selection: SelectionParams) -> Bank:
    """Samples candidates for every class, fits them and selects, as the stages do.

    Raises:
        WhorlError: there are too few images overall (see ``assemble``).
    """
    selected: dict[str, Selected] = {}
    for label in (*range(classes), None):
        selected[group_name(label)] = _select_group(stream, layout, label, fingerprints, selection)
    return assemble(selected, layout, classes, selection)


def _select_group(
    stream: Stream, layout: Layout, label: int | None, fingerprints: FingerprintParams, selection: SelectionParams
) -> Selected:
    name, attacks, blocks = group_name(label), list(fingerprints.fit_attacks), []
    for number, start in enumerate(range(0, fingerprints.candidates, fingerprints.block)):
        indices, layer = sample_block(fingerprints, layout, label, number, min(fingerprints.block, fingerprints.candidates - start))
        blocks.append(block_moments(indices, layer, stream([CLEAN, *attacks]), group_class=label, attacks=attacks))
    return select(concatenate(blocks), attacks, selection, generator(fingerprints.seed, "selection", name))


def pooled_moments(stream: Stream, source: str, classes: int, size: int) -> PooledMoments:
    """The moments of one source's neurons."""
    moments = PooledMoments.empty(classes, size)
    for name, features in stream([source]):
        moments.add(name, features)
    return moments


def factor_group(
    bank: Bank, group: str, params: CommitteeDetectorParams, clean: PooledMoments, attacked: Mapping[str, PooledMoments]
) -> tuple[npt.NDArray[np.int64], Factored]:
    """Draws and factors the committees of one group of a bank.

    Returns:
        members, (T, m) rows in the group's fingerprints, and their log-ratios.

    Raises:
        WhorlError: no clean image, or no successful attack, is known of the group.
    """
    prints, label = bank.groups[group], group_class(group)
    members = distinct(
        generator(params.seed, "committees", group).random((params.committees, params.draw)), np.full(params.committees, len(prints))
    )
    of_clean, *of_attacked = (moments.committees(prints.indices, members, label) for moments in (clean, *attacked.values()))
    if of_clean is None or not any(of_attacked):
        raise WhorlError(f"Group {group} has no clean image or no successful attack of {list(attacked)}, where some of both were expected.")
    return members, factor(of_clean, of_attacked, directions=params.directions, shrinkage=params.shrinkage, pooling=params.pooling)


def build_detector(stream: Stream, bank: Bank, params: DetectorParams, attacks: Sequence[str]) -> Detector:
    """The detector of a bank; one that needs more than the bank fits it on the features of ``fit``."""
    if isinstance(params, FingerprintDetectorParams):
        return FingerprintDetector(bank, params.statistic, params.draw)
    classes, size = len(bank.class_group), bank.layout.size
    clean, *attacked = (pooled_moments(stream, source, classes, size) for source in (CLEAN, *attacks))
    by_name = dict(zip(attacks, attacked, strict=True))
    groups = [factor_group(bank, name, params, clean, by_name) for name in bank.names]
    return CommitteeDetector(bank, Committees.join(groups, bank.starts, attacks))


def calibrate(
    detector: Detector, clean: Features, fit_predicted: npt.NDArray[np.int64], classes: int, alpha: float, draws: Draws
) -> Calibration:
    """Calibrates a detector.

    Args:
        detector: fitted; no choice about it is made after this.
        clean: all clean images of ``calibrate``.
        fit_predicted: classes predicted for all clean images of ``fit``, which decide the groups.
        classes: K.
        alpha: the promised false-alarm rate.
        draws: the randomness of the calibration images.
    """
    groups = group_classes(fit_predicted, classes, len(clean), alpha)
    return Calibration.fit(detector.scores(clean.neurons, clean.predicted, draws), clean.predicted, groups)
