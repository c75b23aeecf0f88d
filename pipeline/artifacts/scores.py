"""The table that every figure is recomputed from: a row per (detector, attack, image, seed)."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from pipeline.artifacts.detectors import CalibratedDetector
from pipeline.fingerprints.features import Features
from pipeline.random import ImageRandom

SCHEMA = pa.schema(
    [
        ("detector", pa.string()),
        ("attack", pa.string()),
        ("id", pa.string()),
        ("label", pa.int64()),
        ("clean_predicted", pa.int64()),
        ("predicted", pa.int64()),
        ("success", pa.bool_()),
        ("score", pa.float64()),
        ("p_value", pa.float64()),
        ("group", pa.string()),
        ("seed", pa.int64()),
    ]
)


def score_table(name: str, detector: CalibratedDetector, source: str, features: Features, seeds: Iterable[int]) -> pa.Table:
    """The rows of one detector on the images of one source (``clean``, or an attack), for every seed of draws."""
    return pa.concat_tables([SCHEMA.empty_table(), *(_rows(name, detector, source, features, seed) for seed in seeds)])


def _rows(name: str, detector: CalibratedDetector, source: str, features: Features, seed: int) -> pa.Table:
    draws = ImageRandom(seed, f"evaluate/{name}/{source}", features.ids)
    scores = detector.detector.scores(features.neurons, features.predicted, draws)
    p_values, groups = detector.calibration.p_values(scores, features.predicted)
    count = len(features.ids)
    columns = {
        "detector": [name] * count,
        "attack": [source] * count,
        "id": features.ids,
        "label": features.labels,
        "clean_predicted": features.clean_predicted,
        "predicted": features.predicted,
        "success": features.success,
        "score": scores,
        "p_value": p_values,
        "group": groups.tolist(),
        "seed": np.full(count, seed, np.int64),
    }
    return pa.table(columns, schema=SCHEMA)


def renamed(scores: pa.Table, detector: str) -> pa.Table:
    """The same rows under another detector's name: a variant that met the same draws."""
    return scores.set_column(0, SCHEMA.field("detector"), pa.array([detector] * len(scores), pa.string()))
