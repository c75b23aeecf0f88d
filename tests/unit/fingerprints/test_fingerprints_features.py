"""Layout and features: what they hold, and what they refuse."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fingerprints_support import LAYOUT, clean_features

from pipeline.errors import WhorlError
from pipeline.fingerprints.features import Features, Layout, group_name


def test_layout_counts_columns_and_survives_json() -> None:
    assert LAYOUT.size == 70
    assert LAYOUT.sizes.tolist() == [40, 24, 6]
    assert Layout.from_json(json.loads(json.dumps(LAYOUT.to_json()))) == LAYOUT


@pytest.mark.parametrize("offsets", [(0, 4), (1, 4, 8), (0, 4, 4), (0, 5, 4), (0, 1, 2, 3)])
def test_layout_refuses_offsets_that_fit_no_layers(offsets: tuple[int, ...]) -> None:
    with pytest.raises(WhorlError, match="growing numbers"):
        Layout(("a", "b"), offsets)


def test_group_names() -> None:
    assert (group_name(7), group_name(None)) == ("7", "pooled")


def attacked(**changes: object) -> Features:
    neurons = np.arange(12, dtype=np.float32).reshape(4, 3)
    values = dict(
        ids=["a", "b", "c", "d"],
        labels=np.array([0, 1, 2, 0]),
        clean_predicted=np.array([0, 1, 2, 1]),
        predicted=np.array([1, 1, 0, 1]),
        success=np.array([True, False, True, False]),
        skipped=np.array([False, False, False, True]),
        neurons=neurons,
    )
    return Features(**(values | changes))  # type: ignore[arg-type]


def test_where_keeps_every_column_in_step() -> None:
    chosen = attacked().where(np.array([False, True, True, False]))
    assert len(chosen) == 2
    assert chosen.ids == ["b", "c"]
    assert chosen.predicted.tolist() == [1, 0]
    assert chosen.success.tolist() == [False, True]
    assert chosen.neurons.tolist() == [[3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": np.array([0, 1])}, "lengths"),
        ({"neurons": np.zeros(4, np.float32)}, "lengths"),
        ({"success": np.array([True, True, True, False])}, "Image b is called a successful attack"),  # still right
        ({"success": np.array([True, False, True, True])}, "Image d is called a successful attack"),  # skipped, wrong when clean
    ],
)
def test_features_that_contradict_themselves_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(WhorlError, match=said):
        attacked(**changes)


def test_a_clean_image_that_is_misclassified_is_no_success() -> None:
    features = clean_features([0, 1], [1, 1], np.zeros((2, 3), np.float32))
    with pytest.raises(WhorlError, match="right when clean"):
        replace(features, success=np.array([True, False]))
