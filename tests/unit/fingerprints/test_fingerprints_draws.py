"""Draws: distinct, uniform, each image's own; keyed ones come again, fresh ones never."""

import numpy as np
import pytest
from fingerprints_support import image_ids
from scipy.stats import chisquare, kstest

from pipeline.fingerprints.draws import Draws, FreshDraws, draw
from pipeline.random import ImageRandom


@pytest.mark.parametrize("draws", [ImageRandom(0, "evaluate", image_ids(300)), FreshDraws(300)], ids=["keyed", "fresh"])
def test_each_image_draws_different_fingerprints_of_its_own_bank(draws: Draws) -> None:
    sizes = np.random.default_rng(0).integers(25, 60, 300)
    drawn = draw(draws, sizes, 20)
    assert drawn.shape == (300, 20)
    assert (np.diff(np.sort(drawn, axis=1), axis=1) > 0).all()
    assert (drawn >= 0).all() and (drawn < sizes[:, None]).all()
    assert len({tuple(sorted(row)) for row in drawn.tolist()}) > 295


@pytest.mark.parametrize("draws", [ImageRandom(1, "evaluate", image_ids(4000)), FreshDraws(4000)], ids=["keyed", "fresh"])
def test_every_fingerprint_is_equally_likely(draws: Draws) -> None:
    counts = np.bincount(draw(draws, np.full(4000, 25), 5).ravel(), minlength=25)
    # A draw without replacement varies less than the chi-square law says; so only the upper tail is a fault.
    assert chisquare(counts).pvalue > 1e-6


def test_keyed_draws_depend_on_seed_purpose_and_image_alone() -> None:
    ids, sizes = image_ids(40), np.full(40, 1000)
    whole = draw(ImageRandom(5, "evaluate", ids), sizes, 20)
    part = draw(ImageRandom(5, "evaluate", ids[10:13]), sizes[10:13], 20)
    assert (part == whole[10:13]).all()
    assert (draw(ImageRandom(6, "evaluate", ids), sizes, 20) != whole).any(axis=1).all()
    assert (draw(ImageRandom(5, "calibrate", ids), sizes, 20) != whole).any(axis=1).all()


def test_fresh_draws_never_come_again() -> None:
    draws, sizes = FreshDraws(50), np.full(50, 1000)
    first = draw(draws, sizes, 20)
    for again in (draw(draws, sizes, 20), draw(FreshDraws(50), sizes, 20)):
        assert (np.sort(first, axis=1) != np.sort(again, axis=1)).any(axis=1).all()


def test_fresh_draws_ignore_every_seeded_generator() -> None:
    np.random.seed(0)
    first = FreshDraws(4).uniform("draw", (8,))
    np.random.seed(0)
    assert (FreshDraws(4).uniform("draw", (8,)) != first).any()


def test_fresh_draws_are_uniform() -> None:
    uniform = FreshDraws(2000).uniform("draw", (10,))
    assert uniform.shape == (2000, 10) and uniform.min() >= 0 and uniform.max() < 1
    assert kstest(uniform.ravel(), "uniform").pvalue > 1e-6
    assert FreshDraws(3).uniform("draw").shape == (3,)
    assert FreshDraws(0).uniform("draw", (5,)).shape == (0, 5)
