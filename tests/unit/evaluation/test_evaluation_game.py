"""The accounting of the game against closed forms, against a simulation draw by draw, and against bounds that always hold."""

import numpy as np
import pytest
from scipy.stats import binomtest

from pipeline.evaluation.game import Play, filtered, foreseen, plain, resubmitted, summarise
from pipeline.params.evaluation import EvaluationParams

PARAMS = EvaluationParams(alphas=(0.05,), seeds=(0,), confidence=0.95, bootstrap=300, bootstrap_seed=0)
IMAGES = 400
RNG = np.random.default_rng(0)
CHANCE = RNG.beta(1, 1, IMAGES)
COPY = np.clip(CHANCE + RNG.normal(0, 0.1, IMAGES), 0, 1)
SUCCESS = RNG.random(IMAGES) < 0.8
ZERO = np.zeros(IMAGES)


def cell(play: Play) -> dict[str, float | None]:
    return summarise(play, ZERO + 0.5, ZERO + 0.1, PARAMS)


@pytest.mark.parametrize("looks", [1, 2, 8, 64])
def test_survivors_of_r_looks_are_detected_as_the_closed_form_says(looks: int) -> None:
    p = CHANCE[SUCCESS]
    wanted = (p * (1 - p) ** looks).sum() / ((1 - p) ** looks).sum()
    found = cell(filtered(SUCCESS, CHANCE, CHANCE, looks))
    assert found["detected"] == pytest.approx(wanted, abs=1e-4)
    assert found["sent"] == pytest.approx(((1 - p) ** looks).sum())
    assert found["accepted"] == pytest.approx(((1 - p) ** (looks + 1)).sum() / IMAGES, abs=1e-5)


def simulated_filter(looks: int, times: int) -> np.ndarray:
    """Sent, accepted, local looks and queries an image, by playing every look."""
    rng, counts = np.random.default_rng(1), np.zeros((4, IMAGES))
    for _ in range(times):
        there = SUCCESS.copy()
        for _ in range(looks):
            counts[2] += there
            there &= rng.random(IMAGES) >= COPY
        counts[0] += there
        counts[3] += there
        counts[1] += there & (rng.random(IMAGES) >= CHANCE)
    return counts / times


def simulated_resubmission(tries: int, times: int, afresh: bool) -> np.ndarray:
    rng, counts = np.random.default_rng(2), np.zeros((4, IMAGES))
    for _ in range(times):
        waiting, same = SUCCESS.copy(), rng.random(IMAGES)
        counts[0] += waiting
        for _ in range(tries):
            counts[3] += waiting
            through = waiting & ((rng.random(IMAGES) if afresh else same) >= CHANCE)
            counts[1] += through
            waiting &= ~through
    return counts / times


@pytest.mark.parametrize(
    ("play", "simulated"),
    [
        (filtered(SUCCESS, COPY, CHANCE, 4), simulated_filter(4, 4000)),
        (resubmitted(SUCCESS, CHANCE, 5, afresh=True), simulated_resubmission(5, 4000, True)),
        (resubmitted(SUCCESS, CHANCE, 5, afresh=False), simulated_resubmission(5, 4000, False)),
    ],
    ids=["filter", "resubmit to fresh draws", "resubmit to the same draw"],
)
def test_expectations_are_what_playing_gives(play: Play, simulated: np.ndarray) -> None:
    for name, values in zip(("sent", "accepted", "local", "queries"), simulated, strict=True):
        np.testing.assert_allclose(getattr(play, name), values, atol=0.16 if name in ("local", "queries") else 0.05, err_msg=name)
        assert getattr(play, name).mean() == pytest.approx(values.mean(), abs=0.01), name


def test_a_static_defender_is_never_right_about_what_was_filtered_on_itself() -> None:
    flagged = (CHANCE > 0.5).astype(float)
    for play in (foreseen(SUCCESS, flagged), filtered(SUCCESS, flagged, flagged, 1), filtered(SUCCESS, flagged, flagged, 64)):
        assert cell(play)["detected"] == 0
        assert play.accepted.sum() == (SUCCESS & (flagged == 0)).sum()
    assert cell(plain(SUCCESS, flagged))["detected"] == pytest.approx(flagged[SUCCESS].mean())


