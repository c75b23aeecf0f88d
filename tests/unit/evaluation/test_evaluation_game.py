"""The accounting of the game against closed forms, against a simulation draw by draw, and against bounds that always hold."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import binomtest, t

from pipeline.evaluation.game import Play, filtered, foreseen, plain, pooled, resubmitted, summarise
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


def left_out(plays: Sequence[Play]) -> list[Play]:
    return [pooled([play for other, play in enumerate(plays) if other != number]) for number in range(len(plays))]


def test_several_attackers_are_taken_together_and_the_luck_of_each_widens_the_interval() -> None:
    """Against the jackknife by hand, joined with the interval over images by hand."""
    copies = [np.clip(CHANCE + shift, 0, 1) for shift in (-0.1, -0.05, 0.1, 0.15)]
    each = [filtered(SUCCESS, copy, CHANCE, 8) for copy in copies]
    sent, accepted = (np.array([getattr(play, name).sum() for play in each]) for name in ("sent", "accepted"))
    alone, found = cell(pooled(each)), summarise(pooled(each), ZERO + 0.5, ZERO + 0.1, PARAMS, left_out(each))
    wanted = {"sent": sent.mean(), "accepted": accepted.mean() / IMAGES, "detected": 1 - accepted.sum() / sent.sum(), "l2": 0.5}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)
    jackknife = {
        "accepted": np.array([np.delete(accepted, number).mean() / IMAGES for number in range(4)]),
        "detected": np.array([1 - np.delete(accepted, number).sum() / np.delete(sent, number).sum() for number in range(4)]),
    }
    for name, values in jackknife.items():
        reach = t.ppf(0.975, 3) * np.sqrt(3 * values.var())
        for end, side in (("low", -1), ("high", 1)):
            over_images = found[name] - alone[f"{name}_{end}"]  # type: ignore[operator]
            edge = np.clip(found[name] + side * np.hypot(over_images, reach), 0, 1)
            assert found[f"{name}_{end}"] == pytest.approx(edge, abs=1e-6)
        assert found[f"{name}_high"] - found[f"{name}_low"] > 1.2 * (alone[f"{name}_high"] - alone[f"{name}_low"])  # type: ignore[operator]


@pytest.mark.parametrize("attackers", [2, 3, 5])
def test_the_interval_of_few_attackers_holds_what_many_would_get(attackers: int) -> None:
    """By games whose images and attackers are drawn anew, at a spread of attackers that images alone would not show."""
    few = PARAMS.model_copy(update={"bootstrap": 200})
    rng, inside, alone, images = np.random.default_rng(attackers), {"accepted": 0, "detected": 0}, 0, 100
    widths = []

    def plays(count: int, level: np.ndarray) -> list[Play]:
        shifts = rng.normal(0, 0.5, count)
        return [filtered(np.ones(len(level), bool), 1 / (1 + np.exp(-level - shift)), 1 / (1 + np.exp(-level)), 2) for shift in shifts]

    truth = cell_of(pooled(plays(2000, rng.normal(0, 1.5, 2000))))
    for _ in range(200):
        each = plays(attackers, rng.normal(0, 1.5, images))
        norms = np.ones(images)
        found = summarise(pooled(each), norms, norms, few, left_out(each))
        for name in inside:
            inside[name] += found[f"{name}_low"] <= truth[name] <= found[f"{name}_high"]  # type: ignore[operator]
        single = summarise(each[0], norms, norms, few)
        alone += single["accepted_low"] <= truth["accepted"] <= single["accepted_high"]  # type: ignore[operator]
        widths.append(found["accepted_high"] - found["accepted_low"])  # type: ignore[operator]
    assert all(count >= 0.9 * 200 for count in inside.values()), inside
    assert alone < 0.85 * 200  # one attacker's interval over images alone is too narrow
    if attackers > 2:  # with two there is hardly anything to tell their spread from
        assert np.mean(widths) < 0.5


def cell_of(play: Play) -> dict[str, float]:
    return {"accepted": play.accepted.mean(), "detected": 1 - play.accepted.sum() / play.sent.sum()}


def test_attackers_all_alike_are_as_one() -> None:
    one = filtered(SUCCESS, COPY, CHANCE, 8)
    assert summarise(pooled([one] * 5), ZERO + 0.5, ZERO + 0.1, PARAMS, left_out([one] * 5)) == pytest.approx(cell(one))


def test_a_share_of_less_than_one_image_claims_no_more_than_wilson() -> None:
    """Whether it is exactly nothing or a trace."""
    trace = np.zeros(IMAGES)
    trace[:3] = 1e-3
    for chance in (1 - trace, np.ones(IMAGES)):
        found = cell(plain(np.ones(IMAGES, bool), chance))
        assert found["accepted"] == pytest.approx(1 - chance.mean(), abs=1e-8)
        assert found["accepted_high"] == pytest.approx(binomtest(0, IMAGES).proportion_ci(0.95, method="wilson").high)
        assert found["detected_low"] == pytest.approx(binomtest(IMAGES, IMAGES).proportion_ci(0.95, method="wilson").low)
    each = [plain(np.ones(IMAGES, bool), np.ones(IMAGES)) for _ in range(3)]
    found = summarise(pooled(each), ZERO, ZERO, PARAMS, left_out(each))
    assert found["accepted_high"] == pytest.approx(binomtest(0, IMAGES).proportion_ci(0.95, method="wilson").high)


def test_a_little_of_many_images_is_no_trace() -> None:
    """Of two dozen images that are sent with a small chance each, and seldom caught, resampling says enough."""
    sent = np.where(np.arange(IMAGES) < 24, 0.25, 0)
    found = cell(Play(sent, sent * 0.9, ZERO, sent))
    assert found["detected"] == pytest.approx(0.1, abs=1e-6) and found["detected_high"] == pytest.approx(0.1, abs=1e-3)


def test_where_an_attacker_left_out_leaves_nothing_a_share_may_be_any() -> None:
    only = filtered(SUCCESS, COPY, CHANCE, 8), plain(np.zeros(IMAGES, bool), CHANCE)
    found = summarise(pooled(only), ZERO, ZERO, PARAMS, left_out(only))
    assert found["detected"] == pytest.approx(cell(only[0])["detected"]) and (found["detected_low"], found["detected_high"]) == (0, 1)
    assert found["l2_low"] is None and found["l2_high"] is None and found["accepted_high"] is not None


def test_a_cell_depends_on_the_order_of_images_in_no_way_that_matters() -> None:
    order, play = np.random.default_rng(3).permutation(IMAGES), filtered(SUCCESS, COPY, CHANCE, 8)
    turned = Play(*(values[order] for values in vars(play).values()))
    values = ("accepted", "detected", "queries", "local")
    assert [cell(play)[name] for name in values] == [cell(turned)[name] for name in values]
