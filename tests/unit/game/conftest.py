"""The fixtures of the made world."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from game_support import (
    CLASSES,
    FINGERPRINTS,
    LAYOUT,
    PARAMS,
    SELECTION,
    SIDE,
    Small,
    features,
    pictures,
    signed,
)

from pipeline.classifiers.model import Classifier, freeze
from pipeline.detectors.building import build_bank, build_detector
from pipeline.detectors.committee import CommitteeDetector
from pipeline.fingerprints.features import CLEAN, Features


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Small()
    return freeze(Classifier(network, (0.5,), (0.25,), (SIDE, SIDE)))


@pytest.fixture(scope="module")
def fit(classifier: Classifier) -> dict[str, Features]:
    clean = pictures(900, 1)
    return {CLEAN: features(classifier, clean, clean), "sign": features(classifier, clean, signed(classifier, clean))}


@pytest.fixture(scope="module")
def detector(fit: dict[str, Features]) -> CommitteeDetector:
    def stream(sources: Sequence[str]) -> Iterator[tuple[str, Features]]:
        return ((source, fit[source]) for source in sources)

    bank = build_bank(stream, LAYOUT, CLASSES, FINGERPRINTS, SELECTION)
    made = build_detector(stream, bank, PARAMS, ["sign"])
    assert isinstance(made, CommitteeDetector)
    return made
