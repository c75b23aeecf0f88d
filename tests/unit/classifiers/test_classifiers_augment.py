"""Shift and mirror against np.pad, slicing and np.flip."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.classifiers.augment import pad_crop_flip


def slow(images: np.ndarray, rows: np.ndarray, pad: int, flip: bool, draws: np.ndarray) -> np.ndarray:
    """The textbook way: pad the whole image, cut a window, turn it round."""
    height, width = images.shape[-2:]
    made = []
    for row in rows:
        padded = np.pad(images[row], ((0, 0), (pad, pad), (pad, pad)), mode="reflect")
        top, left = (int(draw * (2 * pad + 1)) for draw in draws[row, :2])
        window = padded[:, top : top + height, left : left + width]
        made.append(window[:, :, ::-1] if flip and draws[row, 2] < 0.5 else window)
    return np.stack(made)


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(0, 9), st.booleans(), st.integers(0, 2**32 - 1), st.data())
def test_equals_padding_cropping_and_flipping(
    channels: int, height: int, width: int, pad: int, flip: bool, seed: int, data: st.DataObject
) -> None:
    images = data.draw(arrays(np.uint8, (4, channels, height, width)))
    draws = np.random.default_rng(seed).random((4, 3))
    rows = np.array([2, 0, 2])
    np.testing.assert_array_equal(pad_crop_flip(images, rows, pad, flip, draws), slow(images, rows, pad, flip, draws))


def test_every_place_is_as_likely_as_every_other() -> None:
    image = np.arange(25, dtype=np.uint8).reshape(1, 1, 5, 5)
    count = 9000
    draws = np.random.default_rng(0).random((count, 3))
    made = pad_crop_flip(np.repeat(image, count, 0), np.arange(count), 1, True, draws)
    centres, counts = np.unique(made[:, 0, 2, 2], return_counts=True)
    assert sorted(centres) == [6, 7, 8, 11, 12, 13, 16, 17, 18]
    assert np.all(np.abs(counts - count / 9) < 5 * np.sqrt(count / 9 * 8 / 9))
    mirrored = (made[:, 0, 2, 1] > made[:, 0, 2, 3]).mean()
    assert abs(mirrored - 0.5) < 5 * np.sqrt(0.25 / count)
