"""What a point of the search space stands for: valid params, whatever the point."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.detectors.design import Design, Point, choices, inspection_cost, tuned
from pipeline.errors import WhorlError
from pipeline.fingerprints.committees import Committees, CommitteeScores, Mistakes, factor
from pipeline.fingerprints.features import Layout
from pipeline.fingerprints.joint import ScoreMoments
from pipeline.fingerprints.sampling import sample_index_sets
from pipeline.params.detectors import CommitteeDetectorParams
from pipeline.params.edits import edited
from pipeline.params.root import Params, load_params

PRESETS = sorted((Path(__file__).resolve().parents[3] / "presets").glob("*.yaml"))
WHOLE = {path.stem: load_params(path) for path in PRESETS}


def _design(params: Params) -> Design:
    detector = params.detectors[params.tune.detector]
    assert isinstance(detector, CommitteeDetectorParams)
    return Design(params.fingerprints, params.selection, detector)


def _able(params: Params) -> dict[str, list[int]]:
    """The logits have 10 neurons."""
    sizes = {layer: 10 if size == "all" else int(size) for layer, size in params.activations.layers.items()}
    return choices(sizes, params.tune.space.k)


def _points(params: Params) -> st.SearchStrategy[Point]:
    space = params.tune.space
    return st.fixed_dictionaries(
        {
            **{f"k.{layer}": st.sampled_from(may) for layer, may in _able(params).items()},
            **{name: st.integers(*getattr(space, name)) for name in ("draw", "directions")},
            **{name: st.floats(*getattr(space, name)) for name in ("shrinkage", "effect_size")},
            "pooling": st.sampled_from(space.pooling),
            "prefer": st.sampled_from(space.prefer),
        }
    )


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
@settings(max_examples=25)
@given(st.data())
def test_every_point_stands_for_a_params_file_that_is_valid(path: Path, data: st.DataObject) -> None:
    """Written into the preset, the point's values give a valid file that says exactly the design; comments and layout stay."""
    params, text = WHOLE[path.stem], path.read_text()
    design = tuned(_design(params), data.draw(_points(params)), _able(params))
    name = params.tune.detector
    values = design.values(name)
    written = edited(text, values)
    with TemporaryDirectory() as folder:
        target = Path(folder) / "params.yaml"
        target.write_text(written)
        assert _design(load_params(target)) == design
    touched = {"k", "layer_weights", "effect_size", "prefer", "draw", "directions", "shrinkage", "pooling", *params.activations.layers}
    before, after = ([line for line in each.splitlines() if line.split(":")[0].strip() not in touched] for each in (text, written))
    assert before == after


def test_layers_with_dots_in_their_names_are_written_into_the_file_and_comments_beside_them_stay() -> None:
    text = (
        "fingerprints:\n  k: 2\n  layer_weights:\n    blocks.3: 1.0  # the last\n    blocks: 0.5\n"
        "selection: {effect_size: 0.5, prefer: random}\ndetectors: {joint: {draw: 9, directions: 4, shrinkage: 0.5, pooling: 0.5}}\n"
    )
    base, able = _design(WHOLE["digits"]), choices({"blocks.3": 40, "blocks": 40}, (2, 4))
    weights = base.fingerprints.model_copy(update={"layer_weights": {"blocks.3": 1.0, "blocks": 0.5}})
    point = {"k.blocks.3": 4, "k.blocks": 0, **{key: value for key, value in _point().items() if not key.startswith("k.")}}
    written = edited(text, tuned(Design(weights, base.selection, base.detector), point, able).values("joint"))
    assert "  k: 4\n" in written
    assert "    blocks.3: 1.0  # the last\n    blocks: 0.0\n" in written
    assert "  k: {blocks.3: 4, blocks: 2}\n" in edited(text, {"fingerprints.k": {"blocks.3": 4, "blocks": 2}})


