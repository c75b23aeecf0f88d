"""What an attacker gets past a guard and what it costs: arrays in, plain values out.

Given an image, what the guard draws for each look and each submission is independent. So where a share p of the guard's draws
flags an image and a share q of those of the attacker's copy, nothing need be simulated: R looks let it through with the chance
(1 - q)^R, and of what is sent then the guard detects p. Every value is that expectation over draws, exact but for the images,
which are what the intervals resample, and for banks that attackers fit for themselves, whose luck widens the intervals of those who
have one of several or all of these.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.bootstrap import percentile_interval, resampled_weights
from pipeline.evaluation.estimates import UNDEFINED, Estimate
from pipeline.evaluation.metrics import wilson
from pipeline.params.evaluation import EvaluationParams
from pipeline.random import generator

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SCALE = 2.0**30
"""Values are rounded to multiples of 1 / SCALE: then sums are exact, and so do not depend on the order of summation."""


@dataclass(frozen=True)
class Play:
    """What an attacker did with N images that the classifier gets right, in expectation over the draws; all (N,) float64.

    Attributes:
        sent: the chance that a wrong label is sent at all.
        accepted: the chance that it ends as an accepted wrong label; at most ``sent``.
        local: evaluations on the attacker's own machine, of draws or, by who has no copy of the guard, of the classifier.
        queries: images sent to the defender.
    """

    sent: Floats
    accepted: Floats
    local: Floats
    queries: Floats


def plain(success: Bools, chance: Floats) -> Play:
    """Sends every success once.

    Args:
        success: (N,) whether the attack made the classifier wrong; what did not is never sent.
        chance: (N,) that a draw of the defender flags the image.
    """
    won = success.astype(np.float64)
    return Play(won, won * (1 - chance), np.zeros(len(won)), won)


def filtered(success: Bools, looked: Floats, chance: Floats, looks: int) -> Play:
    """Looks up to ``looks`` times at a local copy, drops an image at the first look that flags it, sends the others once.

    Args:
        success: as for ``plain``.
        looked: (N,) the chance that a draw of the local copy flags the image.
        chance: (N,) that one of the defender's does.
        looks: R.
    """
    won, through = success.astype(np.float64), (1 - looked) ** looks
    sent = won * through
    return Play(sent, sent * (1 - chance), won * _until(1 - looked, looks), sent)


def foreseen(success: Bools, chance: Floats) -> Play:
    """Looks once at the very draw that the image will meet, and sends what it lets through: all of that is accepted."""
    won = success.astype(np.float64)
    sent = won * (1 - chance)
    return Play(sent, sent, won, sent)


def resubmitted(success: Bools, chance: Floats, tries: int, *, afresh: bool) -> Play:
    """Sends the same image until it is accepted, at most ``tries`` times.

    Args:
        success: as for ``plain``.
        chance: (N,) that a draw flags the image.
        tries: Q.
        afresh: whether every submission meets a draw of its own; otherwise all meet the same one.
    """
    won = success.astype(np.float64)
    if afresh:
        return Play(won, won * (1 - chance**tries), np.zeros(len(won)), won * _until(chance, tries))
    return Play(won, won * (1 - chance), np.zeros(len(won)), won * ((1 - chance) + chance * tries))


def _until(going: Floats, most: int) -> Floats:
    """How many turns are taken, at most ``most``, where each leads to another with the chance ``going``."""
    return np.asarray(sum(going**turn for turn in range(most)), np.float64)


def pooled(plays: Sequence[Play]) -> Play:
    """What attackers of one kind do on average, image by image: a ratio of sums over it is that of all that they send, taken together."""
    return Play(*(np.mean(values, axis=0) for values in zip(*(vars(play).values() for play in plays), strict=True)))


def summarise(play: Play, l2: Floats, linf: Floats, params: EvaluationParams, without: Sequence[Play] = ()) -> dict[str, float | None]:
    """One cell of the game, flat: each value, and with the endings ``_low`` and ``_high`` its interval.

    Intervals resample images. Where ``play`` rests on S things drawn once and for all, such as banks that attackers fit for themselves, the
    luck of these is taken into account by a jackknife with Student's t of S - 1 degrees of freedom, for S is small, and both are joined
    by the method of variance estimates recovery (Zou and Donner, Statistics in Medicine 27, 2008).

    Args:
        play: of N images.
        l2: (N,) the perturbations' Euclidean norms, in pixel units.
        linf: (N,) their maximum norms.
        params: the intervals' confidence, resamples and seed.
        without: the same play with one of the S left out, for each; none where it rests on nothing of that kind.

    Returns:
        ``images``, ``sent`` (how many wrong labels an attacker sends, in expectation), ``accepted`` (share of the images),
        ``detected`` (share of what was sent that was never accepted), ``l2`` and ``linf`` (means over the accepted), ``local`` and
        ``queries`` (means over the images), ``local_per_accepted`` and ``queries_per_accepted``.
    """
    images, sent = len(play.sent), float(play.sent.sum())
    sums, caught = _sums(play, l2, linf), play.sent - play.accepted
    shares = {"accepted": (images, play.accepted, 1 - play.accepted), "detected": (int(sent), caught, play.accepted)}
    values = _divide(*(side.sum(1) for side in sums))
    weights = _weights(images, params.bootstrap, params.bootstrap_seed)
    resampled = _divide(*(side @ weights for side in sums))
    others = [_divide(*(side.sum(1) for side in _sums(other, l2, linf))) for other in without]
    flat: dict[str, float | None] = {"images": float(images), "sent": sent}
    for place, (name, value) in enumerate(zip(_MEASURES, values, strict=True)):
        found = _estimate(value, resampled[place], shares.get(name), params.confidence)
        if others:
            found = _widened(found, np.array([other[place] for other in others]), params.confidence, 1.0 if name in shares else np.inf)
        flat |= found.named(name)
    return flat


_MEASURES = ("accepted", "detected", "l2", "linf", "local", "queries", "local_per_accepted", "queries_per_accepted")


def _sums(play: Play, l2: Floats, linf: Floats) -> tuple[Floats, Floats]:
    """What stands above and below the line of each of ``_MEASURES``, image by image, (8, N) each, in whole numbers."""
    one = np.ones(len(play.sent))
    above = (play.accepted, play.sent - play.accepted, play.accepted * l2, play.accepted * linf, *(play.local, play.queries) * 2)
    below = (one, play.sent, play.accepted, play.accepted, one, one, play.accepted, play.accepted)
    return np.rint(SCALE * np.stack(above)), np.rint(SCALE * np.stack(below))


@lru_cache(maxsize=4)
def _weights(images: int, resamples: int, seed: int) -> Floats:
    """(images, resamples): the same resamples for every cell over the same images."""
    if not images:
        return np.zeros((0, resamples))
    return np.concatenate(list(resampled_weights(generator(seed, "bootstrap"), images, resamples)), axis=1)


def _divide(above: Floats, below: Floats) -> Floats:
    ratio = np.full(below.shape, np.nan)
    np.divide(above, below, out=ratio, where=below > 0)
    return ratio


def _estimate(value: float, resampled: Floats, share: tuple[int, Floats, Floats] | None, confidence: float) -> Estimate:
    """A value with its percentile interval.

    Of a share it is no narrower than Wilson's where next to nothing is on one side: resampling alone would claim certainty.

    Args:
        value: of all images.
        resampled: (B,).
        share: of a share its units, and what is within it and what is not, image by image; None of another value.
        confidence: of the interval.
    """
    if np.isnan(value):
        return UNDEFINED
    if share is not None and not share[0]:
        return Estimate(float(value), 0.0, 1.0)
    if np.isnan(resampled).all():
        return Estimate(float(value), None, None)
    ends = [*percentile_interval(resampled, confidence)]
    if share is not None:
        units, within, beyond = share
        for none, extreme in ((within, 0), (beyond, units)):
            if _is_trace(none):
                told = wilson(extreme, units, confidence)
                ends += [told.low or 0.0, told.high or 0.0]
    return Estimate(float(value), min(ends), max(ends))


def _is_trace(values: Floats) -> bool:
    """Whether a sum over images is of less than one image, and of so few of them that resampling tells nothing of others.

    How many they are is Kish's effective number, the squared sum over the sum of squares.
    """
    total = float(values.sum())
    return total < 1 and total**2 <= 5 * float((values**2).sum())


def _widened(found: Estimate, others: Floats, confidence: float, most: float) -> Estimate:
    """An estimate whose interval holds the luck of S things drawn once and for all too.

    Args:
        found: with its interval over images.
        others: (S,), the value without one of them each; NaN where nothing is left to measure.
        confidence: of the interval.
        most: the largest value that there is.
    """
    if found.value is None or found.low is None or found.high is None:
        return found
    if np.isnan(others).any():
        return Estimate(found.value, 0.0, most) if np.isfinite(most) else Estimate(found.value, None, None)
    from scipy.stats import t  # here, for it takes most of a second to import

    count = len(others)
    error = np.sqrt((count - 1) / count * ((others - others.mean()) ** 2).sum())
    reach = float(t.ppf((1 + confidence) / 2, count - 1) * error)
    low, high = found.value - np.hypot(found.value - found.low, reach), found.value + np.hypot(found.high - found.value, reach)
    return Estimate(found.value, max(float(low), 0.0), min(float(high), most))
