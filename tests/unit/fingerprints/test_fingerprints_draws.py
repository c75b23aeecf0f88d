"""Draws: distinct, uniform, each image's own; seeded and keyed ones come again, fresh ones never."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fingerprints_support import image_ids
from scipy.stats import chisquare, kstest, poisson

from pipeline.fingerprints.draws import Draws, FreshDraws, KeyedDraws, draw, stand_in_key
from pipeline.random import ImageRandom

KEY = stand_in_key(7)
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def _pixels(count: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 5), dtype=np.uint8)


def _sources(count: int, seed: int) -> tuple[Draws, ...]:
    return ImageRandom(seed, "evaluate", image_ids(count)), KeyedDraws(stand_in_key(seed), _pixels(count)), FreshDraws(count)


@pytest.mark.parametrize("draws", _sources(300, 0), ids=["seeded", "keyed", "fresh"])
def test_each_image_draws_different_fingerprints_of_its_own_bank(draws: Draws) -> None:
    sizes = np.random.default_rng(0).integers(25, 60, 300)
    drawn = draw(draws, sizes, 20)
    assert drawn.shape == (300, 20)
    assert (np.diff(np.sort(drawn, axis=1), axis=1) > 0).all()
    assert (drawn >= 0).all() and (drawn < sizes[:, None]).all()
    assert len({tuple(sorted(row)) for row in drawn.tolist()}) > 295


@pytest.mark.parametrize("draws", _sources(4000, 1), ids=["seeded", "keyed", "fresh"])
def test_every_fingerprint_is_equally_likely(draws: Draws) -> None:
    counts = np.bincount(draw(draws, np.full(4000, 25), 5).ravel(), minlength=25)
    # A draw without replacement varies less than the chi-square law says; so only the upper tail is a fault.
    assert chisquare(counts).pvalue > 1e-6


def test_seeded_draws_depend_on_seed_purpose_and_image_alone() -> None:
    ids, sizes = image_ids(40), np.full(40, 1000)
    whole = draw(ImageRandom(5, "evaluate", ids), sizes, 20)
    part = draw(ImageRandom(5, "evaluate", ids[10:13]), sizes[10:13], 20)
    assert (part == whole[10:13]).all()
    assert (draw(ImageRandom(6, "evaluate", ids), sizes, 20) != whole).any(axis=1).all()
    assert (draw(ImageRandom(5, "calibrate", ids), sizes, 20) != whole).any(axis=1).all()


def test_fresh_draws_never_come_again() -> None:
    draws, sizes = FreshDraws(50), np.full(50, 1000)
    first = draw(draws, sizes, 20)
    for again in (draw(draws, sizes, 20), draw(FreshDraws(50), sizes, 20)):
        assert (np.sort(first, axis=1) != np.sort(again, axis=1)).any(axis=1).all()


def test_fresh_draws_ignore_every_seeded_generator() -> None:
    np.random.seed(0)
    first = FreshDraws(4).uniform("draw", (8,))
    np.random.seed(0)
    assert (FreshDraws(4).uniform("draw", (8,)) != first).any()


def test_fresh_draws_are_uniform() -> None:
    uniform = FreshDraws(2000).uniform("draw", (10,))
    assert uniform.shape == (2000, 10) and uniform.min() >= 0 and uniform.max() < 1
    assert kstest(uniform.ravel(), "uniform").pvalue > 1e-6
    assert FreshDraws(3).uniform("draw").shape == (3,)
    assert FreshDraws(0).uniform("draw", (5,)).shape == (0, 5)


def test_keyed_draws_are_what_their_two_functions_say() -> None:
    """By hand: keyed BLAKE2b of type, shape and pixels; SHAKE-256 of that and the name; little-endian words of 32 bits."""
    pixels = _pixels(1)
    seed = hashlib.blake2b(b"uint8 (3, 4, 5)\0" + pixels[0].tobytes(), key=KEY, person=b"whorl draw").digest()
    stream = hashlib.shake_256(seed + b"draw").digest(4 * 6)
    words = [int.from_bytes(stream[at : at + 4], "little") / 2**32 for at in range(0, 24, 4)]
    assert KeyedDraws(KEY, pixels).uniform("draw", (2, 3)).tolist() == [[words[:3], words[3:]]]


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_the_same_image_meets_the_same_draw_whatever_the_batch(kind: type) -> None:
    pixels = _pixels(40).astype(kind)
    whole = KeyedDraws(KEY, pixels).uniform("draw", (20,))
    order = np.random.default_rng(0).permutation(40)
    assert (KeyedDraws(KEY, pixels[order]).uniform("draw", (20,)) == whole[order]).all()
    assert (KeyedDraws(KEY, pixels[[3, 3, 3]]).uniform("draw", (20,)) == whole[3]).all()
    # Neither the order in memory, as of a channels-last tensor, nor when it is asked for changes it.
    moved = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    draws = KeyedDraws(KEY, moved)
    draws.uniform("other", (7,))
    assert (draws.uniform("draw", (20,)) == whole).all()
    assert len({row.tobytes() for row in whole}) == 40


def _one_level(pixels: Pixels) -> Pixels:
    changed = pixels.copy()
    changed[:, 1, 2, 3] ^= 1
    return changed


OTHERS: dict[str, Callable[[Pixels], KeyedDraws]] = {
    "one pixel by one level": lambda pixels: KeyedDraws(KEY, _one_level(pixels)),
    "one bit of the key": lambda pixels: KeyedDraws(KEY[:-1] + bytes([KEY[-1] ^ 1]), pixels),
    "the same bytes in another shape": lambda pixels: KeyedDraws(KEY, pixels.reshape(-1, 3, 5, 4)),
    "the same values as floats": lambda pixels: KeyedDraws(KEY, pixels.astype(np.float32)),
    "the same pixels elsewhere": lambda pixels: KeyedDraws(KEY, np.roll(pixels, 1, axis=3)),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_anything_else_buys_a_new_draw(other: Callable[[Pixels], KeyedDraws]) -> None:
    pixels, sizes = _pixels(200), np.full(200, 1000)
    one, two = draw(KeyedDraws(KEY, pixels), sizes, 20), draw(other(pixels), sizes, 20)
    shared = [len(set(first) & set(second)) for first, second in zip(one.tolist(), two.tolist(), strict=True)]
    assert max(shared) < 20
    # As many as two independent draws share, 20 * 20 / 1000 each: the sum is close to Poisson of mean 80.
    assert poisson.cdf(sum(shared), 80) > 1e-6 and poisson.sf(sum(shared), 80) > 1e-6


def test_a_float_image_s_negative_zero_buys_nothing() -> None:
    floats = np.zeros((1, 3, 4, 5), np.float32)
    assert (KeyedDraws(KEY, -floats).uniform("draw", (20,)) == KeyedDraws(KEY, floats).uniform("draw", (20,))).all()
    floats[0, 0, 0, 0] = np.nextafter(np.float32(0), np.float32(1))
    assert (KeyedDraws(KEY, floats).uniform("draw", (20,)) != KeyedDraws(KEY, 0 * floats).uniform("draw", (20,))).any()


def test_keyed_draws_are_uniform() -> None:
    draws = KeyedDraws(KEY, _pixels(2000))
    uniform = draws.uniform("draw", (50,))
    assert uniform.shape == (2000, 50) and uniform.min() >= 0 and uniform.max() < 1
    assert kstest(uniform.ravel(), "uniform").pvalue > 1e-3
    assert chisquare(np.bincount((uniform * 256).astype(int).ravel(), minlength=256)).pvalue > 1e-3
    assert min(chisquare(np.bincount((column * 10).astype(int), minlength=10)).pvalue for column in uniform.T) > 1e-3 / 50
    assert draws.uniform("draw").shape == (2000,)
    assert KeyedDraws(KEY, _pixels(0)).uniform("draw", (5,)).shape == (0, 5)


def test_names_images_and_places_are_independent() -> None:
    draws = KeyedDraws(KEY, _pixels(2000))
    names = [draws.uniform(name, (4,)) for name in ("draw", "draw/1", "", "drav")]
    columns = np.concatenate([*names, np.roll(names[0], 1, axis=0)], axis=1)
    correlation = np.corrcoef(columns.T)[np.triu_indices(20, 1)]
    # Each is normal with a deviation of 1 / sqrt(2000) where all are independent: the largest of 190 stays below 4.5 of them.
    assert np.abs(correlation).max() < 4.5 / np.sqrt(2000)
    table = np.histogram2d(names[0].ravel(), names[1].ravel(), bins=8, range=[[0, 1], [0, 1]])[0]
    assert chisquare(table.ravel()).pvalue > 1e-3


def test_a_stand_in_key_is_of_its_seed_alone() -> None:
    keys = [stand_in_key(seed) for seed in range(50)]
    assert len(set(keys)) == 50 and {len(key) for key in keys} == {32} and stand_in_key(3) == keys[3]
    assert keys[3] == hashlib.blake2b(b"3", digest_size=32, person=b"whorl stand-in").digest()


def test_keyed_draws_do_not_show_their_key() -> None:
    draws = KeyedDraws(KEY, _pixels(2))
    shown = f"{draws!r} {draws} {vars(draws)}"
    assert KEY.hex() not in shown and repr(KEY)[2:-1] not in shown


@pytest.mark.parametrize(
    ("key", "images", "said"),
    [
        (KEY[:-1], _pixels(1), "31 bytes, where 32"),
        (b"", _pixels(1), "0 bytes, where 32"),
        (KEY * 2, _pixels(1), "64 bytes, where 32"),
        (KEY, _pixels(1)[0], r"uint8 \(3, 4, 5\), where"),
        (KEY, _pixels(1).astype(np.float64), "float64 .* where uint8 or float32"),
    ],
)
def test_other_keys_and_images_are_refused(key: bytes, images: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        KeyedDraws(key, images)
    assert KEY.hex() not in str(caught.value)
