"""Hardening in a made world: who survives by an independent count, that no image fits its judge, and that rounds add up."""

from collections.abc import Sequence

import numpy as np
import pytest
from world_support import attacked_world, selection_params

from pipeline.detectors import building
from pipeline.detectors.refit import Recipe
from pipeline.evaluation.hardening import Looked, change, plays, round_figures
from pipeline.fingerprints.features import CLEAN, Features, Layout
from pipeline.game import hardening
from pipeline.game.defenders import detector_arrays, every_score
from pipeline.params.detectors import CommitteeDetectorParams
from pipeline.params.evaluation import EvaluationParams
from pipeline.params.fingerprints import FingerprintParams
from pipeline.params.studies import HardeningParams

LAYOUT, CLASSES, ATTACKS = Layout(("early", "late"), (0, 12, 24)), 2, ("fgsm", "pgd")
SELECTION = selection_params(effect_size=0.1, false_discovery_rate=0.2, bank_size=40, min_clean=10, min_attacked=10, min_fingerprints=8)
COMMITTEE = CommitteeDetectorParams(
    kind="committee", layer_weights=None, draw=5, committees=12, directions=3, shrinkage=0.1, pooling=0.5, mistakes=True, seed=0
)
WEIGHTS = {"early": 1.0, "late": 1.0}
RECIPE = Recipe(
    LAYOUT,
    CLASSES,
    FingerprintParams(seed=0, k=3, layer_weights=WEIGHTS, candidates=60, block=30, fit_attacks=ATTACKS),
    SELECTION,
    "joint",
    COMMITTEE,
    0.1,
)
INTERVALS = EvaluationParams(alphas=(0.1,), seeds=(0,), confidence=0.95, bootstrap=300, bootstrap_seed=0)


def params(**changes: object) -> HardeningParams:
    given = {"detector": "joint", "rounds": 2, "looks": 3, "folds": 2, "committees": 12, "reselect": True, "seed": 0}
    return HardeningParams(**{**given, **changes})  # type: ignore[arg-type]


def made_world(count: int = 400, strength: float = 0.35) -> dict[str, Features]:
    return attacked_world(0, [f"{number:032x}" for number in range(count)], LAYOUT, CLASSES, ATTACKS, strength)


WORLD = made_world()


def scrambled(images: Features, rows: np.ndarray) -> Features:
    """Other neurons in some rows."""
    neurons = np.where(rows[:, None], -3 * images.neurons[::-1], images.neurons)
    return Features(images.ids, images.labels, images.clean_predicted, images.predicted, images.success, images.skipped, neurons)


def in_part(images: Features, part: int, given: HardeningParams) -> np.ndarray:
    return hardening.parts_of(images.ids, given) == part


def every_survivor(given: HardeningParams, earlier: Sequence[hardening.Survivors] = ()) -> list[Features]:
    found = [hardening.survivors_of(WORLD, part, RECIPE, given, earlier) for part in range(given.folds)]
    return [batch for part in found for batch in part.values()]


def test_parts_share_no_image_and_an_attacked_image_is_in_its_clean_one_s() -> None:
    given = params(folds=3)
    parts = hardening.parts_of(WORLD[CLEAN].ids, given)
    assert set(parts.tolist()) == {0, 1, 2} and np.bincount(parts).min() > 100
    few = WORLD["pgd"].where(np.arange(400) % 3 == 0)
    assert np.array_equal(hardening.parts_of(few.ids, given), parts[::3])
    assert not np.array_equal(parts, hardening.parts_of(WORLD[CLEAN].ids, params(folds=3, seed=1)))


def test_survivors_are_those_that_an_independent_count_lets_through() -> None:
    """Scores of all committees against each group's own limit, by plain NumPy; the weight is (1 - c)^R."""
    given = params()
    for part in range(2):
        defender, found = hardening.judge(WORLD, part, RECIPE, given, []), hardening.survivors_of(WORLD, part, RECIPE, given, [])
        for attack in ATTACKS:
            images = WORLD[attack].where(in_part(WORLD[attack], part, given))
            scores, expected = every_score(defender.detector, images.neurons, images.predicted), []
            for row, key in enumerate(images.ids):
                known = defender.calibration.groups[defender.calibration.class_group[int(images.predicted[row])]]
                p_values = [(1 + (known >= score).sum()) / (len(known) + 1) for score in scores[row] if not np.isnan(score)]
                weight = (1 - np.mean(np.array(p_values) <= 0.1)) ** given.looks
                if images.success[row] and weight > 0.5:
                    expected.append(key)
            assert expected and list(found[attack].ids) == expected
            assert found[attack].success.all()


