"""Selection against a candidate-by-candidate derivation from the raw scores."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control, ttest_ind
from world_support import selection_params

from pipeline.errors import WhorlError
from pipeline.fingerprints.candidates import CandidateBlock, Sides
from pipeline.fingerprints.moments import Moments
from pipeline.fingerprints.selection import Selected, cohens_d, diverse, select, strongest, welch_p_values
from pipeline.params.fingerprints import SelectionParams


def raw(rng: np.random.Generator, shifts: np.ndarray, clean: int = 60, attacked: int = 45) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(clean, len(shifts))), rng.normal(shifts, 1.7, size=(attacked, len(shifts)))


def block_of(clean: np.ndarray, **attacked: np.ndarray) -> CandidateBlock:
    count = clean.shape[1]
    indices = np.arange(2 * count, dtype=np.int32).reshape(count, 2)
    halves = [
        Sides(Moments.of(clean[start::2]), {name: Moments.of(scores[start::2]) for name, scores in attacked.items()}) for start in (0, 1)
    ]
    return CandidateBlock("3", indices, np.zeros(count, np.int16), (halves[0], halves[1]))


def pick(block: CandidateBlock, params: SelectionParams, attacks: tuple[str, ...] = ("pgd",), seed: int = 0) -> Selected:
    return select(block, attacks, params, np.random.default_rng(seed))


def positions(selected: Selected) -> list[int]:
    return (selected.fingerprints.indices[:, 0] // 2).tolist()


def test_effect_and_significance_are_those_of_the_raw_scores() -> None:
    clean, attacked = raw(np.random.default_rng(0), np.linspace(-2, 2, 50))
    a, b = Moments.of(clean), Moments.of(attacked)
    np.testing.assert_allclose(welch_p_values(a, b), ttest_ind(attacked, clean, equal_var=False).pvalue, rtol=1e-9)
    pooled = np.sqrt((59 * clean.var(axis=0, ddof=1) + 44 * attacked.var(axis=0, ddof=1)) / 103)
    np.testing.assert_allclose(cohens_d(a, b), (attacked.mean(axis=0) - clean.mean(axis=0)) / pooled, rtol=1e-12)


def test_kept_are_those_that_pass_both_cuts() -> None:
    clean, attacked = raw(np.random.default_rng(1), np.repeat(np.linspace(-2, 2, 20), 20))
    params = selection_params(effect_size=0.6, false_discovery_rate=0.01)
    selected = pick(block_of(clean, pgd=attacked), params)
    p = ttest_ind(attacked, clean, equal_var=False).pvalue
    effect = cohens_d(Moments.of(clean), Moments.of(attacked))
    passed = (false_discovery_control(p) <= 0.01) & (np.abs(effect) >= 0.6)
    assert positions(selected) == np.flatnonzero(passed).tolist()
    assert 0 < passed.sum() < len(p)
    prints = selected.fingerprints
    for values, expected in (
        (prints.mu0, clean.mean(axis=0)),
        (prints.sd0, clean.std(axis=0, ddof=1)),
        (prints.mu1, attacked.mean(axis=0)),
        (prints.sd1, attacked.std(axis=0, ddof=1)),
        (prints.effect, effect),
    ):
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected[passed], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(selected.p_value, p[passed], rtol=1e-8)
    assert (selected.clean, selected.attacked) == (60, 45)
    assert sum(selected.reasons.values()) == len(p)
    assert selected.reasons["kept"] == passed.sum()
    assert selected.reasons["not_significant"] == (false_discovery_control(p) > 0.01).sum()


def test_noise_is_not_discovered() -> None:
    """At p < 0.001 each, as the authors do, thousands of candidates without any difference would let some in."""
    clean, attacked = raw(np.random.default_rng(2), np.zeros(5000))
    selected = pick(block_of(clean, pgd=attacked), selection_params(effect_size=0.0, false_discovery_rate=0.05))
    assert (ttest_ind(attacked, clean, equal_var=False).pvalue < 0.001).sum() > 0
    assert selected.reasons.get("kept", 0) == 0


def test_no_variance_is_dropped_and_counted() -> None:
    clean, attacked = raw(np.random.default_rng(3), np.full(6, 5.0))
    clean[:, 0] = 0.0  # dead on one side
    attacked[:, 1] = 0.1  # constant, though rounding leaves a trace of it in float64
    clean[:, 2] = 1000 + 1e-6 * clean[:, 2]  # less than what float32 scores resolve
    selected = pick(block_of(clean, pgd=attacked), selection_params())
    assert positions(selected) == [3, 4, 5]
    assert selected.reasons == {"constant": 3, "kept": 3}


def test_the_same_set_again_is_kept_once() -> None:
    clean, attacked = raw(np.random.default_rng(4), np.full(4, 5.0))
    block = block_of(clean, pgd=attacked)
    block.indices[:] = [[4, 9], [9, 4], [4, 8], [4, 9]]
    selected = pick(block, selection_params())
    assert selected.fingerprints.indices.tolist() == [[4, 9], [4, 8]]
    assert selected.reasons == {"duplicate": 2, "kept": 2}


def test_a_diverse_choice_is_greedy_and_shares_few_neurons() -> None:
    rng = np.random.default_rng(3)
    indices = np.array([rng.choice(30, 4, replace=False) for _ in range(80)], np.int32)
    effect = rng.uniform(0.5, 1.0, 80)
    chosen = diverse(indices, effect, 20)
    taken: list[int] = []
    for place in chosen:  # the sum by hand, over the sets chosen before
        worth = [
            -1.0
            if row in taken
            else effect[row] / (1 + np.mean([sum(neuron in indices[other] for other in taken) for neuron in indices[row]]))
            for row in range(80)
        ]
        assert place == int(np.argmax(worth))
        taken.append(int(place))
    most = np.argsort(-effect)[:20]
    shares = [np.bincount(indices[rows].ravel(), minlength=30).std() for rows in (chosen, most)]
    assert len(set(taken)) == 20 and shares[0] < shares[1] / 2


@pytest.mark.parametrize("prefer", ["random", "largest_effect", "diverse"])
def test_a_full_bank_keeps_those_that_are_preferred(prefer: str) -> None:
    clean, attacked = raw(np.random.default_rng(5), np.linspace(3, 6, 40) * np.tile([1, -1], 20))
    block = block_of(clean, pgd=attacked)
    params = selection_params(prefer=prefer, bank_size=10)
    selected, again, other = (pick(block, params, seed=seed) for seed in (0, 0, 1))
    assert selected.reasons == {"kept": 10, "surplus": 30}
    assert positions(selected) == positions(again) == sorted(positions(selected))
    effect = np.abs(cohens_d(block.whole.clean, block.whole.attacked["pgd"]))
    if prefer == "random":
        assert positions(selected) != positions(other)
    else:  # no two of these sets share a neuron, so the most diverse are the largest
        assert positions(selected) == sorted(np.argsort(-effect)[:10].tolist()) == positions(other)


def test_only_the_attacks_that_are_fitted_count() -> None:
    rng = np.random.default_rng(6)
    clean, shifted = raw(rng, np.full(5, 4.0))
    _, same = raw(rng, np.zeros(5), attacked=30)
    block = block_of(clean, pgd=shifted, fgsm=same)
    assert pick(block, selection_params(), ("fgsm",)).reasons == {"not_significant": 5}
    both = pick(block, selection_params(), ("pgd", "fgsm"))
    assert both.attacked == 75
    np.testing.assert_allclose(both.fingerprints.mu1, np.concatenate([shifted, same]).mean(axis=0), rtol=1e-5)
    with pytest.raises(WhorlError, match="know nothing of"):
        pick(block, selection_params(), ("cw",))


def test_a_candidate_stands_for_the_attack_that_it_shows_best() -> None:
    clean, first = raw(np.random.default_rng(7), np.linspace(-1, 1, 60))
    second = np.random.default_rng(8).normal(np.linspace(0.8, -0.4, 60), 1.2, size=(80, 60))
    effect, p_value = strongest(Moments.of(clean), [Moments.of(first), Moments.of(second)])
    each = [(cohens_d(Moments.of(clean), Moments.of(other)), ttest_ind(other, clean, equal_var=False).pvalue) for other in (first, second)]
    for place in range(60):
        shown = max((values[place] for values, _ in each), key=abs)
        assert effect[place] == shown
        assert p_value[place] == pytest.approx(min(1.0, 2 * min(p[place] for _, p in each)), rel=1e-9)
    assert {int(np.abs([values[place] for values, _ in each]).argmax()) for place in range(60)} == {0, 1}


def test_attacks_in_opposite_directions_do_not_cancel_out() -> None:
    rng = np.random.default_rng(9)
    clean, up, down = rng.normal(size=(60, 4)), rng.normal(2, 1, size=(50, 4)), rng.normal(-2, 1, size=(50, 4))
    block = block_of(clean, up=up, down=down)
    assert np.abs(cohens_d(block.whole.clean, Moments.of(np.concatenate([up, down])))).max() < 0.3
    assert pick(block, selection_params(), ("up", "down")).reasons == {"kept": 4}


@pytest.mark.parametrize(("many", "kept"), [(40, 0), (0, 6)], ids=["beside many", "alone"])
def test_a_few_successes_of_one_attack_are_not_asked_where_another_has_many(many: int, kept: int) -> None:
    rng = np.random.default_rng(10)
    block = block_of(rng.normal(size=(60, 6)), few=rng.normal(9, 0.1, size=(4, 6)), many=rng.normal(size=(many, 6)))
    assert pick(block, selection_params(min_attacked=20), ("few", "many")).reasons.get("kept", 0) == kept


def test_noise_seen_by_several_attacks_is_not_discovered() -> None:
    """Scores that every attack leaves as they were are one sample, however many attacks repeat it."""
    rng = np.random.default_rng(8)
    clean, attacked = rng.normal(size=(60, 4000)), rng.normal(size=(30, 4000))
    block = block_of(clean, **{f"attack{at}": attacked + rng.normal(0, 1e-3, attacked.shape) for at in range(5)})
    effect_size, rate = 0.0, 0.05
    selected = pick(block, selection_params(effect_size=effect_size, false_discovery_rate=rate), tuple(block.whole.attacked))
    assert selected.reasons == {"not_significant": 4000}


@pytest.mark.parametrize(("clean", "attacked"), [(0, 30), (1, 30), (30, 0), (30, 1), (0, 0)])
def test_too_few_images_select_nothing(clean: int, attacked: int) -> None:
    block = block_of(np.ones((clean, 4)), pgd=np.ones((attacked, 4)))
    selected = pick(block, selection_params())
    assert selected.reasons == {"too_few_images": 4}
    assert (len(selected.fingerprints), selected.clean, selected.attacked) == (0, clean, attacked)


CROSSED = selection_params(effect_size=0.6, false_discovery_rate=0.01).model_copy(update={"cross_fit": 20})


def test_where_there_are_enough_images_each_half_chooses_half_of_the_candidates_and_the_other_half_gives_their_moments() -> None:
    clean, attacked = raw(np.random.default_rng(1), np.repeat(np.linspace(-2, 2, 20), 20))
    selected, prints = pick(block_of(clean, pgd=attacked), CROSSED), []
    effects, p_values = np.empty(400), np.empty(400)
    for turn in (0, 1):
        mine = slice(turn, None, 2)
        effects[mine] = cohens_d(Moments.of(clean[turn::2, mine]), Moments.of(attacked[turn::2, mine]))
        p_values[mine] = ttest_ind(attacked[turn::2, mine], clean[turn::2, mine], equal_var=False).pvalue
        other = clean[1 - turn :: 2, mine], attacked[1 - turn :: 2, mine]
        prints.append(np.stack([moment for side in other for moment in (side.mean(axis=0), side.std(axis=0, ddof=1))]))
    passed = np.flatnonzero((false_discovery_control(p_values) <= 0.01) & (np.abs(effects) >= 0.6))
    assert selected.cross_fitted and positions(selected) == passed.tolist() and 0 < len(passed) < 400
    assert (selected.clean, selected.attacked) == (len(clean), len(attacked))
    expected = np.stack([prints[row % 2][:, row // 2] for row in passed], axis=1)
    found = selected.fingerprints
    np.testing.assert_allclose(np.stack([found.mu0, found.sd0, found.mu1, found.sd1]), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.effect, effects[passed], rtol=1e-5)


def test_moments_of_images_that_did_not_choose_are_not_flattered() -> None:
    """What is chosen from pure noise by its effect shows none on the other half; on its own images it seems to."""
    rng = np.random.default_rng(2)
    clean, attacked = raw(rng, np.zeros(4000))
    params = CROSSED.model_copy(update={"effect_size": 0.5, "false_discovery_rate": 1.0})
    for least, low, high in ((None, 0.4, 1.0), (20, -0.1, 0.1)):
        prints = pick(block_of(clean, pgd=attacked), params.model_copy(update={"cross_fit": least})).fingerprints
        seen = np.sign(prints.effect) * (prints.mu1 - prints.mu0) / np.sqrt((prints.sd0**2 + prints.sd1**2) / 2)
        assert len(prints) > 20 and low < seen.mean() < high


@pytest.mark.parametrize(("least", "crossed"), [(None, False), (20, True), (22, True), (23, False)])
def test_too_few_images_in_a_half_choose_and_give_the_moments_too(least: int | None, crossed: bool) -> None:
    """Of 60 clean and 45 attacked images the smaller half has 22."""
    clean, attacked = raw(np.random.default_rng(3), np.linspace(-2, 2, 50))
    selected = pick(block_of(clean, pgd=attacked), CROSSED.model_copy(update={"cross_fit": least}))
    assert selected.cross_fitted == crossed
    whole = pick(block_of(clean, pgd=attacked), CROSSED.model_copy(update={"cross_fit": None}))
    assert (positions(selected) == positions(whole)) != crossed


def test_an_attack_that_hardly_reached_the_group_chooses_nothing_in_its_halves_either() -> None:
    """Nine attacks of 24 successes, and one of 4: a half has 12 and 2 of them, of which 2 would show large effects by luck."""
    rng = np.random.default_rng(4)
    clean = rng.normal(size=(240, 500))
    attacks = {f"a{number}": rng.normal(size=(24, 500)) for number in range(9)} | {"rare": rng.normal(size=(4, 500))}
    params = selection_params(effect_size=0.8, false_discovery_rate=1.0).model_copy(update={"cross_fit": 100, "min_attacked": 20})
    crossed = pick(block_of(clean, **attacks), params, tuple(attacks))
    whole = pick(block_of(clean, **attacks), params.model_copy(update={"cross_fit": None}), tuple(attacks))
    assert crossed.cross_fitted and len(whole.fingerprints) < 10 and len(crossed.fingerprints) < 60
    thin = params.model_copy(update={"min_attacked": 25})
    assert not pick(block_of(clean, **attacks), thin, tuple(attacks)).cross_fitted


def test_the_pooled_group_is_filled_up_with_the_next_largest_effects() -> None:
    """Where nothing passes, a class keeps nothing, and the pooled group its least number, by effect and nothing else."""
    rng = np.random.default_rng(5)
    count = 40
    clean = Moments.of(rng.normal(size=(30, count)))
    attacked = Moments.of(rng.normal(size=(30, count)) + np.linspace(0, 0.4, count))
    indices = np.arange(2 * count, dtype=np.int32).reshape(count, 2)
    params = selection_params(effect_size=5.0, bank_size=20, min_clean=2, min_attacked=2, min_fingerprints=12)
    effect = np.abs(cohens_d(clean, attacked))
    for group, expected in (("3", []), ("pooled", sorted(np.argsort(-effect)[:12]))):
        block = CandidateBlock(group, indices, np.zeros(count, np.int16), (Sides(clean, {"fgsm": attacked}), Sides.empty(count, ["fgsm"])))
        chosen = select(block, ["fgsm"], params, np.random.default_rng(0))
        assert [row // 2 for row in chosen.fingerprints.indices[:, 0]] == expected
        assert chosen.reasons.get("kept_below_cut", 0) == len(expected) and sum(chosen.reasons.values()) == count
