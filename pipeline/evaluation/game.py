"""What an attacker gets past a guard and what it costs: arrays in, plain values out.

Given an image, what the guard draws for each look and each submission is independent. So where a share p of the guard's draws
flags an image and a share q of those of the attacker's copy, nothing need be simulated: R looks let it through with the chance
(1 - q)^R, and of what is sent then the guard detects p. Every value is that expectation over draws, exact but for the images,
and for what attackers drew once and for all, such as a bank of their own: these are what the intervals resample.
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
    """What an attacker did with N images that the classifier gets right, in expectation over the draws; all (N,) float64, or (S, N)
    of S attackers that differ in what each drew once and for all, such as a bank of their own.

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
        looked: (N,) the chance that a draw of the local copy flags the image, or (S, N) of S attackers' copies.
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


def summarise(play: Play, l2: Floats, linf: Floats, params: EvaluationParams) -> dict[str, float | None]:
    """One cell of the game, flat: each value, and with the endings ``_low`` and ``_high`` its interval over images and attackers.

    Args:
        play: of N images, by one attacker or by S: then values are means over the attackers, and each resample draws S of them anew
            as it draws images.
        l2: (N,) the perturbations' Euclidean norms, in pixel units.
        linf: (N,) their maximum norms.
        params: the intervals' confidence, resamples and seed.

    Returns:
        ``images``, ``sent`` (how many wrong labels an attacker sends, in expectation), ``accepted`` (share of the images),
        ``detected`` (share of what was sent that was never accepted), ``l2`` and ``linf`` (means over the accepted), ``local`` and
        ``queries`` (means over the images), ``local_per_accepted`` and ``queries_per_accepted``.
    """
    play = Play(*(np.atleast_2d(values) for values in vars(play).values()))
    attackers, images = play.sent.shape
    one, sent = np.ones_like(play.sent), float(play.sent.sum()) / attackers
    shares = {"accepted": (play.accepted, one, images), "detected": (play.sent - play.accepted, play.sent, int(sent))}
    means = {
        "l2": (play.accepted * l2, play.accepted),
        "linf": (play.accepted * linf, play.accepted),
        "local": (play.local, one),
        "queries": (play.queries, one),
        "local_per_accepted": (play.local, play.accepted),
        "queries_per_accepted": (play.queries, play.accepted),
    }
    pairs = [*((above, below) for above, below, _ in shares.values()), *means.values()]
    values, spread = _ratios(pairs, params)
    flat: dict[str, float | None] = {"images": float(images), "sent": sent}
    for name, value, resampled in zip([*shares, *means], values, spread, strict=True):
        units = shares[name][2] if name in shares else None
        flat |= _estimate(value, resampled, units, params.confidence).named(name)
    return flat


def _ratios(pairs: Sequence[tuple[Floats, Floats]], params: EvaluationParams) -> tuple[Floats, Floats]:
    """Ratios of sums over (S, N) arrays: (P,) as they are, and (P, B) in B resamples of S and of N; NaN where nothing is below the line."""
    sums = [np.rint(SCALE * np.stack([pair[side] for pair in pairs])) for side in (0, 1)]
    attackers, images = pairs[0][0].shape
    drawn = [_weights(units, params.bootstrap, params.bootstrap_seed, what) for what, units in (("", images), ("/attackers", attackers))]
    whole = _divide(*(side.sum((1, 2)) for side in sums))
    return whole, _divide(*(((side @ drawn[0]) * drawn[1]).sum(1) for side in sums))


@lru_cache(maxsize=8)
def _weights(units: int, resamples: int, seed: int, what: str) -> Floats:
    """(units, resamples): the same resamples for every cell over the same images or attackers."""
    if not units:
        return np.zeros((0, resamples))
    return np.concatenate(list(resampled_weights(generator(seed, f"bootstrap{what}"), units, resamples)), axis=1)


def _divide(above: Floats, below: Floats) -> Floats:
    ratio = np.full(below.shape, np.nan)
    np.divide(above, below, out=ratio, where=below > 0)
    return ratio


def _estimate(value: float, resampled: Floats, units: int | None, confidence: float) -> Estimate:
    """A share that is exactly 0 or 1 gets Wilson's interval over ``units``: resampling would claim certainty."""
    if np.isnan(value):
        return UNDEFINED
    if units is not None and value in (0.0, 1.0):
        return wilson(round(value) * units, units, confidence) if units else Estimate(float(value), 0.0, 1.0)
    if np.isnan(resampled).all():
        return Estimate(float(value), None, None)
    return Estimate(float(value), *percentile_interval(resampled, confidence))
