"""What the guard adds to the classifier's own forward pass, statistic by statistic and piece by piece, on a made bank."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from common import Entry, Spread, Timed, alternate, figure, median_spread, row
from torch import Tensor, nn

from pipeline.classifiers.activations import activations, choose_neurons, layer_sizes
from pipeline.classifiers.cifar_resnet import cifar_resnet20
from pipeline.classifiers.model import Classifier, freeze, to_float
from pipeline.detectors.base import Detector
from pipeline.detectors.committee import CommitteeDetector
from pipeline.detectors.conformal import Calibration
from pipeline.detectors.fingerprint import FingerprintDetector
from pipeline.fingerprints.bank import Bank, Fingerprints
from pipeline.fingerprints.committees import Committees, Factored
from pipeline.fingerprints.draws import FreshDraws, draw
from pipeline.fingerprints.features import Layout
from pipeline.fingerprints.likelihood import StatisticName
from pipeline.fingerprints.sampling import sample_index_sets
from pipeline.guard import Guard
from pipeline.params.data import ImageFormat
from pipeline.params.fingerprints import FingerprintParams
from pipeline.params.root import load_params

QUESTION = "What does inspecting an image cost beside classifying it?"
BARE, TAPPED = "bare forward", "forward with the neurons kept"
CLASSES, SIDE, ATTACKS = 10, 32, 9
BANK, COMMITTEES, CALIBRATION = 2000, 50, 250
PRESET = Path(__file__).resolve().parents[1] / "presets/cifar10.yaml"
"""Which neurons are kept, and how fingerprints are sampled from them."""
DRAWN = 100


@dataclass(frozen=True)
class Committee:
    """A size of committees.

    Attributes:
        m: fingerprints of a committee.
        directions: kept against each of 9 attacks and against natural mistakes, R.
    """

    m: int
    directions: int

    @property
    def title(self) -> str:
        """As the table names it."""
        return f"committee, m = {self.m}, R = {self.directions}"


SIZES = [Committee(m, directions) for m, directions in ((16, 8), (32, 8), (32, 16), (64, 16), (64, 24), (80, 32), (120, 32))]
DEFAULT = Committee(64, 16)
"""Of the CIFAR-10 preset, as is all else here."""


@dataclass(frozen=True)
class Made:
    """A guard's parts, made without any data.

    Attributes:
        classifier: an untrained ResNet-20, its logits centred so that it predicts all classes.
        pool: of its neurons.
        bank: random fingerprints.
        images: float32 (N, 3, 32, 32), random.
    """

    classifier: Classifier
    pool: dict[str, npt.NDArray[np.int64]]
    bank: Bank
    images: Tensor

    def guard(self, detector: Detector, draw_key: bytes | None = None) -> Guard:
        """A guard with this detector, calibrated on made scores; with a key its draws are keyed."""
        scores = np.sort(np.random.default_rng(0).normal(size=(CLASSES, CALIBRATION)), axis=1)
        groups = {str(label): scores[label] for label in range(CLASSES)}
        calibration = Calibration(groups, {label: str(label) for label in range(CLASSES)})
        shape = {"channels": 3, "height": SIDE, "width": SIDE, "resize": False, "convert": (), "max_pixels": 10**6, "max_bytes": 10**6}
        format, names = ImageFormat.model_validate(shape), tuple(map(str, range(CLASSES)))
        return Guard(self.classifier, self.pool, detector, calibration, alpha=0.05, class_names=names, format=format, draw_key=draw_key)


def made() -> Made:
    """A classifier of CIFAR-10's size with the preset's pool of neurons, and a bank of 2,000 a class."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    images = to_float(rng.integers(0, 256, (512, 3, SIDE, SIDE), dtype=np.uint8))
    classifier = freeze(Classifier(cifar_resnet20(CLASSES, 3), (0.5,) * 3, (0.25,) * 3, (SIDE, SIDE)))
    with torch.inference_mode(False), torch.no_grad():
        logits = classifier(images)
        last = next(module for module in reversed(list(classifier.network.modules())) if isinstance(module, nn.Linear))
        last.weight /= logits.std(0)[:, None]
        last.bias.copy_((last.bias - logits.mean(0)) / logits.std(0))
    preset = load_params(PRESET)
    layers = preset.activations.layers
    pool = choose_neurons(layer_sizes(classifier, layers, (3, SIDE, SIDE)), layers, 0)
    layout = Layout(tuple(pool), tuple(np.cumsum([0, *map(len, pool.values())]).tolist()))
    groups = {str(label): _fingerprints(rng, layout, preset.fingerprints) for label in range(CLASSES)}
    return Made(classifier, pool, Bank.build(layout, groups, {label: str(label) for label in range(CLASSES)}, {}), images)


def _fingerprints(rng: np.random.Generator, layout: Layout, params: FingerprintParams) -> Fingerprints:
    indices, layer = sample_index_sets(rng, layout, params.k, BANK, params.layer_weights)
    numbers = (rng.normal(size=BANK), rng.uniform(0.3, 1, BANK), rng.normal(size=BANK), rng.uniform(0.3, 1, BANK), np.ones(BANK))
    return Fingerprints(indices, layer, *(each.astype(np.float32) for each in numbers))


