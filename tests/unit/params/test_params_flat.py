"""Nested values as dotted keys and text."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.params.flat import flatten


@pytest.mark.parametrize(
    ("nested", "flat"),
    [
        ({"a": {"b": {"c": 1}}, "d": "text"}, [("a.b.c", "1"), ("d", "text")]),
        ({"d": "2", "a": {"z": 1, "b": 2}}, [("d", "2"), ("a.z", "1"), ("a.b", "2")]),
        (
            {"list": [1, "ü"], "none": None, "no": False, "tiny": 1e-4},
            [("list", '[1, "ü"]'), ("none", "null"), ("no", "false"), ("tiny", "0.0001")],
        ),
        ({"empty": {}, "layers": {"blocks.0": 3}}, [("empty", "{}"), ("layers.blocks.0", "3")]),
        ({"file": Path("a/b"), "files": [Path("c")]}, [("file", '"a/b"'), ("files", '["c"]')]),
        ({}, []),
    ],
)
def test_flat_is_dotted_keys_in_order(nested: dict[str, Any], flat: list[tuple[str, str]]) -> None:
    assert list(flatten(nested)) == flat


LEAVES = st.none() | st.booleans() | st.integers() | st.lists(st.integers(), max_size=3)
NAMES = st.text("abc", min_size=1, max_size=3)


@given(
    st.recursive(st.dictionaries(NAMES, LEAVES, max_size=3), lambda inner: st.dictionaries(NAMES, inner | LEAVES, max_size=3), max_leaves=8)
)
def test_every_leaf_is_found_by_its_key(nested: dict[str, Any]) -> None:
    flat = list(flatten(nested))
    assert len({key for key, _ in flat}) == len(flat)
    for key, text in flat:
        value: Any = nested
        for part in key.split("."):
            value = value[part]
        assert json.loads(text) == value and (not isinstance(value, dict) or not value)
