"""The fingerprint detector against a loop over images, and what makes it random."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from pipeline.detectors.base import Detector
from pipeline.detectors.fingerprint import FingerprintDetector
from pipeline.errors import WhorlError
from pipeline.fingerprints.bank import Bank, Fingerprints
from pipeline.fingerprints.draws import FreshDraws, draw
from pipeline.fingerprints.features import Layout
from pipeline.fingerprints.likelihood import STATISTICS, StatisticName
from pipeline.fingerprints.moments import Moments
from pipeline.fingerprints.sampling import sample_index_sets
from pipeline.fingerprints.scores import fingerprint_scores
from pipeline.random import ImageRandom

LAYOUT = Layout(("a", "b"), (0, 50, 80))
IDS = [f"{number:032x}" for number in range(60)]
STATISTIC_NAMES = list(STATISTICS)


def a_bank(sizes: dict[str, int], class_group: dict[int, str], seed: int = 0) -> Bank:
    rng = np.random.default_rng(seed)
    groups = {}
    for name, count in sizes.items():
        indices, layer = sample_index_sets(rng, LAYOUT, 4, count, {"a": 1.0, "b": 1.0})
        numbers = [rng.normal(size=count), rng.uniform(0.3, 1, count), rng.normal(size=count), rng.uniform(0.3, 1, count), np.ones(count)]
        groups[name] = Fingerprints(indices, layer, *(each.astype(np.float32) for each in numbers))
    return Bank.build(LAYOUT, groups, class_group, {})


BANK = a_bank({"0": 200, "pooled": 150, "2": 12}, {0: "0", 1: "pooled", 2: "2", 3: "pooled"})


def batch(count: int = 60, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, LAYOUT.size)).astype(np.float32), rng.integers(0, 4, count)


@pytest.mark.parametrize("statistic", STATISTIC_NAMES)
def test_scores_are_those_of_a_loop_over_images(statistic: StatisticName) -> None:
    neurons, predicted = batch()
    scores = FingerprintDetector(BANK, statistic, 20).scores(neurons, predicted, ImageRandom(3, "test", IDS))
    assert scores.dtype == np.float64
    for row, label in enumerate(predicted):
        group = BANK.groups[{0: "0", 1: "pooled", 2: "2", 3: "pooled"}[int(label)]]
        m = min(20, len(group))
        which = draw(ImageRandom(3, "test", [IDS[row]]), np.array([len(group)]), m)[0]
        s = neurons[row].astype(float)[group.indices[which]].mean(axis=1)
        mu0, sd0, mu1, sd1 = (each[which].astype(float) for each in (group.mu0, group.sd0, group.mu1, group.sd1))
        expected = {
            "likelihood_ratio": (norm.logpdf(s, mu1, sd1) - norm.logpdf(s, mu0, sd0)).sum(),
            "vote": (np.abs(s - mu1) / sd1 < np.abs(s - mu0) / sd0).mean(),
            "anomaly": -norm.logpdf(s, mu0, sd0).sum(),
        }[statistic]
        assert scores[row] == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("statistic", STATISTIC_NAMES)
def test_an_images_score_has_the_same_bits_in_any_batch(statistic: StatisticName) -> None:
    detector, (neurons, predicted) = FingerprintDetector(BANK, statistic, 20), batch()
    whole = detector.scores(neurons, predicted, ImageRandom(3, "test", IDS))
    for rows in (slice(0, 1), slice(7, 20), slice(59, 60)):
        part = detector.scores(neurons[rows], predicted[rows], ImageRandom(3, "test", IDS[rows]))
        assert part.tobytes() == whole[rows].tobytes()
    order = np.random.default_rng(0).permutation(60)
    shuffled = detector.scores(neurons[order], predicted[order], ImageRandom(3, "test", [IDS[row] for row in order]))
    assert shuffled.tobytes() == whole[order].tobytes()


def test_the_same_image_meets_another_draw_each_time() -> None:
    """The authors' package uses the whole bank on every input, so that nothing is random."""
    detector, (neurons, _) = FingerprintDetector(BANK, "likelihood_ratio", 20), batch()
    copies, label = np.repeat(neurons[:1], 60, axis=0), np.zeros(60, np.int64)
    inside_a_batch = detector.scores(copies, label, FreshDraws(60))
    assert len(set(inside_a_batch.tolist())) == 60
    assert not set(inside_a_batch.tolist()) & set(detector.scores(copies, label, FreshDraws(60)).tolist())


