"""The defenders of the game: one committee detector, drawn from in several ways, each calibrated with draws of its own way."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from pipeline.detectors.base import check_inputs
from pipeline.detectors.building import Stream, build_bank, build_detector, calibrate
from pipeline.detectors.committee import CommitteeDetector
from pipeline.detectors.conformal import Calibration
from pipeline.fingerprints.bank import Bank, Fingerprints
from pipeline.fingerprints.committees import Committees, Factored, mixture
from pipeline.fingerprints.draws import Draws, KeyedDraws, StaticDraws, stand_in_key
from pipeline.fingerprints.features import Features, Layout
from pipeline.fingerprints.sampling import apportion
from pipeline.fingerprints.scores import fingerprint_scores
from pipeline.params.detectors import CommitteeDetectorParams
from pipeline.params.fingerprints import FingerprintParams, SelectionParams
from pipeline.random import ImageRandom, generator

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Way = Literal["static", "fresh", "keyed"]
"""How a defender draws: once and for all; for every call; or as a function of the image's pixels under a key."""
Pixels = Sequence[str] | npt.NDArray[np.uint8]
"""A name an image, or the images (N, C, H, W)."""


def drawing(way: Way, seed: int, pixels: Pixels, call: int) -> Draws:
    """The draws of one call.

    Those of a guard in use come from the operating system, or from a secret key; these are seeded, so that a game can be
    repeated, and of the same distribution.

    Args:
        way: how the defender draws.
        seed: of its randomness, and of the stand-in for its key.
        pixels: the images, or what stands for the pixels of each; equal pixels have equal names.
        call: the number of the call.
    """
    if way == "static":
        return StaticDraws(len(pixels), seed)
    if isinstance(pixels, np.ndarray):
        assert way == "keyed"
        return KeyedDraws(stand_in_key(seed), pixels)
    return ImageRandom(seed, "game/keyed" if way == "keyed" else f"game/fresh/{call}", pixels)


@dataclass(frozen=True)
class Defender:
    """A calibrated detector that draws in one way.

    Attributes:
        detector: with all its committees.
        calibration: on scores of draws of the same way.
        alpha: an image is flagged when its p-value is at most this.
        way: how it draws.
        seed: of its draws.
    """

    detector: CommitteeDetector
    calibration: Calibration
    alpha: float
    way: Way
    seed: int

    def p_values(self, neurons: npt.NDArray[np.float32], predicted: Ints, pixels: Pixels, call: int) -> Floats:
        """What one call makes of N images, (N,)."""
        scores = self.detector.scores(neurons, predicted, drawing(self.way, self.seed, pixels, call))
        return self.calibration.p_values(scores, predicted)[0]

    def chances(self, neurons: npt.NDArray[np.float32], predicted: Ints, every: Floats | None = None) -> Floats:
        """The share of its draws that flags each image, (N,) float64; of a static defender, whose draw is one, 0 or 1.

        Args:
            neurons: (N, D).
            predicted: (N,).
            every: ``every_score`` of them, where it is known already.
        """
        if self.way == "static":
            return (self.p_values(neurons, predicted, [""] * len(predicted), 0) <= self.alpha).astype(np.float64)
        scores = every_score(self.detector, neurons, predicted) if every is None else every
        known, flagged = ~np.isnan(scores), scores > self.limits()[0][predicted][:, None]
        shares = flagged.sum(1) / np.maximum(known.sum(1), 1)
        return np.where(known.any(1), shares, 1.0)  # a score that is no number is flagged

    def limits(self) -> tuple[Floats, Floats]:
        """For every class the score above which its images are flagged, and the standard deviation of clean scores, both (K,)."""
        found = [_limit(self.calibration.groups[group], self.alpha) for _, group in sorted(self.calibration.class_group.items())]
        return np.array([limit for limit, _ in found]), np.array([spread for _, spread in found])


def every_score(detector: CommitteeDetector, neurons: npt.NDArray[np.float32], predicted: Ints) -> Floats:
    """The scores of all committees that an image may meet, (N, T) float64; NaN beyond those of its class's group.

    The same as ``detector.scores`` up to rounding, but each fingerprint is scored once and each committee on all images.
    """
    check_inputs(detector.bank, neurons, predicted)
    groups, committees, parts = detector.bank.class_group[predicted], detector.committees, detector.committees.factored
    attacks = len(committees.attacks)
    scores = np.full((len(neurons), int(committees.sizes.max(initial=0))), np.nan)
    for group, rows in _batches(groups):
        mine = slice(committees.starts[group], committees.starts[group + 1])
        first, last = detector.bank.starts[group], detector.bank.starts[group + 1]
        single = torch.from_numpy(fingerprint_scores(neurons[rows], detector.bank.fingerprints.indices[first:last]).T.copy())
        drawn = single[torch.from_numpy(committees.members[mine].astype(np.int64) - int(first))]  # (T, m, n)
        scores[rows, : len(drawn)] = _log_ratios(drawn, Factored(*(array[mine] for array in vars(parts).values())), attacks).T
    return scores


ROWS = 512
"""Images of a group scored at a time by all of its committees: bounds the memory."""


def _batches(groups: Ints) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    """Each group with the rows of some of its images."""
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        yield from ((int(group), rows[start : start + ROWS]) for start in range(0, len(rows), ROWS))


