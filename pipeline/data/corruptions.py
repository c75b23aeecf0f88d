"""Mild changes that are no attack, as a user's images meet them: noise, blur, compression, light."""

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter

from pipeline.random import ImageRandom

Pixels = npt.NDArray[np.uint8]


def gaussian_noise(images: Pixels, level: float, random: ImageRandom) -> Pixels:
    """Adds normal noise of standard deviation ``level``, in units of [0, 1], each image its own."""
    noise = random.normal("noise", images.shape[1:])
    return _bytes(images + 255 * level * noise)


def gaussian_blur(images: Pixels, level: float, random: ImageRandom) -> Pixels:
    """Blurs with a Gaussian of standard deviation ``level``, in pixels; the edge is mirrored."""
    return _bytes(gaussian_filter(images.astype(np.float64), (0, 0, level, level), mode="reflect"))


def jpeg(images: Pixels, level: float, random: ImageRandom) -> Pixels:
    """Saves each image as a JPEG file of quality ``level``, from 1 to 100, and reads it again."""
    return np.stack([_resaved(image, int(level)) for image in images]) if len(images) else images


def brightness(images: Pixels, level: float, random: ImageRandom) -> Pixels:
    """Adds ``level``, in units of [0, 1], to every pixel."""
    return _bytes(images + 255 * level)


CORRUPTIONS: dict[str, Callable[[Pixels, float, ImageRandom], Pixels]] = {
    "gaussian_noise": gaussian_noise,
    "gaussian_blur": gaussian_blur,
    "jpeg": jpeg,
    "brightness": brightness,
}


def corrupt(name: str, images: Pixels, level: float, ids: list[str]) -> Pixels:
    """Changes images.

    Args:
        name: one of ``CORRUPTIONS``.
        images: (N, C, H, W), C 1 or 3.
        level: how much, in the corruption's own unit.
        ids: of the images; an image is changed the same way whatever is beside it.

    Returns:
        (N, C, H, W) uint8.
    """
    return CORRUPTIONS[name](images, level, ImageRandom(0, f"corruption/{name}", ids))


def _bytes(values: npt.NDArray[np.floating]) -> Pixels:
    whole: Pixels = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return whole


def _resaved(image: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))).save(buffer, "JPEG", quality=quality)
    read = np.asarray(Image.open(buffer))
    return read[None] if read.ndim == 2 else read.transpose(2, 0, 1)
