"""Where designs are tried: the cached activations, read once a worker."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import paths
from pipeline.artifacts.features import CLEAN, FeatureSet
from pipeline.detectors.building import moments_needed, pooled_moments
from pipeline.detectors.conformal import group_classes
from pipeline.detectors.design import Design, Point, choices, inspection_cost, tuned
from pipeline.detectors.trials import build_committees, scores_of_draws
from pipeline.errors import ParamsError, WhorlError
from pipeline.evaluation import transfer
from pipeline.evaluation.objectives import Drawn, detection_figures, mean_of
from pipeline.fingerprints.features import Features, Layout
from pipeline.fingerprints.joint import PooledMoments
from pipeline.params.detectors import CommitteeDetectorParams
from pipeline.params.root import Params
from pipeline.params.tune import TrialParams, TuneParams
from pipeline.random import ImageRandom


@dataclass(frozen=True)
class Setting:
    """What every trial of a study shares.

    Attributes:
        base: the design of the params file.
        tune: how trials are measured, a section of the params file.
        alpha: the false-alarm rate at which detection is measured.
        families: attack to its family.
    """

    base: Design
    tune: TrialParams
    alpha: float
    families: Mapping[str, str]

    @property
    def held(self) -> set[str]:
        """The attacks of the family that is held out."""
        return {name for name, family in self.families.items() if family == self.tune.held_out}


def design_of(params: Params, section: str = "tune") -> Design:
    """The design in the params file; raises ParamsError where ``SECTION.detector`` is no committee detector."""
    name = getattr(params, section).detector
    committees = [other for other, detector in params.detectors.items() if isinstance(detector, CommitteeDetectorParams)]
    detector = params.detectors.get(name)
    if not isinstance(detector, CommitteeDetectorParams):
        raise ParamsError(
            f"params.yaml: {section}.detector: {name!r} is no detector of kind committee, where one of {committees} was expected."
        )
    return Design(params.fingerprints, params.selection, detector)


def setting_of(params: Params, section: str = "tune") -> Setting:
    """What every trial shares.

    Raises:
        ParamsError: the section does not fit the others.
    """
    base, families = design_of(params, section), {name: spec.family for name, spec in params.attacks.items()}
    trial: TrialParams = getattr(params, section)
    setting, held = Setting(base, trial, params.calibration.alpha, families), trial.held_out
    if held not in families.values():
        raise ParamsError(
            f"params.yaml: {section}.held_out: no attack is of family {held!r}, where one of {sorted(set(families.values()))} was expected."
        )
    if not set(base.fingerprints.fit_attacks) - setting.held:
        raise ParamsError(
            f"params.yaml: {section}.held_out: every attack of fingerprints.fit_attacks is of family {held!r}, where another was expected."
        )
    return setting


def layer_choices(layout: Layout, tune: TuneParams) -> dict[str, list[int]]:
    """Layer to the k that it may have in the search; raises WhorlError where no layer has neurons enough."""
    return choices(layout.neurons, tune.space.k)


def build_bench(root: Path, setting: Setting, able: Mapping[str, Sequence[int]]) -> Callable[[Point | None], dict[str, Any]]:
    """The function that tries a point (None: the params file as it stands); see ``Bench.try_point``."""
    return partial(Bench(FeatureSet.open(root / paths.ACTIVATIONS), setting).try_point, able)


class Bench:
    """The features of ``fit`` and ``tune``, with all that no design changes; ``calibrate`` and ``test`` are never opened.

    Args:
        features: the activations.
        setting: of the study.

    Raises:
        WhorlError: ``tune`` has too few clean images, or no success of an attack that is fitted, or of one that is not.
    """

    def __init__(self, features: FeatureSet, setting: Setting) -> None:
        self.setting, self.layout, self.classes = setting, features.layout, len(features.class_names)
        sources, fitted = [CLEAN, *setting.families], setting.base.fingerprints.fit_attacks
        self.fit = {source: [batch for _, batch in features.stream([source], "fit")] for source in sources}
        self.moments = dict[str, PooledMoments]()
        images = {source: features.read_split(source, "tune") for source in sources}
        self.images = {source: part if source == CLEAN else part.where(part.success) for source, part in images.items()}
        seed, looks = setting.tune.seed, (setting.tune.draws,)
        self.halves = {name: ImageRandom(seed, "tune/halves", part.ids).uniform("half") < 0.5 for name, part in self.images.items()}
        self.draws = {name: ImageRandom(seed, f"tune/{name}", part.ids).uniform("looks", looks) for name, part in self.images.items()}
        kept = setting.base.without(setting.held).fingerprints.fit_attacks
        self.known = self._attacked("fitted", fitted)
        new = [name for name in setting.families if transfer.unseen(name, kept, setting.families)]
        self.unseen = self._attacked("of families left out of the fit", new)
        names = group_classes(features.predicted(CLEAN, "fit"), self.classes, self._smaller_half(), setting.alpha)
        self.groups = np.array([names[label] for label in range(self.classes)], dtype=np.str_)

    def _moments_for(self, design: Design) -> Mapping[str, PooledMoments]:
        """Those of every source that the design is fitted from, each gathered once."""
        for source in moments_needed(design.detector, design.fingerprints.fit_attacks):
            if source not in self.moments:
                self.moments[source] = pooled_moments(self.stream, source, self.classes, self.layout.size)
        return self.moments

    def _attacked(self, role: str, attacks: Sequence[str]) -> list[str]:
        """Those of some attacks that succeeded on an image of ``tune``."""
        if found := [name for name in attacks if len(self.images[name])]:
            return found
        raise WhorlError(
            f"tune: no image of the tune split was attacked with success by {list(attacks)}, which are {role}; some were expected."
        )

    def _smaller_half(self) -> int:
        """The clean images of the smaller half."""
        sizes = np.bincount(self.halves[CLEAN].astype(np.int64), minlength=2)
        least = math.ceil(round(1 / self.setting.alpha, 9)) - 1
        if sizes.min() < least:
            raise WhorlError(
                f"splits: the halves of tune have {sizes.tolist()} images, where at least {least} each were expected: thresholds for one "
                f"come from the other, and with fewer no image can ever be flagged at calibration.alpha, {self.setting.alpha:g}."
            )
        return int(sizes.min())

    def stream(self, sources: Sequence[str]) -> Iterator[tuple[str, Features]]:
        """The features of ``fit``, as the stages read them."""
        return ((source, batch) for source in sources for batch in self.fit[source])

    def try_point(self, able: Mapping[str, Sequence[int]], point: Point | None) -> dict[str, Any]:
        """Builds a design twice, with and without the family that is held out, and measures both on ``tune``.

        Args:
            able: layer to the k that it may have (see ``layer_choices``).
            point: of the search; None for the params file as it stands.

        Returns:
            ``params``, ``objectives``, ``figures`` and ``problem``, as in ``Trial``.
        """
        base = self.setting.base
        design = base if point is None else tuned(base, point, able)
        params = design.values(self.setting.tune.detector)
        try:
            fitted, unseen = self.measure(design), self.measure(design.without(self.setting.held))
        except WhorlError as error:
            return {"params": params, "objectives": {}, "figures": {}, "problem": str(error)}
        objectives = {
            "fitted": mean_of(fitted, self.known, "detected"),
            "unseen": mean_of(unseen, self.unseen, "detected"),
            "after_looks": mean_of(fitted, self.known, "after_looks"),
            "cost": float(inspection_cost(design)),
        }
        named = {**_named("fitted", fitted, self.known), **_named("unseen", unseen, self.unseen)}
        figures = {"false_alarms": fitted["false_alarms"], **named}
        return {"params": params, "objectives": objectives, "figures": figures, "problem": None}

    def measure(self, design: Design) -> dict[str, float]:
        """The figures of one fitted design on ``tune`` (see ``detection_figures``)."""
        drawn = self.drawn(design)
        return detection_figures(drawn.pop(CLEAN), drawn, self.setting.alpha, self.setting.tune.looks)

    def drawn(self, design: Design) -> dict[str, Drawn]:
        """The scores of ``tune``, source by source, by a design fitted on ``fit``; raises WhorlError where it cannot be built."""
        detector = build_committees(self.stream, self.layout, self.classes, design, self._moments_for(design))
        return {
            name: Drawn(scores_of_draws(detector, images, self.draws[name]), self.groups[images.predicted], self.halves[name])
            for name, images in self.images.items()
        }


def _named(prefix: str, figures: Mapping[str, float], attacks: Sequence[str]) -> dict[str, float]:
    return {f"{prefix}.{key}": value for key, value in figures.items() if key.rpartition(".")[0] in attacks}
