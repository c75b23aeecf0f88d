"""Random index sets: distinct, uniform, of one layer, and those that Floyd's algorithm would give step by step."""

from itertools import combinations

import numpy as np
import pytest
from fingerprints_support import LAYOUT
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from pipeline.errors import ParamsError
from pipeline.fingerprints.sampling import apportion, distinct, distinct_by_layer, sample_index_sets
from pipeline.fingerprints.scores import fingerprint_scores


def floyd(uniform: np.ndarray, size: int) -> list[int]:
    """The textbook's loop, one row."""
    chosen: list[int] = []
    for step, top in enumerate(range(size - len(uniform), size)):
        guess = int(np.float64(uniform[step]) * (top + 1))
        chosen.append(top if guess in chosen else guess)
    return chosen


@given(st.integers(0, 2**32), st.integers(1, 12), st.lists(st.integers(0, 20), min_size=1, max_size=6), st.booleans())
def test_distinct_is_floyds_algorithm(seed: int, m: int, beyond: list[int], coarse: bool) -> None:
    sizes = np.array(beyond) + m
    uniform = np.random.default_rng(seed).random((len(sizes), m), dtype=np.float32 if coarse else np.float64)
    drawn = distinct(uniform, sizes)
    assert drawn.tolist() == [floyd(row, size) for row, size in zip(uniform, sizes, strict=True)]
    assert all(len(set(row)) == m and min(row) >= 0 and max(row) < size for row, size in zip(drawn.tolist(), sizes, strict=True))


def test_the_largest_draw_below_one_stays_inside() -> None:
    for dtype in (np.float32, np.float64):
        top = np.nextafter(np.array(1, dtype), np.array(0, dtype))
        sizes = np.array([1, 3, 5, 1000, 10_000])
        assert (distinct(np.full((5, 1), top), sizes)[:, 0] == sizes - 1).all()


def test_every_subset_is_equally_likely() -> None:
    drawn = np.sort(distinct(np.random.default_rng(0).random((60_000, 3)), np.full(60_000, 6)), axis=1)
    sets, counts = np.unique(drawn, axis=0, return_counts=True)
    assert sets.tolist() == [list(each) for each in combinations(range(6), 3)]
    assert chisquare(counts).pvalue > 0.001


def test_more_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="4 different numbers cannot be drawn from 3"):
        distinct(np.zeros((2, 4)), np.array([5, 3]))


@pytest.mark.parametrize(
    ("count", "sizes", "weights", "given_out"),
    [
        (12, (100, 100, 100), (1.0, 1.0, 1.0), (4, 4, 4)),
        (12, (100, 100, 100), (1.0, 2.0, 3.0), (2, 4, 6)),
        (12, (100, 100, 3), (1.0, 1.0, 1.0), (5, 4, 3)),
        (12, (100, 0, 3), (1.0, 1.0, 8.0), (9, 0, 3)),
        (12, (5, 100, 3), (1.0, 0.0, 1.0), (5, 4, 3)),
        (7, (4, 0, 3), (1.0, 1.0, 1.0), (4, 0, 3)),
    ],
    ids=["equal", "in proportion", "a small layer gives all", "an empty one nothing", "one without weight the rest", "all"],
)
def test_layers_give_in_proportion_as_far_as_they_have(
    count: int, sizes: tuple[int, ...], weights: tuple[float, ...], given_out: tuple[int, ...]
) -> None:
    assert tuple(apportion(count, np.array(sizes), np.array(weights))) == given_out


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 5)), min_size=1, max_size=6), st.integers(0, 40))
def test_what_is_given_adds_up_and_none_gives_more_than_it_has(layers: list[tuple[int, float]], wanted: int) -> None:
    sizes, weights = np.array([size for size, _ in layers]), np.array([weight for _, weight in layers])
    count = min(wanted, int(sizes.sum()))
    given_out = apportion(count, sizes, weights)
    assert given_out.sum() == count and (given_out <= sizes).all() and (given_out >= 0).all()
    rich = (weights > 0) & (given_out < sizes)
    if rich.any():
        assert not given_out[weights == 0].any(), "one without weight gives only where all others are empty"