def test_the_same_image_again_gains_nothing_where_the_draw_stays() -> None:
    flagged = (CHANCE > 0.5).astype(float)
    once, again = plain(SUCCESS, flagged), resubmitted(SUCCESS, flagged, 16, afresh=False)
    np.testing.assert_array_equal(again.accepted, once.accepted)
    np.testing.assert_array_equal(again.queries[SUCCESS & (flagged == 1)], 16)
    np.testing.assert_array_equal(again.queries[SUCCESS & (flagged == 0)], 1)
    assert (resubmitted(SUCCESS, CHANCE, 16, afresh=True).accepted >= plain(SUCCESS, CHANCE).accepted).all()


def test_what_fooled_nobody_is_neither_sent_nor_paid_for() -> None:
    plays = (
        plain(SUCCESS, CHANCE),
        filtered(SUCCESS, COPY, CHANCE, 8),
        foreseen(SUCCESS, CHANCE),
        resubmitted(SUCCESS, CHANCE, 4, afresh=True),
    )
    for play in plays:
        for values in vars(play).values():
            assert not values[~SUCCESS].any()
        assert (play.accepted <= play.sent).all() and (play.sent <= play.queries + 1e-12).all()


def test_costs_and_norms_are_exact_on_a_scripted_play() -> None:
    play = Play(
        sent=np.array([1.0, 1, 0, 1]), accepted=np.array([1.0, 0, 0, 1]), local=np.array([3.0, 8, 8, 1]), queries=np.array([1.0, 5, 0, 2])
    )
    found = summarise(play, np.array([0.2, 9, 9, 0.4]), np.array([0.01, 9, 9, 0.03]), PARAMS)
    wanted = {"images": 4, "sent": 3, "accepted": 0.5, "detected": 1 / 3, "l2": 0.3, "linf": 0.02, "local": 5, "queries": 2}
    wanted |= {"local_per_accepted": 10, "queries_per_accepted": 4}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-5)


def test_intervals_resample_images_and_certainty_is_not_claimed() -> None:
    found = cell(filtered(SUCCESS, CHANCE, CHANCE, 8))
    for name in ("accepted", "detected", "queries", "local_per_accepted"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]  # type: ignore[operator]
    everyone = cell(plain(SUCCESS, ZERO))
    limits = binomtest(0, int(SUCCESS.sum())).proportion_ci(0.95, method="wilson")
    assert (everyone["detected"], everyone["detected_low"]) == (0, 0) and everyone["detected_high"] == pytest.approx(limits.high)
    nobody = cell(plain(np.zeros(IMAGES, bool), CHANCE))
    assert nobody["detected"] is None and nobody["queries_per_accepted"] is None and nobody["accepted"] == 0


def test_several_attackers_are_means_whose_intervals_resample_them_too() -> None:
    copies = np.stack([np.clip(CHANCE + shift, 0, 1) for shift in (-0.3, -0.1, 0.1, 0.3)])
    each = [filtered(SUCCESS, copy, CHANCE, 8) for copy in copies]
    found, one = cell(filtered(SUCCESS, copies, CHANCE, 8)), cell(each[0])
    assert found["images"] == IMAGES and found["sent"] == pytest.approx(np.mean([play.sent.sum() for play in each]))
    for name in ("accepted", "local", "queries"):
        assert found[name] == pytest.approx(np.mean([getattr(play, name).mean() for play in each]), abs=1e-6)
    wanted = 1 - sum(play.accepted.sum() for play in each) / sum(play.sent.sum() for play in each)
    assert found["detected"] == pytest.approx(wanted, abs=1e-6)
    rng, resampled = np.random.default_rng(5), []
    for _ in range(2000):
        rows, drawn = rng.integers(0, IMAGES, IMAGES), [each[number] for number in rng.integers(0, 4, 4)]
        resampled.append(np.mean([play.accepted[rows].mean() for play in drawn]))
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert found["accepted_low"] == pytest.approx(low, abs=0.02) and found["accepted_high"] == pytest.approx(high, abs=0.02)
    assert high - low > 2 * (one["accepted_high"] - one["accepted_low"])  # type: ignore[operator]  # else it would show nothing


def test_attackers_all_alike_are_as_one() -> None:
    one, alike = filtered(SUCCESS, COPY, CHANCE, 8), filtered(SUCCESS, np.stack([COPY] * 5), CHANCE, 8)
    assert cell(alike) == pytest.approx(cell(one))


def test_a_cell_depends_on_the_order_of_images_in_no_way_that_matters() -> None:
    order, play = np.random.default_rng(3).permutation(IMAGES), filtered(SUCCESS, COPY, CHANCE, 8)
    turned = Play(*(values[order] for values in vars(play).values()))
    values = ("accepted", "detected", "queries", "local")
    assert [cell(play)[name] for name in values] == [cell(turned)[name] for name in values]
