"""A made world for the game: a small classifier, its features, and banks whose fingerprints can be told apart."""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from world_support import selection_params

from pipeline.classifiers.activations import activations
from pipeline.classifiers.model import Classifier, to_float
from pipeline.detectors.committee import CommitteeDetector
from pipeline.fingerprints.bank import Bank, Fingerprints
from pipeline.fingerprints.features import CLEAN, Features, Layout
from pipeline.game.defenders import (
    Defender,
    calibrated,
)
from pipeline.params.detectors import CommitteeDetectorParams
from pipeline.params.fingerprints import FingerprintParams
from pipeline.params.game import DescendParams
from pipeline.params.root import load_params

SHIPPED = load_params(Path(__file__).resolve().parents[2] / "presets/digits.yaml")
"""The default's, whatever params.yaml has been changed to."""
CLASSES, SIDE, HIDDEN = 3, 6, 40
LAYOUT = Layout(("hidden", "logits"), (0, HIDDEN, HIDDEN + CLASSES))
POOL = {"hidden": np.arange(HIDDEN), "logits": np.arange(CLASSES)}
PARAMS = CommitteeDetectorParams(
    kind="committee", layer_weights=None, draw=6, committees=16, directions=3, shrinkage=0.1, pooling=0.5, mistakes=True, seed=0
)
FINGERPRINTS = FingerprintParams(
    seed=0, k=2, layer_weights={"hidden": 1.0, "logits": 0.2}, candidates=200, block=100, fit_attacks=("sign",)
)
SELECTION = selection_params(effect_size=0.1, false_discovery_rate=0.05, bank_size=60, min_clean=10, min_attacked=10, min_fingerprints=10)
ALPHA = 0.1
DESCEND = DescendParams(norm="linf", epsilon=0.2, step_size=0.02, steps=15, samples=4, weights=(1.0,), trades=(0.5,))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, HIDDEN), nn.Tanh())
        self.out = nn.Linear(HIDDEN, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.out(self.hidden(images))
        return result


def pictures(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, SIDE, SIDE)).astype(np.uint8)


def labels_of(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    return activations(classifier, to_float(images), POOL)[0].argmax(1).astype(np.int64)


def features(classifier: Classifier, clean: np.ndarray, shown: np.ndarray) -> Features:
    before, after = labels_of(classifier, clean), labels_of(classifier, shown)
    neurons = activations(classifier, to_float(shown), POOL)[1]
    ids = [f"{row:032x}" for row in range(len(clean))]
    return Features(ids, before, before, after, before != after, np.zeros(len(clean), bool), neurons)


def signed(classifier: Classifier, images: np.ndarray, epsilon: float = 0.2) -> np.ndarray:
    """One sign step away from the predicted class."""
    leaf = to_float(images).requires_grad_()
    labels = torch.from_numpy(labels_of(classifier, images))
    (slope,) = torch.autograd.grad(nn.functional.cross_entropy(classifier(leaf), labels), leaf)
    moved = (leaf.detach() + epsilon * slope.sign()).clamp(0, 1)
    return (moved * 255).round().to(torch.uint8).numpy()


def defend(detector: CommitteeDetector, classifier: Classifier, fit: dict[str, Features], way: str, seed: int = 3) -> Defender:
    clean = pictures(400, 2)
    known = features(classifier, clean, clean)
    return calibrated(detector, known, fit[CLEAN].predicted, CLASSES, ALPHA, way, seed)  # type: ignore[arg-type]


def marked(sizes: dict[str, int]) -> Bank:
    """A bank in which everything about a fingerprint but its layer is its number; two of three are of the second layer."""

    def group(first: int, count: int) -> Fingerprints:
        numbers = np.arange(first, first + count)
        return Fingerprints(numbers[:, None].astype(np.int32), (numbers % 3 > 0).astype(np.int16), *[numbers.astype(np.float32)] * 5)

    firsts = np.cumsum([0, *sizes.values()])
    groups = {name: group(int(first), count) for (name, count), first in zip(sizes.items(), firsts, strict=False)}
    layout = Layout(("few", "many"), (0, 1, int(firsts[-1])))
    return Bank.build(layout, groups, {0: "0", 1: "pooled", 2: "2"}, {1: "only 3 fingerprints"})