def _point(**changes: object) -> dict[str, object]:
    out = {f"k.{layer}": 0 for layer in WHOLE["digits"].activations.layers}
    layers = {**out, "k.layer1": 4, "k.layer3": 8, "k.logits": 2}
    own = {"draw": 50, "directions": 8, "shrinkage": 0.123456, "pooling": 0.25, "effect_size": 0.98765, "prefer": "random"}
    return {**layers, **own, **changes}


def test_each_layer_has_its_k_and_one_that_is_left_out_no_weight() -> None:
    base, able = _design(WHOLE["digits"]), _able(WHOLE["digits"])
    prints = tuned(base, _point(), able).fingerprints
    assert prints.k == {"layer1": 4, "layer3": 8, "logits": 2}
    assert prints.layer_weights == {**dict.fromkeys(able, 0.0), "layer1": 1.0, "layer3": 1.0, "logits": 0.2}
    assert tuned(base, _point(**{"k.layer1": 2, "k.layer3": 2}), able).fingerprints.k == 2, "one number where all are equal"
    none = tuned(base, _point(**dict.fromkeys([f"k.{layer}" for layer in able], 0)), able).fingerprints
    assert none.k == 1 and none.layer_weights == base.fingerprints.layer_weights


def test_a_layer_may_have_the_k_that_it_has_neurons_for() -> None:
    assert choices({"wide": 512, "narrow": 3, "single": 1}, (2, 4, 8)) == {"wide": [0, 2, 4, 8], "narrow": [0, 2], "single": [0]}
    with pytest.raises(WhorlError, match=r"tune.space.k: 4 neurons are more than any layer has, where at most 3 were expected"):
        choices({"narrow": 3, "single": 1}, (4, 8))


def test_numbers_are_short_and_directions_fit_into_the_draw_and_the_pooling() -> None:
    base, able = _design(WHOLE["digits"]), _able(WHOLE["digits"])
    design = tuned(base, _point(draw=5, directions=12), able)
    assert (design.detector.draw, design.detector.directions, design.detector.shrinkage) == (5, 5, 0.123)
    assert design.selection.effect_size == 0.988
    assert tuned(base, _point(pooling=1.0), able).detector.directions == 1


def test_without_leaves_attacks_out_of_the_fit_alone() -> None:
    base = _design(WHOLE["digits"])
    apart = base.without({"pgd"})
    assert apart.fingerprints.fit_attacks == ("fgsm", "targeted_iterative")
    assert apart.values("joint") == base.values("joint") and base.without({"other"}) == base


def test_the_cost_counts_what_the_detector_fetches_and_multiplies() -> None:
    """Against the sizes of the arrays that one image meets in the detector itself."""
    base, able = _design(WHOLE["digits"]), _able(WHOLE["digits"])
    bare = replace(base, detector=base.detector.model_copy(update={"mistakes": False}))
    for design, k in ((base, 4), (bare, 4), (tuned(base, _point(draw=60), able), 8)):
        layout = Layout(tuple(able), tuple(512 * place for place in range(len(able) + 1)))
        indices, _ = sample_index_sets(np.random.default_rng(0), layout, design.fingerprints.k, 90, design.fingerprints.layer_weights)
        rng, m, attacks = np.random.default_rng(1), design.detector.draw, len(design.fingerprints.fit_attacks)
        known = ScoreMoments(rng.normal(size=(2, m)), np.stack([np.eye(m)] * 2))
        settings = design.detector.model_dump(include={"directions", "shrinkage", "pooling"})
        mistakes = Mistakes(known, 0.1) if design.detector.mistakes else None
        factored = factor(known, [known] * attacks, mistakes, **settings)
        members = np.tile(np.arange(m, dtype=np.int32), (2, 1))
        held = CommitteeScores(Committees(members, np.array([0, 2]), factored, ("a", "b", "c")), indices)
        fetched = held.columns[0].numel() + sum(getattr(held, name)[0].numel() for name in ("weights", "centre", "shift", "variance"))
        assert held.columns[0].numel() == m * k
        assert inspection_cost(design) == 2 * fetched
