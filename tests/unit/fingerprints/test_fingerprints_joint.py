"""Moments of neurons, class by class, against NumPy on all images at once."""

import numpy as np
import pytest

from pipeline.errors import WhorlError
from pipeline.fingerprints.features import CLEAN, Features
from pipeline.fingerprints.joint import LENT, PooledMoments
from pipeline.fingerprints.scores import fingerprint_scores

D, CLASSES = 12, 4


def features(count: int = 200, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    predicted = rng.choice(3, count)  # class 3 has no image
    labels = np.where(rng.random(count) < 0.8, predicted, (predicted + 1) % CLASSES)
    no = np.zeros(count, np.bool_)
    neurons = rng.normal(size=(count, D)) @ rng.normal(size=(D, D)) + 50 * predicted[:, None]
    return Features([f"{row:032x}" for row in range(count)], labels, predicted, predicted, no, no, neurons.astype(np.float32))


def gathered(whole: Features, cuts: list[int]) -> PooledMoments:
    moments, rows = PooledMoments.empty(CLASSES, D), np.arange(len(whole))
    for low, high in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        moments.add(CLEAN, whole.where((rows >= low) & (rows < high)))
    return moments


@pytest.mark.parametrize("cuts", [[], [1], [50, 50, 120], list(range(1, 200))])
def test_moments_are_numpys_in_any_batches(cuts: list[int]) -> None:
    whole = features()
    moments, right = gathered(whole, cuts), whole.labels == whole.predicted
    scatter = np.zeros((D, D))
    for label in range(3):
        rows = whole.neurons[right & (whole.predicted == label)].astype(float)
        assert moments.counts[label] == len(rows)
        np.testing.assert_allclose(moments.means[label], rows.mean(axis=0), rtol=1e-10)
        scatter += np.cov(rows.T, ddof=0) * len(rows)
    np.testing.assert_allclose(moments.scatter, scatter, rtol=1e-8, atol=1e-6)
    assert moments.counts[3] == 0


def test_scores_moments_are_those_of_the_scores() -> None:
    whole = features()
    right, indices = whole.labels == whole.predicted, np.random.default_rng(1).integers(0, D, (9, 3)).astype(np.int32)
    moments, scores = gathered(whole, []), fingerprint_scores(whole.neurons, indices).astype(float)
    centred = np.concatenate([part - part.mean(axis=0) for label in range(3) if len(part := scores[right & (whole.predicted == label)])])
    found = moments.scores(indices, 1)
    assert found is not None
    np.testing.assert_allclose(found.mean, scores[right & (whole.predicted == 1)].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.covariance, centred.T @ centred / (len(centred) - 3), rtol=1e-4, atol=1e-4)
    pooled = moments.scores(indices, None)
    assert pooled is not None
    np.testing.assert_allclose(pooled.mean, scores[right].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(pooled.covariance, np.cov(scores[right].T), rtol=1e-4)
    of = found.of(np.array([[0, 4], [8, 2]]))
    np.testing.assert_array_equal(of.covariance[1], found.covariance[np.ix_([8, 2], [8, 2])])
    np.testing.assert_array_equal(of.mean[0], found.mean[[0, 4]])


@pytest.mark.parametrize("label", [1, None])
def test_committees_of_a_large_bank_have_the_same_bits(label: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    indices, members = rng.integers(0, D, (30, 3)).astype(np.int32), rng.integers(0, 30, (7, 5))
    moments = gathered(features(), [])
    whole = moments.committees(indices, members, label)
    monkeypatch.setattr("pipeline.fingerprints.joint.WHOLE", 0)
    each, empty = moments.committees(indices, members, label), PooledMoments.empty(CLASSES, D)
    assert whole is not None and each is not None
    assert each.mean.tobytes() == whole.mean.tobytes() and each.covariance.tobytes() == whole.covariance.tobytes()
    assert empty.committees(indices, members, label) is None


def test_a_class_with_few_successes_leans_on_what_the_attack_does_to_all() -> None:
    rng = np.random.default_rng(4)
    clean, attack = PooledMoments.empty(CLASSES, D), PooledMoments.empty(CLASSES, D)
    clean.counts[:], clean.means[:] = [50, 50, 50, 0], rng.normal(size=(CLASSES, D))
    attack.counts[:], attack.means[:] = [1, 995, 0, 7], rng.normal(size=(CLASSES, D))
    found = attack.leaning(clean)
    shift = (attack.means[0] - clean.means[0] + 995 * (attack.means[1] - clean.means[1])) / 996
    np.testing.assert_allclose(found.means[0], (attack.means[0] + LENT * (clean.means[0] + shift)) / (1 + LENT))
    np.testing.assert_allclose(found.means[1], (995 * attack.means[1] + LENT * (clean.means[1] + shift)) / (995 + LENT))
    np.testing.assert_allclose(found.means[2], clean.means[2] + shift)
    np.testing.assert_array_equal(found.means[3], attack.means[3])
    assert (found.counts == attack.counts).all() and attack.means[0] is not found.means[0]
    np.testing.assert_array_equal(clean.leaning(PooledMoments.empty(CLASSES, D)).means, clean.means)
    np.testing.assert_array_equal(PooledMoments.empty(CLASSES, D).leaning(clean).means[:3], clean.means[:3])


def test_what_was_never_seen_is_unknown() -> None:
    indices = np.zeros((1, 1), np.int32)
    assert PooledMoments.empty(CLASSES, D).scores(indices, None) is None
    assert gathered(features(), []).scores(indices, 3) is None


def test_a_number_that_is_none_is_refused() -> None:
    broken = features()
    broken.neurons[:] = np.inf
    with pytest.raises(WhorlError, match="clean images is not finite"), np.errstate(invalid="ignore"):
        gathered(broken, [])


def test_storage_keeps_everything() -> None:
    moments = gathered(features(), [])
    again = PooledMoments.from_arrays(moments.to_arrays())
    assert all((again.to_arrays()[name] == array).all() for name, array in moments.to_arrays().items())
