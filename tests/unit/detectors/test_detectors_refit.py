"""Refits in a made world: what is left out leaves no trace, redraws share no image, and the promise is kept."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from world_support import attacked_world, selection_params

from pipeline.detectors.building import build_bank, build_detector, fit_detector, group_class, pooled_moments, select_bank
from pipeline.detectors.refit import Recipe, redrawn_flags, redrawn_roles, with_committees
from pipeline.evaluation.redraws import mean_rate
from pipeline.fingerprints.candidates import CandidateBlock, Sides, block_moments
from pipeline.fingerprints.features import CLEAN, MISTAKEN, POOLED, Features, Layout
from pipeline.fingerprints.joint import PooledMoments
from pipeline.fingerprints.moments import Moments
from pipeline.fingerprints.sampling import sample_block
from pipeline.params.detectors import CommitteeDetectorParams, DetectorParams, FingerprintDetectorParams
from pipeline.params.fingerprints import FingerprintParams
from pipeline.random import ImageRandom

LAYOUT, CLASSES, ATTACKS = Layout(("early", "late"), (0, 12, 24)), 2, ("fgsm", "pgd", "pgd_targeted")
SELECTION = selection_params(effect_size=0.1, false_discovery_rate=0.2, bank_size=40, min_clean=10, min_attacked=10, min_fingerprints=8)
COMMITTEE = CommitteeDetectorParams(
    kind="committee", layer_weights=None, draw=5, committees=12, directions=3, shrinkage=0.1, pooling=0.5, mistakes=True, seed=0
)
RATIO = FingerprintDetectorParams(kind="fingerprint", statistic="likelihood_ratio", draw=5)
SPLITS = ("fit", "tune", "calibrate", "test")


def fingerprints(attacks: Sequence[str] = ATTACKS) -> FingerprintParams:
    weights = {"early": 1.0, "late": 1.0}
    return FingerprintParams(seed=0, k=3, layer_weights=weights, candidates=80, block=40, fit_attacks=tuple(attacks))


def made_world(count: int, seed: int = 0) -> dict[str, Features]:
    return attacked_world(seed, [f"{seed:016x}{number:016x}" for number in range(count)], LAYOUT, CLASSES, ATTACKS, 0.8)


WORLD = made_world(500)


class Kept(dict[str, Moments]):
    """A block's attacks; remembers which of them were looked at."""

    def __init__(self, attacked: dict[str, Moments], asked: set[str]) -> None:
        super().__init__(attacked)
        self.asked = asked

    def __getitem__(self, name: str) -> Moments:
        self.asked.add(name)
        return super().__getitem__(name)


def block(world: dict[str, Features], group: str) -> CandidateBlock:
    label = None if group == POOLED else int(group)
    indices, layer = sample_block(fingerprints(), LAYOUT, label, 0, 40)
    return block_moments(indices, layer, world.items(), group_class=label, attacks=ATTACKS)


def scores_without(held_out: str, world: dict[str, Features], asked: set[str]) -> np.ndarray:
    """The scores of ``WORLD`` by a committee detector fitted on all attacks of a world but one."""
    fitted = [name for name in ATTACKS if name != held_out]

    def read(group: str) -> CandidateBlock:
        known = block(world, group)
        one, two = (Sides(half.clean, Kept(half.attacked, asked)) for half in known.halves)
        return CandidateBlock(known.group, known.indices, known.layer, (one, two))

    def moments(source: str) -> PooledMoments:
        asked.add(source)
        return pooled_moments(lambda names: [(name, world[name]) for name in names], source, CLASSES, LAYOUT.size)

    bank = select_bank(read, LAYOUT, CLASSES, fitted, SELECTION, 0)
    detector, images = fit_detector(bank, COMMITTEE, moments, fitted), WORLD[held_out]
    return detector.scores(images.neurons, images.predicted, ImageRandom(0, "t", images.ids))


@pytest.mark.parametrize("held_out", ATTACKS)
def test_what_is_left_out_is_never_asked_for_and_leaves_no_trace(held_out: str) -> None:
    asked: set[str] = set()
    honest = scores_without(held_out, WORLD, asked)
    assert asked == {CLEAN, MISTAKEN, *ATTACKS} - {held_out}
    was = WORLD[held_out]
    other = Features(was.ids, was.labels, was.clean_predicted, was.predicted, was.success, was.skipped, -3 * was.neurons[::-1])
    assert np.array_equal(honest, scores_without(held_out, WORLD | {held_out: other}, set()))
    known = ATTACKS[0] if held_out != ATTACKS[0] else ATTACKS[1]
    assert not np.array_equal(honest, scores_without(held_out, WORLD | {known: other}, set()))


