"""What a point of the search space stands for: valid params, whatever the point."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.detectors.design import Design, Point, inspection_cost, tuned
from pipeline.errors import WhorlError
from pipeline.params.detectors import CommitteeDetectorParams
from pipeline.params.edits import edited
from pipeline.params.root import Params, load_params

PRESETS = sorted((Path(__file__).resolve().parents[3] / "presets").glob("*.yaml"))
WHOLE = {path.stem: load_params(path) for path in PRESETS}


def _design(params: Params) -> Design:
    detector = params.detectors[params.tune.detector]
    assert isinstance(detector, CommitteeDetectorParams)
    return Design(params.fingerprints, params.selection, detector)


def _sizes(params: Params) -> dict[str, int]:
    return {layer: 10 if size == "all" else int(size) for layer, size in params.activations.layers.items()}


def _points(params: Params) -> st.SearchStrategy[Point]:
    space = params.tune.space
    return st.fixed_dictionaries(
        {
            **{f"layer.{layer}": st.booleans() for layer in params.activations.layers},
            **{name: st.integers(*getattr(space, name)) for name in ("k", "draw", "directions")},
            **{name: st.floats(*getattr(space, name)) for name in ("shrinkage", "effect_size")},
            "prefer": st.sampled_from(space.prefer),
        }
    )


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_every_point_stands_for_a_params_file_that_is_valid(path: Path, data: st.DataObject) -> None:
    """Written into the preset, the point's values give a valid file that says exactly the design; comments and layout stay."""
    params, text = WHOLE[path.stem], path.read_text()
    design = tuned(_design(params), data.draw(_points(params)), _sizes(params))
    name = params.tune.detector
    values = design.values(name)
    written = edited(text, values)
    with TemporaryDirectory() as folder:
        target = Path(folder) / "params.yaml"
        target.write_text(written)
        assert _design(load_params(target)) == design
    before, after = text.splitlines(), written.splitlines()
    assert len(before) == len(after)
    touched = {"k", "layer_weights", "effect_size", "prefer", "draw", "directions", "shrinkage"}
    assert {old.split(":")[0].strip() for old, new in zip(before, after, strict=True) if old != new} <= touched


def _point(**changes: object) -> dict[str, object]:
    layers = {"layer.layer1": True, "layer.layer2": False, "layer.layer3": True, "layer.logits": True}
    return {**layers, "k": 4, "draw": 50, "directions": 8, "shrinkage": 0.123456, "effect_size": 0.98765, "prefer": "random", **changes}


def test_switches_keep_the_weights_and_turn_off_layers_that_are_too_small() -> None:
    base, sizes = _design(WHOLE["digits"]), _sizes(WHOLE["digits"])
    weights = tuned(base, _point(), sizes).fingerprints.layer_weights
    assert weights == {"layer1": 1.0, "layer2": 0.0, "layer3": 1.0, "logits": 0.2}
    assert tuned(base, _point(k=11), sizes).fingerprints.layer_weights["logits"] == 0
    off = {f"layer.{layer}": False for layer in sizes}
    assert tuned(base, _point(**off, k=11), sizes).fingerprints.layer_weights == {
        "layer1": 1.0,
        "layer2": 1.0,
        "layer3": 1.0,
        "logits": 0.0,
    }
    with pytest.raises(WhorlError, match=r"tune.space.k: 600 .* at most 512"):
        tuned(base, _point(k=600), sizes)


def test_numbers_are_short_and_directions_fit_into_the_draw() -> None:
    design = tuned(_design(WHOLE["digits"]), _point(draw=5, directions=12), _sizes(WHOLE["digits"]))
    assert (design.detector.draw, design.detector.directions, design.detector.shrinkage) == (5, 5, 0.123)
    assert design.selection.effect_size == 0.988


def test_without_leaves_attacks_out_of_the_fit_alone() -> None:
    base = _design(WHOLE["digits"])
    apart = base.without({"pgd"})
    assert apart.fingerprints.fit_attacks == ("fgsm", "targeted_iterative")
    assert apart.values("joint") == base.values("joint") and base.without({"other"}) == base


def test_the_cost_counts_what_the_detector_fetches_and_multiplies() -> None:
    """Against the sizes of the arrays that one image meets in the detector itself."""
    base = _design(WHOLE["digits"])
    m, k, r, attacks = base.detector.draw, base.fingerprints.k, base.detector.directions, 3
    fetched = m * k + attacks * r * m + 3 * attacks * r
    assert inspection_cost(base) == 2 * fetched
