"""Clean images that the classifier gets wrong, as a part of what is clean: against SciPy on the images, and for what it is worth."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from world_support import selection_params

from pipeline.detectors.building import _mistakes, build_bank, build_detector, moments_needed, pooled_moments
from pipeline.detectors.committee import CommitteeDetector
from pipeline.fingerprints.committees import RIDGE
from pipeline.fingerprints.features import CLEAN, MISTAKEN, Features, Layout
from pipeline.fingerprints.joint import LENT
from pipeline.game.defenders import every_score
from pipeline.params.detectors import CommitteeDetectorParams
from pipeline.params.fingerprints import FingerprintParams
from pipeline.random import ImageRandom

LAYOUT, CLASSES, ATTACKS = Layout(("noise", "margin"), (0, 6, 7)), 2, ("far", "near")
FINGERPRINTS = FingerprintParams(seed=0, k=1, layer_weights={"noise": 6.0, "margin": 1.0}, candidates=200, block=200, fit_attacks=ATTACKS)
SELECTION = selection_params(effect_size=0.05, bank_size=7, min_fingerprints=7)


def images(count: int, seed: int) -> dict[str, Features]:
    """Six numbers that an attack called ``far`` moves, and a margin that mistakes and an attack called ``near`` leave small."""
    rng, no = np.random.default_rng(seed), np.zeros(count, np.bool_)
    ids, labels = [f"{seed:016x}{row:016x}" for row in range(count)], rng.integers(0, CLASSES, count)
    wrong = rng.random(count) < 0.12
    noise = rng.normal(size=(count, 6)) + labels[:, None]

    def features(noise: np.ndarray, margin: np.ndarray, success: np.ndarray, predicted: np.ndarray) -> Features:
        neurons = np.column_stack([noise, margin + rng.normal(0, 0.5, count)]).astype(np.float32)
        clean = predicted if not success.any() else labels
        return Features(ids, labels, clean, predicted, success, no, neurons)

    fooled, margin = np.ones(count, np.bool_), np.where(wrong, 1.0, 5.0)
    return {
        CLEAN: features(noise, margin, no, np.where(wrong, 1 - labels, labels)),
        "far": features(noise + 1.6, np.full(count, 3.0), fooled, 1 - labels),
        "near": features(noise + 0.4, np.full(count, 0.0), fooled, 1 - labels),
    }


def committee(mistakes: bool, draw: int = 7) -> CommitteeDetectorParams:
    kept = {"kind": "committee", "layer_weights": None, "committees": 4, "shrinkage": 0.01, "pooling": 0.0, "seed": 0}
    return CommitteeDetectorParams.model_validate({**kept, "draw": draw, "directions": draw, "mistakes": mistakes})


def detector(fit: dict[str, Features], params: CommitteeDetectorParams) -> CommitteeDetector:
    def stream(sources: list[str]) -> list[tuple[str, Features]]:
        return [(source, fit[source]) for source in sources]

    bank = build_bank(stream, LAYOUT, CLASSES, FINGERPRINTS, SELECTION)
    found = build_detector(stream, bank, params, ATTACKS)
    assert isinstance(found, CommitteeDetector)
    return found


def expected(fit: dict[str, Features], tested: Features) -> np.ndarray:
    """The ratio of all seven neurons, from the images of each kind, by NumPy and SciPy."""
    clean = fit[CLEAN]
    right = clean.labels == clean.predicted
    kinds = {
        CLEAN: (clean.neurons[right], clean.predicted[right]),
        MISTAKEN: (clean.neurons[~right], clean.predicted[~right]),
        **{name: (fit[name].neurons, fit[name].predicted) for name in ATTACKS},
    }
    counts = {kind: np.bincount(classes, minlength=CLASSES) for kind, (_, classes) in kinds.items()}
    means = {kind: np.array([x[classes == c].mean(0, dtype=float) for c in range(CLASSES)]) for kind, (x, classes) in kinds.items()}
    spread = {kind: np.cov((x - means[kind][classes]).T, ddof=0) * len(x) / (len(x) - CLASSES) for kind, (x, classes) in kinds.items()}
    for kind in (MISTAKEN, *ATTACKS):
        apart = means[kind] - means[CLEAN]
        shift = counts[kind] @ apart / counts[kind].sum()
        means[kind] = means[CLEAN] + (counts[kind][:, None] * apart + LENT * shift) / (counts[kind][:, None] + LENT)
    freedom, m = counts[MISTAKEN].sum() - CLASSES, 7
    spread[MISTAKEN] = (freedom * spread[MISTAKEN] + m * spread[CLEAN]) / (freedom + m)
    overall = (~right).mean()
    share = (counts[MISTAKEN] + LENT * overall) / (counts[MISTAKEN] + counts[CLEAN] + LENT)

    def density(kind: str) -> np.ndarray:
        own = np.diag(np.diag(spread[kind]))
        covariance = 0.99 * spread[kind] + 0.01 * own + RIDGE * np.diag(np.diag(spread[CLEAN]))
        every = [multivariate_normal(means[kind][c], covariance).logpdf(tested.neurons) for c in range(CLASSES)]
        return np.choose(tested.predicted, every)

    attacked = logsumexp([density(name) for name in ATTACKS], axis=0) - np.log(2)
    natural = np.stack([density(CLEAN) + np.log(1 - share[tested.predicted]), density(MISTAKEN) + np.log(share[tested.predicted])])
    return attacked - logsumexp(natural, axis=0)


@pytest.mark.parametrize("source", [CLEAN, *ATTACKS])
def test_the_ratio_is_that_of_the_images_of_each_kind(source: str) -> None:
    fit, tested = images(800, 0), images(60, 1)[source]
    found = detector(fit, committee(mistakes=True))
    scores = found.scores(tested.neurons, tested.predicted, ImageRandom(0, "t", tested.ids))
    np.testing.assert_allclose(scores, expected(fit, tested), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(every_score(found, tested.neurons, tested.predicted)[:, 0], scores, rtol=1e-3, atol=1e-3)


def test_natural_mistakes_no_longer_use_up_the_false_alarms() -> None:
    fit, tested = images(1500, 0), images(1500, 1)

    def found(mistakes: bool) -> float:
        made = detector(fit, committee(mistakes))
        scores = {name: made.scores(part.neurons, part.predicted, ImageRandom(0, "t", part.ids)) for name, part in tested.items()}
        return float((scores["far"] > np.quantile(scores[CLEAN], 0.95)).mean())

    assert found(mistakes=True) > found(mistakes=False) + 0.1


def test_a_classifier_without_mistakes_is_no_error_and_changes_nothing() -> None:
    fit, tested = images(400, 0), images(50, 1)["far"]
    clean = fit[CLEAN].where(fit[CLEAN].labels == fit[CLEAN].predicted)
    scores = [every_score(detector(fit | {CLEAN: clean}, committee(way, 5)), tested.neurons, tested.predicted) for way in (True, False)]
    np.testing.assert_allclose(*scores, rtol=1e-6)


@pytest.mark.parametrize("wrong", [(60, 0), (1, 1), (1, 0)])
def test_a_class_without_mistakes_leans_on_those_of_the_others(wrong: tuple[int, int]) -> None:
    """Its natural mistakes would else lead the clean scores again."""
    fit, tested = images(1500, 0), images(1500, 1)[CLEAN]
    clean = fit[CLEAN]
    right, kept = clean.labels == clean.predicted, np.zeros(len(clean), np.bool_)
    for label, count in enumerate(wrong):
        kept[np.flatnonzero(~right & (clean.predicted == label))[:count]] = True
    made = [detector(fit | {CLEAN: clean.where(right | kept)}, committee(way)) for way in (True, False)]
    mistaken = tested.where(tested.labels != tested.predicted)
    with_, without = (np.median(every_score(each, mistaken.neurons, mistaken.predicted)[mistaken.predicted == 1]) for each in made)
    assert with_ < without - 3


def test_the_pooled_group_s_mistakes_are_those_of_all_classes() -> None:
    rng = np.random.default_rng(0)
    neurons, predicted = rng.normal(size=(40, 7)).astype(np.float32), np.repeat([0, 1], 20)
    no, labels = np.zeros(40, np.bool_), predicted.copy()
    labels[::4] = 1 - labels[::4]
    ids = [f"{row:032x}" for row in range(40)]
    clean = Features(ids, labels, predicted, predicted, no, no, neurons)
    moments = {source: pooled_moments(lambda names: [(names[0], clean)], source, CLASSES, 7) for source in (CLEAN, MISTAKEN)}
    indices, members = np.arange(7, dtype=np.int32)[:, None], np.array([[0, 2, 5]])
    correct = moments[CLEAN].committees(indices, members, None)
    assert correct is not None
    found = _mistakes(indices, members, None, moments[MISTAKEN], moments[CLEAN], correct)
    assert found is not None and found.share == 0.25
    wrong = neurons[labels != predicted][:, [0, 2, 5]].astype(float)
    np.testing.assert_allclose(found.moments.mean[0], wrong.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found.moments.covariance[0], (9 * np.cov(wrong.T) + 3 * correct.covariance[0]) / 12, rtol=1e-4)


def test_mistakes_are_gathered_where_they_are_used() -> None:
    assert moments_needed(committee(mistakes=True), ["far"]) == [CLEAN, MISTAKEN, "far"]
    assert moments_needed(committee(mistakes=False), ["far"]) == [CLEAN, "far"]
