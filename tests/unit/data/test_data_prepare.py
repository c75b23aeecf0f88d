"""Preparing: what is kept, what is quarantined and why, and what stops the run."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.decode import decode, encode_png
from pipeline.data.identity import assign_split, image_id
from pipeline.data.prepare import Prepared, prepare_images
from pipeline.data.sources.base import RawImage
from pipeline.errors import DataError
from pipeline.params.data import DataParams
from pipeline.params.splits import SPLITS, SplitParams

SHARES = {
    "seen": {"train": 1.0, "fit": 0.0, "tune": 0.0, "calibrate": 0.0, "test": 0.0},
    "mixed": {"train": 0.2, "fit": 0.2, "tune": 0.2, "calibrate": 0.2, "test": 0.2},
    "fitted": {"train": 0.0, "fit": 1.0, "tune": 0.0, "calibrate": 0.0, "test": 0.0},
    "tested": {"train": 0.0, "fit": 0.0, "tune": 0.0, "calibrate": 0.0, "test": 1.0},
}
SPLIT_PARAMS = SplitParams.model_validate({"split_seed": 3, "origins": SHARES})


class Listed:
    """A source that holds what it is given."""

    def __init__(self, images: list[RawImage], class_names: tuple[str, ...] = ("cat", "dog", "eel")) -> None:
        self.images, self.class_names = images, class_names

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[RawImage]:
        return iter(self.images)


def data_params(max_quarantined: float = 1.0) -> DataParams:
    image = {"channels": 1, "height": 2, "width": 2, "resize": False, "convert": ("RGB",), "max_pixels": 100, "max_bytes": 10_000}
    return DataParams.model_validate({"source": {"kind": "digits"}, "image": image, "max_quarantined": max_quarantined, "shard_size": 4})


def pixels(number: int) -> np.ndarray:
    """The one grey 2x2 image of this number."""
    return np.frombuffer(number.to_bytes(4, "big"), np.uint8).reshape(1, 2, 2)


def raw(number: int, label: int = 0, origin: str = "mixed", **changes: Any) -> RawImage:
    fields: dict[str, Any] = {"key": f"{origin}/{number}", "encoded": encode_png(pixels(number)), "label": label, "origin": origin}
    return RawImage(**(fields | changes))


GOOD = [raw(number, label=number % 3) for number in range(12)]


def prepare(images: list[RawImage], max_quarantined: float = 1.0) -> Prepared:
    return prepare_images(Listed(images), data_params(max_quarantined), SPLIT_PARAMS, lambda count: None)


def test_a_good_image_is_kept_with_its_id_split_and_bytes() -> None:
    prepared = prepare(GOOD)
    assert prepared.quarantined == [] and prepared.notes == [] and prepared.class_names == ("cat", "dog", "eel")
    assert [image.id for image in prepared.images] == sorted(image_id(pixels(number)) for number in range(12))
    by_key = {image.key: image for image in prepared.images}
    for number, given_image in enumerate(GOOD):
        image = by_key[given_image.key]
        split = assign_split(image_id(pixels(number)), 3, SPLIT_PARAMS.origins["mixed"])
        assert astuple(image) == (image_id(pixels(number)), number % 3, split, "mixed", given_image.key, given_image.encoded, "png")


def test_a_converted_image_is_kept_as_the_pixels_that_were_identified() -> None:
    colour = encode_png(np.random.default_rng(0).integers(0, 256, (3, 2, 2), dtype=np.uint8))
    prepared = prepare([*GOOD, raw(99, encoded=colour)])
    image = next(image for image in prepared.images if image.key == "mixed/99")
    assert image.encoded != colour
    assert image_id(decode(image.encoded, data_params().image)) == image.id


def test_progress_counts_every_image_read() -> None:
    told: list[int] = []
    prepare_images(Listed([*GOOD, raw(50, encoded=b"")]), data_params(), SPLIT_PARAMS, told.append)
    assert sum(told) == 13


@pytest.mark.parametrize(
    ("bad", "reason", "said"),
    [
        (raw(50, encoded=b""), "empty", "0 bytes"),
        (raw(50, encoded=b"text"), "unreadable", "4 bytes"),
        (raw(50, encoded=b"", problem="Permission denied"), "unreadable", "Permission denied"),
        (raw(50, encoded=encode_png(pixels(50))[:-30]), "truncated", "truncated"),
        (raw(50, encoded=b"x" * 10_001), "oversized", "10001 bytes"),
        (raw(50, encoded=encode_png(np.zeros((1, 20, 20), np.uint8))), "oversized", "20x20"),
        (raw(50, encoded=encode_png(np.zeros((1, 2, 3), np.uint8))), "wrong_size", "2x3"),
    ],
)
def test_one_bad_image_is_quarantined_and_stops_nothing(bad: RawImage, reason: str, said: str) -> None:
    prepared = prepare([*GOOD[:5], bad, *GOOD[5:]], max_quarantined=0.1)
    assert prepared.images == prepare(GOOD).images
    (found,) = prepared.quarantined
    assert (found.key, found.origin, found.label, found.reason) == ("mixed/50", "mixed", 0, reason) and said in found.detail


def test_a_second_copy_is_a_duplicate_of_the_first() -> None:
    prepared = prepare([*GOOD, raw(4, label=1, key="again"), raw(4, label=1, key="and again")], max_quarantined=0.0)
    assert prepared.images == prepare(GOOD).images and prepared.notes == []
    assert [(copy.key, copy.reason, copy.detail) for copy in prepared.quarantined] == [
        ("again", "duplicate", "the same pixels as mixed/4 (mixed)"),
        ("and again", "duplicate", "the same pixels as mixed/4 (mixed)"),
    ]


@pytest.mark.parametrize("origins", [("mixed", "mixed"), ("mixed", "seen"), ("tested", "seen")])
def test_an_image_under_two_labels_is_not_used_at_all_and_it_is_said(origins: tuple[str, str]) -> None:
    copies = [raw(70, 0, origins[0], key="a"), raw(70, 1, origins[1], key="b"), raw(70, 0, origins[0], key="c")]
    prepared = prepare([*GOOD, *copies])
    assert prepared.images == prepare(GOOD).images
    assert [(copy.key, copy.label, copy.reason) for copy in prepared.quarantined] == [
        (key, label, "conflicting_labels") for key, label in (("a", 0), ("b", 1), ("c", 0))
    ]
    assert prepared.quarantined[1].detail == f"'dog' here, and the same pixels are 'cat' in a ({origins[0]})"
    (note,) = prepared.notes
    assert note.startswith("1 of the images occur under two labels") and "all 3 copies" in note and "the first: a" in note


@pytest.mark.parametrize(
    ("origins", "kept"),
    [(("tested", "seen"), 1), (("seen", "tested"), 0), (("fitted", "seen"), 1), (("tested", "fitted"), 1), (("fitted", "tested"), 0)],
)
def test_an_image_in_two_splits_stays_in_the_earlier_one_and_it_is_said(origins: tuple[str, str], kept: int) -> None:
    copies = [raw(70, 0, origin) for origin in origins]
    prepared = prepare([*GOOD, *copies], max_quarantined=0.0)
    image = next(image for image in prepared.images if image.id == image_id(pixels(70)))
    splits = {"seen": "train", "fitted": "fit", "tested": "test"}
    assert (image.origin, image.split, image.key) == (origins[kept], splits[origins[kept]], copies[kept].key)
    (left,) = prepared.quarantined
    other = origins[1 - kept]
    assert (left.origin, left.reason) == (other, "in_two_splits")
    assert left.detail == f"the same pixels as {image.key} ({image.origin}), which is in {image.split}; this would be in {splits[other]}"
    (note,) = prepared.notes
    assert note.startswith("1 images were copies") and left.key in note


def test_copies_of_two_origins_in_one_split_are_duplicates() -> None:
    number = next(n for n in range(100, 1000) if assign_split(image_id(pixels(n)), 3, SPLIT_PARAMS.origins["mixed"]) == "test")
    prepared = prepare([*GOOD, raw(number, 0, "mixed"), raw(number, 0, "tested")])
    assert [(copy.origin, copy.reason) for copy in prepared.quarantined] == [("tested", "duplicate")] and prepared.notes == []


def test_three_copies_keep_the_first_of_the_earliest_split() -> None:
    images = [raw(70, 0, "tested"), raw(70, 0, "seen", key="one"), raw(70, 0, "seen", key="two")]
    prepared = prepare([*GOOD, *images])
    assert next(image.key for image in prepared.images if image.id == image_id(pixels(70))) == "one"
    assert [(copy.key, copy.reason) for copy in prepared.quarantined] == [("tested/70", "in_two_splits"), ("two", "duplicate")]


@pytest.mark.parametrize(("most", "stops"), [(0.24, True), (0.25, False)])
def test_too_many_unusable_images_stop_the_run_and_duplicates_do_not_count(most: float, stops: bool) -> None:
    bad = [raw(50, encoded=b""), raw(51, encoded=b""), raw(52, encoded=b"text"), raw(53, 0), raw(53, 1)]
    images = [*GOOD, *bad, *(raw(2, label=2, key=f"copy {n}") for n in range(2)), raw(80)]  # 20 images, 5 of them unusable
    if not stops:
        assert Counter(left.reason for left in prepare(images, most).quarantined)["duplicate"] == 2
        return
    with pytest.raises(
        DataError, match=r"5 of its 20 images are unusable \(2 conflicting_labels, 2 empty, 1 unreadable; the first is mixed/50"
    ) as caught:
        prepare(images, most)
    assert "at most 0.24 was expected (data.max_quarantined)" in str(caught.value)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([], "gave no image"),
        ([raw(1), raw(2)], r"of the classes \['cat'\], where at least 2"),
        ([raw(1), raw(2, 1, encoded=b"")], r"of the classes \['cat'\]"),
        ([raw(1, origin="elsewhere")], r"splits.origins: 'elsewhere', the origin of elsewhere/1, is none of \['fitted'"),
    ],
)
def test_what_cannot_be_used_at_all_is_a_sentence(images: list[RawImage], said: str) -> None:
    with pytest.raises(DataError, match=said):
        prepare(images)


def test_a_class_that_lost_all_its_images_is_named() -> None:
    prepared = prepare([image for image in GOOD if image.label < 2])
    assert prepared.notes == ["The class 'eel' has no usable image."]


origins_of_copies = st.lists(st.tuples(st.integers(20, 24), st.integers(0, 1), st.sampled_from(list(SHARES))), max_size=12)


@given(origins_of_copies, st.randoms(use_true_random=False))
def test_whatever_is_repeated_no_image_is_lost_doubled_or_in_a_later_split_than_a_copy(
    copies: list[tuple[int, int, str]], random: Any
) -> None:
    images = [*GOOD, *(raw(number, label, origin, key=str(row)) for row, (number, label, origin) in enumerate(copies))]
    prepared = prepare(images)
    assert len(prepared.images) + len(prepared.quarantined) == len(images)
    assert sorted([i.key for i in prepared.images] + [q.key for q in prepared.quarantined]) == sorted(i.key for i in images)
    kept = {image.id: image for image in prepared.images}
    assert len(kept) == len(prepared.images)
    for number in {number for number, _, _ in copies}:
        labels = {label for other, label, _ in copies if other == number}
        one = image_id(pixels(number))
        assert (one in kept) is (len(labels) == 1)
        if one in kept:
            possible = [assign_split(one, 3, SPLIT_PARAMS.origins[origin]) for other, _, origin in copies if other == number]
            assert kept[one].split == min(possible, key=SPLITS.index)
    random.shuffle(images)  # whatever the order of the source, the same images go to the same splits
    assert [(i.id, i.split, i.label) for i in prepare(images).images] == [(i.id, i.split, i.label) for i in prepared.images]


def test_adding_images_moves_none() -> None:
    before = {image.id: image for image in prepare(GOOD).images}
    after = {image.id: image for image in prepare([raw(n, n % 3) for n in range(1000, 1200)] + GOOD).images}
    assert len(after) == 212 and all(after[one] == image for one, image in before.items())