@pytest.mark.parametrize("reselect", [True, False])
def test_no_image_fits_its_judge_in_any_round(reselect: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image that reaches a bank or a detector of a part's judge is of another part, survivors of earlier rounds too."""
    given, read = params(reselect=reselect), set[str]()

    def watched(stream: building.Stream) -> building.Stream:
        def watching(names: Sequence[str]) -> list[tuple[str, Features]]:
            batches = list(stream(names))
            read.update(key for _, batch in batches for key in batch.ids)
            return batches

        return watching

    def bank(stream: building.Stream, *rest: object) -> object:
        return building.build_bank(watched(stream), *rest)  # type: ignore[arg-type]

    def detector(stream: building.Stream, *rest: object) -> object:
        return building.build_detector(watched(stream), *rest)  # type: ignore[arg-type]

    first = every_survivor(given)
    monkeypatch.setattr(hardening, "build_bank", bank)
    monkeypatch.setattr(hardening, "build_detector", detector)
    for part in range(2):
        read.clear()
        hardening.judge(WORLD, part, RECIPE, given, [first])
        mine = {key for key, here in zip(WORLD[CLEAN].ids, in_part(WORLD[CLEAN], part, given), strict=True) if here}
        assert read and not read & mine and read == set(WORLD[CLEAN].ids) - mine


@pytest.mark.parametrize("reselect", [True, False])
def test_a_part_leaves_no_trace_in_its_judge(reselect: bool) -> None:
    """With other neurons in all of the part's images the judge's detector is the same to the bit; with others elsewhere it is not."""
    given = params(reselect=reselect)
    first = every_survivor(given)
    honest = detector_arrays(hardening.judge(WORLD, 0, RECIPE, given, [first]).detector)[0]
    for part, same in ((0, True), (1, False)):
        other = {name: scrambled(images, in_part(images, part, given)) for name, images in WORLD.items()}
        survivors = [scrambled(batch, in_part(batch, part, given)) for batch in first]
        found = detector_arrays(hardening.judge(other, 0, RECIPE, given, [survivors]).detector)[0]
        assert all(np.array_equal(honest[name], found[name]) for name in honest) == same


def test_a_judge_s_bank_is_selected_with_the_survivors_only_where_rounds_select_again() -> None:
    banks = {}
    for reselect in (True, False):
        given = params(reselect=reselect)
        first = every_survivor(params())
        banks[reselect] = [hardening.judge(WORLD, 0, RECIPE, given, earlier).detector.bank.to_arrays()[0] for earlier in ([], [first])]
    for reselect, (before, after) in banks.items():
        assert all(np.array_equal(before[name], after[name]) for name in before) != reselect


def test_even_thresholds_flag_as_many_clean_images_of_every_group() -> None:
    defender = hardening.judge(WORLD, 0, RECIPE, params(), [])
    clean = WORLD[CLEAN]
    chances = hardening.evened(defender, clean).chances(clean.neurons, clean.predicted)
    groups = np.array([defender.calibration.class_group[int(label)] for label in clean.predicted])
    for group in np.unique(groups):
        assert chances[groups == group].mean() == pytest.approx(0.1, abs=1e-3)
    images = WORLD["pgd"].where(WORLD["pgd"].success)
    scores = every_score(defender.detector, images.neurons, images.predicted)
    limits = np.array(
        [np.quantile(every_score(defender.detector, clean.neurons, clean.predicted)[groups == g], 0.9) for g in np.unique(groups)]
    )
    which = np.searchsorted(np.unique(groups), [defender.calibration.class_group[int(label)] for label in images.predicted])
    found = hardening.evened(defender, clean).chances(images.neurons, images.predicted)
    assert np.allclose(found, (scores > limits[which][:, None]).mean(1), atol=1 / 12 + 1e-9) and found.mean() > 0.2


def stream(names: Sequence[str]) -> list[tuple[str, Features]]:
    return [(name, WORLD[name]) for name in names]


def test_each_round_adds_a_source_and_keeps_the_earlier_ones() -> None:
    given = params()
    first = every_survivor(given)
    second = every_survivor(given, [first])
    attacks = [
        hardening.hardened(stream, RECIPE, earlier, bank=None, reselect=True).committees.attacks
        for earlier in ([], [first], [first, second])
    ]
    assert attacks == [ATTACKS, (*ATTACKS, "survivors-1"), (*ATTACKS, "survivors-1", "survivors-2")]
    one = hardening.hardened(stream, RECIPE, [first], bank=None, reselect=True)
    two = hardening.hardened(stream, RECIPE, [first, second], bank=None, reselect=True)
    assert not np.array_equal(
        every_score(one, WORLD["pgd"].neurons, WORLD["pgd"].predicted), every_score(two, WORLD["pgd"].neurons, WORLD["pgd"].predicted)
    )


def test_a_source_of_survivors_is_fitted_as_an_attack_of_these_images_would_be() -> None:
    """In one batch or in several, under its own name or an attack's."""
    first = every_survivor(params())
    chosen = building.build_bank(stream, LAYOUT, CLASSES, RECIPE.fingerprints, SELECTION)
    found = hardening.hardened(stream, RECIPE, [first], bank=chosen, reselect=True)
    assert found.bank is chosen

    def renamed(names: Sequence[str]) -> list[tuple[str, Features]]:
        return [(name, batch) for name in names for batch in (first if name == "third" else [WORLD[name]])]

    expected = building.build_detector(renamed, chosen, COMMITTEE, [*ATTACKS, "third"])
    images = WORLD["fgsm"]
    assert np.array_equal(
        every_score(found, images.neurons, images.predicted),
        every_score(expected, images.neurons, images.predicted),  # type: ignore[arg-type]
    )
    same = hardening.hardened(stream, RECIPE, [first], bank=None, reselect=False)
    assert all(
        np.array_equal(mine, other) for mine, other in zip(same.bank.to_arrays()[0].values(), chosen.to_arrays()[0].values(), strict=True)
    )


def test_attacks_that_are_always_found_leave_no_survivor_and_nothing_to_fold() -> None:
    world, given = made_world(strength=6.0), params()
    found = [hardening.survivors_of(world, part, RECIPE, given, []) for part in range(2)]
    assert [[len(images) for images in part.values()] for part in found] == [[0, 0], [0, 0]]
    # A source without an image has no say: the same detector.
    empty = [batch for part in found for batch in part.values()]
    with_none = hardening.hardened(stream, RECIPE, [empty], bank=None, reselect=True)
    without = hardening.hardened(stream, RECIPE, [], bank=None, reselect=True)
    images = WORLD["pgd"]
    assert np.allclose(every_score(with_none, images.neurons, images.predicted), every_score(without, images.neurons, images.predicted))


def test_the_measures_are_those_of_an_independent_derivation() -> None:
    rng = np.random.default_rng(1)
    chance, correct, looks = rng.random(60), rng.random(60) < 0.9, 8
    kept = np.array([(1 - c) ** looks for c in chance])
    figures = {
        figure.measure: figure.estimate
        for figure in round_figures(0, "pgd", Looked(chance, chance**2, correct), Looked(chance, chance**2, correct), looks, INTERVALS)
    }
    assert figures["detected"].value == pytest.approx(chance.mean(), abs=1e-8)
    assert figures["detected_after_looks"].value == pytest.approx((kept * chance).sum() / kept.sum(), abs=1e-6)
    assert figures["accepted"].value == pytest.approx((kept * (1 - chance)).mean(), abs=1e-6)
    assert figures["detected_evenly"].value == pytest.approx((chance**2).mean(), abs=1e-8)
    assert figures["accepted_evenly"].value == pytest.approx(((1 - chance**2) ** (looks + 1)).mean(), abs=1e-6)
    alarms = {
        figure.measure: figure.estimate
        for figure in round_figures(0, CLEAN, Looked(chance, chance**2, correct), Looked(chance, chance**2, correct), looks, INTERVALS)
    }
    assert alarms["flagged"].value == pytest.approx(chance.mean(), abs=1e-8) and alarms["images"].value == 60
    assert alarms["flagged_correct_only"].value == pytest.approx(chance[correct].mean(), abs=1e-8)
    for estimate in (*figures.values(), *alarms.values()):
        assert estimate.low is None or estimate.low <= (estimate.value or 0.0) <= (estimate.high or 0.0)


def test_a_change_resamples_both_rounds_together() -> None:
    """Of the same images a small, even gain is seen, where two separate intervals would overlap."""
    rng = np.random.default_rng(2)
    before = rng.random(200) * 0.9
    now = before + 0.02 + 0.001 * rng.random(200)
    after = {
        figure.measure: figure.estimate for figure in round_figures(1, "pgd", *(Looked(c, c, c > -1) for c in (now, before)), 8, INTERVALS)
    }
    moved = after["detected_change"]
    assert moved.value == pytest.approx((now - before).mean(), abs=1e-8)
    assert moved.low is not None and 0.02 < moved.low < moved.high < 0.021  # type: ignore[operator]
    assert after["detected"].low < before.mean()  # type: ignore[operator]
    assert (after["accepted_change"].high or 0) < 0
    every = np.ones(200)
    still = change((before, every), (before, every), INTERVALS)
    assert (still.value, still.low, still.high) == (0.0, None, None)
    assert change((np.zeros(0), np.zeros(0)), (np.zeros(0), np.zeros(0)), INTERVALS).value is None
    assert set(plays(CLEAN, Looked(before, before, before > 1), 8)) == {"flagged", "flagged_correct_only"}
