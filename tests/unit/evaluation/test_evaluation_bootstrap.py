"""The bootstrap: whole images are resampled, and each resample's figure is the weighted one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from scores_support import score_rows, score_table
from sklearn.metrics import roc_auc_score

from pipeline.evaluation.bootstrap import resampled_weights, tally
from pipeline.evaluation.metrics import auroc, intervals, wilson
from pipeline.evaluation.score_table import AttackScores, DetectorScores, read_detectors
from pipeline.random import generator

ALPHAS = {"5": 0.05}


def detector(seed: int, images: int = 25, seeds: int = 2, decimals: int = 1) -> DetectorScores:
    rng = np.random.default_rng(seed)
    hit = np.sort(rng.choice(images, images // 2, replace=False))
    attack = AttackScores(hit, rng.normal(1, 1, (seeds, len(hit))).round(decimals), rng.random((seeds, len(hit))) * 0.1)
    clean = rng.normal(size=(seeds, images)).round(decimals)
    correct = rng.random(images) < 0.7
    correct[0] = True
    return DetectorScores(correct, clean, rng.random((seeds, images)) * 0.2, {"pgd": attack})


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(0, 3))
def test_weighted_figures_are_those_of_the_repeated_images(seed: int, decimals: int) -> None:
    scores = detector(seed, decimals=decimals)
    weights = np.random.default_rng(seed).integers(0, 4, (25, 3)).astype(float)
    weights[0] += 1
    weights[scores.attacks["pgd"].images[0]] += 1
    found = {name: value.ratio() for name, value in tally(scores, weights, ALPHAS).items()}
    hit = scores.attacks["pgd"]
    for b, times in enumerate(weights.T.astype(int)):
        flags = np.repeat(scores.p_values <= 0.05, times, axis=1)
        right = np.repeat(scores.correct, times)
        detected = np.repeat(hit.p_values <= 0.05, times[hit.images], axis=1)
        assert found["clean.fpr_at_5"][b] == pytest.approx(flags.mean())
        assert found["clean.fpr_at_5_correct_only"][b] == pytest.approx(flags[:, right].mean())
        assert found["pgd.tpr_at_5"][b] == pytest.approx(detected.mean())
        for name, keep in (("pgd.auroc", np.ones_like(right)), ("pgd.auroc_correct_only", right)):
            values = []
            for draw in range(2):
                clean = np.repeat(scores.scores[draw], times)[keep]
                attacked = np.repeat(hit.scores[draw], times[hit.images])
                values.append(roc_auc_score(np.repeat([0, 1], [len(clean), len(attacked)]), np.concatenate([clean, attacked])))
            assert found[name][b] == pytest.approx(np.mean(values), abs=1e-12)


def test_resamples_are_as_many_images_drawn_with_replacement() -> None:
    chunks = list(resampled_weights(np.random.default_rng(0), 50, 300))
    weights = np.concatenate(chunks, axis=1)
    assert weights.shape == (50, 300)
    assert (weights.sum(axis=0) == 50).all() and weights.min() == 0
    assert abs(weights.var() - (1 - 1 / 50)) < 0.05  # binomial(50, 1/50)
    assert abs(np.corrcoef(weights)[np.triu_indices(50, 1)].mean() + 1 / 49) < 0.01  # multinomial


def test_intervals_are_percentiles_over_resampled_images() -> None:
    scores = detector(3)
    estimates = intervals({"d": scores}, alphas=(0.05,), confidence=0.9, resamples=150, seed=7)
    weights = np.concatenate(list(resampled_weights(generator(7, "bootstrap"), 25, 150)), axis=1)
    for name, value in tally(scores, weights, ALPHAS).items():
        estimate = estimates[f"d.{name}"]
        np.testing.assert_allclose([estimate.low, estimate.high], np.quantile(value.ratio(), [0.05, 0.95]))
        assert estimate.value == tally(scores, np.ones((25, 1)), ALPHAS)[name].ratio()[0]


def test_more_seeds_of_the_same_images_do_not_narrow_the_interval() -> None:
    """Rows are no independent evidence: a seed that repeats another adds none."""
    one = detector(4, images=200, seeds=1, decimals=3)
    hit = one.attacks["pgd"]
    four = replace(
        one,
        scores=np.tile(one.scores, (4, 1)),
        p_values=np.tile(one.p_values, (4, 1)),
        attacks={"pgd": replace(hit, scores=np.tile(hit.scores, (4, 1)), p_values=np.tile(hit.p_values, (4, 1)))},
    )
    first, second = (intervals({"d": each}, alphas=(0.05,), confidence=0.95, resamples=200, seed=0) for each in (one, four))
    assert first == second


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    truth, covered = 0.7602499389065233, []  # Phi(1 / sqrt 2), with an image's attacked score tied to its clean one
    for _ in range(200):
        images = rng.normal(size=80)
        clean, attacked = images + rng.normal(size=80), images + rng.normal(size=80) + np.sqrt(2)
        none = np.ones((1, 80))
        hit = AttackScores(np.arange(80), attacked[None], none)
        scores = DetectorScores(np.ones(80, np.bool_), clean[None], none, {"pgd": hit})
        area = intervals({"d": scores}, alphas=(), confidence=0.9, resamples=200, seed=0)["d.pgd.auroc"]
        assert area.low is not None and area.high is not None
        covered.append(area.low <= truth <= area.high)
    assert 0.83 <= np.mean(covered) <= 0.96


def separated(images: int, hit: list[int], right: list[int] | None = None, sign: float = 1.0) -> DetectorScores:
    """Two seeds of clean scores below all attacked ones, or above with ``sign`` -1."""
    rng = np.random.default_rng(0)
    correct = np.isin(np.arange(images), range(images) if right is None else right)
    attack = AttackScores(np.array(hit), sign * (5 + rng.random((2, len(hit)))), np.full((2, len(hit)), 0.5))
    return DetectorScores(correct, sign * rng.random((2, images)), np.full((2, images), 0.5), {"pgd": attack})


@pytest.mark.parametrize(
    ("images", "hit", "right", "pairs", "pairs_right"),
    [
        (60, [3, 5, 8], None, 3, 3),  # as many pairs as attacked images, each with a clean image of its own
        (60, list(range(50)), None, 30, 30),  # every clean image is in a pair, once
        (9, list(range(9)), None, 4, 4),
        (12, [0, 1, 2, 3], [0, 1, 2, 3, 4], 4, 2),  # only five images were right
        (12, [0, 1, 2, 3], [4, 5], 4, 2),
    ],
)
def test_an_area_without_exception_has_the_interval_of_its_disjoint_pairs(
    images: int, hit: list[int], right: list[int] | None, pairs: int, pairs_right: int
) -> None:
    for sign, area in ((1.0, 1), (-1.0, 0)):
        found = intervals({"d": separated(images, hit, right, sign)}, alphas=(), confidence=0.9, resamples=20, seed=0)
        assert found["d.pgd.auroc"] == wilson(area * pairs, pairs, 0.9)
        assert found["d.pgd.auroc_correct_only"] == wilson(area * pairs_right, pairs_right, 0.9)


def test_an_area_over_one_image_alone_says_nothing() -> None:
    (found,) = {
        intervals({"d": separated(1, [0])}, alphas=(), confidence=0.9, resamples=20, seed=0)[f"d.pgd.auroc{end}"]
        for end in ("", "_correct_only")
    }
    assert (found.value, found.low, found.high) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize("truth", [0.42, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("tied", [-1, 0, 1])
def test_an_area_of_one_covers_the_truth_as_often_as_it_says(tied: int, truth: float) -> None:
    """Normal scores, an image's attacked one tied to its clean one or not: an area of 1 must not be told as certain.

    A repeat counts against the interval where the area is 1 and its lower bound above the truth.
    """
    rng, images, hit, repeats = np.random.default_rng(0), 6, 4, 1500
    clean = rng.normal(size=(repeats, images))
    attacked = (tied * clean if tied else rng.normal(size=clean.shape))[:, :hit] + np.sqrt(2) * norm.ppf(truth)
    perfect = np.flatnonzero([auroc(*each) == 1 for each in zip(clean, attacked, strict=True)])
    missed, none = [], np.ones((1, images))
    for at in perfect:
        attack = AttackScores(np.arange(hit), attacked[at : at + 1], none[:, :hit])
        scores = DetectorScores(none[0] > 0, clean[at : at + 1], none, {"pgd": attack})
        low = intervals({"d": scores}, alphas=(), confidence=0.95, resamples=1, seed=0)["d.pgd.auroc"].low
        missed.append(low is None or low > truth)
    assert np.sum(missed) / repeats <= 0.05
    assert truth < 0.9 or len(perfect) / repeats > 0.05, "the case is one where an interval of [1, 1] fails"


def test_detectors_meet_the_same_resamples() -> None:
    scores = detector(5)
    estimates = intervals({"a": scores, "b": scores}, alphas=(0.05,), confidence=0.95, resamples=100, seed=0)
    assert all(estimates[f"a.{name}"] == estimates[f"b.{name}"] for name in tally(scores, np.ones((25, 1)), ALPHAS))


def test_the_resamples_depend_on_their_seed() -> None:
    first, again, other = (intervals({"d": detector(6)}, alphas=(0.05,), confidence=0.95, resamples=50, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_resamples_without_an_attacked_image_are_left_out() -> None:
    scores = detector(7)
    lone = AttackScores(np.array([3]), np.array([[9.0], [9.0]]), np.array([[0.01], [0.2]]))
    estimate = intervals({"d": replace(scores, attacks={"pgd": lone})}, alphas=(0.05,), confidence=0.95, resamples=100, seed=0)
    assert estimate["d.pgd.tpr_at_5"].value == 0.5
    assert estimate["d.pgd.auroc"] == wilson(1, 1, 0.95)


def test_the_whole_way_from_a_table() -> None:
    detectors = read_detectors(score_table(score_rows()))
    estimates = intervals(detectors, alphas=(0.05,), confidence=0.95, resamples=20, seed=0)
    assert {name.split(".")[0] for name in estimates} == {"vote", "ratio"}
