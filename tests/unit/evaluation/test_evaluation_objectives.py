"""The objectives of a search, each against the sum or the enumeration that its formula stands for."""

from itertools import combinations, product

import numpy as np
import pytest

from pipeline.evaluation.objectives import Drawn, after_looks, cross_fitted, detection_figures


def _drawn(rng: np.random.Generator, images: int, draws: int, groups: int, shift: float = 0.0) -> Drawn:
    names = np.array([f"g{i}" for i in range(groups)])
    scores = np.round(rng.normal(shift, 1, (draws, images)), 1)  # rounded, so that ties occur
    return Drawn(scores, names[rng.integers(groups, size=images)], rng.random(images) < 0.5)


@pytest.mark.parametrize("groups", [1, 3])
def test_p_values_are_those_of_the_other_half_image_by_image(groups: int) -> None:
    rng = np.random.default_rng(groups)
    clean, attacked = _drawn(rng, 40, 5, groups), _drawn(rng, 25, 5, groups, shift=1.0)
    found = cross_fitted(attacked, clean)
    assert found.shape == (5, 5, 25)
    for image in range(25):
        others = [i for i in range(40) if clean.halves[i] != attacked.halves[image] and clean.groups[i] == attacked.groups[image]]
        for calibration, look in product(range(5), range(5)):
            above = sum(clean.scores[calibration, i] >= attacked.scores[look, image] for i in others)
            assert found[calibration, look, image] == pytest.approx((1 + above) / (len(others) + 1))


def test_calibrated_by_the_other_half_no_more_than_alpha_of_clean_images_are_flagged() -> None:
    """Over 400 made sets of 40 images whose draws hang together: the mean is at most alpha, and as near to it as n allows."""
    rng, rates = np.random.default_rng(11), []
    for _ in range(400):
        scores = rng.normal(size=40) + 0.5 * rng.normal(size=(4, 40))
        clean = Drawn(scores, np.array(["g"] * 40), np.arange(40) % 2 == 0)
        rates.append((cross_fitted(clean, clean) <= 0.2).mean())
    error = np.std(rates) / np.sqrt(400)
    assert np.mean(rates) == pytest.approx(4 / 21, abs=3 * error) and 3 * error < 0.02  # floor(0.2 (20 + 1)) / (20 + 1)


def test_an_image_never_meets_a_threshold_made_of_its_own_half() -> None:
    """Whatever becomes of the clean scores of one half, the p-values of that half's images stay as they are."""
    rng = np.random.default_rng(0)
    clean, attacked = _drawn(rng, 60, 4, 2), _drawn(rng, 30, 4, 2)
    moved = Drawn(clean.scores + 100 * clean.halves, clean.groups, clean.halves)
    before, after = cross_fitted(attacked, clean), cross_fitted(attacked, moved)
    assert (before[..., attacked.halves] == after[..., attacked.halves]).all()
    assert (before[..., ~attacked.halves] != after[..., ~attacked.halves]).any()


def test_a_score_that_is_no_number_is_the_most_suspicious() -> None:
    clean = Drawn(np.arange(20.0).reshape(1, 20), np.array(["g"] * 20), np.arange(20) % 2 == 0)
    image = Drawn(np.array([[np.nan]]), np.array(["g"]), np.array([True]))
    assert cross_fitted(image, clean) == pytest.approx(1 / 11)


def test_without_a_clean_image_of_its_group_nothing_is_flagged() -> None:
    clean = Drawn(np.zeros((1, 4)), np.array(["a"] * 4), np.array([True, True, False, False]))
    assert cross_fitted(Drawn(np.array([[9.0]]), np.array(["b"]), np.array([True])), clean) == 1


@pytest.mark.parametrize("looks", [1, 2, 4])
def test_detection_after_looks_is_the_mean_over_all_choices_of_draws(looks: int) -> None:
    rng = np.random.default_rng(looks)
    flags = rng.random((6, 9)) < rng.random(9)
    sent = caught = 0
    for image in flags.T:
        for seen in combinations(range(6), looks):
            if not image[list(seen)].any():
                rest = [image[draw] for draw in range(6) if draw not in seen]
                sent, caught = sent + len(rest), caught + sum(rest)
    assert after_looks(flags, looks) == pytest.approx(caught / sent)
    assert after_looks(np.stack([flags, flags]), looks) == pytest.approx(caught / sent), "calibrations are pooled"


def test_detection_after_looks_at_its_ends() -> None:
    assert after_looks(np.ones((10, 3), bool), 8) == 1, "nothing is sent, so nothing gets through"
    assert after_looks(np.zeros((10, 3), bool), 8) == 0
    static = np.repeat([[True, False]], 10, axis=0)
    assert after_looks(static, 8) == 0, "an image that a static guard lets pass once always passes"


def test_detection_after_looks_estimates_the_two_expectations() -> None:
    rng, p = np.random.default_rng(7), np.array([0.1, 0.3, 0.05, 0.6])
    flags = rng.random((24, 4 * 20000)) < np.tile(p, 20000)
    expected = (p * (1 - p) ** 8).sum() / ((1 - p) ** 8).sum()
    assert after_looks(flags, 8) == pytest.approx(expected, abs=0.003)


def test_the_figures_of_a_detector_that_separates_and_of_one_that_does_not() -> None:
    rng = np.random.default_rng(1)
    clean = _drawn(rng, 2000, 12, 1)
    same, apart = _drawn(rng, 2000, 12, 1), _drawn(rng, 300, 12, 1, shift=9.0)
    none = _drawn(rng, 0, 12, 1)
    figures = detection_figures(clean, {"same": same, "apart": apart, "none": none}, alpha=0.05, looks=8)
    assert figures["apart.detected"] == 1 and figures["apart.auroc"] == pytest.approx(1, abs=1e-4)
    assert figures["same.detected"] == pytest.approx(0.05, abs=0.015) == figures["false_alarms"]
    assert figures["same.auroc"] == pytest.approx(0.5, abs=0.02)
    assert not [key for key in figures if key.startswith("none.")]
