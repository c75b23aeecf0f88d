"""Time and memory of banks from ten classes up to a thousand, on made activations; step by step, as the stages take them."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from common import Entry, Spread, row

from pipeline.artifacts.files import read_arrays, write_arrays
from pipeline.detectors.building import factor_group
from pipeline.detectors.committee import CommitteeDetector
from pipeline.fingerprints.bank import Bank, Fingerprints
from pipeline.fingerprints.candidates import block_moments
from pipeline.fingerprints.committees import Committees, Factored
from pipeline.fingerprints.draws import FreshDraws
from pipeline.fingerprints.features import CLEAN, Features, Layout
from pipeline.fingerprints.joint import PooledMoments
from pipeline.fingerprints.sampling import sample_index_sets
from pipeline.fingerprints.selection import select
from pipeline.params.detectors import CommitteeDetectorParams
from pipeline.params.fingerprints import SelectionParams

T = TypeVar("T")
QUESTION = "How do banks grow with classes and fingerprints?"
K, ATTACKS, IMAGES, BATCH = 8, ("a", "b"), 50, 128
LAYERS = ("first", "second", "third", "fourth")
LAYOUT = Layout(LAYERS, (0, 512, 1024, 1536, 2048))
COMMITTEE = CommitteeDetectorParams(
    kind="committee", layer_weights=None, draw=60, committees=200, directions=8, shrinkage=0.1, pooling=0.5, mistakes=False, seed=0
)
SAMPLED = 5
"""Classes whose committees are factored, and whose covariances are gathered: the others cost the same."""


@dataclass(frozen=True)
class Scale:
    """A size of bank: classes, and fingerprints kept of each."""

    classes: int
    fingerprints: int

    @property
    def title(self) -> str:
        """As the table names it."""
        return f"{self.classes:,} classes x {self.fingerprints:,}"


FEW, MANY = Scale(10, 2000), Scale(1000, 10_000)


@dataclass
class Measured:
    """What a bank took: seconds, MiB or bytes by what was measured, in the order of the measuring."""

    scale: Scale
    values: dict[tuple[str, str], float] = field(default_factory=dict)

    def put(self, title: str, unit: str, value: float) -> None:
        """Adds one figure."""
        self.values[title, unit] = value
        print(f"{self.scale.title}: {title} {value:.4g} {unit}", file=sys.stderr)


def scale(sizes: list[Scale]) -> list[Entry]:
    """The rows of the last size, against the first."""
    few, many = (measure(size) for size in (sizes[0], sizes[-1]))
    entries, title = list[Entry](), f"{many.scale.title}, against {few.scale.title}"
    for (what, unit), value in many.values.items():
        other = few.values[what, unit]
        ratio = Spread(value / other if other else None, None, None)
        entries.append(Entry(row(QUESTION, f"{title}: {what}", (value, other), unit, ratio), ""))
    return entries


def measure(size: Scale) -> Measured:
    """Builds, stores, loads and uses a bank of a size."""
    found = Measured(size)
    bank = _built(found)
    with TemporaryDirectory() as folder:
        _stored(found, Path(folder) / "bank.safetensors", "bank", bank.to_arrays()[0])
    _factored(found, bank, _covariances(found))
    _used(found, bank)
    return found


def class_features(label: int) -> Iterator[tuple[str, Features]]:
    """One class's made images: clean ones, and successes of every attack, each neuron shifted by its own amount."""
    for number, source in enumerate((CLEAN, *ATTACKS)):
        rng = np.random.default_rng([label, number])
        shift = np.random.default_rng(number).normal(0, 1.5, LAYOUT.size) if number else 0
        neurons = np.abs(rng.standard_normal((IMAGES, LAYOUT.size), np.float32) + np.float32(0.5) + shift).astype(np.float32)
        predicted, wrong = np.full(IMAGES, label), np.full(IMAGES, number > 0)
        labels = predicted + wrong  # an attacked image was of another class
        ids = [f"{label:08x}{image:024x}" for image in range(IMAGES)]
        yield source, Features(ids, labels, labels, predicted, wrong, np.zeros(IMAGES, bool), neurons)


def selection(size: Scale) -> SelectionParams:
    """Keeps the largest effects, as many as the bank holds."""
    numbers = {"min_clean": 2, "min_attacked": 2, "min_fingerprints": 1, "bank_size": size.fingerprints}
    return SelectionParams(effect_size=0.0, false_discovery_rate=1.0, cross_fit=None, prefer="largest_effect", **numbers)


