"""Statistics of a draw against SciPy's normal distribution and against loops."""

import numpy as np
import pytest
from scipy.stats import norm

from pipeline.fingerprints.likelihood import STATISTICS, DrawnMoments, anomaly, log_likelihood_ratio, log_normal, vote


def drawn(seed: int = 0, images: int = 9, m: int = 13) -> tuple[np.ndarray, DrawnMoments]:
    rng = np.random.default_rng(seed)
    mu0, mu1 = rng.normal(size=(2, images, m)).astype(np.float32)
    sd0, sd1 = rng.uniform(0.1, 3, size=(2, images, m)).astype(np.float32)
    return rng.normal(size=(images, m)).astype(np.float32), DrawnMoments(mu0, sd0, mu1, sd1)


def test_log_normal_is_scipys() -> None:
    scores, moments = drawn()
    expected = norm.logpdf(scores.astype(float), moments.mu0.astype(float), moments.sd0.astype(float))
    np.testing.assert_allclose(log_normal(scores, moments.mu0, moments.sd0), expected, rtol=1e-6)


def test_the_ratio_sums_the_log_densities() -> None:
    scores, q = (values := drawn())[0], values[1]
    expected = [
        sum(norm.logpdf(s, m1, d1) - norm.logpdf(s, m0, d0) for s, m0, d0, m1, d1 in zip(*row, strict=True))
        for row in zip(*(each.astype(float) for each in (scores, q.mu0, q.sd0, q.mu1, q.sd1)), strict=True)
    ]
    np.testing.assert_allclose(log_likelihood_ratio(scores, q), expected, rtol=1e-6, atol=1e-6)


def test_a_vote_is_the_share_nearer_to_the_attack() -> None:
    scores, q = drawn(1)
    expected = [np.mean([abs(s - m1) / d1 < abs(s - m0) / d0 for s, m0, d0, m1, d1 in zip(*row, strict=True)])
                for row in zip(scores, q.mu0, q.sd0, q.mu1, q.sd1, strict=True)]  # fmt: skip
    np.testing.assert_allclose(vote(scores, q), expected)
    assert 0 < vote(scores, q).mean() < 1


def test_anomaly_is_the_clean_surprise_and_knows_no_attack() -> None:
    scores, q = drawn(2)
    expected = -norm.logpdf(scores.astype(float), q.mu0.astype(float), q.sd0.astype(float)).sum(axis=1)
    np.testing.assert_allclose(anomaly(scores, q), expected, rtol=1e-6)
    assert (anomaly(scores, DrawnMoments(q.mu0, q.sd0, q.mu1 + 9, q.sd1)) == anomaly(scores, q)).all()


@pytest.mark.parametrize("name", list(STATISTICS))
def test_higher_is_more_suspicious(name: str) -> None:
    shape = (500, 20)
    one = np.ones(shape, np.float32)
    moments = DrawnMoments(0 * one, one, 2 * one, one)
    rng = np.random.default_rng(3)
    clean, attacked = (STATISTICS[name](rng.normal(mean, 1, shape), moments) for mean in (0, 2))  # type: ignore[index]
    assert np.quantile(attacked, 0.05) > np.quantile(clean, 0.95)


@pytest.mark.parametrize("name", list(STATISTICS))
def test_an_image_has_the_same_bits_in_any_batch(name: str) -> None:
    scores, q = drawn(4, images=100, m=40)
    whole = STATISTICS[name](scores, q)  # type: ignore[index]
    for rows in (slice(3, 4), slice(10, 27)):
        part = DrawnMoments(*(each[rows] for each in (q.mu0, q.sd0, q.mu1, q.sd1)))
        assert STATISTICS[name](scores[rows], part).tobytes() == whole[rows].tobytes()  # type: ignore[index]


def test_a_score_far_out_stays_a_number() -> None:
    scores, q = drawn(5)
    assert all(np.isfinite(statistic(scores * np.float32(1e30), q)).all() for statistic in STATISTICS.values())


def test_no_number_never_looks_clean() -> None:
    scores, q = drawn(6)
    scores[:] = np.nan
    assert np.isnan(log_likelihood_ratio(scores, q)).all() and np.isnan(anomaly(scores, q)).all()
    assert (vote(scores, q) == 1).all()