@pytest.mark.parametrize("params", [COMMITTEE, RATIO], ids=["committee", "ratio"])
def test_a_refit_from_known_moments_is_the_fit_from_the_images(params: DetectorParams) -> None:
    attacks, images = ["pgd", "pgd_targeted"], WORLD["fgsm"]
    given = fingerprints(attacks).model_copy(update={"candidates": 40})

    def stream(names: Sequence[str]) -> Iterator[tuple[str, Features]]:
        yield from ((name, WORLD[name]) for name in names)

    bank = build_bank(stream, LAYOUT, CLASSES, given, SELECTION)
    expected = build_detector(stream, bank, params, attacks)
    again = select_bank(lambda group: block(WORLD, group), LAYOUT, CLASSES, attacks, SELECTION, 0)
    found = fit_detector(again, params, lambda source: pooled_moments(stream, source, CLASSES, LAYOUT.size), attacks)
    draws = ImageRandom(0, "t", images.ids)
    assert np.array_equal(expected.scores(images.neurons, images.predicted, draws), found.scores(images.neurons, images.predicted, draws))
    assert group_class(again.names[0]) == 0


def test_fewer_committees_are_taken_and_never_more() -> None:
    assert with_committees(COMMITTEE, 4) == COMMITTEE.model_copy(update={"committees": 4})
    assert with_committees(COMMITTEE, 100) is COMMITTEE and with_committees(RATIO, 4) is RATIO


def recipe(params: DetectorParams = COMMITTEE) -> Recipe:
    return Recipe(LAYOUT, CLASSES, fingerprints(), SELECTION, "joint", params, 0.1)


def splits_of(seed: int) -> dict[str, str]:
    drawn = np.random.default_rng(seed).choice(SPLITS, len(WORLD[CLEAN]), p=[0.4, 0.1, 0.25, 0.25])
    return dict(zip(WORLD[CLEAN].ids, drawn.tolist(), strict=True))


def test_the_splits_of_a_redraw_share_no_image_and_an_attack_goes_with_its_image() -> None:
    splits, half = splits_of(0), WORLD["pgd"].where(np.arange(500) % 2 == 0)
    roles = {split: redrawn_roles({CLEAN: WORLD[CLEAN], "pgd": half}, splits, split) for split in SPLITS}
    for source, images in ((CLEAN, WORLD[CLEAN]), ("pgd", half)):
        found = [key for split in SPLITS for key in roles[split][source].ids]
        assert len(found) == len(set(found)) and set(found) == set(images.ids)
        assert all(splits[key] == split for split in SPLITS for key in roles[split][source].ids)


def test_a_redraw_reads_no_test_image_into_its_fit_and_repeats() -> None:
    splits = splits_of(1)
    counted = redrawn_flags(WORLD, splits, recipe(), [0.05, 0.1], 1)
    assert counted == redrawn_flags(WORLD, splits, recipe(), [0.05, 0.1], 1)
    assert counted != redrawn_flags(WORLD, splits_of(2), recipe(), [0.05, 0.1], 2)
    for source in (CLEAN, *ATTACKS):
        tested = [key for key, success in zip(WORLD[source].ids, WORLD[source].success, strict=True) if source == CLEAN or success]
        of = sum(row.images for row in counted if row.source == source and row.alpha == 0.1)
        assert of == sum(splits[key] == "test" for key in tested)
    # Other pixels in `tune` change nothing; nor do attacks on images of `calibrate`.
    rng = np.random.default_rng(0)

    def blurred(images: Features, split: str) -> Features:
        mine = np.array([splits[key] == split for key in images.ids])[:, None]
        neurons = np.where(mine, rng.normal(size=images.neurons.shape), images.neurons).astype(np.float32)
        return Features(images.ids, images.labels, images.clean_predicted, images.predicted, images.success, images.skipped, neurons)

    attacked = {name: blurred(images, "calibrate") for name, images in WORLD.items() if name != CLEAN}
    other = {name: blurred(images, "tune") for name, images in {**WORLD, **attacked}.items()}
    assert counted == redrawn_flags(other, splits, recipe(), [0.05, 0.1], 1)


@pytest.mark.parametrize("params", [COMMITTEE, RATIO], ids=["committee", "ratio"])
def test_over_redraws_the_promise_is_kept_and_attacks_are_found(params: DetectorParams) -> None:
    counted = [redrawn_flags(WORLD, splits_of(seed), recipe(params), [0.1], seed) for seed in range(16)]

    def rate(source: str) -> tuple[list[int], list[int]]:
        rows = [[row for row in flags if row.source == source] for flags in counted]
        return [sum(row.flagged for row in some) for some in rows], [sum(row.images for row in some) for some in rows]

    alarms = mean_rate(*rate(CLEAN), confidence=0.999)
    assert alarms.value is not None and alarms.low is not None and alarms.low <= 0.1 and alarms.value < 0.13
    for attack in ATTACKS:
        found = mean_rate(*rate(attack), confidence=0.95)
        assert found.value is not None and found.value > 3 * alarms.value