def _built(found: Measured) -> Bank:
    """Samples, fits and selects for every class; what making the activations takes is left out of the time."""
    size, groups, seconds = found.scale, dict[str, Fingerprints](), []
    params, candidates = selection(size), size.fingerprints * 5 // 4
    with peak(found, "sampling, moments and selection, and the bank put together: peak"):
        for label in range(size.classes):
            stream = list(class_features(label))
            began, rng = time.perf_counter(), np.random.default_rng(label)
            indices, layer = sample_index_sets(rng, LAYOUT, K, candidates, dict.fromkeys(LAYERS, 1.0))
            block = block_moments(indices, layer, stream, group_class=label, attacks=ATTACKS)
            groups[str(label)] = select(block, ATTACKS, params, rng).fingerprints
            seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
        bank = Bank.build(LAYOUT, groups, {label: str(label) for label in range(size.classes)}, {})
        joined = time.perf_counter() - began
    found.put("fingerprints kept, whole", "count", float(len(bank.fingerprints)))
    found.put("sampling, moments and selection, all classes", "s", sum(seconds))
    found.put("sampling, moments and selection, a class (median)", "ms", float(np.median(seconds)) * 1000)
    found.put("putting the bank together", "s", joined)
    return bank


def _stored(found: Measured, path: Path, what: str, arrays: dict[str, npt.NDArray[np.generic]]) -> None:
    _, seconds = timed(lambda: write_arrays(path, arrays))
    found.put(f"{what} written", "s", seconds)
    found.put(f"{what} on disk", "MiB", path.stat().st_size / 2**20)
    with peak(found, f"{what} loaded: peak"):
        _, seconds = timed(lambda: read_arrays(path))
    found.put(f"{what} loaded", "s", seconds)


def _covariances(found: Measured) -> dict[str, PooledMoments]:
    """The shared covariance, of some classes' images alone: each further class takes as long."""
    seconds, sources = [], (CLEAN, *ATTACKS)
    with peak(found, "means of every class and shared covariances of three sources: peak"):
        moments = {source: PooledMoments.empty(found.scale.classes, LAYOUT.size) for source in sources}
        for label in range(min(SAMPLED, found.scale.classes)):
            stream = list(class_features(label))
            began = time.perf_counter()
            for source, features in stream:
                moments[source].add(source, features)
            seconds.append(time.perf_counter() - began)
    found.put(f"means and covariances, a class (median of {len(seconds)})", "ms", float(np.median(seconds)) * 1000)
    return moments


def _factored(found: Measured, bank: Bank, moments: dict[str, PooledMoments]) -> None:
    names = bank.names[: min(SAMPLED, found.scale.classes)]
    seconds = []
    with peak(found, "committees of a class drawn and factored: peak"):
        for name in names:
            seconds.append(timed(partial(factor_group, bank, name, COMMITTEE, moments, ATTACKS))[1])
    found.put(f"committees drawn and factored, a class (median of {len(seconds)})", "s", float(np.median(seconds)))


def _used(found: Measured, bank: Bank) -> None:
    """Stores, loads and scores committees of every class; random ones, since what they cost does not depend on what they say."""
    committees = random_committees(bank)
    with TemporaryDirectory() as folder:
        _stored(found, Path(folder) / "committees.safetensors", "committees", committees.to_arrays())
    detector, rng = CommitteeDetector(bank, committees), np.random.default_rng(0)
    with peak(found, "committees made ready to score: peak"):
        _, seconds = timed(lambda: detector.module)
    found.put("committees made ready to score", "s", seconds)
    neurons = rng.standard_normal((BATCH, LAYOUT.size), np.float32)
    predicted = rng.integers(0, found.scale.classes, BATCH)
    runs = [timed(lambda: detector.scores(neurons, predicted, FreshDraws(BATCH)))[1] for _ in range(50)]
    found.put(f"scoring a batch of {BATCH} (median of {len(runs)})", "ms", float(np.median(runs)) * 1000)


def random_committees(bank: Bank) -> Committees:
    """Committees of every group, random, of the size of ``COMMITTEE``."""
    rng, groups, count = np.random.default_rng(0), len(bank.names), COMMITTEE.committees
    shape = (groups * count, len(ATTACKS), COMMITTEE.directions)
    weights = rng.standard_normal((*shape, COMMITTEE.draw), np.float32)
    centre, shift = (rng.standard_normal(shape, np.float32) for _ in range(2))
    prior = np.full(shape[:2], -np.log(len(ATTACKS)), np.float32)
    inside = rng.random((groups * count, COMMITTEE.draw)) * np.repeat(bank.sizes, count)[:, None]
    members = inside.astype(np.int32) + np.repeat(bank.starts[:-1], count)[:, None].astype(np.int32)
    variance = np.exp(rng.standard_normal(shape, np.float32))
    return Committees(members, np.arange(groups + 1) * count, Factored(weights, centre, shift, variance, prior), ATTACKS)


def timed(run: Callable[[], T]) -> tuple[T, float]:
    """What a call returns, and its seconds."""
    began = time.perf_counter()
    result = run()
    return result, time.perf_counter() - began


@contextmanager
def peak(found: Measured, title: str) -> Iterator[None]:
    """Puts the most that the process had in memory while the block ran, in MiB; Linux alone."""
    Path("/proc/self/clear_refs").write_text("5")
    yield
    found.put(title, "MiB", _status("VmHWM") / 1024)


def _status(name: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0])
