"""One thing changed at a time: means and differences against loops, and what is said of them."""

from dataclasses import replace

import fake_report_run as fake
import numpy as np
import pytest

from pipeline.evaluation.ablation import Shares, change_of_share, mean_share
from pipeline.evaluation.ablation_figure import ablation_figure
from pipeline.evaluation.ablation_study import ablation_rows, ablation_sentence, points
from pipeline.evaluation.bootstrap import resampled_weights
from pipeline.evaluation.figures import to_svg
from pipeline.evaluation.verdict import Rate
from pipeline.params.evaluation import EvaluationParams
from pipeline.random import generator

PARAMS = EvaluationParams(alphas=(0.05,), seeds=(0,), confidence=0.9, bootstrap=300, bootstrap_seed=3)
IDS = [f"image{number}" for number in range(40)]


def design(seed: int, shift: float = 0.0) -> dict[str, Shares]:
    """Two attacks on overlapping images, in an order of their own."""
    rng = np.random.default_rng(seed)
    some = {"fgsm": IDS[:30], "pgd": IDS[:9:-1]}
    return {name: Shares(ids, np.clip(rng.random(len(ids)) + shift, 0, 1), rng.random(len(ids)) + 0.5) for name, ids in some.items()}


def by_hand(found: dict[str, Shares], count: dict[str, float]) -> float:
    """Image by image, with how often each counts."""
    means = []
    for one in found.values():
        above = sum(count[key] * value for key, value in zip(one.ids, one.above, strict=True))
        means.append(above / sum(count[key] * value for key, value in zip(one.ids, one.below, strict=True)))
    return float(np.mean(means))


def resamples() -> list[dict[str, float]]:
    rng = generator(PARAMS.bootstrap_seed, "bootstrap")
    weights = np.concatenate(list(resampled_weights(rng, len(IDS), PARAMS.bootstrap)), axis=1)
    return [dict(zip(sorted(IDS), column, strict=True)) for column in weights.T]


def test_a_mean_over_attacks_resamples_images_with_all_attacks_on_them() -> None:
    found, estimate = design(0), mean_share(design(0), PARAMS)
    spread = [by_hand(found, counts) for counts in resamples()]
    assert estimate.value == pytest.approx(by_hand(found, dict.fromkeys(IDS, 1.0)))
    np.testing.assert_allclose([estimate.low, estimate.high], np.quantile(spread, [0.05, 0.95]), atol=1e-8)


def test_a_difference_resamples_both_sides_together() -> None:
    before, now = design(0), design(1, 0.3)
    estimate = change_of_share(now, before, PARAMS)
    spread = [by_hand(now, counts) - by_hand(before, counts) for counts in resamples()]
    assert estimate.value == pytest.approx(by_hand(now, dict.fromkeys(IDS, 1.0)) - by_hand(before, dict.fromkeys(IDS, 1.0)))
    np.testing.assert_allclose([estimate.low, estimate.high], np.quantile(spread, [0.05, 0.95]), atol=1e-8)


def test_a_difference_that_all_images_share_is_certain_however_they_vary() -> None:
    """Unpaired, the interval would be as wide as the images' own spread."""
    before = design(0)
    now = {name: replace(one, above=one.above + 0.25 * one.below) for name, one in before.items()}
    moved = before
    estimate = change_of_share(now, moved, PARAMS)
    assert estimate.value == pytest.approx(0.25)
    assert estimate.low == pytest.approx(0.25, abs=1e-8) and estimate.high == pytest.approx(0.25, abs=1e-8)


def test_nothing_changed_has_no_interval_and_other_images_are_refused() -> None:
    same = change_of_share(design(0), design(0), PARAMS)
    assert (same.value, same.low, same.high) == (0.0, None, None)
    certain = {"fgsm": Shares(IDS, np.ones(len(IDS)), np.ones(len(IDS)))}
    assert mean_share(certain, PARAMS).low is None
    with pytest.raises(ValueError, match="different images"):
        change_of_share(design(0), certain, PARAMS)


