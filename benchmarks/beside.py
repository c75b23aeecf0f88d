"""Sampling, fitting and testing fingerprints beside the authors' package, on the same arrays and the same index sets."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from armor import PACKAGE, Armor, Numbers, image_scores, index_sets, numbers, replayed
from common import Entry, Spread, Timed, against, alternate, row, speed_ratio

from pipeline.detectors.fingerprint import FingerprintDetector
from pipeline.fingerprints.bank import Bank, Fingerprints
from pipeline.fingerprints.candidates import CandidateBlock, block_moments
from pipeline.fingerprints.draws import FreshDraws
from pipeline.fingerprints.features import CLEAN, Features, Layout
from pipeline.fingerprints.sampling import sample_index_sets
from pipeline.fingerprints.scores import fingerprint_scores
from pipeline.fingerprints.selection import Selected, cohens_d, select
from pipeline.params.fingerprints import SelectionParams

QUESTION = "How fast are fingerprints sampled, fitted and tested?"
ATTACK, LAYER = "attack", "layer"


@dataclass(frozen=True)
class Sizes:
    """What both engines are given.

    Attributes:
        images: clean images of the class to fit on, and as many attacked ones.
        neurons: of one layer, D.
        k: neurons in a fingerprint.
        candidates: fingerprints sampled.
        bank: fingerprints that the likelihood ratio is taken over.
        batch: images that it is taken of.
        effect_size: the least |Cohen's d|.
        p_value: their level of significance; ours is a false-discovery rate of the same size.
    """

    images: int = 400
    neurons: int = 2048
    k: int = 50
    candidates: int = 2000
    bank: int = 300
    batch: int = 128
    effect_size: float = 1.5
    p_value: float = 0.001


AUTHORS = Sizes()


def beside(sizes: Sizes, rounds: int) -> list[Entry]:
    """The rows of the comparison."""
    clean, attacked = activations(sizes, np.float32)
    return [*fit_speed(sizes, clean, attacked, rounds), *same_numbers(sizes), *ratio_speed(sizes, clean, attacked, rounds)]


def activations(sizes: Sizes, dtype: type) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Made activations, (n, D) of clean and of attacked images: what an attack adds has a sign of its own for every neuron."""
    rng = np.random.default_rng(0)
    shape = (sizes.images, sizes.neurons)
    level, added = rng.uniform(0.2, 1, sizes.neurons), rng.normal(0, 1.5, sizes.neurons)
    noise = rng.normal(size=(2, *shape))
    return np.abs(level + 0.4 * noise[0]).astype(dtype), np.abs(level + 0.4 * (noise[1] + added)).astype(dtype)


def features(neurons: npt.NDArray[Any], success: bool) -> Features:
    """Images predicted as class 0: right ones, or attacked ones of class 1."""
    count = len(neurons)
    labels = np.full(count, int(success))
    ids = [f"{number:032x}" for number in range(count)]
    return Features(ids, labels, labels, np.zeros(count, np.int64), np.full(count, success), np.zeros(count, bool), neurons)


class Ours:
    """Our fit of one class."""

    def __init__(self, sizes: Sizes, clean: npt.NDArray[Any], attacked: npt.NDArray[Any]) -> None:
        self.sizes, self.layout = sizes, Layout((LAYER,), (0, sizes.neurons))
        self.stream = [(CLEAN, features(clean, False)), (ATTACK, features(attacked, True))]
        self.params = SelectionParams(
            effect_size=sizes.effect_size,
            false_discovery_rate=sizes.p_value,
            cross_fit=None,
            prefer="random",
            bank_size=sizes.candidates,
            min_clean=2,
            min_attacked=2,
            min_fingerprints=1,
        )

    def sample(self, seed: int = 0) -> npt.NDArray[np.int32]:
        """Index sets, (F, k)."""
        return sample_index_sets(np.random.default_rng(seed), self.layout, self.sizes.k, self.sizes.candidates, {LAYER: 1.0})[0]

    def moments(self, sets: npt.NDArray[np.int32]) -> CandidateBlock:
        """The moments of their scores."""
        return block_moments(sets, np.zeros(len(sets), np.int16), self.stream, group_class=0, attacks=[ATTACK])

    def fit(self, sets: npt.NDArray[np.int32]) -> Selected:
        """Moments and selection."""
        return select(self.moments(sets), [ATTACK], self.params, np.random.default_rng(0))


