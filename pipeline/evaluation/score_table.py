"""The table of scores, read into arrays and checked against itself."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import WhorlError

COLUMNS = ("detector", "attack", "id", "label", "clean_predicted", "predicted", "success", "score", "p_value", "group", "seed")
CLEAN = "clean"


@dataclass(frozen=True)
class AttackScores:
    """The successes of one attack, S seeds each: images (a,) int64 positions among the clean ones, scores and p-values (S, a)."""

    images: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    p_values: npt.NDArray[np.float64]


@dataclass(frozen=True)
class DetectorScores:
    """One detector on n clean images and on their successful attacks.

    Attributes:
        correct: (n,) bool, classified right when clean.
        scores: (S, n) float64 of the clean images, a row a seed.
        p_values: (S, n) float64.
        attacks: attack to its successes; one that never succeeded has none.
    """

    correct: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float64]
    p_values: npt.NDArray[np.float64]
    attacks: dict[str, AttackScores]

    @property
    def seeds(self) -> int:
        """S, the number of seeds."""
        return len(self.scores)


@dataclass(frozen=True)
class _Columns:
    """The table's columns as arrays, strings as codes into their sorted names."""

    detectors: list[str]
    detector: npt.NDArray[np.int64]
    attacks: list[str]
    attack: npt.NDArray[np.int64]
    ids: list[str]
    id: npt.NDArray[np.int64]
    seeds: npt.NDArray[np.int64]
    seed: npt.NDArray[np.int64]
    right_when_clean: npt.NDArray[np.bool_]
    right: npt.NDArray[np.bool_]
    success: npt.NDArray[np.bool_]
    score: npt.NDArray[np.float64]
    p_value: npt.NDArray[np.float64]


def read_detectors(table: pa.Table) -> dict[str, DetectorScores]:
    """Detector to its scores, in order of name; images in order of id, the same for every detector.

    Only successful attacks are taken; failed and skipped ones are no attacks.

    Raises:
        WhorlError: a column is missing; a score or p-value is no number or outside of its range; a success was wrong when
            clean or is right now; a detector and seed lack a clean image that another has, or have one twice; an attacked
            image has no clean row; the seeds of an attack differ in their images.
    """
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise WhorlError(f"The table of scores lacks the columns {missing}, where {list(COLUMNS)} were expected.")
    if not table.num_rows:
        return {}
    columns = _read_columns(table)
    _check_rows(columns)
    return dict(_detectors(columns))


def _read_columns(table: pa.Table) -> _Columns:
    detectors, detector = _codes(table["detector"])
    attacks, attack = _codes(table["attack"])
    ids, image = _codes(table["id"])
    seeds, seed = np.unique(table["seed"].to_numpy(), return_inverse=True)
    label = table["label"].to_numpy()
    return _Columns(
        detectors,
        detector,
        attacks,
        attack,
        ids,
        image,
        seeds.astype(np.int64),
        seed,
        table["clean_predicted"].to_numpy() == label,
        table["predicted"].to_numpy() == label,
        table["success"].to_numpy().astype(np.bool_),
        table["score"].to_numpy().astype(np.float64),
        table["p_value"].to_numpy().astype(np.float64),
    )


def _codes(column: pa.ChunkedArray) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The distinct strings in order, and each row's position among them."""
    encoded = pc.dictionary_encode(column.combine_chunks())
    names = [str(name) for name in encoded.dictionary.to_pylist()]
    order = sorted(range(len(names)), key=names.__getitem__)
    position = np.empty(len(names), np.int64)
    position[order] = np.arange(len(names))
    return [names[at] for at in order], position[encoded.indices.to_numpy(zero_copy_only=False)]


def _check_rows(columns: _Columns) -> None:
    problems = [
        (np.isnan(columns.score), "has a score that is no number", "a number"),
        (~((columns.p_value > 0) & (columns.p_value <= 1)), "has a p-value outside of (0, 1]", "one inside"),
        (columns.success & ~columns.right_when_clean, "is called a success, yet was wrong when clean", "an image that was right"),
        (columns.success & columns.right, "is called a success, yet is classified right", "an image that is wrong now"),
    ]
    for bad, said, expected in problems:
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise WhorlError(f"Image {columns.ids[columns.id[row]]} {_where(columns, row)} {said}, where {expected} was expected.")


def _where(columns: _Columns, row: int) -> str:
    attack, detector = columns.attacks[columns.attack[row]], columns.detectors[columns.detector[row]]
    return f"(detector {detector}, attack {attack}, seed {columns.seeds[columns.seed[row]]})"


def _detectors(columns: _Columns) -> Iterator[tuple[str, DetectorScores]]:
    is_clean = np.array([name == CLEAN for name in columns.attacks])[columns.attack]
    images = np.unique(columns.id[is_clean])
    position = np.full(len(columns.ids), -1, np.int64)
    position[images] = np.arange(len(images))
    for code, name in enumerate(columns.detectors):
        mine = columns.detector == code
        first, clean = _pivot(columns, np.flatnonzero(mine & is_clean), f"detector {name}, clean")
        if len(first) != len(images):
            raise WhorlError(f"Detector {name} has scores of {len(first)} clean images, where the {len(images)} of all were expected.")
        correct, attacks = columns.right_when_clean[first], {}
        for attack_code, attack in enumerate(columns.attacks):
            if attack != CLEAN and (rows := np.flatnonzero(mine & (columns.attack == attack_code))).size:
                first, arranged = _pivot(columns, rows[columns.success[rows]], f"detector {name}, attack {attack}")
                at = position[columns.id[first]]
                if alone := int((at < 0).sum()):
                    raise WhorlError(
                        f"Detector {name} has {alone} images under {attack} without their clean rows, where none was expected."
                    )
                attacks[attack] = AttackScores(at, columns.score[arranged], columns.p_value[arranged])
        yield name, DetectorScores(correct, columns.score[clean], columns.p_value[clean], attacks)


def _pivot(columns: _Columns, rows: npt.NDArray[np.intp], where: str) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows arranged by seed and id: (a,) the first seed's rows, and (S, a) all of them; each seed must have the same ids, once."""
    seeds = len(columns.seeds)
    ordered = rows[np.lexsort((columns.id[rows], columns.seed[rows]))]
    if len(ordered) % seeds:
        raise WhorlError(f"The table of scores has {len(ordered)} rows for {where}, where as many for each of {seeds} seeds were expected.")
    arranged = ordered.reshape(seeds, -1)
    image, seed = columns.id[arranged], columns.seed[arranged]
    once = (np.diff(image, axis=1) > 0).all() and (image == image[0]).all() and (seed == np.arange(seeds)[:, None]).all()
    if not once:
        raise WhorlError(f"The table of scores has not the same images once a seed for {where}, where {seeds} equal sets were expected.")
    return arranged[0], arranged
