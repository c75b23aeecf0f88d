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
from pipeline.fingerprints.candidates import CandidateBlock, block_moments, concatenate
from pipeline.fingerprints.committees import Committees, Factored, factor
from pipeline.fingerprints.draws import Draws
from pipeline.fingerprints.features import CLEAN, POOLED, Features, Layout, group_name
from pipeline.fingerprints.joint import PooledMoments
from pipeline.fingerprints.sampling import distinct, distinct_by_layer, sample_block
from pipeline.fingerprints.selection import select
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
    attacks = list(fingerprints.fit_attacks)

    def candidates(group: str) -> CandidateBlock:
        label, blocks = group_class(group), []
        for number, start in enumerate(range(0, fingerprints.candidates, fingerprints.block)):
            indices, layer = sample_block(fingerprints, layout, label, number, min(fingerprints.block, fingerprints.candidates - start))
            blocks.append(block_moments(indices, layer, stream([CLEAN, *attacks]), group_class=label, attacks=attacks))
        return concatenate(blocks)

    return select_bank(candidates, layout, classes, attacks, selection, fingerprints.seed)


def select_bank(
    read: Callable[[str], CandidateBlock], layout: Layout, classes: int, attacks: Sequence[str], selection: SelectionParams, seed: int
) -> Bank:
    """The bank that some of the attacks select from candidates whose moments are known already.

    Args:
        read: group to its candidates; of the attacks it knows, only those named are looked at.
        layout: which columns belong to which layer.
        classes: K.
        attacks: those of the fit.
        selection: the ``selection`` section.
        seed: of the fingerprints.

    Raises:
        WhorlError: there are too few images overall (see ``assemble``).
    """
    names = [group_name(label) for label in (*range(classes), None)]
    # In the order in which the stage merges them: another one rounds differently.
    selected = {name: select(read(name), sorted(attacks), selection, generator(seed, "selection", name)) for name in names}
    return assemble(selected, layout, classes, selection)


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
    uniform = generator(params.seed, "committees", group).random((params.committees, params.draw))
    if (weights := params.layer_weights) is None:
        members = distinct(uniform, np.full(params.committees, len(prints)))
    else:
        members = distinct_by_layer(uniform, prints.layer, np.array([weights.get(layer, 0.0) for layer in bank.layout.layers]))
    if label is not None:
        attacked = {name: moments.leaning(clean) for name, moments in attacked.items()}
    of_clean, *of_attacked = (moments.committees(prints.indices, members, label) for moments in (clean, *attacked.values()))
    if of_clean is None or not any(of_attacked):
        raise WhorlError(f"Group {group} has no clean image or no successful attack of {list(attacked)}, where some of both were expected.")
    return members, factor(of_clean, of_attacked, directions=params.directions, shrinkage=params.shrinkage, pooling=params.pooling)


def fit_detector(bank: Bank, params: DetectorParams, moments: Callable[[str], PooledMoments], attacks: Sequence[str]) -> Detector:
    """The detector of a bank on some attacks, from moments that are known already.

    Args:
        bank: selected by the same attacks.
        params: the detector's.
        moments: ``clean`` or an attack to the moments of its neurons; asked for ``clean`` and the attacks named, nothing else.
        attacks: those of the fit.
    """
    if isinstance(params, FingerprintDetectorParams):
        return FingerprintDetector(bank, params.statistic, params.draw)
    clean, attacked = moments(CLEAN), {name: moments(name) for name in attacks}
    groups = [factor_group(bank, name, params, clean, attacked) for name in bank.names]
    return CommitteeDetector(bank, Committees.join(groups, bank.starts, attacks))


def build_detector(stream: Stream, bank: Bank, params: DetectorParams, attacks: Sequence[str]) -> Detector:
    """The detector of a bank; one that needs more than the bank fits it on the features of ``fit``."""
    classes, size = len(bank.class_group), bank.layout.size
    return fit_detector(bank, params, lambda source: pooled_moments(stream, source, classes, size), attacks)


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