def _log_ratios(drawn: torch.Tensor, factored: Factored, attacks: int) -> npt.NDArray[np.float32]:
    """(T, n) log-ratios of T committees on the scores (T, m, n) of n images; see ``CommitteeScores``."""
    weights, centre, shift, variance, prior = (torch.from_numpy(array) for array in vars(factored).values())
    z = torch.bmm(weights.flatten(1, 2), drawn).view(*centre.shape, -1) - centre[..., None]
    terms = z.square() - (z - shift[..., None]).square() / variance[..., None]
    ratios: npt.NDArray[np.float32] = mixture(terms.sum(2) / 2 - variance.log().sum(-1)[..., None] / 2, prior, attacks).numpy()
    return ratios


def calibrated(
    detector: CommitteeDetector, clean: Features, fit_predicted: Ints, classes: int, alpha: float, way: Way, seed: int
) -> Defender:
    """A defender, calibrated on all clean images of ``calibrate`` with draws of its own way; see ``building.calibrate``."""
    draws = drawing(way, seed, [f"calibrate/{key}" for key in clean.ids], 0)
    return Defender(detector, calibrate(detector, clean, fit_predicted, classes, alpha, draws), alpha, way, seed)


def rebuilt(
    stream: Stream, bank: Bank, params: CommitteeDetectorParams, attacks: Sequence[str], draw: int, committees: int
) -> CommitteeDetector:
    """The detector with ``committees`` committees of ``draw`` fingerprints from a bank."""
    other = params.model_copy(update={"draw": draw, "committees": committees, "directions": min(params.directions, draw)})
    detector = build_detector(stream, bank, other, attacks)
    assert isinstance(detector, CommitteeDetector)
    return detector


def thinned(bank: Bank, size: int, seed: int, weights: Mapping[str, float] | None) -> Bank:
    """The bank with ``size`` random fingerprints of every group, all where it has no more, in the order in which they were.

    Each layer keeps its share as committees take theirs (``weights``), so that a smaller bank makes committees like those of the whole
    one. A seed and a group's name give each layer one order at random, of which every size takes the first: a smaller bank is a part of
    a larger one.

    Args:
        bank: the detector's own.
        size: the most that a group keeps.
        seed: of the choice.
        weights: layer to its share of a committee; None for the bank's own shares.
    """
    kept = []
    for name, start in zip(bank.names, bank.starts, strict=False):
        layer, rng = bank.groups[name].layer, generator(seed, "game/bank", name)
        sizes = np.bincount(layer, minlength=len(bank.layout.layers))
        shares = sizes.astype(np.float64) if weights is None else np.array([weights.get(each, 0.0) for each in bank.layout.layers])
        given = apportion(min(size, len(layer)), sizes, shares)
        chosen = [rng.permutation(np.flatnonzero(layer == number))[:count] for number, count in enumerate(given)]
        kept.append(start + np.sort(np.concatenate(chosen)))
    return only(bank, np.concatenate(kept))


def only(bank: Bank, rows: Ints) -> Bank:
    """The bank with these rows of its fingerprints alone, which rise."""
    starts = np.searchsorted(rows, bank.starts).astype(np.int64)
    return replace(bank, starts=starts, fingerprints=Fingerprints(*(array[rows] for array in vars(bank.fingerprints).values())))


def surrogate(
    stream: Stream,
    layout: Layout,
    classes: int,
    params: CommitteeDetectorParams,
    fingerprints: FingerprintParams,
    selection: SelectionParams,
    seed: int,
    number: int,
) -> CommitteeDetector:
    """What an attacker makes who knows the algorithm and the data but not the bank: the same steps from seeds of their own.

    ``number`` tells such attackers apart.
    """
    own = [int(value) for value in generator(seed, "game/surrogate", str(number)).integers(2**62, size=2)]
    bank = build_bank(stream, layout, classes, fingerprints.model_copy(update={"seed": own[0]}), selection)
    reseeded = params.model_copy(update={"seed": own[1]})
    return rebuilt(stream, bank, reseeded, fingerprints.fit_attacks, params.draw, params.committees)


def _limit(scores: Floats, alpha: float) -> tuple[float, float]:
    """The largest score that is not flagged in a group, and the spread of its calibration scores."""
    allowed = int(np.floor(alpha * (len(scores) + 1) + 1e-9)) - 1  # calibration scores that may be as large
    spread = float(scores.std()) if len(scores) else 0.0
    limit = float(scores[len(scores) - 1 - allowed]) if 0 <= allowed < len(scores) else np.inf
    return limit, max(spread, 1e-6)


def detector_arrays(detector: CommitteeDetector) -> tuple[dict[str, npt.NDArray[np.generic]], dict[str, Any]]:
    """A detector with its bank as named arrays and plain values, for storage."""
    bank, plain = detector.bank.to_arrays()
    arrays = {f"bank.{name}": array for name, array in bank.items()} | detector.committees.to_arrays()
    return arrays, {"bank": plain, "attacks": list(detector.committees.attacks)}


def detector_from(arrays: Mapping[str, npt.NDArray[Any]], plain: Mapping[str, Any]) -> CommitteeDetector:
    """The detector that ``detector_arrays`` described."""
    bank = Bank.from_arrays(
        {name.removeprefix("bank."): array for name, array in arrays.items() if name.startswith("bank.")}, plain["bank"]
    )
    return CommitteeDetector(bank, Committees.from_arrays(arrays, plain["attacks"]))
