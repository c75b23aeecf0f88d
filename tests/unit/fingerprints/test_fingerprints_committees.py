"""Joint log-ratios against SciPy's multivariate normal, and what a committee's score may depend on."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from pipeline.errors import WhorlError
from pipeline.fingerprints.committees import RIDGE, Committees, CommitteeScores, Factored, Mistakes, factor
from pipeline.fingerprints.joint import ScoreMoments

COMMITTEES, M, K, D = 6, 5, 3, 40


def random_moments(rng: np.random.Generator, shift: float = 0.0) -> ScoreMoments:
    root = rng.normal(size=(COMMITTEES, M, M)) / 2 + np.eye(M)
    return ScoreMoments(rng.normal(shift, 1, (COMMITTEES, M)), root @ root.transpose(0, 2, 1))


def made(
    directions: int, shrinkage: float, absent: bool = False, pooling: float = 0.0
) -> tuple[ScoreMoments, list[ScoreMoments | None], Factored]:
    rng = np.random.default_rng(0)
    clean, attacked = random_moments(rng), [random_moments(rng, 1), None if absent else random_moments(rng, -1), random_moments(rng)]
    return clean, attacked, factor(clean, attacked, directions=directions, shrinkage=shrinkage, pooling=pooling)


def scores_of(factored: Factored, neurons: np.ndarray, indices: np.ndarray, which: np.ndarray) -> np.ndarray:
    members = np.arange(COMMITTEES * M, dtype=np.int32).reshape(COMMITTEES, M)
    committees = Committees(members, np.array([0, COMMITTEES]), factored, ("a", "b", "c"))
    with torch.inference_mode():
        found = CommitteeScores(committees, indices)(torch.from_numpy(neurons), torch.from_numpy(which))
    return found.numpy()


def images(count: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    indices = np.sort(rng.random((COMMITTEES * M, D)).argsort(axis=1)[:, :K], axis=1).astype(np.int32)
    return rng.normal(size=(count, D)).astype(np.float32), indices, rng.integers(0, COMMITTEES, count)


def expected(
    clean: ScoreMoments, attacked: list[ScoreMoments | None], shrinkage: float, pooling: float, mistakes: Mistakes | None = None
) -> np.ndarray:
    """Image by image and attack by attack, by SciPy."""
    neurons, indices, which = images()

    def density(moments: ScoreMoments, committee: int, s: np.ndarray) -> float:
        every = [each.covariance[committee] for each in (clean, *attacked) if each is not None]
        covariance = (1 - pooling) * moments.covariance[committee] + pooling * sum(every) / len(every)
        floor = np.diag(np.diag(clean.covariance[committee]))
        shrunk = (1 - shrinkage) * covariance + shrinkage * np.diag(np.diag(covariance)) + RIDGE * floor
        return float(multivariate_normal.logpdf(s, moments.mean[committee], shrunk))

    found = []
    for row, committee in enumerate(which):
        s = neurons[row].astype(float)[indices[committee * M : (committee + 1) * M]].mean(axis=1)
        mixture = logsumexp([density(each, committee, s) for each in attacked if each is not None])
        natural = density(clean, committee, s)
        if mistakes is not None:
            shares = np.log([1 - mistakes.share, mistakes.share])
            natural = logsumexp([shares[0] + natural, shares[1] + density(mistakes.moments, committee, s)])
        found.append(mixture - np.log(sum(each is not None for each in attacked)) - natural)
    return np.array(found)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize(("pooling", "directions"), [(0.0, M), (0.4, M), (1.0, 1)])
def test_with_all_directions_it_is_the_joint_ratio(shrinkage: float, absent: bool, pooling: float, directions: int) -> None:
    clean, attacked, factored = made(directions, shrinkage, absent, pooling)
    np.testing.assert_allclose(scores_of(factored, *images()), expected(clean, attacked, shrinkage, pooling), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("pooling", "directions"), [(0.0, M), (0.4, M), (1.0, 1)])
@pytest.mark.parametrize("share", [0.02, 0.6])
def test_natural_mistakes_are_a_part_of_what_is_clean(share: float, pooling: float, directions: int) -> None:
    clean, attacked, without = made(directions, 0.3, pooling=pooling)
    mistakes = Mistakes(random_moments(np.random.default_rng(7), 0.5), share)
    factored = factor(clean, attacked, mistakes, directions=directions, shrinkage=0.3, pooling=pooling)
    wanted = expected(clean, attacked, 0.3, pooling, mistakes)
    np.testing.assert_allclose(scores_of(factored, *images()), wanted, rtol=1e-3, atol=1e-3)
    assert np.abs(wanted - scores_of(without, *images())).max() > 0.5


def test_ratios_of_other_attacks_are_refused() -> None:
    *_, factored = made(3, 0.1)
    with pytest.raises(WhorlError, match=r"3 log-ratios, where one for each attack of \['a'\] was expected, or one more"):
        Committees(np.zeros((COMMITTEES, M), np.int32), np.array([0, COMMITTEES]), factored, ("a",))


def test_fully_shrunk_the_fingerprints_are_independent() -> None:
    clean, attacked, factored = made(M, 1.0)
    neurons, indices, which = images()
    s = neurons.astype(float)[np.arange(30)[:, None, None], indices[which[:, None] * M + np.arange(M)]].mean(-1)

    def density(moments: ScoreMoments) -> np.ndarray:
        floor = RIDGE * np.diagonal(clean.covariance, axis1=1, axis2=2)
        deviation = np.sqrt(np.diagonal(moments.covariance, axis1=1, axis2=2) + floor)
        return norm.logpdf(s, moments.mean[which], deviation[which]).sum(axis=1)

    wanted = logsumexp([density(each) for each in attacked if each], axis=0) - np.log(3) - density(clean)
    np.testing.assert_allclose(scores_of(factored, *images()), wanted, rtol=1e-3, atol=1e-3)


def test_the_directions_kept_tell_most() -> None:
    """Whitened for clean images, uncorrelated on attacked ones, and of all such directions those that diverge most."""
    clean, attacked, whole = made(M, 0.0)
    _, _, few = made(2, 0.0)
    divergence = whole.variance + (1 + whole.shift**2) / whole.variance + whole.shift**2
    assert (np.diff(divergence, axis=2) <= 1e-4).all()
    np.testing.assert_array_equal(few.weights, whole.weights[:, :, :2])
    for committee in range(COMMITTEES):
        base = clean.covariance[committee] + RIDGE * np.diag(np.diag(clean.covariance[committee]))
        weights = whole.weights[committee, 0].astype(float)
        np.testing.assert_allclose(weights @ base @ weights.T, np.eye(M), atol=1e-4)
        assert attacked[0] is not None
        there = attacked[0].covariance[committee] + RIDGE * np.diag(np.diag(clean.covariance[committee]))
        np.testing.assert_allclose(weights @ there @ weights.T, np.diag(whole.variance[committee, 0]), rtol=1e-3, atol=1e-3)


def test_an_image_has_the_same_bits_in_any_batch() -> None:
    *_, factored = made(3, 0.1)
    neurons, indices, which = images()
    whole = scores_of(factored, neurons, indices, which)
    for rows in (slice(0, 1), slice(4, 17), slice(29, 30)):
        assert scores_of(factored, neurons[rows], indices, which[rows]).tobytes() == whole[rows].tobytes()


@pytest.mark.parametrize("mistakes", [None, Mistakes(random_moments(np.random.default_rng(7)), 0.2)])
def test_gradients_are_those_of_finite_differences(mistakes: Mistakes | None) -> None:
    clean, attacked, _ = made(3, 0.1)
    factored = factor(clean, attacked, mistakes, directions=3, shrinkage=0.1, pooling=0.0)
    neurons, indices, which = images(4)
    members = np.arange(COMMITTEES * M, dtype=np.int32).reshape(COMMITTEES, M)
    module = CommitteeScores(Committees(members, np.array([0, COMMITTEES]), factored, ("a", "b", "c")), indices).double()
    leaf = torch.from_numpy(neurons).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: module(values, torch.from_numpy(which)), leaf)
    without = module(leaf.detach(), torch.from_numpy(which))  # takes another way there, without gradients
    torch.testing.assert_close(module(leaf, torch.from_numpy(which)).detach(), without)


def test_no_number_is_no_number() -> None:
    *_, factored = made(3, 0.1)
    neurons, indices, which = images(3)
    assert np.isnan(scores_of(factored, neurons * np.nan, indices, which)).all()


def test_storage_keeps_everything() -> None:
    *_, factored = made(3, 0.1, absent=True)
    whole = Committees.join([(np.zeros((COMMITTEES, M), np.int64), factored)] * 2, np.array([0, 7, 14]), ("a", "b", "c"))
    again = Committees.from_arrays(whole.to_arrays(), whole.attacks)
    assert (whole.members[COMMITTEES:] == 7).all() and whole.starts.tolist() == [0, COMMITTEES, 2 * COMMITTEES]
    assert all((again.to_arrays()[name] == array).all() for name, array in whole.to_arrays().items())