def test_a_draw_uses_as_many_fingerprints_as_asked_for() -> None:
    """With one unit of surprise a fingerprint, the anomaly counts those that were used."""
    count = 200
    even = np.zeros(count, np.float32)
    deviation = np.full(count, np.sqrt(np.e / (2 * np.pi)), np.float32)  # -log N(mu; mu, sd) = 1/2
    indices, layer = sample_index_sets(np.random.default_rng(0), LAYOUT, 4, count, {"a": 1.0})
    bank = Bank.build(LAYOUT, {"0": Fingerprints(indices, layer, even, deviation, even, deviation, even)}, {0: "0"}, {})
    scores = FingerprintDetector(bank, "anomaly", 20).scores(np.zeros((5, 80), np.float32), np.zeros(5, np.int64), FreshDraws(5))
    np.testing.assert_allclose(scores, 20 * 0.5, rtol=1e-5)


def test_over_many_draws_the_whole_bank_is_used_evenly() -> None:
    counts = np.zeros(200)
    for start in range(0, 6000, 60):
        ids = [f"{number:032x}" for number in range(start, start + 60)]
        np.add.at(counts, draw(ImageRandom(0, "x", ids), np.full(60, 200), 20), 1)
    assert counts.min() > 600 - 5 * np.sqrt(540) and counts.max() < 600 + 5 * np.sqrt(540)


def test_a_bank_smaller_than_the_draw_is_used_whole() -> None:
    neurons, _ = batch(5)
    scores = FingerprintDetector(BANK, "likelihood_ratio", 20).scores(np.repeat(neurons[:1], 5, 0), np.full(5, 2), FreshDraws(5))
    assert np.ptp(scores) < 1e-9 * np.abs(scores).max()


def test_attacks_that_move_neurons_are_told_from_clean_images() -> None:
    rng = np.random.default_rng(5)
    clean, attacked = rng.normal(size=(400, 80)).astype(np.float32), rng.normal(0.4, 1.2, size=(400, 80)).astype(np.float32)
    indices, layer = sample_index_sets(rng, LAYOUT, 4, 300, {"a": 1.0, "b": 1.0})
    before, after = (Moments.of(fingerprint_scores(each[:200], indices)) for each in (clean, attacked))
    numbers = (before.mean, before.std(), after.mean, after.std(), before.mean)
    bank = Bank.build(LAYOUT, {"0": Fingerprints(indices, layer, *(each.astype(np.float32) for each in numbers))}, {0: "0"}, {})
    fresh, truth = np.concatenate([clean[200:], attacked[200:]]), np.repeat([0, 1], 200)
    for statistic, floor in (("likelihood_ratio", 0.95), ("vote", 0.9), ("anomaly", 0.75)):
        detector: Detector = FingerprintDetector(bank, statistic, 40)
        scores = detector.scores(fresh, np.zeros(400, np.int64), ImageRandom(0, "test", [f"{i:032x}" for i in range(400)]))
        assert roc_auc_score(truth, scores) > floor


@pytest.mark.parametrize(
    ("shape", "predicted", "said"),
    [
        ((2, 79), [0, 1], r"neurons of shape \(2, 79\) for 2 predictions, where \(2, 80\) was expected"),
        ((3, 80), [0, 1], r"neurons of shape \(3, 80\)"),
        ((2, 80), [0, 4], "predictions from 0 to 4, where 0 to 3"),
        ((2, 80), [-1, 0], "predictions from -1 to 0"),
    ],
)
def test_what_the_bank_was_not_made_for_is_refused(shape: tuple[int, int], predicted: list[int], said: str) -> None:
    with pytest.raises(WhorlError, match=said):
        FingerprintDetector(BANK, "vote", 5).scores(np.zeros(shape, np.float32), np.array(predicted), FreshDraws(len(predicted)))


def test_no_images_have_no_scores() -> None:
    scores = FingerprintDetector(BANK, "vote", 5).scores(np.zeros((0, 80), np.float32), np.zeros(0, np.int64), FreshDraws(0))
    assert scores.shape == (0,)
