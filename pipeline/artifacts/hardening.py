"""What the workers of the hardening study write and read: survivors at rest, and chances of being flagged."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.artifacts.detectors import CalibratedDetector
from pipeline.artifacts.features import CLEAN, feature_output, join, stored_features
from pipeline.artifacts.files import read_arrays, read_table
from pipeline.artifacts.scores import SCHEMA as SCORES
from pipeline.artifacts.scores import renamed, score_table
from pipeline.artifacts.store import ARRAYS, ShardOutput
from pipeline.detectors.committee import CommitteeDetector
from pipeline.evaluation.hardening import Looked
from pipeline.fingerprints.features import Features
from pipeline.game.defenders import Defender, every_score
from pipeline.game.hardening import evened

_SHARES = ("chance", "even")
CHANCES = pa.schema([("attack", pa.string()), ("id", pa.string()), ("correct", pa.bool_()), *((name, pa.float64()) for name in _SHARES)])
"""A row an image of ``test`` that counts: every clean one, and every success."""
FIGURES = pa.schema(
    [("round", pa.int64()), ("attack", pa.string()), ("measure", pa.string()), *((end, pa.float64()) for end in ("value", "low", "high"))]
)
"""A row a figure of the study."""


def survivors_output(found: Mapping[str, Features], width: int) -> ShardOutput:
    """The survivors of one part as a shard; its facts say how many each attack gave.

    Args:
        found: attack to its survivors.
        width: the number of neurons.
    """
    output = feature_output(join(list(found.values()), width))
    names = pa.array([name for name, images in found.items() for _ in images.ids], pa.string())
    counts = {name: len(images) for name, images in found.items()}
    return ShardOutput(output.arrays, {"rows": output.tables["rows"].append_column("attack", names)}, {"counts": counts, "refused": ""})


def read_survivors(folder: Path) -> list[Features]:
    """The survivors of one part, a batch an attack."""
    rows = read_table(folder / "rows.parquet")
    whole, names = stored_features(rows, read_arrays(folder / ARRAYS)), rows.column("attack").to_pylist()
    return [whole.where(np.array([other == name for other in names], np.bool_)) for name in dict.fromkeys(names)]


def tested_output(
    number: int, name: str, detector: CalibratedDetector, sources: Mapping[str, Features], seeds: Sequence[int]
) -> ShardOutput:
    """What a round's detector makes of ``test``: drawn scores, for areas under the curve, and the exact share of its draws that flags.

    Args:
        number: of the round.
        name: of the detector, whose draws the scores are made with.
        detector: of the round, with committees.
        sources: ``clean`` and attacks to their images of ``test``.
        seeds: of the drawn scores.
    """
    assert isinstance(detector.detector, CommitteeDetector)
    defender = Defender(detector.detector, detector.calibration, detector.alpha, "fresh", 0)
    scores = [renamed(score_table(name, detector, source, images, seeds), f"round{number}") for source, images in sources.items()]
    even = evened(defender, sources[CLEAN])
    chances = []
    for source, images in sources.items():
        known = images if source == CLEAN else images.where(images.success)
        every = every_score(detector.detector, known.neurons, known.predicted)
        shares = {key: of.chances(known.neurons, known.predicted, every) for key, of in zip(_SHARES, (defender, even), strict=True)}
        columns = {"attack": [source] * len(known), "id": known.ids, "correct": known.clean_predicted == known.labels}
        chances.append(pa.table({**columns, **shares}, schema=CHANCES))
    tables = {"scores": pa.concat_tables(scores), "chances": pa.concat_tables(chances)}
    return ShardOutput(tables=tables, about={"refused": ""})


def refused_output(error: Exception) -> ShardOutput:
    """A round that could not be made, and why."""
    return ShardOutput(tables={"scores": SCORES.empty_table(), "chances": CHANCES.empty_table()}, about={"refused": str(error)})


def read_looked(folder: Path, source: str) -> Looked:
    """The images of one source as a round's detector sees them."""
    rows = read_table(folder / "chances.parquet")
    mine = rows.filter(pa.array([name == source for name in rows["attack"].to_pylist()], pa.bool_()))
    return Looked(*(mine[name].to_numpy() for name in (*_SHARES, "correct")))
