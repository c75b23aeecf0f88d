"""Detectors fitted again, without some attacks or on redrawn images: what a study of a guard does again and again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.detectors.base import Detector
from pipeline.detectors.building import Stream, build_bank, build_detector, calibrate
from pipeline.detectors.conformal import Calibration
from pipeline.fingerprints.features import CLEAN, Features, Layout
from pipeline.params.detectors import CommitteeDetectorParams, DetectorParams
from pipeline.params.fingerprints import FingerprintParams, SelectionParams
from pipeline.random import ImageRandom

Sources = Mapping[str, Features]
"""``clean`` and attacks to their images."""


def with_committees(params: DetectorParams, committees: int) -> DetectorParams:
    """The same detector with at most so many committees a class; one without committees as it is."""
    if isinstance(params, CommitteeDetectorParams) and committees < params.committees:
        return params.model_copy(update={"committees": committees})
    return params


@dataclass(frozen=True)
class Recipe:
    """All that makes a detector out of images.

    Attributes:
        layout: which columns belong to which layer.
        classes: K.
        fingerprints: its section, which names the attacks of the fit.
        selection: its section.
        name: the detector's.
        detector: its params.
        alpha: the promised false-alarm rate.
    """

    layout: Layout
    classes: int
    fingerprints: FingerprintParams
    selection: SelectionParams
    name: str
    detector: DetectorParams
    alpha: float


def redrawn_roles(sources: Sources, splits: Mapping[str, str], split: str) -> dict[str, Features]:
    """The images of every source that a redraw puts in one split; an attacked image goes where its clean one does."""
    return {name: images.where(np.array([splits[key] == split for key in images.ids], np.bool_)) for name, images in sources.items()}


def redrawn_detector(sources: Sources, splits: Mapping[str, str], recipe: Recipe, seed: int) -> tuple[Detector, Calibration]:
    """Bank, detector and calibration from the images that a redraw puts in ``fit`` and ``calibrate``.

    Args:
        sources: all images that take part.
        splits: id to the split that the redraw gives it.
        recipe: how a detector is made.
        seed: of the draws that the calibration images meet.

    Raises:
        WhorlError: there are too few images.
    """
    fit, attacks = redrawn_roles(sources, splits, "fit"), list(recipe.fingerprints.fit_attacks)
    stream: Stream = lambda names: [(name, fit[name]) for name in names]  # noqa: E731
    bank = build_bank(stream, recipe.layout, recipe.classes, recipe.fingerprints, recipe.selection)
    detector = build_detector(stream, bank, recipe.detector, attacks)
    clean = redrawn_roles({CLEAN: sources[CLEAN]}, splits, "calibrate")[CLEAN]
    draws = ImageRandom(seed, f"redraw/calibrate/{recipe.name}", clean.ids)
    return detector, calibrate(detector, clean, fit[CLEAN].predicted, recipe.classes, recipe.alpha, draws)


@dataclass(frozen=True)
class Flagged:
    """How many test images a redraw's detector flags.

    Attributes:
        source: ``clean``, or an attack, whose successes alone count.
        group: the calibration group.
        alpha: the false-alarm rate.
        images: of the source in the group.
        flagged: those with a p-value of at most alpha.
    """

    source: str
    group: str
    alpha: float
    images: int
    flagged: int


def redrawn_flags(sources: Sources, splits: Mapping[str, str], recipe: Recipe, alphas: Sequence[float], seed: int) -> list[Flagged]:
    """What the detector of a redraw flags of its test images: clean ones, and successful attacks where there are some.

    Args:
        sources: all images that take part.
        splits: id to the split that the redraw gives it.
        recipe: how a detector is made.
        alphas: false-alarm rates.
        seed: of all draws.
    """
    detector, calibration = redrawn_detector(sources, splits, recipe, seed)
    counted = []
    for source, images in redrawn_roles(sources, splits, "test").items():
        tested = images if source == CLEAN else images.where(images.success)
        draws = ImageRandom(seed, f"redraw/test/{recipe.name}/{source}", tested.ids)
        p_values, groups = calibration.p_values(detector.scores(tested.neurons, tested.predicted, draws), tested.predicted)
        counted += [
            Flagged(source, group, alpha, int((groups == group).sum()), int((p_values[groups == group] <= alpha).sum()))
            for group in calibration.groups
            for alpha in alphas
        ]
    return counted
