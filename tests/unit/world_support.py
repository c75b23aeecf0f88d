"""A made world of attacked images, as fingerprints see them, and the selection that tests change a little."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.fingerprints.features import CLEAN, Features, Layout
from pipeline.params.fingerprints import SelectionParams


def attacked_world(seed: int, ids: list[str], layout: Layout, classes: int, attacks: Sequence[str], strength: float) -> dict[str, Features]:
    """Classes of neurons; every attack moves them in a direction of its own, if it succeeds, which it does four times in five."""
    rng, count, width = np.random.default_rng(seed), len(ids), layout.size
    labels, none = rng.integers(0, classes, count), np.zeros(count, np.bool_)
    centres, traces = rng.normal(size=(classes, width)), rng.normal(0, strength, (len(attacks), width))
    neurons = (centres[labels] + rng.normal(size=(count, width))).astype(np.float32)
    found = {CLEAN: Features(ids, labels, labels, labels, none, none, neurons)}
    for attack, trace in zip(attacks, traces, strict=True):
        success = rng.random(count) < 0.8
        predicted = np.where(success, (labels + 1) % classes, labels)
        moved = centres[predicted] + rng.normal(size=(count, width)) + trace * success[:, None]
        found[attack] = Features(ids, labels, labels, predicted, success, none, moved.astype(np.float32))
    return found


def selection_params(**changes: Any) -> SelectionParams:
    """The ``selection`` section, some of it changed."""
    values = dict(
        effect_size=0.8,
        false_discovery_rate=0.001,
        cross_fit=None,
        prefer="random",
        bank_size=1000,
        min_clean=20,
        min_attacked=20,
        min_fingerprints=5,
    )
    return SelectionParams(**(values | changes))
