"""A dynamic adversary for banks: attacked images that get past a detector are folded back into its fit, round after round.

Which images get past is judged by cross-fitting: an image by a detector that never saw it, fitted on the other parts of ``fit``, so
that a survivor is one to whoever meets it afresh, and not for want of its own weight in the fit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.detectors.building import Stream, build_bank, build_detector, calibrate
from pipeline.detectors.committee import CommitteeDetector
from pipeline.detectors.conformal import Calibration
from pipeline.detectors.refit import Recipe, Sources
from pipeline.fingerprints.bank import Bank
from pipeline.fingerprints.features import CLEAN, Features
from pipeline.game.defenders import Defender, every_score
from pipeline.params.studies import HardeningParams
from pipeline.random import ImageRandom

Survivors = Sequence[Features]
"""One round's survivors, in batches, each of one attack and part; an image stands there once for every attack with which it survived."""

PROBABLE = 0.5
"""An image survives whose chance of passing every look is larger than this."""


def parts_of(ids: Sequence[str], params: HardeningParams) -> npt.NDArray[np.int64]:
    """The part, from 0 to ``folds`` - 1, of each image, (N,): by seed and id alone, so an attacked image is in its clean one's."""
    return ImageRandom(params.seed, "hardening", ids).integers("part", params.folds)


def passing(chance: npt.NDArray[np.float64], looks: int) -> npt.NDArray[np.float64]:
    """The chance, (N,), of passing R looks at committees drawn afresh, of which a share ``chance`` flags each image."""
    return (1 - chance) ** looks


def hardened(stream: Stream, recipe: Recipe, earlier: Sequence[Survivors], *, bank: Bank | None, reselect: bool) -> CommitteeDetector:
    """A detector fitted on the attacks of the recipe and on the survivors of earlier rounds, each round an attack of its own.

    An image may stand among the survivors once an attack, so where a bank is selected with them, the number of independent images
    behind that attack's test is overstated; the effect sizes are not.

    Args:
        stream: the images of the fit.
        recipe: of a committee detector.
        earlier: survivors, round by round.
        bank: whose committees are fitted; where it is None, one is selected.
        reselect: whether a bank that is selected is selected with the survivors.

    Raises:
        WhorlError: there are too few images.
    """
    # The hyphen keeps these names apart from those of attacks, which cannot have one.
    folded = {f"survivors-{number}": survivors for number, survivors in enumerate(earlier, 1)}
    attacks = [*recipe.fingerprints.fit_attacks, *folded]

    def joined(names: Sequence[str]) -> Iterable[tuple[str, Features]]:
        for name in names:
            yield from ((name, batch) for batch in folded[name]) if name in folded else stream([name])

    if bank is None:
        fitted = recipe.fingerprints.model_copy(update={"fit_attacks": tuple(attacks)}) if reselect else recipe.fingerprints
        bank = build_bank(joined, recipe.layout, recipe.classes, fitted, recipe.selection)
    detector = build_detector(joined, bank, recipe.detector, attacks)
    assert isinstance(detector, CommitteeDetector)
    return detector


def judge(sources: Sources, part: int, recipe: Recipe, params: HardeningParams, earlier: Sequence[Survivors]) -> Defender:
    """What judges the images of one part: fitted on those of all others, with thresholds from the part's clean images.

    Of the survivors too it sees those of the other parts alone; that they survived was said by detectors that had been fitted on this part.

    Args:
        sources: ``clean`` and the attacks of the fit to all their images of ``fit``.
        part: from 0 to ``folds`` - 1.
        recipe: how a detector is made.
        params: the ``hardening`` section.
        earlier: survivors of earlier rounds, round by round.

    Raises:
        WhorlError: there are too few images, in the part or in the others.
    """
    others = {name: _part(images, params, part, inside=False) for name, images in sources.items()}
    known = [[_part(batch, params, part, inside=False) for batch in survivors] for survivors in earlier]
    # Never the chain's own bank, even where rounds do not select again: that one was selected by the images that are judged here.
    detector = hardened(lambda names: [(name, others[name]) for name in names], recipe, known, bank=None, reselect=params.reselect)
    clean = _part(sources[CLEAN], params, part, inside=True)
    draws = ImageRandom(params.seed, "hardening/calibrate", clean.ids)
    calibration = calibrate(detector, clean, others[CLEAN].predicted, recipe.classes, recipe.alpha, draws)
    return Defender(detector, calibration, recipe.alpha, "fresh", params.seed)


def survivors_of(
    sources: Sources, part: int, recipe: Recipe, params: HardeningParams, earlier: Sequence[Survivors]
) -> Mapping[str, Features]:
    """The images of one part that got past: attack of the fit to those of its successes that probably pass all looks.

    Args and errors as of ``judge``.
    """
    defender, found = judge(sources, part, recipe, params, earlier), dict[str, Features]()
    for name in recipe.fingerprints.fit_attacks:
        images = _part(sources[name].where(sources[name].success), params, part, inside=True)
        found[name] = images.where(passing(defender.chances(images.neurons, images.predicted), params.looks) > PROBABLE)
    return found


def evened(defender: Defender, clean: Features) -> Defender:
    """The same detector with the thresholds at which its draws flag a share alpha of these clean images, in every calibration group.

    It promises nothing. It compares detectors, each of which has else the luck of its own calibration, by one draw an image.

    Args:
        defender: that draws afresh.
        clean: the images on which false alarms are made even.
    """
    every = every_score(defender.detector, clean.neurons, clean.predicted)
    known = ~np.isnan(every)
    predicted = np.broadcast_to(clean.predicted[:, None], every.shape)
    return replace(defender, calibration=Calibration.fit(every[known], predicted[known], defender.calibration.class_group))


def _part(images: Features, params: HardeningParams, part: int, *, inside: bool) -> Features:
    """The images in one part, or those in all others."""
    return images.where((parts_of(images.ids, params) == part) == inside)
