"""What a variant of an ablation stands for."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.params.ablation import Sections, varied
from pipeline.params.detectors import CommitteeDetectorParams
from pipeline.params.root import load_params

PROJECT = Path(__file__).resolve().parents[3]


def sections(preset: str) -> Sections:
    params = load_params(PROJECT / f"presets/{preset}.yaml")
    detector = params.detectors["joint"]
    assert isinstance(detector, CommitteeDetectorParams)
    return params.fingerprints, params.selection, detector


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"detector.draw": 32}, {("detector", "draw"): 32}),
        # A mapping changes the entries that it names and keeps the others; anything else takes the old value's place.
        ({"fingerprints.k": {"layer1": 2}}, {("fingerprints", "k", "layer1"): 2}),
        ({"fingerprints.k": 1}, {("fingerprints", "k"): 1}),
        ({"detector.layer_weights": None}, {("detector", "layer_weights"): None}),
        (
            {"fingerprints.layer_weights": {"layer1": 0.0, "stem.1.residual1": 0.5}},
            {("fingerprints", "layer_weights", "layer1"): 0.0, ("fingerprints", "layer_weights", "stem.1.residual1"): 0.5},
        ),
        (
            {"selection.prefer": "diverse", "selection.cross_fit": None},
            {("selection", "prefer"): "diverse", ("selection", "cross_fit"): None},
        ),
        ({"detector.pooling": 1.0, "detector.directions": 1}, {("detector", "pooling"): 1.0, ("detector", "directions"): 1}),
    ],
)
def test_only_what_is_named_differs(changes: dict[str, Any], expected: dict[tuple[str, ...], Any]) -> None:
    before = sections("cifar10")
    plain = dict(zip(("fingerprints", "selection", "detector"), (section.model_dump() for section in before), strict=True))
    for (root, field, *entry), value in expected.items():
        if entry:
            plain[root][field][entry[0]] = value
        else:
            plain[root][field] = value
    assert [section.model_dump() for section in varied(before, changes)] == list(plain.values())


def test_a_mapping_takes_the_place_of_a_single_number() -> None:
    fingerprints, _, _ = varied(sections("digits"), {"fingerprints.k": dict.fromkeys(sections("digits")[0].layer_weights, 2)})
    assert fingerprints.layer_k("layer1") == 2


@pytest.mark.parametrize("preset", ["digits", "mnist", "cifar10", "imagefolder"])
def test_every_variant_of_a_preset_changes_something(preset: str) -> None:
    before, variants = sections(preset), load_params(PROJECT / f"presets/{preset}.yaml").ablation.variants
    assert variants and all(varied(before, changes) != before for changes in variants.values())
    assert len({str(varied(before, changes)) for changes in variants.values()}) == len(variants)
