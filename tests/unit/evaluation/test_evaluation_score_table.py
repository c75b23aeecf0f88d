"""Reading a table of scores: what is taken, and what contradicts itself."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scores_support import score_rows, score_table

from pipeline.errors import WhorlError
from pipeline.evaluation.score_table import read_detectors

Row = dict[str, Any]


def test_rows_become_arrays_in_order_of_id_and_seed() -> None:
    rows = score_rows(images=20)
    detectors = read_detectors(score_table(rows))
    assert list(detectors) == ["ratio", "vote"]
    ids = sorted({row["id"] for row in rows})
    for name, scores in detectors.items():
        for seed in (0, 1):
            mine = {(row["attack"], row["id"]): row for row in rows if row["detector"] == name and row["seed"] == seed}
            assert scores.scores[seed].tolist() == [mine["clean", each]["score"] for each in ids]
            assert scores.p_values[seed].tolist() == [mine["clean", each]["p_value"] for each in ids]
            assert scores.correct.tolist() == [mine["clean", each]["label"] == mine["clean", each]["predicted"] for each in ids]
            for attack in ("pgd", "fgsm", "never"):
                hit = scores.attacks[attack]
                won = [each for each in ids if mine[attack, each]["success"]]
                assert [ids[at] for at in hit.images] == won
                assert hit.scores[seed].tolist() == [mine[attack, each]["score"] for each in won]
                assert hit.p_values[seed].tolist() == [mine[attack, each]["p_value"] for each in won]


def first(rows: list[Row], **wanted: Any) -> Row:
    return next(row for row in rows if all(row[key] == value for key, value in wanted.items()))


def change(rows: list[Row], where: Row, **values: Any) -> list[Row]:
    return [row | values if row is where else row for row in rows]


FAULTS: list[tuple[str, Callable[[list[Row]], list[Row]], str]] = [
    ("nan score", lambda rows: change(rows, rows[0], score=np.nan), "has a score that is no number"),
    ("p of 0", lambda rows: change(rows, rows[0], p_value=0.0), "p-value outside"),
    ("p above 1", lambda rows: change(rows, rows[0], p_value=1.5), "p-value outside"),
    ("p nan", lambda rows: change(rows, rows[0], p_value=np.nan), "p-value outside"),
    (
        "a success that was wrong when clean",
        lambda rows: change(rows, row := first(rows, attack="pgd", success=True), clean_predicted=(row["label"] + 1) % 5),
        "was wrong when clean",
    ),
    (
        "a success that is right",
        lambda rows: change(rows, row := first(rows, attack="pgd", success=True), predicted=row["label"]),
        "is classified right",
    ),
    ("a clean image twice", lambda rows: [*rows, first(rows, attack="clean")], "detector vote, clean"),
    ("a clean image missing", lambda rows: [row for row in rows if row is not first(rows, attack="clean")], "detector vote, clean"),
    (
        "other images at another seed",
        lambda rows: change(rows, first(rows, attack="pgd", seed=1, success=True), id=first(rows, attack="pgd", success=False)["id"]),
        "same images once a seed",
    ),
    (
        "a detector without one image",
        lambda rows: [row for row in rows if row["detector"] == "ratio" or row["id"] != rows[0]["id"]],
        "Detector vote has scores of 59 clean images, where the 60",
    ),
    (
        "attacked images without clean ones",
        lambda rows: [row for row in rows if row["attack"] != "clean" or row["id"] != first(rows, attack="pgd", success=True)["id"]],
        "1 images under .* without their clean rows",
    ),
    ("an attack missing at a seed", lambda rows: [row for row in rows if (row["attack"], row["seed"]) != ("pgd", 1)], "attack pgd"),
]


@pytest.mark.parametrize(("fault", "said"), [(fault, said) for _, fault, said in FAULTS], ids=[name for name, _, _ in FAULTS])
def test_a_table_that_contradicts_itself_is_refused(fault: Callable[[list[Row]], list[Row]], said: str) -> None:
    rows = score_rows()
    read_detectors(score_table(rows))
    with pytest.raises(WhorlError, match=said):
        read_detectors(score_table(fault(rows)))


def test_a_missing_column_is_named() -> None:
    with pytest.raises(WhorlError, match=r"lacks the columns \['p_value', 'seed'\]"):
        read_detectors(score_table(score_rows()).drop_columns(["seed", "p_value"]))


def test_dictionary_encoded_and_chunked_columns_are_read() -> None:
    table = score_table(score_rows())
    chunked = pa.concat_tables([table.slice(0, 100), table.slice(100)])
    encoded = chunked.set_column(0, "detector", chunked["detector"].dictionary_encode())
    plain, other = read_detectors(table), read_detectors(encoded)
    assert plain["vote"].scores.tolist() == other["vote"].scores.tolist()
