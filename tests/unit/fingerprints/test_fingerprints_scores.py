"""Scores are plain means of the named neurons, whatever else is computed with them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fingerprints.scores import drawn_scores, fingerprint_scores


@given(st.integers(0, 2**32), st.integers(0, 9), st.integers(0, 9), st.integers(1, 6))
def test_scores_are_the_means_that_numpy_takes(seed: int, images: int, count: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    neurons = rng.normal(size=(images, 11)).astype(np.float32)
    indices = rng.integers(0, 11, (count, k)).astype(np.int32)
    scores = fingerprint_scores(neurons, indices)
    assert (scores.shape, scores.dtype) == ((images, count), np.float32)
    np.testing.assert_allclose(scores, neurons.astype(np.float64)[:, indices].mean(axis=-1), rtol=0, atol=1e-6)


def test_drawn_scores_take_each_image_on_its_own_fingerprints() -> None:
    rng = np.random.default_rng(0)
    neurons, indices = rng.normal(size=(5, 30)).astype(np.float32), rng.integers(0, 30, (5, 7, 4)).astype(np.int32)
    expected = [[np.mean([float(neurons[n, i]) for i in indices[n, j]]) for j in range(7)] for n in range(5)]
    np.testing.assert_allclose(drawn_scores(neurons, indices), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rows", [slice(0, 1), slice(3, 4), slice(5, 12), slice(0, 33), slice(1, 200)])
def test_a_score_has_the_same_bits_in_any_batch(rows: slice) -> None:
    rng = np.random.default_rng(0)
    neurons, indices = rng.normal(size=(200, 64)).astype(np.float32), rng.integers(0, 64, (90, 8)).astype(np.int32)
    assert (fingerprint_scores(neurons[rows], indices) == fingerprint_scores(neurons, indices)[rows]).all()
    each = rng.integers(0, 64, (200, 20, 8)).astype(np.int32)
    assert (drawn_scores(neurons[rows], each[rows]) == drawn_scores(neurons, each)[rows]).all()


def test_arrays_that_cannot_be_written_to_are_read() -> None:
    neurons, indices = np.ones((1, 4), np.float32), np.zeros((1, 2), np.int32)
    neurons.flags.writeable = indices.flags.writeable = False
    assert fingerprint_scores(neurons, indices).tolist() == [[1.0]]