def committees(bank: Bank, size: Committee, count: int = COMMITTEES) -> CommitteeDetector:
    """Committees of random log-ratios: what they cost does not depend on what they say."""
    rng, total, m = np.random.default_rng(0), count * len(bank.names), size.m
    groups = np.repeat(np.arange(len(bank.names)), count)
    inside = np.argsort(rng.random((total, int(bank.sizes.min()))), axis=1)[:, :m]
    shape = (total, ATTACKS + 1, size.directions)
    weights = rng.normal(size=(*shape, m)).astype(np.float32)
    centre, shift = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    variance = rng.uniform(0.5, 2, shape).astype(np.float32)
    prior = np.log([1 / ATTACKS] * ATTACKS + [0.1]).astype(np.float32)
    factored = Factored(weights, centre, shift, variance, np.tile(prior, (total, 1)))
    members = (inside + bank.starts[groups, None]).astype(np.int32)
    starts = np.arange(len(bank.names) + 1, dtype=np.int64) * count
    return CommitteeDetector(bank, Committees(members, starts, factored, tuple(map(str, range(ATTACKS)))))


def detectors(bank: Bank) -> dict[str, Detector]:
    """Every statistic by its title; the independent ones over as many drawn fingerprints as the CIFAR-10 preset has."""
    found: dict[str, Detector] = {size.title: committees(bank, size) for size in SIZES}
    names: tuple[StatisticName, ...] = ("likelihood_ratio", "vote", "anomaly")
    for name in names:
        found[f"{name}, {DRAWN} drawn"] = FingerprintDetector(bank, name, DRAWN)
    return found


def inspection(batches: Mapping[int, int]) -> list[Entry]:
    """The rows: for every number of images a call, over so many rounds."""
    parts, entries = made(), list[Entry]()
    every = detectors(parts.bank)
    for count, rounds in batches.items():
        images = parts.images[:count]
        timed = alternate(_contestants(parts, every, images), rounds)
        entries += [_entry(name, count, timed) for name in timed if name != BARE]
        print(f"{count} images: " + ", ".join(f"{name} {_ms(run):.3f} ms" for name, run in timed.items()), file=sys.stderr)
    return entries


def _contestants(parts: Made, every: Mapping[str, Detector], images: Tensor) -> dict[str, Callable[[], object]]:
    """The bare forward pass first; whole inspections; then their pieces."""

    def bare() -> Tensor:
        with torch.inference_mode():
            logits: Tensor = parts.classifier(images)
        return logits

    whole = {name: partial(parts.guard(detector).inspect, images) for name, detector in every.items()}
    whole[f"{DEFAULT.title}, keyed draws"] = partial(parts.guard(every[DEFAULT.title], bytes(32)).inspect, images)
    logits, neurons = activations(parts.classifier, images, parts.pool)
    predicted, count = logits.argmax(1).astype(np.int64), len(logits)
    joint, alone = every[DEFAULT.title], every[f"likelihood_ratio, {DRAWN} drawn"]
    assert isinstance(joint, CommitteeDetector)
    calibration, scores, sizes = parts.guard(joint).calibration, np.zeros(count), np.full(count, BANK)
    pieces: dict[str, Callable[[], object]] = {
        TAPPED: lambda: activations(parts.classifier, images, parts.pool),
        f"piece: drawing a committee each ({joint.committees.starts[-1]:,})": lambda: joint.choose(predicted, FreshDraws(count)),
        f"piece: drawing {DRAWN} fingerprints each": lambda: draw(FreshDraws(count), sizes, DRAWN),
        f"piece: drawing and scoring, {DEFAULT.title}": lambda: joint.scores(neurons, predicted, FreshDraws(count)),
        f"piece: drawing and scoring, likelihood_ratio, {DRAWN} drawn": lambda: alone.scores(neurons, predicted, FreshDraws(count)),
        "piece: p-values": lambda: calibration.p_values(scores, predicted),
    }
    return {BARE: bare, **whole, **pieces}


def _entry(name: str, count: int, timed: Mapping[str, Timed[object]]) -> Entry:
    """A whole against the bare forward pass of its round, or a piece as a share of it."""
    bare, own = (np.array(timed[each].seconds) for each in (BARE, name))
    ratio = median_spread(own / bare)
    found = row(QUESTION, f"{images_said(count)}: {name}", (_ms(timed[name]), _ms(timed[BARE])), "ms", ratio)
    if name.startswith("piece"):
        return Entry(found, "of the bare forward pass")
    added = median_spread((own - bare) * 1000)
    return Entry(found, f"adds {added_said(added)}; rounds: {len(own)}")


def added_said(added: Spread) -> str:
    """Milliseconds with their interval."""
    return f"{figure(added.value)} ms ({figure(added.low)} to {figure(added.high)})"


def images_said(count: int) -> str:
    """How many images a call has, for the table."""
    return "1 image" if count == 1 else f"batch of {count}"


def _ms(run: Timed[object]) -> float:
    return float(np.median(run.seconds)) * 1000
