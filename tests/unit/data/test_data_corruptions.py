"""Corruptions: mild, of the same shape and range, the same for an image whatever is beside it, and what their names say."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.data.corruptions import CORRUPTIONS, corrupt

LEVELS = {"gaussian_noise": 0.02, "gaussian_blur": 0.5, "jpeg": 75, "brightness": 0.1}


def smooth_images(count: int, channels: int, size: int = 32) -> np.ndarray:
    """Waves, as a photograph is smooth; some pixels are at the ends of the range."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    waves = [np.sin(2 * np.pi * (x * rng.uniform(0.5, 2) + y * rng.uniform(0.5, 2)) + rng.uniform(0, 6)) for _ in range(count * channels)]
    return np.rint(np.clip(128 + 160 * np.stack(waves), 0, 255)).astype(np.uint8).reshape(count, channels, size, size)


def ids(count: int) -> list[str]:
    return [f"{number:032x}" for number in range(count)]


def test_every_corruption_is_looked_at() -> None:
    assert set(LEVELS) == set(CORRUPTIONS)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", LEVELS)
def test_an_image_changes_a_little_and_alone(name: str, channels: int) -> None:
    images = smooth_images(6, channels)
    before = images.copy()
    changed = corrupt(name, images, LEVELS[name], ids(6))
    assert changed.dtype == np.uint8 and changed.shape == images.shape and np.array_equal(images, before)
    moved = np.abs(changed.astype(float) - images).mean(axis=(1, 2, 3))
    assert (moved > 0.2).all() and (moved < 30).all()
    assert np.array_equal(changed[2:4], corrupt(name, images[2:4], LEVELS[name], ids(6)[2:4]))
    none = corrupt(name, images[:0], LEVELS[name], [])
    assert none.shape == (0, *images.shape[1:]) and none.dtype == np.uint8


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_is_pillow_s_own_round_trip(mode: str) -> None:
    images = smooth_images(2, 1 if mode == "L" else 3)
    for image, found in zip(images, corrupt("jpeg", images, 60, ids(2)), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image[0] if mode == "L" else np.moveaxis(image, 0, 2).copy(), mode).save(buffer, format="JPEG", quality=60)
        read = Image.open(buffer)
        assert read.mode == mode and np.array_equal(
            found if mode == "RGB" else found[0], np.moveaxis(np.array(read), -1, 0) if mode == "RGB" else np.array(read)
        )


def test_noise_has_the_deviation_asked_for_and_differs_between_images() -> None:
    grey = np.full((2, 3, 64, 64), 128, np.uint8)
    noise = corrupt("gaussian_noise", grey, 0.04, ids(2)).astype(float) - 128
    # Rounding to whole grey levels adds a twelfth to the variance.
    assert noise.std() == pytest.approx(np.sqrt((0.04 * 255) ** 2 + 1 / 12), rel=0.02) and abs(noise.mean()) < 0.3
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.05


def test_blur_keeps_a_flat_image_and_weights_a_point_as_the_gaussian_does() -> None:
    flat, point = np.full((1, 3, 9, 9), 77, np.uint8), np.zeros((1, 1, 9, 9), np.uint8)
    point[0, 0, 4, 4] = 255
    assert np.array_equal(corrupt("gaussian_blur", flat, 0.5, ids(1)), flat)
    line = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 0.5**2))
    expected = 255 * np.outer(line, line) / line.sum() ** 2
    assert np.abs(corrupt("gaussian_blur", point, 0.5, ids(1))[0, 0, 2:7, 2:7] - expected).max() <= 1


def test_light_is_added_and_cut_at_the_ends() -> None:
    images = np.array([0, 100, 240, 255], np.uint8).reshape(1, 1, 2, 2)
    assert corrupt("brightness", images, 0.1, ids(1)).ravel().tolist() == [26, 126, 255, 255]
    assert corrupt("brightness", images, -0.1, ids(1)).ravel().tolist() == [0, 74, 214, 230]
