"""Defenders of a made world: chances that a count over all committees confirms, draws of each way, attackers against live guards."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from game_support import (
    ALPHA,
    CLASSES,
    DESCEND,
    FINGERPRINTS,
    LAYOUT,
    PARAMS,
    POOL,
    SELECTION,
    SHIPPED,
    defend,
    features,
    labels_of,
    marked,
    pictures,
    signed,
)

from pipeline.artifacts.games import OWN, Arena, static_seed
from pipeline.artifacts.matches import Match, Matches, Scene
from pipeline.artifacts.records import StageRun
from pipeline.artifacts.store import ShardStore
from pipeline.classifiers.model import Classifier
from pipeline.detectors.committee import CommitteeDetector
from pipeline.evaluation.game_headline import Size, size_of
from pipeline.fingerprints.bank import Bank
from pipeline.fingerprints.draws import StaticDraws
from pipeline.fingerprints.features import CLEAN, Features
from pipeline.game.attackers import ask_live, craft, query, resubmit_changed
from pipeline.game.defenders import (
    detector_arrays,
    detector_from,
    drawing,
    every_score,
    rebuilt,
    surrogate,
    thinned,
)
from pipeline.params.game import DisjointParams
from pipeline.random import ImageRandom
from stages.whitebox import possible, shard_detector


def test_every_score_is_what_the_detector_gives_for_that_committee(detector: CommitteeDetector, fit: dict[str, Features]) -> None:
    images = fit["sign"].where(np.arange(900) < 50)
    found = every_score(detector, images.neurons, images.predicted)
    assert found.shape == (50, PARAMS.committees)
    groups = detector.bank.class_group[images.predicted]
    for t in range(PARAMS.committees):
        which = torch.from_numpy(detector.committees.starts[groups] + t)
        wanted = detector.module(torch.from_numpy(images.neurons), which).numpy()
        np.testing.assert_allclose(found[:, t], wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("way", ["fresh", "keyed"])
def test_a_chance_is_the_share_of_calls_that_flag(way: str, detector: CommitteeDetector, classifier: Classifier, fit: dict) -> None:
    defender, images = defend(detector, classifier, fit, way), fit["sign"].where(np.arange(900) < 60)
    chance = defender.chances(images.neurons, images.predicted)
    names = [[f"{call}/{key}" for key in images.ids] for call in range(400)]
    flagged = [defender.p_values(images.neurons, images.predicted, name, call) <= ALPHA for call, name in enumerate(names)]
    np.testing.assert_allclose(np.mean(flagged, axis=0), chance, atol=0.1)
    assert 0 < chance.mean() < 1


def test_limits_part_what_is_flagged_from_what_is_not(detector: CommitteeDetector, classifier: Classifier, fit: dict) -> None:
    defender, images = defend(detector, classifier, fit, "fresh"), fit["sign"]
    limit, spread = defender.limits()
    scores = every_score(detector, images.neurons, images.predicted)[:, 0]
    p_values, _ = defender.calibration.p_values(scores, images.predicted)
    np.testing.assert_array_equal(p_values <= ALPHA, scores > limit[images.predicted])
    assert (spread > 0).all()


def test_clean_images_are_flagged_as_often_as_promised(detector: CommitteeDetector, classifier: Classifier, fit: dict) -> None:
    clean = pictures(2000, 9)
    images = features(classifier, clean, clean)
    for way in ("static", "fresh", "keyed"):
        rate = defend(detector, classifier, fit, way).chances(images.neurons, images.predicted).mean()
        assert rate <= ALPHA + 4 * np.sqrt(ALPHA * (1 - ALPHA) / 400), way


def test_each_way_is_calibrated_on_draws_of_its_own(detector: CommitteeDetector, classifier: Classifier, fit: dict[str, Features]) -> None:
    known = features(classifier, pictures(400, 2), pictures(400, 2))
    names = [f"calibrate/{key}" for key in known.ids]
    for way, draws in {
        "static": StaticDraws(400, 3),
        "fresh": ImageRandom(3, "game/fresh/0", names),
        "keyed": ImageRandom(3, "game/keyed", names),
    }.items():
        scores = np.concatenate(list(defend(detector, classifier, fit, way, seed=3).calibration.groups.values()))
        np.testing.assert_array_equal(np.sort(scores), np.sort(detector.scores(known.neurons, known.predicted, draws)))


def test_each_way_draws_as_it_says() -> None:
    pixels = ["a", "b", "a"]
    static, keyed = (drawing(way, 5, pixels, 0).uniform("committee") for way in ("static", "keyed"))  # type: ignore[arg-type]
    fresh = [drawing("fresh", 5, pixels, call).uniform("committee") for call in (0, 1)]
    assert static[0] == static[1] == static[2] and keyed[0] == keyed[2] != keyed[1]
    np.testing.assert_array_equal(drawing("keyed", 5, pixels, 7).uniform("committee"), keyed)
    np.testing.assert_array_equal(StaticDraws(3, 5).uniform("committee"), static)
    assert (fresh[0] != fresh[1]).all() and (drawing("keyed", 6, pixels, 0).uniform("committee") != keyed).all()
    assert StaticDraws(2, 5).uniform("draw", (4,)).shape == (2, 4)


def test_keyed_draws_follow_from_the_pixels() -> None:
    images = pictures(3, 4)
    other = images.copy()
    other[1, 0, 2, 2] ^= 1
    drawn, changed = (drawing("keyed", 5, pixels, call).uniform("committee") for call, pixels in ((0, images), (1, other)))
    assert (drawn[0], drawn[2]) == (changed[0], changed[2]) and drawn[1] != changed[1] and len(set(drawn)) == 3


def test_the_fixed_draws_are_told_apart_without_the_calibrating_images(
    detector: CommitteeDetector, classifier: Classifier, fit: dict[str, Features], tmp_path: Path
) -> None:
    """And the one that is chosen is the one that plays."""
    read = []

    class Stored:
        class_names = ("a", "b", "c")

        def read_split(self, source: str, split: str) -> Features:
            read.append(split)
            return fit[source]

    arena = Arena(tmp_path, SHIPPED.game.model_copy(update={"statics": 3}), ALPHA, {}, ShardStore(tmp_path))
    known = features(classifier, pictures(400, 2), pictures(400, 2))
    vars(arena).update(features=Stored(), _detectors={OWN: detector}, _calibrate=(known, fit[CLEAN].predicted))
    table, images = arena.tuned("sign"), fit["sign"]
    assert read == ["tune"] and table.column_names == ["success", "static0", "static1", "static2"]
    np.testing.assert_array_equal(table["success"], images.success)
    for number in range(3):
        draws = drawing("static", static_seed(arena.game.seed, number), images.ids, 0)
        np.testing.assert_array_equal(table[f"static{number}"], detector.scores(images.neurons, images.predicted, draws))
        plays = arena.defender(OWN, "static", number)
        limits, scores = plays.limits()[0][images.predicted], table[f"static{number}"].to_numpy()
        np.testing.assert_array_equal(plays.chances(images.neurons, images.predicted), scores > limits)
    assert (table["static0"].to_numpy() != table["static1"].to_numpy()).any()


def test_a_surrogate_is_of_another_bank_and_a_prefix_of_the_own_one_keeps_its_committees(
    detector: CommitteeDetector, fit: dict[str, Features]
) -> None:
    def stream(sources: Sequence[str]) -> Iterator[tuple[str, Features]]:
        return ((source, fit[source]) for source in sources)

    fewer = rebuilt(stream, detector.bank, PARAMS, ["sign"], PARAMS.draw, 4)
    first = detector.committees.starts[:-1, None] + np.arange(4)
    np.testing.assert_array_equal(fewer.committees.members, detector.committees.members[first.ravel()])
    others = [surrogate(stream, LAYOUT, CLASSES, PARAMS, FINGERPRINTS, SELECTION, 0, number) for number in range(2)]
    banks = [{tuple(row) for row in made.bank.fingerprints.indices.tolist()} for made in (detector, *others)]
    for one, another in combinations(banks, 2):
        assert len(one & another) < len(one) / 2
    assert all(other.committees.members.shape == detector.committees.members.shape for other in others)


def members(bank: Bank) -> dict[str, list[int]]:
    return {name: group.indices[:, 0].tolist() for name, group in bank.groups.items()}


@pytest.mark.parametrize("size", [1, 12, 13, 29, 30, 100])
def test_a_thinned_bank_keeps_fingerprints_whole_in_their_order(size: int) -> None:
    bank = marked({"0": 30, "2": 12, "pooled": 30})
    found = thinned(bank, size, 3, None)
    kept, whole = members(found), members(bank)
    for name, numbers in kept.items():
        assert numbers == sorted(set(numbers)) and set(numbers) <= set(whole[name]) and len(numbers) == min(size, len(whole[name]))
        for field, values in vars(found.groups[name]).items():
            np.testing.assert_array_equal(values.ravel(), np.array(numbers) % 3 > 0 if field == "layer" else numbers)
    assert (found.layout, found.names, found.pooled_reasons) == (bank.layout, bank.names, bank.pooled_reasons)
    np.testing.assert_array_equal(found.class_group, bank.class_group)
    assert found.starts.dtype == np.int64 and all(
        values.dtype == getattr(bank.fingerprints, name).dtype for name, values in vars(found.fingerprints).items()
    )
    assert members(thinned(bank, size, 3, None)) == kept
    larger = members(thinned(bank, size + 5, 3, None))
    assert all(set(numbers) <= set(larger[name]) for name, numbers in kept.items())
    if size in (12, 13):
        other = members(thinned(bank, size, 4, None))
        assert kept["2"] == whole["2"] == other["2"] and kept["0"] != other["0"]
        assert [number - 42 for number in kept["pooled"]] != kept["0"]  # groups choose on their own


@pytest.mark.parametrize(
    ("weights", "few", "many"),
    [
        (None, 4, 8),  # a third of the bank is of the first layer
        ({"few": 1.0, "many": 1.0}, 6, 6),
        ({"few": 9.0, "many": 1.0}, 10, 2),  # all that there are, of ten
        ({"few": 0.0, "many": 1.0}, 0, 12),
    ],
)
def test_a_smaller_bank_keeps_the_shares_of_layers_that_committees_take(weights: dict[str, float] | None, few: int, many: int) -> None:
    found = thinned(marked({"0": 30, "2": 30, "pooled": 30}), 12, 5, weights)
    for group in found.groups.values():
        assert np.bincount(group.layer, minlength=2).tolist() == [few, many]


def test_every_fingerprint_of_a_layer_is_as_likely_to_be_kept() -> None:
    bank, seeds = marked({"0": 12, "2": 3, "pooled": 9}), 600
    chosen = np.concatenate([thinned(bank, 6, seed, None).fingerprints.indices[:, 0] for seed in range(seeds)])
    kept = np.bincount(chosen, minlength=24) / seeds
    np.testing.assert_allclose(kept, [0.5] * 12 + [1.0] * 3 + [6 / 9] * 9, atol=0.1)


def test_the_stage_makes_a_detector_of_each_size(detector: CommitteeDetector, fit: dict[str, Features], tmp_path: Path) -> None:
    parts = {"two": DisjointParams(draw=5, parts=2), "layers": DisjointParams(draw=5, parts=(("hidden",), ("logits",)))}
    game = SHIPPED.game.model_copy(update={"draws": (4,), "committees": (8,), "banks": (20, 10, 10_000), "disjoint": parts})
    bank, arena = detector.bank, Arena(tmp_path, game, ALPHA, {}, ShardStore(tmp_path))
    stored = SimpleNamespace(
        stream=lambda sources, split: ((source, fit[source]) for source in sources), class_names=("a", "b", "c"), layout=LAYOUT
    )
    vars(arena).update(features=stored, bank=bank)
    largest = int(bank.sizes.max())
    run = StageRun()
    sizes = possible(game, PARAMS, bank, run)
    assert set(sizes.values()) == {
        Size(6, 16, largest),
        Size(4, 16, largest),
        Size(6, 8, largest),
        Size(6, 16, 20),
        Size(6, 16, 10),
        Size(5, 16, largest, "two"),
    }
    (note,) = run.notes
    assert note.startswith("Game: the disjoint committees layers are left out: part ['logits'] has ")
    make = shard_detector(arena, sizes, PARAMS, FINGERPRINTS, SELECTION)
    for name in set(sizes) - {OWN}:
        shard = make(name)
        made = detector_from(shard.arrays, shard.about)
        m, t, size, part = sizes[name]
        assert made.committees.members.shape == (t * len(bank.names), m) and made.bank.sizes.max() == size
        chosen = bank if part else thinned(bank, size, game.seed, None)
        for array, wanted in zip(vars(made.bank.fingerprints).values(), vars(chosen.fingerprints).values(), strict=True):
            np.testing.assert_array_equal(array, wanted)
        scores = every_score(made, fit["sign"].neurons, fit["sign"].predicted)
        assert np.isfinite(scores).all() and scores.shape[1] == t
    for number in range(2):
        shard = make(f"surrogate-{number}")
        wanted = surrogate(arena.stream, LAYOUT, CLASSES, PARAMS, FINGERPRINTS, SELECTION, game.seed, number)
        np.testing.assert_array_equal(detector_from(shard.arrays, shard.about).committees.members, wanted.committees.members)


def test_a_detector_comes_back_from_its_arrays(detector: CommitteeDetector, fit: dict[str, Features]) -> None:
    back, images = detector_from(*detector_arrays(detector)), fit["sign"]
    wanted = every_score(detector, images.neurons, images.predicted)
    np.testing.assert_array_equal(every_score(back, images.neurons, images.predicted), wanted)


@pytest.mark.parametrize(("against", "looks"), [("draws", 1), ("bank", 8)])
def test_a_copy_whose_draw_is_fixed_is_looked_at_once(
    against: str, looks: int, detector: CommitteeDetector, classifier: Classifier, fit: dict[str, Features], tmp_path: Path
) -> None:
    game, clean = SHIPPED.game.model_copy(update={"descend": DESCEND, "headline": 8}), pictures(40, 6)
    arena = Arena(tmp_path, game, ALPHA, {}, ShardStore(tmp_path))
    known = features(classifier, pictures(400, 2), pictures(400, 2))
    stored = SimpleNamespace(pool=POOL, class_names=("a", "b", "c"))
    vars(arena).update(features=stored, classifier=classifier, _calibrate=(known, fit[CLEAN].predicted), _detectors={OWN: detector})
    scene = Scene(clean, labels_of(classifier, clean), [f"{row:032x}" for row in range(40)], np.arange(40))
    size = Size(PARAMS.draw, PARAMS.committees, int(detector.bank.sizes.max()))
    settled = Matches(arena, 0, size)._descend(Match("descend", "test-0", "selective", against), scene)
    settled = list(settled)
    assert all(size_of(vars(cell)) == size for cell, *_ in settled)
    plays = {(cell.defender, cell.attacker, cell.budget): play for cell, play, *_ in settled}
    filtering = plays["static", "descend_filter", looks]
    once = plays["static", "descend", DESCEND.steps]
    spent = filtering.local - once.local
    assert once.sent.any() and spent.max() <= looks
    if against == "draws":
        assert set(plays) == {("static", "descend", DESCEND.steps), ("static", "descend_filter", 1)}
        np.testing.assert_array_equal(spent, once.sent)
        np.testing.assert_array_equal(filtering.accepted, filtering.sent)
    else:
        assert spent.max() > 1


@pytest.mark.parametrize("name", ["weighted_1", "traded_0.5", "orthogonal", "selective"])
def test_descending_on_the_bank_gets_more_past_the_guard(
    name: str, detector: CommitteeDetector, classifier: Classifier, fit: dict[str, Features]
) -> None:
    clean = pictures(60, 6)
    labels, ids = labels_of(classifier, clean), [f"{row:032x}" for row in range(60)]
    defender = defend(detector, classifier, fit, "fresh")
    plain = features(classifier, clean, signed(classifier, clean))
    made = craft(classifier, POOL, defender, clean, labels, ids, name, DESCEND, 0)
    assert (np.abs(made.images.astype(int) - clean) <= 0.2 * 255 + 1e-6).all() and made.local == 60

    def accepted(success: np.ndarray, neurons: np.ndarray, predicted: np.ndarray) -> float:
        return float((success * (1 - defender.chances(neurons, predicted))).mean())

    before = accepted(plain.success, plain.neurons, plain.predicted)
    assert accepted(made.predicted != labels, made.neurons, made.predicted) > before


def test_changed_copies_gain_against_keyed_draws_and_pay_for_each(
    detector: CommitteeDetector, classifier: Classifier, fit: dict[str, Features]
) -> None:
    clean = pictures(80, 7)
    labels, ids, attacked = labels_of(classifier, clean), [f"{row:032x}" for row in range(80)], signed(classifier, clean)
    success = labels_of(classifier, attacked) != labels
    defender = defend(detector, classifier, fit, "keyed")
    ask = ask_live(classifier, POOL, defender, ids, scores=False)
    once, often = (resubmit_changed(ask, attacked, clean, labels, success, ids, tries=tries, pixels=2, seed=0) for tries in (1, 12))
    np.testing.assert_array_equal(once.play.queries, success)
    assert not once.play.local.any() and (often.play.accepted >= once.play.accepted).all()
    assert often.play.accepted.sum() > once.play.accepted.sum()
    assert not often.play.queries[~success].any() and (often.play.queries <= 12).all() and (often.play.local <= 11).all()
    np.testing.assert_array_equal(often.play.sent, success)
    assert (often.linf <= 0.2 + 1 / 255 + 1e-6).all()


def test_a_searching_attacker_meets_the_defender_s_own_draws(
    detector: CommitteeDetector, classifier: Classifier, fit: dict[str, Features]
) -> None:
    clean = pictures(30, 8)
    labels, ids = labels_of(classifier, clean), [f"{row:032x}" for row in range(30)]
    defender = defend(detector, classifier, fit, "fresh")
    ask = ask_live(classifier, POOL, defender, ids, scores=True)
    tried = query(ask, clean, labels, ids, DESCEND, 40, 0)
    again = query(ask, clean, labels, ids, DESCEND, 40, 0)
    np.testing.assert_array_equal(tried.play.queries, again.play.queries)
    assert ((tried.play.accepted == 1) | (tried.play.queries == 40)).all() and (tried.linf <= 0.2 + 1e-6).all()
    assert (tried.play.accepted <= tried.play.sent).all() and tried.play.accepted.any()