def test_a_resample_without_an_image_of_an_attack_is_left_out() -> None:
    some = Shares(IDS, np.linspace(0, 1, len(IDS)), np.ones(len(IDS)))
    lone = {"fgsm": Shares(IDS[:1], np.array([0.3]), np.ones(1)), "pgd": some}
    estimate = mean_share(lone, PARAMS)
    assert estimate.value == pytest.approx(0.4) and None not in (estimate.low, estimate.high) and not np.isnan(estimate.low or 0)


def test_where_nothing_is_sent_the_share_is_what_it_is_said_to_be() -> None:
    """Also in the resamples that the one image which is sent is not in."""
    sent = np.zeros(len(IDS))
    sent[0] = 0.5
    found = {"fgsm": Shares(IDS, sent / 5, sent, empty=1.0), "pgd": Shares(IDS, np.zeros(len(IDS)), np.zeros(len(IDS)), empty=1.0)}
    estimate = mean_share(found, PARAMS)
    assert (estimate.value, estimate.low, estimate.high) == (pytest.approx(0.6), pytest.approx(0.6), 1.0)


def test_what_is_said_follows_from_the_intervals() -> None:
    study = fake.ablation_study()
    said = ablation_sentence(study, 0.05)
    assert "flags 80 % of attacked tune images (78 to 82 %) at 5 %" in said.replace("\N{NO-BREAK SPACE}", " ")
    assert "in points: it detects less: linear (−20.0); detects more: half the draw (+5.0); nothing can be told of: other seeds." in said
    assert "refused" not in said
    assert "Other seeds alone moved it by up to 1.0 points, so nothing is said of changes up to that" in said
    assert "No variant" in ablation_sentence(replace(study, metrics={}), 0.05)


def test_of_less_than_other_seeds_move_nothing_is_said() -> None:
    study = fake.ablation_study()
    moved = {**study.metrics, "other_seeds.fitted_change": -0.06}
    said = ablation_sentence(replace(study, metrics=moved), 0.05)
    assert "it detects less: linear" in said and "more:" not in said and "told of: other seeds, half the draw" in said
    for change, told in ((0.0604, False), (0.0606, True)):  # as told, 6.0 and 6.1 points
        nearly = {**moved, "half_the_draw.fitted_change": change}
        assert ("more: half the draw" in ablation_sentence(replace(study, metrics=nearly), 0.05)) == told
    without = replace(study, changes={name: of for name, of in study.changes.items() if name != "other_seeds"})
    assert "How much the luck of a seed moves it was not measured." in ablation_sentence(without, 0.05)


def test_a_change_that_no_resample_alters_is_no_doubt() -> None:
    study = fake.ablation_study()
    certain = {**study.metrics, "linear.fitted_change": -0.8, "linear.fitted_change_low": None, "linear.fitted_change_high": None}
    assert "it detects less: linear (−80.0)" in ablation_sentence(replace(study, metrics=certain), 0.05)


def test_rows_begin_with_the_detector_as_it_is_and_leave_out_what_could_not_be_made() -> None:
    rows = ablation_rows(fake.ablation_study())
    assert [row["name"] for row in rows] == ["unchanged", "linear", "other seeds", "half the draw"]
    assert rows[0]["changes"] == [] and rows[0]["fitted_change"] is None
    assert rows[1]["changes"] == ["detector.pooling 1.0", "detector.directions 1"]


@pytest.mark.parametrize(
    ("apart", "said"),
    [
        (None, "–"),
        (Rate(0.0, None, None), "+0.0 points"),
        (Rate(-0.123, -0.2, 0.01), "−12.3 points, −20.0 to +1.0"),
    ],
)
def test_points_are_written_with_their_sign(apart: Rate | None, said: str) -> None:
    assert points(apart) == said


def test_the_picture_has_a_row_for_every_change_and_repeats() -> None:
    study = fake.ablation_study()
    assert [label.get_text() for label in ablation_figure(study).axes[0].get_yticklabels()] == ["linear", "other seeds", "half the draw"]
    assert to_svg(ablation_figure(study)) == to_svg(ablation_figure(study))