def test_sets_by_layer_are_distinct_and_uniform_within_each() -> None:
    layer, weights = np.array([0, 1, 0, 1, 1, 0, 2], np.int16), np.array([2.0, 1.0, 1.0])
    drawn = distinct_by_layer(np.random.default_rng(0).random((30_000, 4)), layer, weights)
    assert layer[drawn].tolist() == [[0, 0, 1, 2]] * len(drawn)
    pairs, counts = np.unique(np.sort(drawn[:, :2], axis=1), axis=0, return_counts=True)
    assert pairs.tolist() == [[0, 2], [0, 5], [2, 5]] and chisquare(counts).pvalue > 0.001
    assert chisquare(np.bincount(drawn[:, 2])[[1, 3, 4]]).pvalue > 0.001
    with pytest.raises(ValueError, match=r"8 cannot be drawn from layers of \[3, 3, 1\]"):
        distinct_by_layer(np.zeros((1, 8)), layer, weights)


def test_index_sets_lie_in_their_layer_and_follow_the_weights() -> None:
    weights = {"early": 1.0, "late": 3.0, "logits": 0.0}
    indices, layer = sample_index_sets(np.random.default_rng(1), LAYOUT, 5, 20_000, weights)
    assert (indices.shape, indices.dtype, layer.dtype) == ((20_000, 5), np.int32, np.int16)
    assert (np.diff(indices, axis=1) > 0).all()
    low, high = np.array(LAYOUT.offsets)[layer], np.array(LAYOUT.offsets)[layer + 1]
    assert (indices >= low[:, None]).all() and (indices < high[:, None]).all()
    counts = np.bincount(layer, minlength=3)
    assert counts[2] == 0
    assert chisquare(counts[:2], [5000, 15_000]).pvalue > 0.001
    assert chisquare(np.bincount(indices[layer == 0].ravel(), minlength=40)).pvalue > 0.001


def test_a_layer_can_have_smaller_fingerprints_of_the_same_mean() -> None:
    weights, neurons = {"early": 1.0, "logits": 1.0}, np.random.default_rng(2).normal(size=(5, LAYOUT.size)).astype(np.float32)
    indices, layer = sample_index_sets(np.random.default_rng(1), LAYOUT, {"early": 4, "logits": 2}, 200, weights)
    for row, of in zip(indices, layer, strict=True):
        assert len(set(row.tolist())) == (4 if of == 0 else 2)
    scores = fingerprint_scores(neurons, indices)
    expected = [neurons[:, sorted(set(row.tolist()))].mean(axis=1) for row in indices]
    np.testing.assert_allclose(scores, np.stack(expected, axis=1), rtol=1e-5, atol=1e-6)


def test_a_whole_layer_can_be_one_fingerprint() -> None:
    indices, _ = sample_index_sets(np.random.default_rng(1), LAYOUT, 6, 3, {"logits": 1.0})
    assert indices.tolist() == [[64, 65, 66, 67, 68, 69]] * 3


def test_sampling_depends_on_the_generator_alone() -> None:
    first, again, other = (sample_index_sets(np.random.default_rng(seed), LAYOUT, 4, 50, {"late": 1.0})[0] for seed in (3, 3, 4))
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize(
    ("k", "weights", "said"),
    [
        (7, {"logits": 1.0, "early": 1.0}, r"fingerprints.k: 7 is larger than layer 'logits', where at most its 6"),
        (2, {"layer9": 1.0}, r"fingerprints.layer_weights: 'layer9' is not kept"),
        (2, {"early": 0.0}, "gives no layer a weight"),
        (2, {"early": -1.0}, "fingerprints.layer_weights.early: is -1"),
    ],
)
def test_what_cannot_be_sampled_is_said(k: int, weights: dict[str, float], said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        sample_index_sets(np.random.default_rng(0), LAYOUT, k, 5, weights)


def test_a_layer_that_is_never_drawn_may_be_smaller_than_k() -> None:
    assert (sample_index_sets(np.random.default_rng(0), LAYOUT, 7, 9, {"logits": 0.0, "early": 1.0})[1] == 0).all()
