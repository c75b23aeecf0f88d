"""What the workers of the game read and write: defenders at rest, chances of being flagged, and plays image by image."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.artifacts import paths
from pipeline.artifacts.banks import read_bank
from pipeline.artifacts.classifiers import read_classifier
from pipeline.artifacts.detectors import read_detector
from pipeline.artifacts.features import CLEAN, FeatureSet
from pipeline.artifacts.files import read_arrays
from pipeline.artifacts.store import ARRAYS, ShardOutput, ShardStore
from pipeline.classifiers.model import Classifier, freeze
from pipeline.detectors.committee import CommitteeDetector
from pipeline.evaluation.game import Play
from pipeline.fingerprints.bank import Bank
from pipeline.fingerprints.draws import StaticDraws
from pipeline.fingerprints.features import Features
from pipeline.game.cells import Cell
from pipeline.game.defenders import Defender, Way, calibrated, detector_arrays, detector_from, every_score
from pipeline.params.game import GameParams
from pipeline.random import generator

OWN = "own"
"""The detector that the chain made."""
SURROGATE = "surrogate-"
"""What the names of attackers' own begin with, each from a bank of its own; see ``surrogates``."""
DISJOINT, PART = "disjoint-", "part"
"""What the names of detectors of disjoint parts begin with; and columns of one part's chances."""

_WORDS, _COUNTS = ("defender", "disjoint", "knowledge", "attacker", "attack"), ("draw", "committees", "bank", "budget")
_CELL = [*((name, pa.string()) for name in _WORDS), *((name, pa.int64()) for name in _COUNTS)]
_PLAYED = ("sent", "accepted", "local", "queries", "l2", "linf")
PLAYS = pa.schema([*_CELL, ("id", pa.string()), *((name, pa.float64()) for name in _PLAYED)])
"""A row a cell and image."""
_ESTIMATED = ("accepted", "detected", "l2", "linf", "local", "queries", "local_per_accepted", "queries_per_accepted")
_VALUES = ("images", "sent", *(f"{name}{end}" for name in _ESTIMATED for end in ("", "_low", "_high")))
CELLS = pa.schema([*_CELL, *((name, pa.float64()) for name in _VALUES)])
"""A row a cell, as ``game.summarise`` gives its values."""


def play_table(cell: Cell, ids: Sequence[str], play: Play, l2: npt.NDArray[np.float64], linf: npt.NDArray[np.float64]) -> pa.Table:
    """A row an image of one cell."""
    same = {name: [value] * len(ids) for name, value in asdict(cell).items()}
    return pa.table({**same, "id": list(ids), **vars(play), "l2": l2, "linf": linf}, schema=PLAYS)


def detector_output(detector: CommitteeDetector) -> ShardOutput:
    """A detector made for the game, as a shard."""
    arrays, plain = detector_arrays(detector)
    return ShardOutput(arrays, {}, plain)


@dataclass(frozen=True)
class Arena:
    """What a worker plays with.

    Attributes:
        root: the project's folder.
        game: the section.
        alpha: the promised false-alarm rate.
        made: the detectors made for the game, each with the signature of its shard.
        store: where those shards are.
    """

    root: Path
    game: GameParams
    alpha: float
    made: dict[str, str]
    store: ShardStore

    @cached_property
    def features(self) -> FeatureSet:
        """The cached activations."""
        return FeatureSet.open(self.root / paths.ACTIVATIONS)

    @cached_property
    def bank(self) -> Bank:
        """The defender's."""
        return read_bank(self.root / paths.BANK)

    @cached_property
    def classifier(self) -> Classifier:
        """The guarded one, frozen."""
        return freeze(read_classifier(self.root / paths.CLASSIFIER))

    @cached_property
    def _calibrate(self) -> tuple[Features, npt.NDArray[np.int64]]:
        return self.features.read_split(CLEAN, "calibrate"), self.features.predicted(CLEAN, "fit")

    @cached_property
    def _detectors(self) -> dict[str, CommitteeDetector]:
        return {}

    def stream(self, sources: Sequence[str]) -> Iterable[tuple[str, Features]]:
        """Batches of the features of ``fit``."""
        return self.features.stream(sources, "fit")

    def detector(self, name: str) -> CommitteeDetector:
        """A detector, read once."""
        if name not in self._detectors:
            self._detectors[name] = self._read(name)
        return self._detectors[name]

    def _read(self, name: str) -> CommitteeDetector:
        if name != OWN:
            folder, about = self.store.read(name, self.made[name])
            return detector_from(read_arrays(folder / ARRAYS), about)
        detector = read_detector(self.root / paths.detector(self.game.detector), self.root / paths.BANK).detector
        assert isinstance(detector, CommitteeDetector)
        return detector

    def defender(self, name: str, way: Way, number: int = 0) -> Defender:
        """A calibrated defender; ``number`` tells fixed draws apart."""
        clean, fitted = self._calibrate
        seed = static_seed(self.game.seed, number) if way == "static" else self.game.seed
        return calibrated(self.detector(name), clean, fitted, len(self.features.class_names), self.alpha, way, seed)

    def tuned(self, source: str) -> pa.Table:
        """The scores of a source's images on ``tune``, a column a fixed draw of the guard's own detector.

        No threshold is among what the fixed draw is chosen by: a choice that ``calibrate`` had a part in would void its promise.
        """
        images, detector = self.features.read_split(source, "tune"), self.detector(OWN)
        scores = {
            f"static{number}": detector.scores(
                images.neurons, images.predicted, StaticDraws(len(images), static_seed(self.game.seed, number))
            )
            for number in range(self.game.statics)
        }
        return pa.table({"success": images.success, **scores})

    def chances(self, name: str, source: str, best: int) -> pa.Table:
        """What the draws of a detector make of a source's images in ``test``.

        Of the guard's own detector all ways of drawing, of the others the fresh one, of disjoint parts each part too; ``best`` is the
        static defender's draw.
        """
        images = self.features.read_split(source, "test")
        every = every_score(self.detector(name), images.neurons, images.predicted)
        ways: tuple[Way, ...] = ("fresh", "keyed", "static") if name == OWN else ("fresh",)
        defenders = {way: self.defender(name, way, best) for way in ways}
        columns: dict[str, Any] = {way: met.chances(images.neurons, images.predicted, every) for way, met in defenders.items()}
        if name.startswith(DISJOINT):
            for number, part in enumerate(np.split(every, self.game.disjoint[name.removeprefix(DISJOINT)].count, axis=1)):
                columns[f"{PART}{number}"] = defenders["fresh"].chances(images.neurons, images.predicted, part)
        return pa.table({"id": images.ids, "success": images.success, **columns})


def surrogates(game: GameParams) -> list[str]:
    """The names of the attackers' own detectors."""
    return [f"{SURROGATE}{number}" for number in range(game.surrogates)]


def static_seed(seed: int, number: int) -> int:
    """The seed of a fixed draw."""
    return int(generator(seed, "game/static", str(number)).integers(2**62))
