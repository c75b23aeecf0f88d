"""Streaming moments equal those of everything at once, however the images are cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fingerprints.moments import Moments, merge


@given(st.integers(0, 2**32), st.lists(st.integers(0, 12), min_size=1, max_size=6), st.floats(-1e4, 1e4))
def test_updates_and_merges_equal_the_whole(seed: int, cuts: list[int], offset: float) -> None:
    scores = (np.random.default_rng(seed).normal(size=(sum(cuts), 3)) + offset).astype(np.float32)
    batches = np.split(scores, np.cumsum(cuts)[:-1])
    streamed, merged = Moments.empty(3), Moments.empty(3)
    for batch in batches:
        streamed.update(batch)
        merged = merge(merged, Moments.of(batch))
    backwards = Moments.empty(3)
    for batch in reversed(batches):
        backwards = merge(Moments.of(batch), backwards)
    whole = scores.astype(np.float64)
    for moments in (streamed, merged, backwards):
        assert moments.count == len(whole)
        if len(whole):
            np.testing.assert_allclose(moments.mean, whole.mean(axis=0), rtol=1e-12, atol=1e-9)
            np.testing.assert_allclose(moments.m2, np.square(whole - whole.mean(axis=0)).sum(axis=0), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("ddof", [0, 1])
def test_std_is_numpys(ddof: int) -> None:
    scores = np.random.default_rng(0).normal(5, 3, size=(40, 6))
    np.testing.assert_allclose(Moments.of(scores).std(ddof), scores.std(axis=0, ddof=ddof), rtol=1e-12)


def test_a_small_deviation_far_from_zero_is_not_lost() -> None:
    scores = 1e4 + np.random.default_rng(0).normal(0, 1e-2, size=(5000, 1))
    streamed = Moments.empty(1)
    for batch in np.array_split(scores, 37):
        streamed.update(batch)
    np.testing.assert_allclose(streamed.std(), scores.std(axis=0, ddof=1), rtol=1e-6)


def test_the_same_shards_in_the_same_order_have_the_same_bits() -> None:
    shards = [Moments.of(np.random.default_rng(shard).normal(size=(9, 4)).astype(np.float32)) for shard in range(8)]

    def fold() -> Moments:
        total = Moments.empty(4)
        for shard in shards:
            total = merge(total, shard)
        return total

    first, again = fold(), fold()
    assert first.mean.tobytes() == again.mean.tobytes() and first.m2.tobytes() == again.m2.tobytes()


def test_merging_changes_neither_side() -> None:
    a, b = Moments.of(np.ones((2, 1))), Moments.of(np.zeros((3, 1)))
    merge(a, b).update(np.full((5, 1), 7.0))
    assert (a.count, a.mean[0], b.count, b.mean[0]) == (2, 1.0, 3, 0.0)


@pytest.mark.parametrize(("count", "ddof"), [(0, 0), (0, 1), (1, 1)])
def test_no_deviation_of_too_few(count: int, ddof: int) -> None:
    assert np.isnan(Moments.of(np.ones((count, 2))).std(ddof)).all()
