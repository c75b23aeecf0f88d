"""The authors' package beside ours; only where it is installed, which is in the peers' environment."""

import importlib.util
import sys

import numpy as np
import pytest
from scipy.stats import norm

if importlib.util.find_spec("fingerprints_armor") is None:
    pytest.skip("the peers are not installed", allow_module_level=True)

from armor import Armor, image_scores, index_sets, numbers, replayed
from beside import Sizes, activations, same_numbers

SMALL = Sizes(images=30, neurons=60, k=5, candidates=40, bank=10, batch=16)


def test_they_fit_what_they_are_handed() -> None:
    clean, attacked = activations(SMALL, np.float64)
    sets = np.stack([np.random.default_rng(row).choice(60, 5, replace=False) for row in range(40)]).astype(np.int32)
    with replayed(sets):
        fitted = Armor(clean, attacked, 5).fit(40, 2.0, 0.0)
    assert np.array_equal(index_sets(fitted), sets)
    one, two = clean[:, sets].mean(-1), attacked[:, sets].mean(-1)
    for got, wanted in zip(image_scores(fitted), (one, two), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)
    found = numbers(fitted)
    np.testing.assert_allclose(found.sd1, two.std(axis=0, ddof=1), rtol=1e-12)
    pooled = np.sqrt((one.var(axis=0, ddof=1) + two.var(axis=0, ddof=1)) / 2)
    np.testing.assert_allclose(found.effect, np.abs(one.mean(0) - two.mean(0)) / pooled, rtol=1e-12)
    density = norm.logpdf(one, found.mu0, found.sd0) - norm.logpdf(one, found.mu1, found.sd1)
    np.testing.assert_allclose(fitted.likelihood_ratio(Armor(clean, attacked, 5).clean), density.sum(1), rtol=1e-9)


def test_nothing_of_the_stand_in_stays() -> None:
    Armor(np.zeros((2, 3)), np.zeros((2, 3)), 1)
    assert "src" not in sys.modules and np.random.choice(5, 5, replace=False).shape == (5,)


def test_ours_are_the_same_numbers() -> None:
    differences = [entry.row.ours for entry in same_numbers(SMALL)]
    assert len(differences) == 6 and all(value is not None and value < 1e-12 for value in differences)
