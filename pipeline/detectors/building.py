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
from pipeline.fingerprints.committees import Committees, Factored, Mistakes, factor
from pipeline.fingerprints.draws import Draws
from pipeline.fingerprints.features import CLEAN, MISTAKEN, POOLED, Features, Layout, group_name, stored_as
from pipeline.fingerprints.joint import LENT, PooledMoments, ScoreMoments
from pipeline.fingerprints.sampling import distinct, distinct_by_layer, sample_block
from pipeline.fingerprints.scores import fingerprint_scores
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
    """The moments of one source's neurons; ``mistaken`` is one too, of the clean images that the classifier gets wrong."""
    moments = PooledMoments.empty(classes, size)
    for _, features in stream([stored_as(source)]):
        moments.add(source, features)
    return moments


def moments_needed(params: CommitteeDetectorParams, attacks: Iterable[str]) -> list[str]:
    """The sources whose moments committees are factored from."""
    return [CLEAN, *([MISTAKEN] if params.mistakes else []), *attacks]


def factor_group(
    bank: Bank, group: str, params: CommitteeDetectorParams, moments: Mapping[str, PooledMoments], attacks: Sequence[str]
) -> tuple[npt.NDArray[np.int64], Factored]:
    """Draws and factors the committees of one group of a bank.

    Args:
        bank: whose fingerprints are drawn.
        group: of the bank.
        params: the detector's.
        moments: of the neurons of all sources that ``moments_needed`` names.
        attacks: those of the mixture, in its order.

    Returns:
        members, (T, m) rows in the group's fingerprints, and their log-ratios.

    Raises:
        WhorlError: no clean image, or no successful attack, is known of the group.
    """
    prints, label, clean = bank.groups[group], group_class(group), moments[CLEAN]
    uniform = generator(params.seed, "committees", group).random((params.committees, params.draw))
    if (weights := params.layer_weights) is None:
        members = distinct(uniform, np.full(params.committees, len(prints)))
    else:
        members = distinct_by_layer(uniform, prints.layer, np.array([weights.get(layer, 0.0) for layer in bank.layout.layers]))

    def scored(source: str) -> ScoreMoments | None:
        own = moments[source] if label is None or source == CLEAN else moments[source].leaning(clean)
        return own.committees(prints.indices, members, label)

    of_clean, *of_attacked = map(scored, (CLEAN, *attacks))
    if of_clean is None or not any(of_attacked):
        raise WhorlError(f"Group {group} has no clean image or no successful attack of {list(attacks)}, where some of both were expected.")
    mistakes = _mistakes(prints.indices, members, label, moments[MISTAKEN], clean, of_clean) if params.mistakes else None
    return members, factor(
        of_clean, of_attacked, mistakes, directions=params.directions, shrinkage=params.shrinkage, pooling=params.pooling
    )


def _mistakes(
    indices: npt.NDArray[np.int32],
    members: npt.NDArray[np.int64],
    label: int | None,
    mistaken: PooledMoments,
    clean: PooledMoments,
    correct: ScoreMoments,
) -> Mistakes | None:
    """The clean images of a group that the classifier gets wrong; None where it gets none wrong at all.

    They are few. Their mean leans on what mistakes do to all classes (see ``PooledMoments.leaning``), their share is as if ``LENT``
    more images had that of all classes, and their covariance as if one more image a fingerprint of the committee had that of the
    correct ones, the mean of an inverse Wishart posterior.

    Args:
        indices: (F, k) of the group's fingerprints.
        members: (T, m) rows of them.
        label: the group's class, None for the pooled one.
        mistaken: moments of the mistakes' neurons.
        clean: of the correct images'.
        correct: the committees' moments on correct images of the group.
    """
    wrong, right = int(mistaken.counts.sum()), int(clean.counts.sum())
    if not wrong:
        return None
    share = wrong / (wrong + right)
    if label is not None:
        share = float((mistaken.counts[label] + LENT * share) / (mistaken.counts[label] + clean.counts[label] + LENT))
    centre = mistaken.mean(None) if label is None else mistaken.leaning(clean).mean(label)
    covariance, lent, freedom = correct.covariance, members.shape[1], mistaken.freedom(label)
    # Within classes it is shared by them, so any class that has a mistake tells it.
    if own := mistaken.committees(indices, members, None if label is None else int(mistaken.counts.argmax())):
        covariance = (freedom * own.covariance + lent * covariance) / (freedom + lent)
    return Mistakes(ScoreMoments(fingerprint_scores(centre[None], indices)[0][members], covariance), share)


def fit_detector(bank: Bank, params: DetectorParams, moments: Callable[[str], PooledMoments], attacks: Sequence[str]) -> Detector:
    """The detector of a bank on some attacks, from moments that are known already.

    Args:
        bank: selected by the same attacks.
        params: the detector's.
        moments: a source to the moments of its neurons; asked for those that ``moments_needed`` names, nothing else.
        attacks: those of the fit.
    """
    if isinstance(params, FingerprintDetectorParams):
        return FingerprintDetector(bank, params.statistic, params.draw)
    known = {source: moments(source) for source in moments_needed(params, attacks)}
    groups = [factor_group(bank, name, params, known, attacks) for name in bank.names]
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
