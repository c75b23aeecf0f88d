"""What rounds of hardening gain and cost: chances of being flagged in, measures with intervals out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.bootstrap import percentile_interval, resampled_weights
from pipeline.evaluation.estimates import UNDEFINED, Estimate
from pipeline.evaluation.game import SCALE, Play, filtered, plain, summarise
from pipeline.fingerprints.features import CLEAN
from pipeline.params.evaluation import EvaluationParams
from pipeline.random import generator

Floats = npt.NDArray[np.float64]

ACCEPTED = "accepted"
COUNTS = ("images", "survivors")
"""Measures that are counts, without an interval."""


@dataclass(frozen=True)
class Looked:
    """The test images of one source that count: all clean ones, or an attack's successes.

    Attributes:
        chance: (N,) float64, the share of the detector's committees that flags each.
        even: (N,) float64, the same at thresholds with which every round raises as many false alarms.
        correct: (N,) bool, right when clean.
    """

    chance: Floats
    even: Floats
    correct: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """One figure.

    Attributes:
        round: 0 for the detector as the chain fits it.
        attack: or ``clean``.
        measure: a name of ``plays``, or with ``_change`` its difference from round 0; ``auroc``; one of ``COUNTS``.
        estimate: with an interval over images.
    """

    round: int
    attack: str
    measure: str
    estimate: Estimate

    def named(self) -> dict[str, float | None]:
        """Flat, as metrics are."""
        name = f"round{self.round}.{self.attack}.{self.measure}"
        return {name: self.estimate.value} if self.measure in COUNTS else self.estimate.named(name)

    def row(self) -> dict[str, int | str | float | None]:
        """A row of the table of all figures."""
        return {"round": self.round, "attack": self.attack, "measure": self.measure, **vars(self.estimate)}


def plays(source: str, looked: Looked, looks: int) -> dict[str, Play]:
    """Measure to what is played for it: every image is sent as it is, or looked at first.

    ``detected`` and ``detected_after_looks`` are shares of what is sent, ``accepted`` of the successes, by who looks first; with
    ``_evenly`` at even thresholds. ``flagged`` and ``flagged_correct_only`` are false alarms.
    """
    everyone, chance = np.ones(len(looked.chance), np.bool_), looked.chance
    if source == CLEAN:
        right = looked.correct
        return {"flagged": plain(everyone, chance), "flagged_correct_only": plain(everyone[right], chance[right])}
    first, even = filtered(everyone, chance, chance, looks), looked.even
    own = {"detected": plain(everyone, chance), "detected_after_looks": first, ACCEPTED: first}
    return own | {"detected_evenly": plain(everyone, even), f"{ACCEPTED}_evenly": filtered(everyone, even, even, looks)}


def round_figures(number: int, source: str, now: Looked, before: Looked, looks: int, params: EvaluationParams) -> Iterator[Measured]:
    """All figures of one round and source but the area under the curve.

    Args:
        number: of the round.
        source: ``clean`` or an attack.
        now: as the round's detector sees the images.
        before: as that of round 0 sees the same images, in the same order.
        looks: R.
        params: the intervals' confidence, resamples and seed.
    """
    first = plays(source, before, looks)
    yield Measured(number, source, "images", Estimate(float(len(now.chance)), None, None))
    for measure, play in plays(source, now, looks).items():
        none, key = np.zeros(len(play.sent)), ACCEPTED if measure.startswith(ACCEPTED) else "detected"
        flat = summarise(play, none, none, params)
        yield Measured(number, source, measure, Estimate(flat[key], flat[f"{key}_low"], flat[f"{key}_high"]))
        if number:
            yield Measured(number, source, f"{measure}_change", change(_ratio(measure, play), _ratio(measure, first[measure]), params))


def change(now: tuple[Floats, Floats], before: tuple[Floats, Floats], params: EvaluationParams) -> Estimate:
    """The difference of two ratios of sums over the same N images, with an interval that resamples both together.

    Args:
        now: what stands above and below the line, (N,) each.
        before: the same of what is compared with.
        params: the interval's confidence, resamples and seed.

    Returns:
        Undefined where one of the ratios is; without an interval where no resample differs from the value, which would claim certainty.
    """
    whole = np.rint(SCALE * np.stack([*now, *before]))  # sums of whole numbers do not depend on their order

    def apart(weights: Floats) -> Floats:
        sums = whole @ weights
        ratios = np.full(sums[::2].shape, np.nan)
        np.divide(sums[::2], sums[1::2], out=ratios, where=sums[1::2] > 0)
        difference: Floats = ratios[0] - ratios[1]
        return difference

    images = whole.shape[1]
    value = float(apart(np.ones((images, 1)))[0])
    if np.isnan(value):
        return UNDEFINED
    rng = generator(params.bootstrap_seed, "bootstrap")
    spread = np.concatenate([apart(weights) for weights in resampled_weights(rng, images, params.bootstrap)])
    if (np.isnan(spread) | (spread == value)).all():
        return Estimate(value, None, None)
    return Estimate(value, *percentile_interval(spread, params.confidence))


def areas(number: int, metrics: Mapping[str, float | None], attacks: list[str]) -> Iterator[Measured]:
    """The areas under the curve of one round, from what ``metrics.evaluate_table`` makes of its drawn scores, named ``roundN``."""
    for attack in attacks:
        if (name := f"round{number}.{attack}.auroc") in metrics:
            yield Measured(number, attack, "auroc", Estimate(metrics[name], metrics[f"{name}_low"], metrics[f"{name}_high"]))


def counted(number: int, survivors: Mapping[str, int]) -> Iterator[Measured]:
    """How many survivors each attack gave a round's fit."""
    return (Measured(number, attack, "survivors", Estimate(float(count), None, None)) for attack, count in survivors.items())


def _ratio(measure: str, play: Play) -> tuple[Floats, Floats]:
    """What the measure is a ratio of, image by image."""
    return (play.accepted, np.ones(len(play.sent))) if measure.startswith(ACCEPTED) else (play.sent - play.accepted, play.sent)
