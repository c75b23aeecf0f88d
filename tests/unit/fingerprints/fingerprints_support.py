"""What several tests of fingerprints share."""

import numpy as np

from pipeline.fingerprints.bank import Bank, Fingerprints
from pipeline.fingerprints.features import Features, Layout

LAYOUT = Layout(("early", "late", "logits"), (0, 40, 64, 70))


def image_ids(count: int) -> list[str]:
    return [f"{number:032x}" for number in range(count)]


def clean_features(labels: list[int], predicted: list[int], neurons: np.ndarray) -> Features:
    none = np.zeros(len(labels), np.bool_)
    return Features(image_ids(len(labels)), np.array(labels), np.array(predicted), np.array(predicted), none, none, neurons)


def random_fingerprints(rng: np.random.Generator, count: int, k: int = 3, size: int = LAYOUT.size) -> Fingerprints:
    indices = np.sort(rng.random((count, size)).argsort(axis=1)[:, :k], axis=1).astype(np.int32)
    moments = [
        rng.normal(size=count),
        rng.uniform(0.5, 2, count),
        rng.normal(size=count),
        rng.uniform(0.5, 2, count),
        rng.normal(size=count),
    ]
    return Fingerprints(indices, rng.integers(0, 3, count).astype(np.int16), *(values.astype(np.float32) for values in moments))


def random_bank(rng: np.random.Generator, sizes: dict[str, int], class_group: dict[int, str]) -> Bank:
    pooled = {label: "only 3 fingerprints" for label, name in class_group.items() if name == "pooled"}
    return Bank.build(LAYOUT, {name: random_fingerprints(rng, size) for name, size in sizes.items()}, class_group, pooled)
