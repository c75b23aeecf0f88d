"""Ids, splits and shards: all are functions of the pixels, of the right shares, and stable when images are added."""

from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chisquare, kstest

from pipeline.data import identity
from pipeline.data.identity import assign_split, image_id, shard_count, shard_of
from pipeline.params.splits import SPLITS, Fractions

IDS = [blake2b(str(number).encode(), digest_size=16).hexdigest() for number in range(4000)]
pixels = st.tuples(st.sampled_from([1, 3]), st.integers(1, 6), st.integers(1, 6)).flatmap(lambda shape: arrays(np.uint8, shape))


def fractions(*shares: float) -> Fractions:
    return Fractions(**dict(zip(SPLITS, shares, strict=True)))


@given(pixels)
def test_an_id_is_the_hash_of_shape_and_pixels(image: np.ndarray) -> None:
    shape = b"".join(int(side).to_bytes(4, "little") for side in image.shape)
    expected = blake2b(shape + bytes(image.ravel().tolist()), digest_size=16).hexdigest()
    assert image_id(image) == image_id(np.asfortranarray(image)) == expected and len(expected) == 32


@given(pixels, st.data())
def test_one_changed_pixel_changes_the_id(image: np.ndarray, data: st.DataObject) -> None:
    place = tuple(data.draw(st.integers(0, side - 1)) for side in image.shape)
    changed = image.copy()
    changed[place] ^= data.draw(st.integers(1, 255))
    assert image_id(changed) != image_id(image)


def test_the_shape_is_part_of_the_id() -> None:
    flat = np.arange(12, dtype=np.uint8)
    shapes = [(1, 3, 4), (1, 4, 3), (1, 2, 6), (3, 2, 2), (3, 4, 1)]
    assert len({image_id(flat.reshape(shape)) for shape in shapes}) == len(shapes)


@pytest.mark.parametrize("image", [np.zeros((1, 2, 2)), np.zeros((2, 2), np.uint8), np.zeros((1, 1, 2, 2), np.uint8)])
def test_anything_else_than_one_8_bit_image_has_no_id(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 of shape"):
        image_id(image)


def test_an_id_and_a_split_never_change_between_versions() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    shares = fractions(0.2, 0.2, 0.2, 0.2, 0.2)
    assert image_id(image) == "919191a5e270ae2ce2d6eab69d38e06b"
    assert [assign_split(one, 7, shares) for one in IDS[:6]] == ["calibrate", "tune", "fit", "test", "calibrate", "tune"]


@pytest.mark.parametrize("shares", [(0.35, 0.25, 0.05, 0.15, 0.2), (0.0, 0.4, 0.1, 0.25, 0.25), (0.9, 0.0, 0.0, 0.05, 0.05)])
@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_splits_have_their_shares(shares: tuple[float, ...], seed: int) -> None:
    found = [assign_split(one, seed, fractions(*shares)) for one in IDS]
    counts = np.array([found.count(split) for split in SPLITS])
    expected = np.array(shares) * len(IDS)
    assert (counts[expected == 0] == 0).all()
    assert chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-4


@given(st.lists(st.integers(0, 100), min_size=5, max_size=5).filter(any), st.integers(0, 2**63 - 1))
def test_a_split_is_the_salted_hash_against_the_cumulative_shares(weights: list[int], seed: int) -> None:
    total = sum(weights)
    shares = fractions(*(weight / total for weight in weights))
    for one in IDS[:20]:
        place = int.from_bytes(blake2b(f"split/{seed}/{one}".encode(), digest_size=8).digest(), "little")
        # In whole numbers: the first split whose cumulative weight lies above place / 2**64 of the total.
        expected = next(split for row, split in enumerate(SPLITS) if place * total < sum(weights[: row + 1]) << 64)
        assert assign_split(one, seed, shares) == expected


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_of_share_one_takes_all(split: str) -> None:
    shares = fractions(*(float(name == split) for name in SPLITS))
    assert {assign_split(one, 0, shares) for one in IDS} == {split}


def test_shares_that_add_up_to_less_by_rounding_leave_no_image_out_and_fill_no_empty_split(monkeypatch: pytest.MonkeyPatch) -> None:
    class Highest:
        def __init__(self, data: bytes, digest_size: int) -> None:
            self.size = digest_size

        def digest(self) -> bytes:
            return b"\xff" * self.size

    monkeypatch.setattr(identity, "blake2b", Highest)
    assert assign_split(IDS[0], 0, fractions(0.5, 0.5 - 9e-7, 0.0, 0.0, 0.0)) == "fit"
    assert assign_split(IDS[0], 0, fractions(0.5, 0.25, 0.0, 0.25, 0.0)) == "calibrate"


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_only_adds_images(first: float, second: float) -> None:
    low, high = sorted([first, second])
    few, many = ({i for i in IDS[:300] if assign_split(i, 0, fractions(share, 0, 0, 0, 1 - share)) == "train"} for share in (low, high))
    assert few <= many


def test_the_place_of_an_image_is_uniform_and_redrawn_by_the_seed() -> None:
    def place(one: str, seed: int) -> float:
        low, high = 0.0, 1.0
        for _ in range(12):
            middle = (low + high) / 2
            low, high = (low, middle) if assign_split(one, seed, fractions(middle, 0, 0, 0, 1 - middle)) == "train" else (middle, high)
        return low

    places = np.array([[place(one, seed) for one in IDS[:1000]] for seed in (0, 1)])
    assert all(kstest(row, "uniform").pvalue > 1e-4 for row in places)
    assert abs(np.corrcoef(places)[0, 1]) < 0.12


@given(st.integers(0, 10**9), st.integers(1, 10**6))
def test_the_number_of_shards_is_the_least_power_of_two_that_suffices(images: int, size: int) -> None:
    shards = shard_count(images, size)
    assert shards & (shards - 1) == 0 and shards * size >= images
    assert shards == 1 or shards // 2 * size < images


@pytest.mark.parametrize(("images", "size"), [(-1, 10), (10, 0)])
def test_impossible_shards_are_refused(images: int, size: int) -> None:
    with pytest.raises(ValueError, match="were expected"):
        shard_count(images, size)


@given(st.binary(min_size=16, max_size=16), st.integers(0, 40))
def test_a_shard_is_the_leading_bits_and_splits_in_two(digest: bytes, power: int) -> None:
    one = digest.hex()
    bits = "".join(f"{byte:08b}" for byte in digest)
    shard = shard_of(one, 2**power)
    assert shard == int(bits[:power] or "0", 2)
    assert shard_of(one, 2 ** (power + 1)) // 2 == shard


def test_shards_are_filled_evenly_and_in_the_order_of_the_ids() -> None:
    shards = [shard_of(one, 16) for one in sorted(IDS)]
    assert shards == sorted(shards)
    assert chisquare(np.bincount(shards, minlength=16)).pvalue > 1e-4


@pytest.mark.parametrize(("one", "shards"), [("0" * 32, 3), ("0" * 32, 0), ("0" * 31, 4), ("z" * 32, 4)])
def test_what_is_no_id_or_no_power_of_two_is_refused(one: str, shards: int) -> None:
    with pytest.raises(ValueError):
        shard_of(one, shards)
