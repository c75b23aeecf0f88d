"""Means over redraws: against SciPy's own interval, and the figures that a table of counts must give."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import norm, ttest_1samp

from pipeline.evaluation.metrics import wilson
from pipeline.evaluation.redraws import SCHEMA, mean_rate, redraw_metrics, seed_rates


def test_the_interval_is_student_s() -> None:
    flagged, images = [3, 5, 2, 8, 4], [100, 110, 90, 105, 95]
    rates = np.array(flagged) / np.array(images)
    found, expected = mean_rate(flagged, images, 0.9), ttest_1samp(rates, 0).confidence_interval(0.9)
    assert (found.value, found.low, found.high) == pytest.approx((rates.mean(), expected.low, expected.high))
    assert mean_rate([*flagged, 7], [*images, 0], 0.9) == found  # a redraw without images says nothing


@pytest.mark.parametrize(("flagged", "images", "least"), [([0, 0, 0], [50, 40, 60], 40), ([5], [50], 50), ([9, 9], [9, 9], 9)])
def test_redraws_that_agree_do_not_claim_certainty(flagged: list[int], images: list[int], least: int) -> None:
    found, wide = mean_rate(flagged, images, 0.95), wilson(round(flagged[0] / images[0] * least), least, 0.95)
    assert (found.low, found.high) == pytest.approx((wide.low, wide.high)) and found.low is not None and found.high is not None
    assert found.high - found.low > 0.04


def test_no_redraw_is_no_figure() -> None:
    assert mean_rate([], [], 0.95).value is None and mean_rate([0], [0], 0.95).value is None


def test_given_the_images_the_interval_holds_the_mean_over_all_redraws() -> None:
    """Redraws of the same 200 images overlap; the interval still covers their own mean in 95 of 100 studies."""
    rng, inside, alpha = np.random.default_rng(0), 0, 0.1
    scores = rng.normal(size=200)
    for _ in range(400):
        flagged = []
        for _ in range(12):
            order = rng.permutation(scores)
            calibration, test = np.sort(order[:80]), order[80:140]
            p = (1 + 80 - np.searchsorted(calibration, test)) / 81
            flagged.append(int((p <= alpha).sum()))
        found = mean_rate(flagged, [60] * 12, 0.95)
        inside += bool(found.low is not None and found.high is not None and found.low <= 8 / 81 <= found.high)
    assert abs(inside / 400 - 0.95) < norm.ppf(0.999) * np.sqrt(0.95 * 0.05 / 400) + 0.02


def table() -> pa.Table:
    rows = []
    for seed, (zero, pooled, hits) in {1: ((10, 1), (40, 2), 20), 2: ((0, 0), (60, 3), 30)}.items():
        rows += [(seed, "clean", "0", 0.05, *zero), (seed, "clean", "pooled", 0.05, *pooled)]
        rows += [(seed, "clean", "0", 0.01, zero[0], 0), (seed, "clean", "pooled", 0.01, pooled[0], 0)]
        rows += [(seed, "pgd", "pooled", 0.05, 40, hits), (seed, "pgd", "0", 0.05, 0, 0)]
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], schema=SCHEMA)


def test_groups_are_apart_and_together() -> None:
    found = redraw_metrics(table(), 0.95)
    assert found["redraws"] == 2
    assert found["all.fpr_at_5"] == pytest.approx((3 / 50 + 3 / 60) / 2)
    assert found["group_0.fpr_at_5"] == pytest.approx(0.1) and found["group_0.fpr_at_5_redraws"] == 1
    assert found["group_pooled.fpr_at_5"] == pytest.approx(0.05) and found["group_pooled.fpr_at_5_redraws"] == 2
    assert found["pgd.tpr_at_5"] == pytest.approx((0.5 + 0.75) / 2)
    assert found["all.fpr_at_1"] == 0 and found["all.fpr_at_1_kept"] == 1
    assert seed_rates(table(), 0.05) == pytest.approx([0.06, 0.05])


@pytest.mark.parametrize(("flagged", "kept"), [((4, 6, 5), 1.0), ((20, 21, 19), 0.0)])
def test_a_promise_that_is_broken_is_said_to_be(flagged: tuple[int, ...], kept: float) -> None:
    rows = [dict(zip(SCHEMA.names, (seed, "clean", "pooled", 0.05, 100, hits), strict=True)) for seed, hits in enumerate(flagged)]
    found = redraw_metrics(pa.Table.from_pylist(rows, schema=SCHEMA), 0.95)
    assert found["all.fpr_at_5_kept"] == found["group_pooled.fpr_at_5_kept"] == kept