def fit_speed(sizes: Sizes, clean: npt.NDArray[Any], attacked: npt.NDArray[Any], rounds: int) -> list[Entry]:
    """Sampling and fitting, each with its own draws; and fitting alone, with the same index sets handed to both."""
    ours, peer = Ours(sizes, clean, attacked), Armor(clean, attacked, sizes.k)
    sets = ours.sample()

    def theirs_replayed() -> int:
        with replayed(sets):
            return len(theirs())

    def theirs() -> npt.NDArray[np.int32]:
        return index_sets(peer.fit(sizes.candidates, sizes.p_value, sizes.effect_size))

    def theirs_seeded() -> int:
        np.random.seed(0)
        return len(theirs())

    cases: dict[str, tuple[Callable[[], int], Callable[[], int]]] = {
        "sampling and fitting, own draws": (lambda: len(ours.fit(ours.sample()).fingerprints), theirs_seeded),
        "fitting alone, the same index sets": (lambda: len(ours.fit(sets).fingerprints), theirs_replayed),
    }
    entries = []
    for title, (one, other) in cases.items():
        timed = alternate({"ours": one, "peer": other}, rounds)
        seconds = [float(np.median(timed[name].seconds)) for name in ("ours", "peer")]
        kept = f"kept {timed['ours'].result:,} and {timed['peer'].result:,} of {sizes.candidates:,}"
        found = row(
            QUESTION,
            f"{title}: {against(PACKAGE)}",
            (sizes.candidates / seconds[0], sizes.candidates / seconds[1]),
            "fingerprints/s",
            _paired(timed),
        )
        entries.append(Entry(found, f"{seconds[0]:.3f} s and {seconds[1]:.2f} s; {kept}; rounds: {rounds}"))
        print(f"{title}: {seconds}", file=sys.stderr)
    return entries


def same_numbers(sizes: Sizes) -> list[Entry]:
    """The largest differences of what both fit on the same index sets, in float64, where rounding cannot hide any."""
    clean, attacked = activations(sizes, np.float64)
    ours, peer = Ours(sizes, clean, attacked), Armor(clean, attacked, sizes.k)
    sets = ours.sample()
    with replayed(sets):
        fitted = peer.fit(sizes.candidates, 2.0, 0.0)  # keeps every one of them
    if not np.array_equal(index_sets(fitted), sets):
        raise SystemExit(f"{PACKAGE} fitted other index sets than those it was handed, where the same were expected.")
    block = ours.moments(sets)
    found = [("scores", _difference(fingerprint_scores(clean, sets), image_scores(fitted)[0]))]
    for title, one, other in zip(TITLES, astuple(_ours(block)), astuple(numbers(fitted)), strict=True):
        found.append((title, _difference(one, other)))
    case = f"the same index sets, {{}}: {against(PACKAGE)}"
    nothing, note = Spread(None, None, None), f"as a share of the largest; {sizes.candidates:,} fingerprints"
    return [Entry(row(QUESTION, case.format(title), (value, None), "largest difference", nothing), note) for title, value in found]


TITLES = ("clean means", "clean deviations", "attacked means", "attacked deviations", "effect sizes")


def _ours(block: CandidateBlock) -> Numbers:
    clean, attacked = block.whole.clean, block.whole.attacked[ATTACK]
    return Numbers(clean.mean, clean.std(), attacked.mean, attacked.std(), np.abs(cohens_d(clean, attacked)))


def _difference(ours: npt.NDArray[Any], peer: npt.NDArray[Any]) -> float:
    return float(np.abs(ours - peer).max() / np.abs(peer).max())


def ratio_speed(sizes: Sizes, clean: npt.NDArray[Any], attacked: npt.NDArray[Any], rounds: int) -> list[Entry]:
    """The likelihood ratio of a batch over all fingerprints of the same bank, which is how they use it."""
    ours, peer = Ours(sizes, clean, attacked), Armor(clean, attacked, sizes.k)
    sets = ours.fit(ours.sample()).fingerprints.indices[: sizes.bank]
    with replayed(sets):
        fitted = peer.fit(len(sets), 2.0, 0.0)
    kept = ours.moments(sets)
    columns = (column.astype(np.float32) for column in astuple(_ours(kept)))
    bank = Bank.build(ours.layout, {"0": Fingerprints(sets, np.zeros(len(sets), np.int16), *columns)}, {0: "0"}, {})
    batch = np.concatenate([clean, attacked])[:: 2 * sizes.images // sizes.batch][: sizes.batch].copy()
    frame, predicted = pd.DataFrame(batch), np.zeros(len(batch), np.int64)

    def test(m: int) -> npt.NDArray[np.float64]:
        return FingerprintDetector(bank, "likelihood_ratio", m).scores(batch, predicted, FreshDraws(len(batch)))

    timed = alternate({"ours": lambda: test(len(sets)), "peer": lambda: -np.asarray(fitted.likelihood_ratio(frame))}, rounds)
    seconds = [float(np.median(timed[name].seconds)) for name in ("ours", "peer")]
    print(f"likelihood ratio: {seconds}", file=sys.stderr)
    case = f"likelihood ratio over {len(sets)} fingerprints: {against(PACKAGE)}"
    speed = row(QUESTION, case, (len(batch) / seconds[0], len(batch) / seconds[1]), "images/s", _paired(timed))
    difference = _difference(timed["ours"].result, timed["peer"].result)
    same = row(QUESTION, case, (difference, None), "largest difference", Spread(None, None, None))
    note = f"{seconds[0] * 1000:.2f} ms and {seconds[1] * 1000:.1f} ms a batch of {len(batch)}; rounds: {rounds}"
    return [Entry(speed, note), Entry(same, "as a share of the largest; float32")]


def _paired(timed: Mapping[str, Timed[Any]]) -> Spread:
    return speed_ratio(timed["ours"].seconds, timed["peer"].seconds)
