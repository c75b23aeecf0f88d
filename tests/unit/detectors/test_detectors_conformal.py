"""Split conformal calibration: the formula, the groups, and the promise itself."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom

from pipeline.detectors.conformal import Calibration, group_classes
from pipeline.errors import ArtifactError, WhorlError


def one_group(scores: np.ndarray) -> Calibration:
    return Calibration.fit(scores, np.zeros(len(scores), np.int64), {0: "pooled"})


@given(st.lists(st.integers(0, 8), max_size=20), st.lists(st.integers(-1, 9), min_size=1, max_size=10))
def test_p_values_are_the_formula(calibration: list[int], scores: list[int]) -> None:
    p, groups = one_group(np.array(calibration, float)).p_values(np.array(scores, float), np.zeros(len(scores), np.int64))
    expected = [(1 + sum(c >= s for c in calibration)) / (len(calibration) + 1) for s in scores]
    assert p.tolist() == expected
    assert groups.tolist() == ["pooled"] * len(scores)


@given(st.integers(0, 2**32), st.integers(1, 30))
def test_each_image_is_compared_with_its_own_group(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    class_group = {0: "0", 1: "pooled", 2: "pooled", 3: "3"}
    scores, predicted = rng.normal(size=40), rng.integers(0, 4, 40)
    calibration = Calibration.fit(scores, predicted, class_group)
    fresh, to = rng.normal(size=count), rng.integers(0, 4, count)
    p, groups = calibration.p_values(fresh, to)
    for value, s, label, group in zip(p, fresh, to, groups, strict=True):
        mates = [c for c, other in zip(scores, predicted, strict=True) if class_group[other] == class_group[label]]
        assert group == class_group[label]
        assert value == (1 + sum(c >= s for c in mates)) / (len(mates) + 1)
    assert calibration.counts() == {name: sum(class_group[label] == name for label in predicted) for name in ("0", "pooled", "3")}


@pytest.mark.parametrize(("score", "expected"), [(np.nan, 0.25), (np.inf, 0.25), (-np.inf, 1.0)])
def test_a_score_that_is_no_number_is_most_suspicious(score: float, expected: float) -> None:
    p, _ = one_group(np.arange(3.0)).p_values(np.array([score]), np.zeros(1, np.int64))
    assert p.tolist() == [expected]


def test_nothing_is_flagged_without_calibration() -> None:
    p, _ = one_group(np.empty(0)).p_values(np.array([1e9]), np.zeros(1, np.int64))
    assert p.tolist() == [1.0]


@pytest.mark.parametrize("n", [19, 39, 99, 199, 499])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
def test_exactly_the_top_of_the_calibration_scores_is_flagged(n: int, alpha: float) -> None:
    """Rounding must not move a p-value across alpha: k = floor(alpha (n + 1)) of n + 1 ranks are flagged."""
    between = np.arange(n + 1) - 0.5
    p, _ = one_group(np.arange(float(n))).p_values(between, np.zeros(n + 1, np.int64))
    assert (p <= alpha).sum() == math.floor(round(alpha * (n + 1), 9))


@pytest.mark.parametrize("ties", [False, True])
def test_false_alarms_keep_the_promise_and_follow_the_beta_binomial_law(ties: bool) -> None:
    """The law that the independent check of a finished run tests with: BB(m, k, n + 1 - k)."""
    n, m, alpha, repeats = 99, 60, 0.05, 4000
    rng = np.random.default_rng(0)
    flagged = np.empty(repeats, np.int64)
    for repeat in range(repeats):
        scores = rng.exponential(size=n + m)
        scores = np.floor(scores * 4) if ties else scores
        p, _ = one_group(scores[:n]).p_values(scores[n:], np.zeros(m, np.int64))
        flagged[repeat] = (p <= alpha).sum()
    k = math.floor(alpha * (n + 1))
    error = flagged.std() / m / math.sqrt(repeats)
    if ties:
        assert flagged.mean() / m < alpha - 3 * error
    else:
        assert abs(flagged.mean() / m - alpha) < 4 * error
        law = betabinom.cdf(np.arange(m + 1), m, k, n + 1 - k)
        seen = np.cumsum(np.bincount(flagged, minlength=m + 1)) / repeats
        assert np.abs(seen - law).max() < 1.95 / math.sqrt(repeats)  # Kolmogorov's 0.1 % point; conservative for a discrete law


def test_the_promise_holds_in_every_group_where_classes_differ() -> None:
    rng = np.random.default_rng(1)
    rates = []
    for _ in range(400):
        predicted = rng.integers(0, 2, 400)
        scores = rng.normal(size=400) * (1 + 9 * predicted)
        calibration = Calibration.fit(scores[:200], predicted[:200], {0: "0", 1: "1"})
        p, groups = calibration.p_values(scores[200:], predicted[200:])
        rates.append([(p[groups == name] <= 0.05).mean() for name in ("0", "1")])
    assert (np.mean(rates, axis=0) <= 0.05 + 4 * np.std(rates, axis=0) / 20).all()
    assert (np.mean(rates, axis=0) > 0.03).all()


def test_p_values_know_nothing_of_the_other_images_tested() -> None:
    """The authors' package takes its threshold from the test scores; here an image's p-value is its own."""
    rng = np.random.default_rng(2)
    calibration = one_group(rng.normal(size=50))
    fresh = rng.normal(size=30)
    zeros = np.zeros(1000, np.int64)
    alone, _ = calibration.p_values(fresh, zeros[:30])
    among_attacks, _ = calibration.p_values(np.concatenate([fresh, rng.normal(50, 1, 970)]), zeros)
    assert alone.tolist() == among_attacks[:30].tolist()


# predictions of fit a class, calibration images, alpha, groups expected
GROUPINGS = [
    ([100, 100], 400, 0.05, ["0", "1"]),  # 200 expected of each, 80 needed
    ([80, 20], 400, 0.05, ["0", "1"]),  # exactly 80 expected: enough
    ([81, 19], 400, 0.05, ["pooled", "pooled"]),  # 76 expected: pooled, too small alone, so the other joins
    ([60, 15, 15, 10], 400, 0.05, ["0", "pooled", "pooled", "pooled"]),  # 60 + 60 + 40 in the pool are enough
    ([50, 30, 10, 10], 400, 0.05, ["0", "1", "pooled", "pooled"]),  # 40 + 40 are exactly enough
    ([50, 31, 10, 9], 400, 0.05, ["0", "pooled", "pooled", "pooled"]),  # 40 + 36 are not: the smaller of the others joins
    ([0, 70, 30], 400, 0.05, ["pooled", "1", "pooled"]),  # never predicted: pooled, and with it the smallest
    ([40, 40, 20, 0], 400, 0.05, ["0", "1", "pooled", "pooled"]),  # the class of 80 joins the empty one
    ([40, 40, 20, 0], 19, 0.05, ["pooled"] * 4),  # the fewest of which one can be flagged
    ([50, 50], 400, 0.01, ["pooled", "pooled"]),  # 400 needed
]


@pytest.mark.parametrize(("fit", "images", "alpha", "expected"), GROUPINGS)
def test_groups_are_the_rule(fit: list[int], images: int, alpha: float, expected: list[str]) -> None:
    predicted = np.repeat(np.arange(len(fit)), fit)
    groups = group_classes(predicted, len(fit), images, alpha)
    assert list(groups) == list(range(len(fit)))
    assert list(groups.values()) == expected


@pytest.mark.parametrize(("alpha", "least"), [(0.01, 99), (0.05, 19), (0.1, 9), (1 / 49, 48), (0.07, 14), (0.5, 1), (0.9, 1)])
def test_a_promise_that_no_image_could_break_is_refused(alpha: float, least: int) -> None:
    """With fewer than ceil(1/alpha) - 1 images the highest score of all has a p-value above alpha."""
    highest = [one_group(np.zeros(n)).p_values(np.ones(1), np.zeros(1, np.int64))[0][0] for n in (least - 1, least)]
    assert highest[0] > alpha >= highest[1]
    assert set(group_classes(np.arange(3), 3, least, alpha).values()) == {"pooled"} or least == 1
    for images in {least - 1, 0}:
        with pytest.raises(WhorlError, match=f"has {images} images, where at least {least} were expected.*calibration.alpha, {alpha:g}"):
            group_classes(np.arange(3), 3, images, alpha)


def test_equal_classes_join_in_order() -> None:
    groups = group_classes(np.repeat([0, 1, 2, 3], [10, 30, 30, 30]), 4, 400, 0.05)
    assert list(groups.values()) == ["pooled", "pooled", "2", "3"]


@pytest.mark.parametrize("predicted", [[], [0, 3], [-1, 0]])
def test_predictions_that_fit_no_class_are_refused(predicted: list[int]) -> None:
    with pytest.raises(WhorlError, match="from 0 to 2"):
        group_classes(np.array(predicted, np.int64), 3, 100, 0.05)


def test_what_cannot_be_calibrated_is_said() -> None:
    with pytest.raises(WhorlError, match="1 of 2 calibration scores are no numbers"):
        one_group(np.array([1.0, np.nan]))
    with pytest.raises(WhorlError, match=r"predicted as \[4\]"):
        one_group(np.array([1.0])).p_values(np.array([1.0]), np.array([4]))


def test_a_calibration_survives_storage() -> None:
    rng = np.random.default_rng(3)
    calibration = Calibration.fit(rng.normal(size=30), rng.integers(0, 3, 30), {0: "0", 1: "pooled", 2: "pooled", 3: "3"})
    arrays, plain = calibration.to_arrays()
    again = Calibration.from_arrays(arrays, json.loads(json.dumps(plain)))
    assert again.class_group == calibration.class_group
    assert {name: scores.tolist() for name, scores in again.groups.items()} == {
        name: scores.tolist() for name, scores in calibration.groups.items()
    }
    assert again.counts()["3"] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scores": np.array([3.0, 1.0, 2.0])}, "do not rise"),
        ({"scores": np.array([1.0, np.nan, 2.0])}, "do not rise"),
        ({"scores": np.array([1.0])}, "do not fit together"),
        ({"starts": np.array([0, 1, 3])}, "do not fit together"),
    ],
)
def test_arrays_that_contradict_each_other_are_refused(change: dict[str, np.ndarray], said: str) -> None:
    arrays, plain = one_group(np.arange(3.0)).to_arrays()
    with pytest.raises(ArtifactError, match=said):
        Calibration.from_arrays(arrays | change, plain)
